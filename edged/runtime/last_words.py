"""What a container has to say at its end: its termination message.

    run_dir/messages/<container id>    bind-mounted at terminationMessagePath, writable by every user inside

The folder is a memory file system of its own, so that a container which writes too much there takes away the room for
others' messages, and for nothing else.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from edged.runtime import mounts

MESSAGE_LIMIT = 4096  # bytes, as Kubernetes has it
TAIL_BYTES, TAIL_LINES = 2048, 80  # of the log, likewise
LOG_READ = 64 << 10  # bytes of a log's end that are looked at: lines carry a stamp
ROOM = 1 << 20  # bytes for all messages: 110 pods with two pages each


def open_folder(folder: Path) -> None:
    """:raises OSError: it can't be mounted."""
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    if not folder.is_mount():
        mounts.mount(
            "edged",
            os.fspath(folder),
            "tmpfs",
            mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC,
            f"mode=0711,size={ROOM}",
        )


def begin(file: Path) -> None:
    """An empty file. :raises OSError: no room."""
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        os.fchmod(fd, 0o666)
    finally:
        os.close(fd)


def forget(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink()


def message(file: Path, log: Sequence[Path]) -> str:
    """What was left in the file, at most 4096 bytes; where that is nothing, the end of the log.

    :param log: its parts in CRI form, the older first; none = no fallback.
    """
    with contextlib.suppress(OSError), open(file, "rb", buffering=0) as f:  # noqa: PTH123 (a hot path)
        said = f.read(MESSAGE_LIMIT)
        if said:
            return _text(said)
    return _text(tail(b"".join(_end_of(part) for part in log))) if log else ""


def tail(log: bytes) -> bytes:
    """The text of the last 80 lines of a log in CRI form, at most 2048 bytes."""
    lines = [line.split(b" ", 3) for line in log.splitlines()]
    text = b"".join(parts[3] + (b"\n" if parts[2] == b"F" else b"") for parts in lines if len(parts) == 4)
    return b"".join(text.splitlines(keepends=True)[-TAIL_LINES:])[-TAIL_BYTES:]


def _end_of(file: Path) -> bytes:
    try:
        with open(file, "rb", buffering=0) as f:  # noqa: PTH123
            size = f.seek(0, os.SEEK_END)
            f.seek(max(0, size - LOG_READ))
            return f.read(LOG_READ)
    except OSError:
        return b""


def _text(data: bytes) -> str:
    return data.decode(errors="replace").encode()[:MESSAGE_LIMIT].decode(errors="ignore")
