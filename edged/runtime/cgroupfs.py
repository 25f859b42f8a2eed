"""Small reads and writes of kernel files: /sys/fs/cgroup and /proc. A missing file is an answer, not an error."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def text(file: Path | str) -> str:
    """ "" where it is missing."""
    try:
        with open(file, encoding="ascii", errors="replace") as f:  # noqa: PTH123 (a hot path)
            return f.read()
    except OSError:
        return ""


def words(file: Path | str) -> list[str]:
    return text(file).split()


def number(file: Path | str) -> int:
    """0 where the file is missing or says "max"."""
    try:
        return int(text(file))
    except ValueError:
        return 0


def keyed(file: Path | str) -> dict[str, int]:
    """A flat keyed file: "name number" lines."""
    try:
        return {k: int(v) for k, _, v in (line.partition(" ") for line in text(file).splitlines())}
    except ValueError:
        return {}


def write(file: Path | str, value: str) -> None:
    """:raises OSError: the kernel does not take it."""
    fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)  # not created where it is missing
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def settle(file: Path | str, value: str) -> bool:
    """Make the file say `value`; one that says so already is left alone. False where the kernel does not take it."""
    if text(file).strip() == value:
        return True
    with contextlib.suppress(OSError):
        write(file, value)
        return True
    return False
