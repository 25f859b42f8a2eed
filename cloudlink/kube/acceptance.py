"""Whether a CustomResourceDefinition's names are free, and the kinds that an established one adds. Pure.

Upstream's naming and establishing controllers, whose answer is part of the very commit that asks here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from cloudlink.kube.custom import CustomObject, PrinterColumn, ScalePaths, Shape
from cloudlink.kube.definitions import (
    CLEANUP,
    AcceptedNames,
    CustomResourceDefinition,
    CustomResourceDefinitionStatus,
    CustomResourceDefinitionVersion,
)
from cloudlink.kube.meta import Condition
from cloudlink.kube.registry import Resource

_VERSION = re.compile(r"v([0-9]+)(?:(alpha|beta)([0-9]+))?", re.ASCII)


def accepted(
    asked: CustomResourceDefinition, others: Iterable[CustomResourceDefinition], when: str
) -> CustomResourceDefinition:
    """The definition with its conditions, accepted names and stored versions as they now are.

    A name that another definition of the group has is kept from this one; what was accepted before stays so.

    :param when: metav1.Time of what changes.
    """
    names, reason, message = _free(asked, [o for o in others if o.spec.group == asked.spec.group])
    before = {c.type: c for c in asked.status.conditions}
    was = before.get("Established")
    established = not message or (was is not None and was.status == "True")
    found = [
        _condition("NamesAccepted", not message, reason or "NoConflicts", message or "no conflicts found"),
        _condition(
            "Established",
            established,
            "InitialNamesAccepted" if established else "NotAccepted",
            "the initial names have been accepted" if established else "not all names are accepted",
        ),
    ]
    if asked.metadata.deletion_timestamp:
        text = "CustomResource deletion is in progress"
        found.append(
            _condition("Terminating", CLEANUP in asked.metadata.finalizers, "InstanceDeletionInProgress", text)
        )
    conditions = [_since(c, before.get(c.type), when) for c in found]
    storage = next((v.name for v in asked.spec.versions if v.storage), "")
    stored = tuple(dict.fromkeys((*asked.status.stored_versions, *([storage] if storage else []))))
    status = CustomResourceDefinitionStatus(conditions=tuple(conditions), accepted_names=names, stored_versions=stored)
    return asked.model_copy(update={"status": status})


def _condition(kind: str, holds: bool, reason: str, message: str) -> Condition:
    return Condition(type=kind, status="True" if holds else "False", reason=reason, message=message)


def _since(new: Condition, old: Condition | None, when: str) -> Condition:
    kept = old is not None and old.status == new.status
    return new.model_copy(update={"last_transition_time": old.last_transition_time if old and kept else when})


def _free(
    asked: CustomResourceDefinition, others: Sequence[CustomResourceDefinition]
) -> tuple[AcceptedNames, str, str]:
    """What of the names nobody else has; and the reason and message of the first that somebody has."""
    taken = [o.status.accepted_names for o in others]
    in_urls = {n for t in taken for n in (t.plural, t.singular, *t.short_names) if n}
    in_documents = {n for t in taken for n in (t.kind, t.list_kind) if n}
    mine, before = asked.spec.names, asked.status.accepted_names
    problems: list[tuple[str, str]] = []

    def settle(field: str, wanted: str, kept: str, used: set[str]) -> str:
        if wanted not in used:
            return wanted
        problems.append((f"{field}Conflict", f'"{wanted}" is already in use'))
        return kept

    plural = settle("Plural", mine.plural, before.plural, in_urls)
    singular = settle("Singular", mine.singular, before.singular, in_urls)
    short = mine.short_names
    if clash := [n for n in mine.short_names if n in in_urls]:
        problems.append(("ShortNamesConflict", ", ".join(f'"{n}" is already in use' for n in clash)))
        short = before.short_names
    kind = settle("Kind", mine.kind, before.kind, in_documents)
    list_kind = settle("ListKind", mine.list_kind, before.list_kind, in_documents)
    names = AcceptedNames(
        plural=plural,
        singular=singular,
        short_names=short,
        kind=kind,
        list_kind=list_kind,
        categories=mine.categories,
    )
    return names, *(problems[0] if problems else ("", ""))


# ---------------------------------------------------------------- kinds


def priority(version: str) -> tuple[int, int, int, str]:
    """For sorting, the most preferred first: v2, v1, v1beta2, v1beta1, v1alpha1, then all others by name."""
    match = _VERSION.fullmatch(version)
    if match is None:
        return (3, 0, 0, version)
    stage = {None: 0, "beta": 1, "alpha": 2}[match[2]]
    return (stage, -int(match[1]), -int(match[3] or 0), "")


def resources_of(definition: CustomResourceDefinition) -> list[Resource]:
    """One for each served version of an established definition, the preferred one first; else none."""
    if not any(c.type == "Established" and c.status == "True" for c in definition.status.conditions):
        return []
    versions = sorted((v for v in definition.spec.versions if v.served), key=lambda v: priority(v.name))
    return [_resource(definition, version) for version in versions]


def _resource(definition: CustomResourceDefinition, version: CustomResourceDefinitionVersion) -> Resource:
    spec, names = definition.spec, definition.status.accepted_names
    shape = shape_of(definition, version)
    subresources = tuple(n for n, on in (("status", shape.status), ("scale", shape.scale is not None)) if on)
    return Resource(
        spec.group,
        version.name,
        names.kind,
        names.plural,
        names.singular,
        names.short_names,
        spec.scope == "Namespaced",
        subresources,
        CustomObject,
        names.categories,
        definition=definition.metadata.name,
        shape=shape,
    )


def shape_of(definition: CustomResourceDefinition, version: CustomResourceDefinitionVersion) -> Shape:
    spec, parts = definition.spec, version.subresources
    stored = next((v.name for v in spec.versions if v.storage), version.name)
    scale = parts.scale if parts is not None else None
    api_version = f"{spec.group}/{version.name}"
    kind = definition.status.accepted_names.kind or spec.names.kind
    told = version.deprecation_warning or f"{api_version} {kind} is deprecated"
    return Shape(
        schema=version.validation.root if version.validation is not None else {},
        stored=f"{spec.group}/{stored}",
        status=parts is not None and parts.status is not None,
        scale=ScalePaths(scale.spec_replicas_path, scale.status_replicas_path, scale.label_selector_path)
        if scale is not None
        else None,
        columns=tuple(
            PrinterColumn(c.name, c.type, c.json_path, c.format, c.description, c.priority)
            for c in version.additional_printer_columns
        ),
        fields=tuple(f.json_path for f in version.selectable_fields),
        warning=told if version.deprecated else "",
        closing=bool(definition.metadata.deletion_timestamp),
    )
