"""A node in memory whose containers are real processes of this machine: what goes in and comes out is real data."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import fcntl
import os
import signal
import struct
import termios
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edged.model.remote import (
    RESIZE,
    STDERR,
    STDIN,
    STDOUT,
    AnyRequest,
    AttachRequest,
    ConnectRequest,
    End,
    ExecRequest,
    LogsRequest,
    Size,
    Usage,
)
from edged.uplink import Talk

CHUNK = 64 << 10


class ShellNode:
    """Implements edged.uplink.Asked. Commands run in `folder`; every pod that is asked for is there.

    :ivar attached: what is at the other end of `attach`.
    :ivar ports: of the pod -> of this machine's loopback.
    :ivar running: processes and connections that are under way.
    """

    def __init__(self, folder: Path, attached: Sequence[str] = ("cat",)) -> None:
        self.folder = folder
        self.attached = tuple(attached)
        self.ports: dict[int, int] = {}
        self.usage: Usage | None = None
        self.running = 0

    def log(self, container: str = "main", previous: bool = False) -> Path:
        """Where a container's log is kept: lines of `<seconds since 1970> <text>`."""
        return self.folder / f"{container}{'.previous' if previous else ''}.log"

    async def answer(self, request: AnyRequest, talk: Talk) -> End:
        self.running += 1
        try:
            match request:
                case LogsRequest():
                    return await self._logs(request, talk)
                case ConnectRequest():
                    return await self._connect(request, talk)
                case ExecRequest() | AttachRequest():
                    return await self._run(request, talk)
                case _:
                    if self.usage is None:
                        return End(reason="Unavailable", message="this node counts nothing")
                    await talk.send(STDOUT, msgspec.msgpack.encode(self.usage))
                    return End()
        finally:
            self.running -= 1

    # ------------------------------------------------------------ commands

    async def _run(self, request: ExecRequest | AttachRequest, talk: Talk) -> End:
        command = request.command if isinstance(request, ExecRequest) else self.attached
        try:
            if request.tty:
                return await self._in_terminal(command, request, talk)
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=PIPE if request.stdin else DEVNULL,
                stdout=PIPE if request.stdout else DEVNULL,
                stderr=PIPE if request.stderr else DEVNULL,
                cwd=self.folder,
                start_new_session=True,
            )
        except FileNotFoundError:
            return End(code=127, reason="Refused", message=f"executable file `{command[0]}` not found in $PATH")
        outputs = [(c, s) for c, s in ((STDOUT, process.stdout), (STDERR, process.stderr)) if s]
        feeding = asyncio.create_task(_feed(process, talk))
        try:
            await asyncio.gather(*(_pour(stream, channel, talk) for channel, stream in outputs))
            return End(code=_code(await process.wait()))
        finally:
            await _cancel(feeding)
            await _end(process)

    async def _in_terminal(self, command: Sequence[str], request: ExecRequest | AttachRequest, talk: Talk) -> End:
        ours, theirs = os.openpty()

        def as_terminal() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        environment = os.environ | {"TERM": "xterm"}
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=self.folder, env=environment,
                preexec_fn=as_terminal,
            )  # fmt: skip
        finally:
            os.close(theirs)
        feeding = asyncio.create_task(_type(ours, talk))
        try:
            while data := await asyncio.to_thread(_read_terminal, ours):
                await talk.send(STDOUT, data)
            return End(code=_code(await process.wait()))
        finally:
            await _cancel(feeding)
            await _end(process)
            os.close(ours)

    # ------------------------------------------------------------ connections

    async def _connect(self, request: ConnectRequest, talk: Talk) -> End:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.ports.get(request.port, 1))
        except OSError as e:
            return End(reason="Refused", message=f"port {request.port}: {e.strerror}")

        async def up() -> None:
            while data := (await talk.receive())[1]:
                writer.write(data)
                await writer.drain()
            writer.write_eof()

        sending = asyncio.create_task(up())
        try:
            await _pour(reader, STDOUT, talk)
            return End()
        finally:
            await _cancel(sending)
            writer.close()

    # ------------------------------------------------------------ logs

    async def _logs(self, request: LogsRequest, talk: Talk) -> End:
        path = self.log(request.container, request.previous)
        lines = _lines(path)
        at = 0 if request.tail is None else max(len(lines) - request.tail, 0)
        left = request.limit or 1 << 60
        while True:
            for line in lines[at:]:
                moment, _, text = line.partition(" ")
                if float(moment) < request.since_wall:
                    continue
                shown = (f"{_rfc3339(float(moment))} " if request.timestamps else "") + text + "\n"
                body = shown.encode()[:left]
                left -= len(body)
                await talk.send(STDOUT, body)
                if left <= 0:
                    return End()
            at = len(lines)
            if not request.follow:
                return End()
            await asyncio.sleep(0.02)
            lines = _lines(path)


def usage(cpu: float, memory: int, pods: Mapping[str, Mapping[str, tuple[float, int]]]) -> Usage:
    """:param pods: uid -> container -> (cpu, memory)."""
    told: list[Any] = [
        {"pod": uid, "cpu": {n: u[0] for n, u in cs.items()}, "memory": {n: u[1] for n, u in cs.items()}}
        for uid, cs in pods.items()
    ]
    return msgspec.convert({"cpu": cpu, "memory": memory, "window": 10.0, "pods": told}, Usage)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _rfc3339(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.000000000Z")


def _code(returned: int) -> int:
    return 128 - returned if returned < 0 else returned


async def _feed(process: Process, talk: Talk) -> None:
    while True:
        channel, data = await talk.receive()
        if channel != STDIN or process.stdin is None:
            continue
        with contextlib.suppress(ConnectionError):
            if not data:
                process.stdin.close()
                return
            process.stdin.write(data)
            await process.stdin.drain()


async def _pour(stream: asyncio.StreamReader, channel: int, talk: Talk) -> None:
    while data := await stream.read(CHUNK):
        await talk.send(channel, data)


def _read_terminal(terminal: int) -> bytes:
    try:
        return os.read(terminal, CHUNK)
    except OSError:  # nobody has the other end open any more
        return b""


async def _type(terminal: int, talk: Talk) -> None:
    while True:
        channel, data = await talk.receive()
        if channel == RESIZE:
            size = msgspec.msgpack.decode(data, type=Size)
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size.height, size.width, 0, 0))
        elif data:
            os.write(terminal, data)


async def _end(process: Process) -> None:
    """With what it has started. Its pipes first: asyncio takes it for ended only once they are closed."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process._transport.close()  # type: ignore[attr-defined]
    await process.wait()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
