"""People's credentials: what `edgehub user` asks of the running hub.

    POST   /auth/v1/tokens          a user's name and groups -> a bearer token, shown once
    GET    /auth/v1/tokens          who has one, and until when
    DELETE /auth/v1/tokens/{id}     revoked; ?user=NAME without an id: all of theirs
    POST   /auth/v1/certificates    a certificate request and a name -> a client certificate

RBAC decides, as over resources of the API: `usertokens` and `usercertificates` in the group edged.dev. And because a
credential is as good as being that user, who makes one must be allowed to impersonate them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cloudlink import certs
from cloudlink.hub.api.answers import ApiError, answer, bad_request, from_error
from cloudlink.hub.api.gate import impersonation
from cloudlink.hub.auth import certificates
from cloudlink.hub.auth.access import Access
from cloudlink.hub.auth.requests import refusal
from cloudlink.hub.auth.tokens import DEFAULT_TTL, check_name
from cloudlink.hub.auth.users import USER, User
from cloudlink.hub.revisions import timestamp
from edged.errors import EdgedError

MAX_BODY = 64 << 10
MAX_TTL = 100 * 365 * 24 * 3600
CLOCKS = 300.0  # seconds that a client's clock may be behind the hub's when it uses a new certificate

Body = TypeVar("Body", bound=BaseModel)


class _Asked(BaseModel):
    """:ivar ttl: seconds; 0 = for ever (tokens only)."""

    model_config = ConfigDict(extra="forbid", strict=True)
    user: str = Field(max_length=253)
    groups: list[Annotated[str, Field(max_length=253)]] = Field(default=[], max_length=32)
    ttl: int = Field(default=int(DEFAULT_TTL), ge=0, le=MAX_TTL)


class _AskedCertificate(_Asked):
    csr: str = Field(max_length=certs.MAX_CSR)


def make_router(access: Access) -> APIRouter:
    router = APIRouter(prefix="/auth/v1")
    _add_tokens(router, access)
    _add_certificates(router, access)
    return router


def _add_tokens(router: APIRouter, access: Access) -> None:
    @router.post("/tokens")
    async def create(request: Request) -> Response:
        async def work() -> object:
            asked = await _body(request, _Asked)
            groups = _allowed(access, request, asked)
            made = access.tokens.create(asked.user, groups, float(asked.ttl))
            end = timestamp(made.expires_at) if made.expires_at else ""
            return {"id": made.id, "user": asked.user, "groups": groups, "token": made.token, "expires": end}

        return await _told(work, 201)

    @router.get("/tokens")
    async def every(_: Request) -> Response:
        async def work() -> object:
            return {
                "tokens": [
                    {
                        "id": key,
                        "user": held.user,
                        "groups": held.groups,
                        "created": timestamp(held.made_at),
                        "expires": timestamp(held.expires_at) if held.expires_at else "",
                    }
                    for key, held in access.tokens.all().items()
                ]
            }

        return await _told(work)

    @router.delete("/tokens")
    @router.delete("/tokens/{name}")
    async def revoke(request: Request, name: str = "") -> Response:
        async def work() -> object:
            user = request.query_params.get("user", "")
            if bool(name) == bool(user):
                raise bad_request("name one token by its id, or a user with ?user=, whose tokens are all revoked")
            gone = access.tokens.revoke_user(user) if user else [name] if access.tokens.revoke(name) else []
            if not gone:
                raise ApiError(404, "NotFound", f"there is no token {name or 'of user ' + user}")
            return {"revoked": gone}

        return await _told(work)


def _add_certificates(router: APIRouter, access: Access) -> None:
    @router.post("/certificates")
    async def certificate(request: Request) -> Response:
        async def work() -> object:
            asked = await _body(request, _AskedCertificate)
            groups = _allowed(access, request, asked)
            if access.users is None:
                raise ApiError(501, "NotImplemented", "this hub has no authority for people's certificates")
            if not asked.ttl:
                raise bad_request("a certificate can't be revoked, so it must have an end: ttl, in seconds")
            check_name(asked.user, groups)
            now = access.now()
            csr = asked.csr.encode("utf-8", "replace")
            made = certificates.issue(access.users, csr, asked.user, groups, now - CLOCKS, now + asked.ttl)
            return {"user": asked.user, "certificate": made.decode(), "expires": timestamp(now + asked.ttl)}

        return await _told(work, 201)


def _allowed(access: Access, request: Request, asked: _Asked) -> tuple[str, ...]:
    """The groups, each once; ApiError where whoever asks may not be that user."""
    user: User = request.scope[USER]
    groups = tuple(dict.fromkeys(asked.groups))
    for question in impersonation(asked.user, "", groups, {}):
        verdict = access.authority.check(user, question)
        if not verdict.allowed:
            raise ApiError(403, "Forbidden", refusal(user.name, question, verdict.reason))
    return groups


async def _told(work: Callable[[], Awaitable[object]], code: int = 200) -> Response:
    """The answer as JSON, every error as a Status."""
    try:
        told = answer(await work(), code)
    except ApiError as e:
        told = e.answer()
    except EdgedError as e:
        failed = from_error(e, None, "")
        told = (failed if failed.code != 500 else bad_request(str(e))).answer()
    return Response(told.body, told.code, dict(told.headers), "application/json")


async def _body(request: Request, kind: type[Body]) -> Body:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise ApiError(413, "RequestEntityTooLarge", f"the body has more than {MAX_BODY} bytes")
    try:
        return kind.model_validate_json(body)
    except ValidationError as e:
        findings = (f"{'.'.join(map(str, f['loc'])) or 'body'}: {f['msg']}" for f in e.errors(include_input=False)[:10])
        raise bad_request("; ".join(findings)) from None
