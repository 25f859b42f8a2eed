"""A container's log as `kubectl logs` shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from edged.control.logs import LogLine, LogReader, is_since
from edged.model.remote import MAX_FRAME, STDOUT, LogsRequest
from edged.uplink import Talk

LOOK_AGAIN = 0.1  # seconds between looks at a followed file; only while somebody follows, so no inotify for it


async def tell(path: Path, request: LogsRequest, since: float, writes: Callable[[], bool], talk: Talk) -> None:
    """:param since: seconds since 1970 by this node's clock; 0 = from the beginning.
    :param writes: whether the log may still grow.
    """
    out = _Out(request, since, talk)
    with LogReader(path) as reader:
        if request.tail is not None:
            reader.seek_tail(max(request.tail, 0))
        elif path.with_name(f"{path.name}.1").exists():
            reader.seek_tail(1 << 62)  # the older half first
        await _copy(reader, out)
        while request.follow and not out.full and writes():
            await asyncio.sleep(LOOK_AGAIN)
            await _copy(reader, out)
        await _copy(reader, out)
        await out.take(reader.finish())


async def _copy(reader: LogReader, out: _Out) -> None:
    while not out.full and (lines := reader.read()):
        await out.take(lines)


class _Out:
    """Lines as text: parts of a long line put together, in frames that are full rather than many."""

    def __init__(self, request: LogsRequest, since: float, talk: Talk) -> None:
        self._timestamps = request.timestamps
        self._since = since
        self._talk = talk
        self._left = request.limit or 1 << 62
        self._open = ""  # the stream whose line isn't finished

    @property
    def full(self) -> bool:
        return self._left <= 0

    async def take(self, lines: tuple[LogLine, ...]) -> None:
        text = b"".join(self._text(line) for line in lines if not self._since or is_since(line, self._since))
        text = text[: self._left]
        self._left -= len(text)
        for at in range(0, len(text), MAX_FRAME):
            await self._talk.send(STDOUT, text[at : at + MAX_FRAME])

    def _text(self, line: LogLine) -> bytes:
        begins = self._open != line.stream or not line.stream
        head = b"\n" if begins and self._open else b""  # another stream came between
        if begins and self._timestamps:
            head += line.time.encode() + b" "
        self._open = line.stream if line.partial else ""
        return head + line.content + (b"" if line.partial else b"\n")
