"""What happens to fields that no model has: ?fieldValidation=Strict, Warn or Ignore, as in Kubernetes.

Unlike kube-apiserver, the default is Strict: a field that is dropped in silence is a manifest that says something else
than its author thinks. What Kubernetes knows and this version doesn't support is refused whatever was asked for.
"""

from __future__ import annotations

from typing import Any

from cloudlink.hub.api.answers import bad_request
from cloudlink.hub.api.calls import Call
from cloudlink.kube.errors import MAX_CAUSES, Invalid
from cloudlink.kube.inert import inert_fields
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.parse import parse

_UNKNOWN = "unknown field"
PASSES = 10  # each finds up to MAX_CAUSES; a document with more is refused


def checked(call: Call, document: dict[str, Any]) -> KubeObject:
    """The object of a document, without the unknown fields where the request wants that. Invalid says what is wrong.

    Who writes what nobody acts upon is warned.
    """
    obj = _parsed(call, document)
    if not call.target.subresource:
        for told in (call.target.resource.inert, *inert_fields(obj)):
            call.warn(told)
    return obj


def _parsed(call: Call, document: dict[str, Any]) -> KubeObject:
    if call.target.resource.shape is not None:
        return _custom(call, document)
    if not call.lenient:
        return parse(document, call.target.resource)
    for _ in range(PASSES):
        try:
            return parse(document, call.target.resource)
        except Invalid as e:
            unknown = [c for c in e.causes if c.message.startswith(_UNKNOWN)]
            kept = document
            for cause in unknown:
                kept = without(kept, cause.field)
            if not unknown or kept is document:
                raise
            for cause in unknown:
                call.dropped(f'{_UNKNOWN} "{cause.field}"')
            document = kept
    return parse(document, call.target.resource)


def _custom(call: Call, document: dict[str, Any]) -> KubeObject:
    """Of other people's kinds: their schemas are pruned by, so that Warn is the default, as in Kubernetes."""
    strict = not call.lenient and call.query.get("fieldValidation") == "Strict"
    unknown: list[str] = []
    obj = parse(document, call.target.resource, unknown)
    told = [f'{_UNKNOWN} "{path}"' for path in dict.fromkeys(unknown)]
    if told and strict:
        raise bad_request(f"strict decoding error: {', '.join(told[:MAX_CAUSES])}")
    if call.query.get("fieldValidation") != "Ignore":
        for text in told:
            call.warn(text)
    return obj


def without(document: Any, path: str) -> Any:
    """A copy without the field at a Cause's path (`spec.containers[0].imagee`); itself where there is none there."""
    if isinstance(document, list):
        number, end, rest = path.removeprefix("[").partition("]")
        if not (path.startswith("[") and end and number.isdecimal() and int(number) < len(document)):
            return document
        at = int(number)
        inner = without(document[at], rest.removeprefix("."))
        return document if inner is document[at] else [*document[:at], inner, *document[at + 1 :]]
    if not isinstance(document, dict):
        return document
    if path in document:
        return {k: v for k, v in document.items() if k != path}
    for key in sorted((k for k in document if isinstance(k, str)), key=len, reverse=True):
        for step, rest in ((key, path[len(key) :]), (f"[{key}]", path[len(key) + 2 :])):
            if path.startswith(step) and rest[:1] in (".", "["):
                inner = without(document[key], rest.removeprefix("."))
                if inner is not document[key]:
                    return {**document, key: inner}
    return document
