"""Asking a container how it is: exec, HTTP and TCP. Returns what came back, decides nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from edged.errors import EdgedError
from edged.model import ExecAction, GrpcAction, HttpAction, Probe, TcpAction
from edged.runtime.api import ProbeResult, Verdict
from edged.runtime.process import Completed

SHOWN = 256  # characters of a command's output in a message
STATUS_LINE_LIMIT = 8192  # bytes

Exec = Callable[[Sequence[str], float], Awaitable[Completed]]
"""(command, timeout) -> how it ended, run inside the container."""


async def ask(probe: Probe, ip: str, execute: Exec) -> ProbeResult:
    """One question; the answer within `probe.timeout` seconds, or it counts as no."""
    action = probe.action
    try:
        if isinstance(action, ExecAction):
            return await _exec(action, probe.timeout, execute)
        if isinstance(action, GrpcAction):
            return _no("gRPC probes can't be asked yet")
        if not (action.host or ip):
            return _no("the pod has no address")
        async with asyncio.timeout(probe.timeout):
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
    """200 to 399 is yes, as in Kubernetes; a redirect is not followed, a certificate not verified."""
    secure = action.scheme.upper() == "HTTPS"
    host = action.host or ip
    reader, writer = await asyncio.open_connection(
        host, action.port, ssl=_unverified() if secure else None, limit=STATUS_LINE_LIMIT
    )
    try:
        writer.write(_request(action, host))
        line = await reader.readuntil(b"\n")
    finally:
        with contextlib.suppress(OSError):
            writer.transport.abort()  # alone: after close() it fails for TLS in Debian 12's Python (3.11.2)
    words = line.decode("latin-1").split(None, 2)
    if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdecimal():
        return _no(f"{_target(action, ip)} does not speak HTTP: {line[:80]!r}")
    status = int(words[1])
    if 200 <= status < 400:
        return ProbeResult(Verdict.SUCCESS, f"HTTP {status}")
    return _no(f"{_target(action, ip)} answered with HTTP {status}")


def _request(action: HttpAction, host: str) -> bytes:
    """:raises ValueError: a header or path that would break out of its line."""
    path = action.path if action.path.startswith("/") else f"/{action.path}"
    headers = {"Host": f"{host}:{action.port}", "User-Agent": "edged-probe", "Accept": "*/*", "Connection": "close"}
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
    return "the command"


def _no(message: str) -> ProbeResult:
    return ProbeResult(Verdict.FAILURE, message)
