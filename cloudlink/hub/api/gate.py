"""The way in: every request to the hub passes here, whatever it is for and whoever answers it.

    who is it (401) -> as whom (403) -> may they (403) -> the room that answers -> the audit log

ASGI middleware, so that no route can be added that it doesn't see. What anybody may ask is named in OPEN and HEALTH.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloudlink.hub.api.answers import Answer, ApiError, bad_request
from cloudlink.hub.auth.access import Access
from cloudlink.hub.auth.audit import Audit, Entry
from cloudlink.hub.auth.authenticate import Credentials, Unauthorized
from cloudlink.hub.auth.requests import Request, refusal, request_of
from cloudlink.hub.auth.users import ANONYMOUS, UNAUTHENTICATED, USER, User, account_groups, account_of, authenticated

# Of enroll, what machines ask that have no credential yet: it sees to them itself (cloudlink/hub/enroll.py).
OPEN = frozenset({"/enroll/v1/ca", "/enroll/v1/join"})
HEALTH = ("healthz", "livez", "readyz")  # with all that is below them

_LASTING = ("exec", "attach", "portforward", "proxy")
_EXTRA = "impersonate-extra-"
_NAME_IN_ANSWER = 64 << 10  # bytes of a created object's answer that are looked through for its name


class Gate:
    def __init__(
        self,
        app: ASGIApp,
        access: Access,
    ) -> None:
        self._app = app
        self._authenticator = access.authenticator
        self._authority = access.authority
        self._audit = access.audit
        self._now = access.now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or _is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        headers = _headers(scope)
        entry = self._entry(scope, headers)
        try:
            scope[USER] = self._admitted(scope, headers, entry)
        except ApiError as e:
            entry.code, entry.message = e.code, e.message
            self._audit.tell(entry, "ResponseComplete")
            await _refuse(scope, e.answer(), entry.id, receive, send)
            return
        teller = _Teller(entry, self._audit, _lasts(entry.request, scope), send)
        teller.listen_to_upgrade(scope)
        try:
            await self._app(scope, receive, teller)
        finally:
            self._audit.tell(entry, "ResponseComplete")

    def _entry(self, scope: Scope, headers: Mapping[str, list[str]]) -> Entry:
        query = scope.get("query_string", b"").decode("latin-1")
        path = scope["path"]
        upgrade = scope["type"] == "websocket" or "upgrade" in headers  # whatever comes of it
        method = scope.get("method", "GET")
        client = scope.get("client")
        return Entry(
            id=str(uuid.uuid4()),
            received=self._now(),
            method=method,
            uri=f"{path}?{query}" if query else path,
            source=client[0] if client else "",
            agent=_first(headers, "user-agent"),
            request=request_of(method, path, dict(parse_qsl(query, keep_blank_values=True)), upgrade),
        )

    def _admitted(self, scope: Scope, headers: Mapping[str, list[str]], entry: Entry) -> User:
        """Whom the request counts as.

        :raises ApiError: 401, 403, or 400 for impersonation that makes no sense.
        """
        scheme, _, token = _first(headers, "authorization").partition(" ")
        shown = Credentials(token.strip() if scheme.lower() == "bearer" else "", _certificate(scope))
        try:
            user = self._authenticator.authenticate(shown)
        except Unauthorized as e:
            raise ApiError(401, "Unauthorized", f"Unauthorized: {e}") from None
        entry.user = user
        acting = self._acting(user, headers)
        if acting is not None:
            entry.acting = user = acting
        entry.verdict = self._authority.check(user, entry.request)
        if not entry.verdict.allowed:
            raise ApiError(403, "Forbidden", refusal(user.name, entry.request, entry.verdict.reason))
        return user

    # ------------------------------------------------------------ impersonation

    def _acting(self, user: User, headers: Mapping[str, list[str]]) -> User | None:
        """Whom `kubectl --as` asks to be taken for; None where nobody is named."""
        name, uid = _first(headers, "impersonate-user"), _first(headers, "impersonate-uid")
        groups = [g for g in headers.get("impersonate-group", []) if g]
        extra = {
            unquote(key.removeprefix(_EXTRA)): tuple(values)
            for key, values in headers.items()
            if key.startswith(_EXTRA)
        }
        if not name:
            if groups or uid or extra:
                raise bad_request("who impersonates a group, a uid or extra fields must name a user as well")
            return None
        for request in impersonation(name, uid, groups, extra):
            verdict = self._authority.check(user, request)
            if not verdict.allowed:
                raise ApiError(403, "Forbidden", refusal(user.name, request, verdict.reason))
        account = account_of(name)
        if account is not None and not groups:
            groups = list(account_groups(account[0]))
        if name == ANONYMOUS:
            return User(name, tuple(dict.fromkeys((*groups, UNAUTHENTICATED))), uid, extra)
        return authenticated(name, groups, uid, extra)


def impersonation(
    name: str, uid: str, groups: Sequence[str], extra: Mapping[str, tuple[str, ...]]
) -> Iterator[Request]:
    """What has to be allowed before one may be taken for somebody else (apiserver's impersonation filter)."""
    account = account_of(name)
    if account is not None:
        yield Request("impersonate", resource="serviceaccounts", version="v1", namespace=account[0], name=account[1])
    else:
        yield Request("impersonate", resource="users", version="v1", name=name)
    for group in groups:
        yield Request("impersonate", resource="groups", version="v1", name=group)
    of_authentication = {"group": "authentication.k8s.io", "version": "v1"}
    if uid:
        yield Request("impersonate", resource="uids", name=uid, **of_authentication)  # type: ignore[arg-type]
    for key, values in extra.items():
        for value in values:
            yield Request(
                "impersonate",
                resource="userextras",
                subresource=key,
                name=value,
                **of_authentication,  # type: ignore[arg-type]
            )


# ---------------------------------------------------------------- ASGI


def _is_open(path: str) -> bool:
    return path in OPEN or path[1:].partition("/")[0] in HEALTH


def _headers(scope: Scope) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in scope["headers"]:
        found.setdefault(key.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _first(headers: Mapping[str, list[str]], name: str) -> str:
    return headers.get(name, [""])[0]


def _certificate(scope: Scope) -> bytes:
    """The other end's certificate, PEM, where the TLS connection has one (cloudlink.hub.api.protocol puts it there)."""
    chain = scope.get("extensions", {}).get("tls", {}).get("client_cert_chain", [])
    return chain[0].encode("ascii") if chain else b""


def _lasts(request: Request, scope: Scope) -> bool:
    """Whether the answer may take as long as somebody listens."""
    if request.verb == "watch" or (
        request.resource in ("pods", "services", "nodes") and request.subresource in _LASTING
    ):
        return True
    return request.subresource == "log" and b"follow=true" in scope.get("query_string", b"")


class _Teller:
    """`send` that listens: what became of the request."""

    def __init__(self, entry: Entry, audit: Audit, lasts: bool, send: Send) -> None:
        self._entry, self._audit, self._lasts, self._send = entry, audit, lasts, send

    def listen_to_upgrade(self, scope: Scope) -> None:
        """A connection that is taken over answers 101 past `send`."""
        upgrade = scope.get("extensions", {}).get("upgrade")
        if upgrade is None:
            return
        take_over = upgrade["take_over"]

        def told(headers: Any) -> Any:
            taken = take_over(headers)
            self._entry.code = 101
            self._begun()
            return taken

        scope["extensions"] = {**scope["extensions"], "upgrade": {**upgrade, "take_over": told}}

    async def __call__(self, message: Message) -> None:
        entry = self._entry
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                entry.code = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), (b"audit-id", entry.id.encode())]}
                self._begun()
            case "websocket.accept":
                entry.code = 101
                self._begun()
            case "websocket.close" if not entry.code:
                entry.code = 403
            case "http.response.body" if entry.request.verb == "create" and not entry.request.name and not entry.name:
                entry.name = _name_in(message.get("body", b"")) if entry.code == 201 else ""
        await self._send(message)

    def _begun(self) -> None:
        if self._lasts:
            self._audit.tell(self._entry, "ResponseStarted")


class _Metadata(msgspec.Struct):
    name: str = ""


class _Named(msgspec.Struct):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)


def _name_in(body: bytes) -> str:
    """The name that a created object got."""
    if not 2 <= len(body) <= _NAME_IN_ANSWER:
        return ""
    try:
        return msgspec.json.decode(body, type=_Named).metadata.name
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


async def _refuse(scope: Scope, told: Answer, audit_id: str, receive: Receive, send: Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"audit-id", audit_id.encode())]
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008})
            return
    elif told.code == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    prefix = "websocket.http" if scope["type"] == "websocket" else "http"
    start: dict[str, Any] = {"type": f"{prefix}.response.start", "status": told.code, "headers": headers}
    await send(start)
    await send({"type": f"{prefix}.response.body", "body": told.body, "more_body": False})
