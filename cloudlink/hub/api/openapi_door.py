"""What a request below /openapi gets: which document, in which form, or that the client has it already. Pure."""

from __future__ import annotations

from cloudlink.hub.api import openapi, openapi_v2
from cloudlink.hub.api.answers import Answer, ApiError, no_such_path
from cloudlink.hub.api.openapi import Document
from cloudlink.kube.catalogue import Catalogue

_JSON = ("application/json", "application/*", "*/*")


def opened(rest: str, accept: str, known: str, hashed: str, catalogue: Catalogue) -> Answer:
    """:param rest: the path behind /openapi/.
    :param known: If-None-Match.
    :param hashed: the query's `hash`: with it the address names a content, which may be kept for good.
    """
    if rest == "v2":
        if openapi_v2.ACCEPTED in accept:
            return _answer(openapi_v2.as_protobuf(catalogue), known, openapi_v2.MEDIA_TYPE)
        _check(accept, f"application/json and {openapi_v2.MEDIA_TYPE}")
        return _answer(openapi_v2.as_json(catalogue), known)
    if rest != "v3" and not rest.startswith("v3/"):
        raise no_such_path(f"/openapi/{rest}")
    found = openapi.index(catalogue) if rest == "v3" else openapi.document(catalogue, rest.removeprefix("v3/"))
    if found is None:
        raise no_such_path(f"/openapi/{rest}")
    _check(accept, "application/json")
    return _answer(found, known, keep=bool(hashed) and hashed.upper() == found.digest)


def _check(accept: str, offered: str) -> None:
    wanted = [offer.partition(";")[0].strip() for offer in accept.split(",")] if accept.strip() else ["*/*"]
    if not any(w in _JSON for w in wanted):
        raise ApiError(406, "NotAcceptable", f"only {offered} can be had here")


def _answer(document: Document, known: str, media: str = "application/json", keep: bool = False) -> Answer:
    tag = f'"{document.digest}"'
    headers = (("etag", tag), ("vary", "Accept"), *((("cache-control", "public, immutable"),) if keep else ()))
    if matches(known, tag):
        return Answer(304, b"", headers)
    return Answer(200, document.body(), (*headers, ("content-type", media)))


def matches(known: str, tag: str) -> bool:
    """Whether If-None-Match names this ETag."""
    return known.strip() == "*" or tag in (k.strip().removeprefix("W/") for k in known.split(","))
