"""What a CustomResourceDefinition must satisfy beyond its structure
(k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation). Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from cloudlink.kube import names
from cloudlink.kube.definitions import (
    CustomResourceDefinition,
    CustomResourceDefinitionSpec,
    CustomResourceDefinitionVersion,
    CustomResourceSubresources,
)
from cloudlink.kube.findings import Findings
from cloudlink.kube.jsonpath import JsonPathError, simple_fields, steps
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.registry import RESOURCES
from cloudlink.kube.structural import check_schema, has_rules

APPROVED = "api-approved.kubernetes.io"
_VERSION = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?", re.ASCII)
_COLUMN_TYPES = ("integer", "number", "string", "boolean", "date")
_COLUMN_FORMATS = ("int32", "int64", "float", "double", "byte", "date", "date-time", "password")
_GROUPS = frozenset(r.group for r in RESOURCES)
MAX_FIELDS = 8  # selectable fields of one version, as upstream


def definition(obj: CustomResourceDefinition, found: Findings) -> None:
    spec = obj.spec
    if not spec.group:
        found.required("spec.group")
    elif why := names.dns_subdomain(spec.group):
        found.invalid("spec.group", spec.group, why)
    elif "." not in spec.group:
        found.invalid("spec.group", spec.group, "should be a domain with at least one dot")
    elif spec.group in _GROUPS:
        found.forbidden("spec.group", "this group is built in; choose one of your own")
    wanted = f"{spec.names.plural}.{spec.group}"
    if obj.metadata.name and obj.metadata.name != wanted:
        found.invalid("metadata.name", obj.metadata.name, 'must be spec.names.plural+"."+spec.group')
    _approved(obj, found)
    _names(spec, found)
    _versions(spec, found)
    if spec.preserve_unknown_fields:
        found.invalid("spec.preserveUnknownFields", True, "must be false")
    if spec.conversion.strategy == "Webhook":
        why = "webhooks are not called here; versions are converted by their apiVersion alone (strategy: None)"
        found.forbidden("spec.conversion.strategy", why)
    elif spec.conversion.strategy != "None":
        found.unsupported("spec.conversion.strategy", spec.conversion.strategy, ("None", "Webhook"))
    elif spec.conversion.webhook is not None:
        found.forbidden("spec.conversion.webhook", "should not be set when strategy is not set to Webhook")
    odd: list[str] = []
    for i, version in enumerate(spec.versions):
        _version(version, f"spec.versions[{i}]", found, odd)
    for path in odd:
        found.unknown(path)


def _approved(obj: CustomResourceDefinition, found: Findings) -> None:
    group = obj.spec.group
    if group.endswith((".k8s.io", ".kubernetes.io")) and APPROVED not in obj.metadata.annotations:
        found.required(
            f"metadata.annotations[{APPROVED}]",
            "protected groups must have approval annotation, see https://github.com/kubernetes/enhancements/pull/1111",
        )


def _names(spec: CustomResourceDefinitionSpec, found: Findings) -> None:
    given = spec.names
    for field, value in (("plural", given.plural), ("singular", given.singular)):
        found.text(f"spec.names.{field}", value, names.dns_label_1035)
    for field, value in (("kind", given.kind), ("listKind", given.list_kind)):
        found.text(f"spec.names.{field}", value.lower(), names.dns_label_1035)
    for i, short in enumerate(given.short_names):
        found.text(f"spec.names.shortNames[{i}]", short, names.dns_label_1035)
    for i, category in enumerate(given.categories):
        found.text(f"spec.names.categories[{i}]", category, names.dns_label_1035)
    if given.kind and given.kind == given.list_kind:
        found.invalid("spec.names.listKind", given.list_kind, "kind and listKind may not be the same")


def _versions(spec: CustomResourceDefinitionSpec, found: Findings) -> None:
    seen: set[object] = set()
    for i, version in enumerate(spec.versions):
        here = f"spec.versions[{i}].name"
        if not _VERSION.fullmatch(version.name) or len(version.name) > 63:
            found.text(here, version.name, names.dns_label_1035)
        found.unique(here, version.name, seen)
    if sum(v.storage for v in spec.versions) != 1:
        found.invalid(
            "spec.versions", [v.name for v in spec.versions], "must have exactly one version marked as storage version"
        )
    if spec.versions and not any(v.served for v in spec.versions):
        found.invalid("spec.versions", [v.name for v in spec.versions], "must have at least one served version")


def _version(version: CustomResourceDefinitionVersion, path: str, found: Findings, unknown: list[str]) -> None:
    if version.validation is None or not version.validation.root:
        found.required(f"{path}.schema.openAPIV3Schema", "schemas are required")
    else:
        check_schema(version.validation.root, f"{path}.schema.openAPIV3Schema", found, unknown)
    if version.subresources is not None:
        _scale(version.subresources, f"{path}.subresources.scale", found)
    for i, column in enumerate(version.additional_printer_columns):
        here = f"{path}.additionalPrinterColumns[{i}]"
        if not column.name:
            found.required(f"{here}.name")
        if column.type not in _COLUMN_TYPES:
            found.unsupported(f"{here}.type", column.type, _COLUMN_TYPES)
        if column.format and column.format not in _COLUMN_FORMATS:
            found.unsupported(f"{here}.format", column.format, _COLUMN_FORMATS)
        try:
            steps(column.json_path)
        except JsonPathError as e:
            found.invalid(f"{here}.jsonPath", column.json_path, str(e))
    if len(version.selectable_fields) > MAX_FIELDS:
        found.too_many(f"{path}.selectableFields", len(version.selectable_fields), MAX_FIELDS)
    for i, field in enumerate(version.selectable_fields):
        _simple(field.json_path, f"{path}.selectableFields[{i}].jsonPath", "", found)
    if version.deprecation_warning and not version.deprecated:
        found.invalid(
            f"{path}.deprecationWarning", version.deprecation_warning, "can only be set for deprecated versions"
        )


def _scale(subresources: CustomResourceSubresources, path: str, found: Findings) -> None:
    scale = subresources.scale
    if scale is None:
        return
    _simple(scale.spec_replicas_path, f"{path}.specReplicasPath", ".spec.", found)
    _simple(scale.status_replicas_path, f"{path}.statusReplicasPath", ".status.", found)
    if scale.label_selector_path:
        _simple(scale.label_selector_path, f"{path}.labelSelectorPath", (".spec.", ".status."), found)


def _simple(path: str, where: str, prefix: str | tuple[str, ...], found: Findings) -> None:
    if not path:
        found.required(where)
        return
    try:
        simple_fields(path)
    except JsonPathError as e:
        found.invalid(where, path, str(e))
        return
    if not path.startswith(prefix):
        below = prefix if isinstance(prefix, str) else " or ".join(prefix)
        found.invalid(where, path, f"should be a json path under {below}")


def notes(obj: CustomResourceDefinition) -> Iterator[str]:
    """What is taken and not acted upon, one sentence each, for Warning headers."""
    for version in obj.spec.versions:
        if version.validation is not None and has_rules(version.validation.root):
            yield f"version {version.name}: rules in CEL (x-kubernetes-validations) are kept, but not evaluated here"


CHECKS: Mapping[type[KubeObject], Callable[..., None]] = {CustomResourceDefinition: definition}
