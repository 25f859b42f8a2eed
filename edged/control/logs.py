"""Reading a container's log while somebody else writes, cuts or replaces the file.

The form is the CRI's ("<RFC3339Nano> stdout|stderr F|P <text>", as conmon's k8s-file driver writes it). Memory is
bounded by one chunk and one line, whatever the file holds.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from edged.model import Value

CHUNK = 16 << 10
MAX_LINE = 64 << 10  # a longer line is handed on in parts


class LogLine(Value, frozen=True):
    """:ivar time: RFC 3339 with nanoseconds, as the monitor wrote it; "" where a line isn't in CRI form.
    :ivar stream: stdout or stderr; "" where unknown.
    :ivar text: for people; what isn't UTF-8 is replaced.
    :ivar partial: the line goes on in the next LogLine of the same stream.
    :ivar raw: the bytes as they were written, where `text` doesn't say them exactly.
    """

    time: str
    stream: str
    text: str
    partial: bool = False
    raw: bytes | None = None

    @property
    def content(self) -> bytes:
        """What the container wrote, byte for byte, without the newline."""
        return self.text.encode() if self.raw is None else self.raw


def parse_line(raw: bytes) -> LogLine:
    """One line without its newline. Anything unexpected is shown whole rather than dropped."""
    parts = raw.split(b" ", 3)
    if len(parts) >= 3 and parts[1] in (b"stdout", b"stderr") and parts[2] in (b"F", b"P"):
        return _line(parts[0].decode(errors="replace"), parts[1].decode(), b"".join(parts[3:]), parts[2] == b"P")
    return _line("", "", raw, False)


def _line(time: str, stream: str, content: bytes, partial: bool) -> LogLine:
    try:
        return LogLine(time, stream, content.decode(), partial)
    except UnicodeDecodeError:
        return LogLine(time, stream, content.decode(errors="replace"), partial, content)


def is_since(line: LogLine, wall: float) -> bool:
    """Whether it was written at `wall` (seconds since 1970, by the node's clock) or later. What tells no time is."""
    try:
        return datetime.fromisoformat(line.time).timestamp() >= wall
    except ValueError:
        return True


class LogReader:
    """Use as a context manager. `read` gives what is new, () when there is nothing more for now.

    The runtime begins a new file when a log is half full and keeps the one before as "<name>.1".
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._next: BinaryIO | None = None  # the log itself, while its older half is being read
        self._rest = b""

    def __enter__(self) -> LogReader:
        self._file = _open(self._path)
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._file, self._next):
            if file is not None:
                file.close()

    def seek_tail(self, lines: int) -> None:
        """Go to the start of the last `lines` complete lines; an unfinished one after them comes too."""
        missing = _seek_tail(self._file, lines) if self._file is not None else lines
        older = _open(self._path.with_name(f"{self._path.name}.1")) if missing else None
        if older is not None:
            _seek_tail(older, missing)
            if self._file is not None and os.path.sameopenfile(older.fileno(), self._file.fileno()):
                older.close()  # it was set aside between our two looks
            else:
                self._next, self._file = self._file, older

    def read(self) -> tuple[LogLine, ...]:
        """At most one chunk's lines. A file that was cut is read again from its start, a new one from its own."""
        if self._file is None:
            self._file = _open(self._path)
            if self._file is None:
                return ()
        block = self._file.read(CHUNK)
        if not block and self._left_behind(self._file):
            block = self._file.read(CHUNK)  # what was written between our look and the writer's move
            if not block:
                return self._go_on()
        if not block:
            return ()
        *lines, self._rest = (self._rest + block).split(b"\n")
        if len(self._rest) > MAX_LINE:
            lines.append(self._rest)
            self._rest = b""
        return tuple(parse_line(line) for line in lines)

    def finish(self) -> tuple[LogLine, ...]:
        """The last line, where the writer ended without a newline."""
        rest, self._rest = self._rest, b""
        return (parse_line(rest),) if rest else ()

    def _go_on(self) -> tuple[LogLine, ...]:
        """From a file that gets no more to the one that does."""
        if self._file is not None:
            self._file.close()
        self._file, self._next = self._next or _open(self._path), None
        return self.finish() or self.read()

    def _left_behind(self, file: BinaryIO) -> bool:
        if self._next is not None:
            return True
        mine = os.fstat(file.fileno())
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return False  # taken away; what we hold is all there will be
        return (mine.st_dev, mine.st_ino) != (named.st_dev, named.st_ino) or mine.st_size < file.tell()


def _open(path: Path) -> BinaryIO | None:
    """None where it isn't there (yet)."""
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        return None


def _seek_tail(file: BinaryIO, lines: int) -> int:
    """Seek to the last `lines` complete lines; how many of them the file doesn't have."""
    position = file.seek(0, os.SEEK_END)
    wanted = lines + 1  # the newline before the first wanted line
    while position > 0:
        size = min(CHUNK, position)
        position -= size
        file.seek(position)
        block = file.read(size)
        found = block.count(b"\n")
        if found < wanted:
            wanted -= found
            continue
        at = len(block)
        for _ in range(wanted):
            at = block.rindex(b"\n", 0, at)
        file.seek(position + at + 1)
        return 0
    file.seek(0)
    return max(0, wanted - 1)
