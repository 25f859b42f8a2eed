"""`edged logs` and `edgectl logs`: which logs are meant, and their way to the terminal. Not loaded by the daemon.

Words, defaults and errors are kubectl's (kubectl-logs(1)); what a container wrote arrives byte for byte.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, TextIO

from edged.control.client import ControlClient
from edged.control.logs import LogLine
from edged.control.protocol import MOST_LINES
from edged.errors import PermanentError
from edged.model import ContainerStatus, PodStatus, Value

DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s|d)")
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class LogOptions(Value, frozen=True):
    """:ivar pod: "name" or "namespace/name".
    :ivar since: seconds back from the node's now, or with `since_wall` a moment; 0 = from the beginning.
    :ivar tail: -1 = all there is.
    """

    pod: str
    container: str = ""
    follow: bool = False
    since: float = 0.0
    since_wall: float = 0.0
    tail: int = -1
    previous: bool = False
    timestamps: bool = False
    every: bool = False
    prefix: bool = False


class Chosen(Value, frozen=True):
    """One log: the attempt to ask for, or the one before it."""

    title: str
    id: str
    previous: bool = False


def add_arguments(to: argparse.ArgumentParser) -> None:
    to.add_argument("pod", metavar="POD", help='"name" or "namespace/name"')
    to.add_argument("name", nargs="?", default="", metavar="CONTAINER", help="the same as -c")
    to.add_argument("-c", "--container", default="", help="init containers too; default: the pod's first")
    to.add_argument("-n", "--namespace", default="", help="where several namespaces have a pod of that name")
    to.add_argument("-f", "--follow", action="store_true", help="go on until the container ends")
    to.add_argument("--since", default="", metavar="10m|RFC3339", help="only what is newer")
    to.add_argument("--since-time", default="", metavar="RFC3339", help="the same")
    to.add_argument("--tail", type=int, default=-1, metavar="N", help="only the last N lines")
    to.add_argument("-p", "--previous", action="store_true", help="of the attempt before the last restart")
    to.add_argument("--timestamps", action="store_true", help="when each line was written, by the node's clock")
    to.add_argument("--all-containers", action="store_true", help="init containers first")
    to.add_argument("--prefix", action="store_true", help="say pod and container before each line")


def options_of(arguments: argparse.Namespace) -> LogOptions:
    """:raises PermanentError: they contradict each other or can't be understood."""
    if arguments.all_containers and (arguments.container or arguments.name):
        raise PermanentError("a container and --all-containers contradict each other; say one of them")
    if arguments.since and arguments.since_time:
        raise PermanentError("--since and --since-time contradict each other; say one of them")
    if arguments.follow and arguments.previous:
        raise PermanentError("--previous shows a container that has ended: there is nothing to follow")
    if arguments.tail < -1:
        raise PermanentError(f"--tail {arguments.tail} is not a number of lines; say 0 or more, or -1 for all")
    since, wall = parse_since(arguments.since or arguments.since_time)
    return LogOptions(
        pod=f"{arguments.namespace}/{arguments.pod}" if arguments.namespace else arguments.pod,
        container=arguments.container or arguments.name,
        follow=arguments.follow,
        since=since,
        since_wall=wall,
        tail=arguments.tail,
        previous=arguments.previous,
        timestamps=arguments.timestamps,
        every=arguments.all_containers,
        prefix=arguments.prefix,
    )


def parse_since(text: str) -> tuple[float, float]:
    """(seconds back, 0) for "1h30m", (0, seconds since 1970) for RFC 3339, (0, 0) for ""."""
    if not text:
        return 0.0, 0.0
    parts = DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * SECONDS[unit] for number, unit in parts), 0.0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as e:
        raise PermanentError(
            f'"{text}" is neither a duration such as 10m nor a time such as 2026-03-01T12:00:00Z'
        ) from e
    return 0.0, max(moment.timestamp(), 0.001)


# ---------------------------------------------------------------- which


def choose(pods: Sequence[PodStatus], options: LogOptions) -> tuple[list[Chosen], str]:
    """The logs that are meant, and a remark for the person ("" = none).

    :raises PermanentError: no such pod or container, or it has no log yet; the sentence says why.
    """
    pod = _pod(pods, options.pod)
    every = (*pod.init, *pod.containers)
    names = ", ".join(c.name for c in every)
    remark = ""
    if options.every:
        wanted = [c for c in every if c.container_id and (c.restarts or c.state == "waiting" or not options.previous)]
        if not wanted:
            kind = "restarted" if options.previous else "started"
            raise PermanentError(f'no container of pod "{pod.name}" has been {kind} yet: {_why(pod, every[0])}')
    elif options.container:
        wanted = [c for c in every if c.name == options.container]
        if not wanted:
            raise PermanentError(f'pod "{pod.name}" has no container "{options.container}"; it has {names}')
    else:
        wanted = [pod.containers[0]]
        if len(every) > 1:
            remark = f'container "{wanted[0].name}" is shown out of {names}; choose with -c'
    return [_attempt(pod, container, options.previous) for container in wanted], remark


def _pod(pods: Sequence[PodStatus], text: str) -> PodStatus:
    namespace, _, name = text.rpartition("/")
    found = [p for p in pods if p.name == name and p.namespace == (namespace or p.namespace)]
    if not found:
        raise PermanentError(f'no pod "{text}" on this node; `edged status` lists them')
    spaces = {p.namespace for p in found}
    if len(spaces) > 1:
        raise PermanentError(f'namespaces {", ".join(sorted(spaces))} have a pod "{name}"; say one of them with -n')
    newest = max(found, key=lambda p: p.started_wall)  # one of that name may still be leaving
    if not newest.containers:
        raise PermanentError(f'pod "{text}" has no container here (any more)')
    return newest


def _attempt(pod: PodStatus, container: ContainerStatus, previous: bool) -> Chosen:
    title = f"{pod.name}/{container.name}"
    if not container.container_id:
        why = _why(pod, container)
        raise PermanentError(f'container "{container.name}" of pod "{pod.name}" has not been started yet: {why}')
    if previous and container.state == "waiting":  # as kubectl: while it waits for its restart, the last one is it
        return Chosen(title, container.container_id)
    if previous and not container.restarts:
        raise PermanentError(f'container "{container.name}" of pod "{pod.name}" was never restarted')
    return Chosen(title, container.container_id, previous)


def _why(pod: PodStatus, container: ContainerStatus) -> str:
    reason = container.reason or pod.reason or "waiting"
    message = container.message or pod.message
    return f"{reason}: {message}" if message else reason


# ---------------------------------------------------------------- showing


async def show(socket: Path, options: LogOptions, out: BinaryIO, err: TextIO) -> None:
    """Print them, one log after the other; followed ones side by side. Returns when the containers have ended."""
    client = ControlClient(socket)
    snapshot = await client.status()
    chosen, remark = choose(snapshot.status.pods, options)
    if remark:
        print(remark, file=err, flush=True)
    since = options.since_wall or (snapshot.wall - options.since if options.since else 0.0)
    copies = [_copy(client, one, options, since, _Printer(out, one.title, options)) for one in chosen]
    if options.follow and len(copies) > 1:
        try:
            async with asyncio.TaskGroup() as tasks:
                for one, copy in zip(chosen, copies, strict=True):
                    tasks.create_task(copy, name=f"log of {one.title}")
        except* PermanentError as several:
            raise PermanentError(str(several.exceptions[0])) from several
        return
    for copy in copies:
        await copy


async def _copy(client: ControlClient, one: Chosen, options: LogOptions, since: float, printer: _Printer) -> None:
    tail = MOST_LINES if options.tail < 0 else min(options.tail, MOST_LINES)
    follow = options.follow and not one.previous
    async with contextlib.aclosing(client.logs(one.id, tail, follow, one.previous, since)) as lines:
        async for line in lines:
            printer.print(line)


class _Printer:
    """Puts the parts of a long line together again; what has no end gets none."""

    def __init__(self, out: BinaryIO, title: str, options: LogOptions) -> None:
        self._out = out
        self._title = f"[{title}] ".encode() if options.prefix else b""
        self._timestamps = options.timestamps
        self._open = ""  # the stream whose line isn't finished

    def print(self, line: LogLine) -> None:
        begins = self._open != line.stream or not line.stream
        head = b""
        if begins:
            head = b"\n" if self._open else b""  # another stream came between
            head += self._title + (line.time.encode() + b" " if self._timestamps else b"")
        self._out.write(head + line.content + (b"" if line.partial else b"\n"))
        self._out.flush()
        self._open = line.stream if line.partial else ""
