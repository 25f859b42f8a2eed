"""The API as an ASGI application: bodies, dispatch, and every error as a Status. Who may is decided before (gate)."""

from __future__ import annotations

import ipaddress
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from inspect import isawaitable

from fastapi import APIRouter, FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp

from cloudlink.hub.api import (
    bindings,
    deletes,
    evictions,
    fits,
    health,
    listing,
    patches,
    reads,
    reviews,
    scale,
    warnings,
    writes,
)
from cloudlink.hub.api.addresses import DEFAULT_NETWORK
from cloudlink.hub.api.answers import Answer, ApiError, absent, answer, bad_request, from_error, no_such_path
from cloudlink.hub.api.calls import Admit, Call, Context, Foresee
from cloudlink.hub.api.discovery import VERSION, discover
from cloudlink.hub.api.doorways import doorway
from cloudlink.hub.api.escalation import guarded_context
from cloudlink.hub.api.fresh import Fresh
from cloudlink.hub.api.gate import Gate
from cloudlink.hub.api.intake import Intake
from cloudlink.hub.api.openapi_door import matches, opened
from cloudlink.hub.api.paths import Target, target_of
from cloudlink.hub.api.people import make_router
from cloudlink.hub.api.sending import response
from cloudlink.hub.api.usage import get_usage
from cloudlink.hub.api.virtual import WORKED_OUT, virtual
from cloudlink.hub.api.watches import Watch
from cloudlink.hub.auth.access import NO_KEYS, Access, Keys
from cloudlink.hub.auth.audit import Audit
from cloudlink.hub.auth.authenticate import Administrator
from cloudlink.hub.auth.users import USER, User
from cloudlink.hub.doors.ways import Nowhere, Ways
from cloudlink.hub.patience import DEFAULT_PATIENCE, Patience
from cloudlink.hub.remote import Remote
from cloudlink.hub.schedule.seats import Policy
from cloudlink.hub.store import Store
from cloudlink.kube.catalogue import Catalogue
from cloudlink.kube.fits import Fit
from edged.errors import EdgedError

log = logging.getLogger(__name__)

Handler = Callable[[Context, Call], Answer | Awaitable[Answer]]

_COLLECTION: Mapping[str, Handler] = {
    "GET": listing.get_list,
    "POST": writes.create,
    "DELETE": deletes.delete_collection,
}
_OBJECT: Mapping[str, Handler] = {
    "GET": reads.get_one,
    "PUT": writes.replace,
    "PATCH": patches.patch,
    "DELETE": deletes.delete_one,
}
_STATUS: Mapping[str, Handler] = {"GET": reads.get_one, "PUT": writes.replace, "PATCH": patches.patch}
_SCALE: Mapping[str, Handler] = {"GET": scale.get_scale, "PUT": scale.put_scale, "PATCH": scale.patch_scale}
_SUBRESOURCES: Mapping[str, Mapping[str, Handler]] = {
    "status": _STATUS,
    "scale": _SCALE,
    "eviction": {"POST": evictions.evict},
    "binding": {"POST": bindings.bind},
    "finalize": {"PUT": bindings.finalize},
}
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_NOT_YET = {"proxy": "proxying through the hub is not supported yet; use kubectl port-forward"}


def create_app(
    store: Store,
    authenticate: Administrator,
    extra_routers: Sequence[APIRouter] = (),
    on_change: Callable[[], None] = lambda: None,
    admit: Admit = lambda new, old: None,
    now: Callable[[], float] = time.time,
    service_network: str = str(DEFAULT_NETWORK),
    remote: Remote | None = None,
    keys: Keys = NO_KEYS,
    audit: Audit | None = None,
    intake: Intake | None = None,
    patience: Patience = DEFAULT_PATIENCE,
    policy: Policy = "tight",
    foresee: Foresee | None = None,
) -> FastAPI:
    """The hub's ASGI application; handlers use the store in the loop's own thread.

    :param authenticate: an administrator's bearer token -> their name; None for any other token.
    :param extra_routers: other pages of the hub; the gate stands before them, too.
    :param on_change: called after each commit that came through the API.
    :param admit: called with (new, old or None) before a write; raises cloudlink.kube.errors.Invalid to refuse it.
    :param now: wall clock, Unix seconds; ages in tables are reckoned by it.
    :param service_network: CIDR out of which Services get their addresses.
    :param remote: the way to the nodes; None = there is none, and logs and commands can't be had.
    :param keys: what else than the administrator's token is believed.
    :param intake: bounds on what comes in; None = the usual ones.
    :param foresee: answers what would fit (foresight.py); None = nobody can.
    :param audit: where is written down who asked what; None = nowhere.
    :param patience, policy: as the Manager's, for whoever makes a pod or asks beforehand.
    """
    access = Access(store, authenticate, keys, audit, now)
    network = ipaddress.IPv4Network(service_network)
    context = Context(store, now, admit, on_change, network, patience=patience, policy=policy, foresee=foresee)
    context.ways, context.intake = Ways(remote or Nowhere()), intake or Intake()
    app = FastAPI(title="edged hub", openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(Gate, access=access)
    for router in (make_router(access), *extra_routers):
        app.include_router(router)

    def guarded(endpoint: Callable[[Request], Awaitable[ASGIApp]]) -> Callable[[Request], Awaitable[ASGIApp]]:
        async def guard(request: Request) -> ASGIApp:
            return await _guarded(request, endpoint, lambda: store.catalogue)

        return guard

    async def resource(request: Request) -> ASGIApp:
        return await _resource(context, access, request)

    async def described(request: Request) -> ASGIApp:
        return _described(request, store.catalogue)

    for path in ("/api", "/apis", "/api/{rest:path}", "/apis/{rest:path}"):
        app.router.add_route(path, guarded(resource), methods=_METHODS)  # type: ignore[arg-type]
    app.router.add_route("/openapi/{rest:path}", guarded(described), methods=["GET"])  # type: ignore[arg-type]

    health.add_routes(app, {"ping": lambda: ""}, {"database": lambda: _database(store)})  # no reason to be restarted
    app.router.add_route("/version", _version, methods=["GET"])  # type: ignore[arg-type]
    app.add_middleware(Fresh, store=store)  # the outermost: whoever decides anything sees what is newest
    return app


def listen(host: str, port: int) -> socket.socket:
    """A listening socket to hand to uvicorn (`Server.serve(sockets=[...])`).

    asyncio turns Nagle's algorithm off only for sockets whose protocol is given by number. Left on, it holds each
    answer back for 40 ms, because uvicorn writes the head and the body apart.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.bind((host, port))
    sock.listen(2048)
    return sock


def _database(store: Store) -> str:
    trouble = store.trouble()
    return f"the hub's database takes nothing now: {trouble}" if trouble else ""


def _described(request: Request, catalogue: Catalogue) -> ASGIApp:
    headers, rest = request.headers, request.path_params["rest"].strip("/")
    known, hashed = headers.get("if-none-match", ""), request.query_params.get("hash", "")
    return response(opened(rest, headers.get("accept", ""), known, hashed, catalogue))


async def _version(_: Request) -> ASGIApp:
    return response(answer(VERSION))


async def _guarded(
    request: Request, endpoint: Callable[[Request], Awaitable[ASGIApp]], catalogue: Callable[[], Catalogue]
) -> ASGIApp:
    """Whatever goes wrong becomes a Status."""
    target: Target | None = None
    try:
        target = target_of(request.scope["path"], catalogue())
        return await endpoint(request)
    except ApiError as e:
        return response(e.answer())
    except EdgedError as e:
        told = from_error(e, target.resource if target else None, target.name if target else "")
        if told.code >= 500:
            log.error("%s %s: %s", request.method, request.url.path, e)
        return response(told.answer())
    except RecursionError:
        return response(bad_request("the request's body is nested too deeply").answer())
    except ClientDisconnect:
        return Response(status_code=499)
    except Exception:  # a bug of ours must not look like a broken connection
        log.exception("%s %s failed", request.method, request.url.path)
        message = "the hub failed to answer this; its log says more"
        return response(ApiError(500, "InternalError", message).answer())


async def _resource(context: Context, access: Access, request: Request) -> ASGIApp:
    path: str = request.scope["path"]  # what the gate has looked at; a "%3F" makes request.url.path another one
    accept = request.headers.get("accept", "")
    if request.method == "GET" and (known := discover(path, accept, context.store.catalogue)) is not None:
        there = request.headers.get("if-none-match", "")
        same = any(name == "etag" and matches(there, tag) for name, tag in known.headers)
        return response(replace(known, code=304, body=b"") if same else known)
    target = target_of(path, context.store.catalogue)
    if target is None or target.resource.key in WORKED_OUT:
        worked_out = virtual(context.store, request.method, path)
        if worked_out is not None:
            return response(worked_out)
    if target is None:
        used = await get_usage(context, request.method, path, request.query_params)
        if used is not None:
            return response(used)
        raise absent(request.method, path)
    if doorway(target, request.method) is not None:
        return await _called(context, access, request, target, b"")  # it lasts, and reads for itself
    with context.intake.seat() as seat:
        body = await seat.body(request) if request.method != "GET" else b""
        return await _called(context, access, request, target, body)


async def _called(context: Context, access: Access, request: Request, target: Target, body: bytes) -> ASGIApp:
    path: str = request.scope["path"]
    user: User = request.scope[USER]  # the gate's; without it nothing is answered here
    call = Call(
        request.method,
        target,
        request.query_params,
        body,
        request.headers.get("content-type", "application/json"),
        request.headers.get("accept", ""),
        user,
        request.headers.get("user-agent", ""),
    )
    if target.resource.shape is not None:
        call.warn(target.resource.shape.warning)
    if (door := doorway(target, request.method)) is not None:
        return await door(context, call, request)
    if request.method == "GET" and not target.subresource and (target.watch or call.flag("watch")):
        return Watch(context, call)
    if call.method != "GET":
        context = guarded_context(context, access.authority, user, target, call.method)
    told = (_posted(access, call) or _handler(call, path))(context, call)
    told = await told if isawaitable(told) else told
    if call.warnings:
        told = replace(told, headers=(*told.headers, *warnings.headers(call.warnings)))
    return response(told, request.headers.get("accept-encoding", ""))


def _posted(access: Access, call: Call) -> Handler | None:
    """What is answered to a POST and stored nowhere; None for everything else."""
    resource, subresource = call.target.resource, call.target.subresource
    if call.method != "POST":
        return None
    if resource.key == "ServiceAccount" and subresource == "token":
        return lambda context, call: reviews.token(context, access, call)
    if resource.stored or call.target.name or (resource.namespaced and not call.target.namespace):
        return None
    if resource.model is Fit:
        return lambda context, call: fits.ask(access, context, call)
    return lambda _, call: reviews.review(access, call)


def _handler(call: Call, path: str) -> Handler:
    target = call.target
    table: Mapping[str, Handler] = _COLLECTION if not target.name else _OBJECT
    if not target.resource.stored or target.subresource == "token":
        table = {}
    elif target.subresource:
        if target.resource.kind == "Pod" and target.subresource in _NOT_YET:
            raise ApiError(501, "NotImplemented", _NOT_YET[target.subresource], target.resource, target.name)
        if target.subresource not in target.resource.subresources:
            raise no_such_path(path)
        table = _SUBRESOURCES.get(target.subresource, {})
    handler = table.get(call.method)
    nowhere = call.method == "POST" and target.resource.namespaced and not target.namespace
    if handler is None or nowhere:
        message = "the server does not allow this method on the requested resource"
        if nowhere:
            message = f"a {target.resource.kind} is made in a namespace: POST to /namespaces/{{namespace}}/ below it"
        raise ApiError(405, "MethodNotAllowed", message, target.resource, target.name)
    return handler
