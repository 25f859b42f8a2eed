"""Checks that many kinds share: metadata, label selectors, counts and percentages. Rules: see `validate`."""

from __future__ import annotations

import re

from cloudlink.kube import names
from cloudlink.kube.findings import Check, Findings
from cloudlink.kube.meta import KubeObject, LabelSelector, ObjectMeta, camel
from cloudlink.kube.reviews import Review

MAX_ANNOTATIONS = 256 << 10
_PERCENT = re.compile(r"\d{1,9}%", re.ASCII)


def metadata(obj: KubeObject, namespaced: bool, syntax: Check, found: Findings) -> None:
    meta = obj.metadata
    if meta.name:
        found.text("metadata.name", meta.name, syntax)
    elif meta.generate_name:
        prefix = meta.generate_name
        # The end is still to come: a trailing "-" or "." is fine there.
        if why := syntax(prefix[:-1] + "a" if prefix[-1] in "-." else prefix):
            found.invalid("metadata.generateName", prefix, why)
    elif not isinstance(obj, Review):
        found.required("metadata.name", "name or generateName is required")
    if meta.namespace:
        if not namespaced:
            found.forbidden("metadata.namespace", f"a {obj.kind} does not live in a namespace")
        else:
            found.text("metadata.namespace", meta.namespace, names.dns_label)
    labels_and_annotations(meta, "metadata", found)
    _owners(meta, found)


def _owners(meta: ObjectMeta, found: Findings) -> None:
    """ValidateOwnerReferences. An owner without a uid would be taken for one that is gone, and this object with it."""
    for i, reference in enumerate(meta.owner_references):
        path = f"metadata.ownerReferences[{i}]"
        for field in ("api_version", "kind", "name", "uid"):
            if not getattr(reference, field):
                found.required(f"{path}.{camel(field)}", "must not be empty")
        if (reference.api_version, reference.kind) == ("v1", "Event"):
            found.invalid(
                path, f"{reference.kind}/{reference.name}", "v1, Kind=Event is disallowed from being an owner"
            )
    controllers = [f"{r.kind}/{r.name}" for r in meta.owner_references if r.controller]
    if len(controllers) > 1:
        why = 'Only one reference can have Controller set to true. Found "true" in references for'
        found.invalid("metadata.ownerReferences", controllers, f"{why} {controllers[0]} and {controllers[1]}")


def labels_and_annotations(meta: ObjectMeta, path: str, found: Findings) -> None:
    found.labels(f"{path}.labels", meta.labels)
    size = 0
    for key, value in meta.annotations.items():
        size += len(key) + len(value)
        if why := names.label_key(key.lower()):
            found.invalid(f"{path}.annotations", key, why)
    if size > MAX_ANNOTATIONS:
        found.too_long(f"{path}.annotations", MAX_ANNOTATIONS)


def selector(it: LabelSelector | None, path: str, found: Findings) -> None:
    if it is None:
        return
    found.labels(f"{path}.matchLabels", it.match_labels)
    for i, term in enumerate(it.match_expressions):
        here = f"{path}.matchExpressions[{i}]"
        found.text(f"{here}.key", term.key, names.label_key)
        if term.operator in ("In", "NotIn") and not term.values:
            found.required(f"{here}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        if term.operator in ("Exists", "DoesNotExist") and term.values:
            found.forbidden(f"{here}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
        for j, value in enumerate(term.values):
            if why := names.label_value(value):
                found.invalid(f"{here}.values[{j}]", value, why)


def share(value: int | str, path: str, found: Findings) -> int | None:
    """The number of a count or of a percentage; None where it is neither."""
    if isinstance(value, int):
        found.at_least(path, value, 0)
        return value
    if _PERCENT.fullmatch(value):
        return int(value[:-1])
    found.invalid(path, value, "must be a whole number or a percentage (e.g. 1 or '25%')")
    return None


def share_of_all(value: int | str, path: str, found: Findings) -> int | None:
    """Like `share`; a percentage may be 100 at most."""
    number = share(value, path, found)
    if isinstance(value, str) and number is not None and number > 100:
        found.invalid(path, value, "must not be greater than 100%")
    return number
