"""Asking a container how it is: exec, HTTP, TCP and gRPC. Returns what came back, decides nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from edged.errors import EdgedError
from edged.model import ExecAction, GrpcAction, HttpAction, Probe, TcpAction
from edged.runtime.api import ProbeResult, Verdict
from edged.runtime.process import Completed

SHOWN = 256  # characters of a command's output in a message
LINE_LIMIT = 8192  # bytes of the status line and of each header
MAX_HEADERS = 100  # that are looked at for where a redirect leads
MAX_REDIRECTS = 10  # as Go's client, and so the kubelet
REDIRECTS = (301, 302, 303, 307, 308)

Exec = Callable[[Sequence[str], float], Awaitable[Completed]]
"""(command, timeout) -> how it ended, run inside the container."""


async def ask(probe: Probe, ip: str, execute: Exec) -> ProbeResult:
    """One question; the answer within `probe.timeout` seconds, or it counts as no."""
    action = probe.action
    try:
        if isinstance(action, ExecAction):
            return await _exec(action, probe.timeout, execute)
        if not ((action.host if not isinstance(action, GrpcAction) else "") or ip):
            return _no("the pod has no address")
        async with asyncio.timeout(probe.timeout):
            if isinstance(action, GrpcAction):
                return await _grpc(action, ip)
            return await (_http(action, ip) if isinstance(action, HttpAction) else _tcp(action, ip))
    except TimeoutError:
        return _no(f"no answer from {_target(action, ip)} within {probe.timeout:g} s")
    except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as e:
        reason = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
        return _no(f"{_target(action, ip)}: {reason}")


async def _exec(action: ExecAction, timeout: float, execute: Exec) -> ProbeResult:
    try:
        done = await execute(action.command, timeout)
    except EdgedError as e:
        return _no(str(e))
    said = (done.stdout + done.stderr).decode(errors="replace").strip()[:SHOWN]
    if done.code == 0:
        return ProbeResult(Verdict.SUCCESS, said)
    return _no(f"{action.command[0]} ended with {done.code}{': ' + said if said else ''}")


async def _http(action: HttpAction, ip: str) -> ProbeResult:
    """200 to 399 is yes, as in Kubernetes. A redirect is followed on the same host, one to another host is a yes; a
    certificate is not verified."""
    for _ in range(MAX_REDIRECTS):
        status, location = await _get(action, action.host or ip)
        if not 200 <= status < 400:
            return _no(f"{_target(action, ip)} answered with HTTP {status}")
        onward = _redirected(action, action.host or ip, location) if status in REDIRECTS and location else None
        if onward is None:
            return ProbeResult(Verdict.SUCCESS, f"HTTP {status}")
        action = onward
    return _no(f"{_target(action, ip)}: stopped after {MAX_REDIRECTS} redirects")


async def _get(action: HttpAction, host: str) -> tuple[int, str]:
    """(status, where a redirect leads, else ""). :raises ValueError: whoever answers does not speak HTTP."""
    secure = action.scheme.upper() == "HTTPS"
    reader, writer = await asyncio.open_connection(
        host, action.port, ssl=_unverified() if secure else None, limit=LINE_LIMIT
    )
    try:
        writer.write(_request(action, host))
        try:
            line = await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as e:
            line = e.partial
        words = line.decode("latin-1").split(None, 2)
        if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdecimal():
            raise ValueError(f"it does not speak HTTP: {line[:80]!r}")
        status = int(words[1])
        return status, (await _location(reader)) if status in REDIRECTS else ""
    finally:
        with contextlib.suppress(OSError):
            writer.transport.abort()  # alone: after close() it fails for TLS in Debian 12's Python (3.11.2)


async def _location(reader: asyncio.StreamReader) -> str:
    for _ in range(MAX_HEADERS):
        name, _, value = (await reader.readuntil(b"\n")).decode("latin-1").partition(":")
        if not name.strip():
            break
        if name.strip().lower() == "location":
            return value.strip()
    return ""


def _redirected(action: HttpAction, host: str, location: str) -> HttpAction | None:
    """What to ask next; None where it leads to another host. :raises ValueError: it leads nowhere."""
    from urllib.parse import urljoin, urlsplit  # only where a probe needs it

    here = f"{action.scheme.lower()}://{_bracketed(host)}:{action.port}/{action.path.removeprefix('/')}"
    url = urlsplit(urljoin(here, location))
    if url.scheme not in ("http", "https") or (url.hostname or "") != host.lower():
        return None
    return HttpAction(
        port=url.port or (443 if url.scheme == "https" else 80),
        path=(url.path or "/") + (f"?{url.query}" if url.query else ""),
        host=host,
        scheme=url.scheme.upper(),
        headers=action.headers,
    )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _request(action: HttpAction, host: str) -> bytes:
    """:raises ValueError: a header or path that would break out of its line."""
    path = action.path if action.path.startswith("/") else f"/{action.path}"
    host = f"{_bracketed(host)}:{action.port}"
    # The agent begins as the kubelet's, for servers keep its visits out of their logs by that word.
    headers = {"Host": host, "User-Agent": "kube-probe/edged", "Accept": "*/*", "Connection": "close"}
    for name, value in action.headers:
        headers = {k: v for k, v in headers.items() if k.lower() != name.lower()} | {name: value}
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if any(c in line for line in lines for c in "\r\n\0") or " " in path:
        raise ValueError("the probe's path or a header holds a space or a line break")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _tcp(action: TcpAction, ip: str) -> ProbeResult:
    _, writer = await asyncio.open_connection(action.host or ip, action.port)
    writer.transport.abort()
    return ProbeResult(Verdict.SUCCESS, "connected")


async def _grpc(action: GrpcAction, ip: str) -> ProbeResult:
    from edged.runtime import grpc_health  # only where a probe needs it

    said = await grpc_health.check(ip, action.port, action.service)
    return _no(f"{_target(action, ip)}: {said}") if said else ProbeResult(Verdict.SUCCESS, "SERVING")


def _unverified() -> object:
    import ssl  # only where a probe needs it

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _target(action: object, ip: str) -> str:
    if isinstance(action, HttpAction):
        return f"{action.scheme.lower()}://{action.host or ip}:{action.port}{action.path}"
    if isinstance(action, TcpAction):
        return f"tcp {action.host or ip}:{action.port}"
    if isinstance(action, GrpcAction):
        return f"grpc {ip}:{action.port}"
    return "the command"


def _no(message: str) -> ProbeResult:
    return ProbeResult(Verdict.FAILURE, message)
