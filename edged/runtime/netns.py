"""What is known of each pod's network namespace: a `Netns` as JSON, one file for each, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edged.model import Value

UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Netns(Value, frozen=True):
    """One namespace that is ready. `path` is what crun joins; `gateway` is the bridge's address."""

    path: str
    ip: str
    gateway: str
    host_veth: str


def records(folder: Path) -> Iterator[tuple[str, Netns]]:
    """(file name, record) of every readable record; one that isn't is worth as much as none."""
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            if entry.name.startswith("."):
                continue  # not yet renamed into place
            with contextlib.suppress(OSError, msgspec.DecodeError):
                yield entry.name, msgspec.json.decode(Path(entry.path).read_bytes(), type=Netns)


def write(record: Path, netns: Netns) -> None:
    """Its folder is memory, so nothing is flushed."""
    new = record.with_name(f".{record.name}.new")
    new.write_bytes(msgspec.json.encode(netns))
    new.rename(record)
