"""/openapi/v2 as protobuf (gnostic's openapi.v2.Document): as much as kubectl before 1.28 must see. Pure.

It looks whether PATCH of a kind takes `fieldValidation` and `dryRun`, and then leaves the checking to the server.
Schemas are left out: such clients fall back on their own, and take `kubectl explain` from /openapi/v3.
"""

from __future__ import annotations

import json
from functools import cache

from cloudlink.hub.api.discovery import VERSION
from cloudlink.kube.registry import RESOURCES, Resource

MEDIA_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"  # asked for with an "@", which is no MIME
ACCEPTED = "application/com.github.proto-openapi.spec.v2"


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def _field(number: int, content: bytes | str) -> bytes:
    """A length-delimited field: a string or a message."""
    raw = content.encode() if isinstance(content, str) else content
    return _varint(number << 3 | 2) + _varint(len(raw)) + raw


def _query_parameter(name: str) -> bytes:
    """ParametersItem > Parameter > NonBodyParameter > QueryParameterSubSchema."""
    schema = _field(2, "query") + _field(4, name) + _field(5, "string")
    return _field(1, _field(2, _field(3, schema)))


def _patch(resource: Resource) -> bytes:
    gvk = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    extension = _field(1, "x-kubernetes-group-version-kind") + _field(2, _field(2, json.dumps(gvk)))
    parameters = b"".join(_field(8, _query_parameter(n)) for n in ("dryRun", "fieldManager", "fieldValidation"))
    return _field(5, f"patch{resource.kind}") + parameters + _field(13, extension)


def _path(resource: Resource) -> bytes:
    root = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
    inner = "/namespaces/{namespace}" if resource.namespaced else ""
    return _field(1, f"{root}{inner}/{resource.plural}/{{name}}") + _field(2, _field(8, _patch(resource)))


@cache
def document() -> bytes:
    info = _field(1, "edged") + _field(2, VERSION["gitVersion"])
    paths = b"".join(_field(2, _path(r)) for r in RESOURCES)
    return _field(1, "2.0") + _field(2, info) + _field(8, paths)
