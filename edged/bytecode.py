"""The daemon's byte code, compiled by a process that ends, once for each version.

A daemon that had to compile its modules at start would keep 6 MB of the compiler's leavings in its heap for good. A
stamp beside the caches says which sources they were made from, so that every other start costs a few hundred stat(2).
"""

from __future__ import annotations

import contextlib
import os
import sys
import zlib
from pathlib import Path

import edged


def compile_first(config_file: str, factory: str) -> None:
    """Run `edged precompile` where the sources have changed since it ran last. Failing is no harm: we compile then."""
    stamp = _stamp()
    if stamp is None or sys.dont_write_bytecode:
        return
    with contextlib.suppress(OSError):
        if stamp.read_text() == _signature(factory):
            return
    optimise = ["-O"] * sys.flags.optimize
    argv = [sys.executable, *optimise, "-m", "edged", "precompile", "--config", config_file]
    with contextlib.suppress(OSError):
        os.spawnv(os.P_WAIT, sys.executable, argv)


def note_compiled(factory: str) -> None:
    stamp = _stamp()
    if stamp is not None:
        with contextlib.suppress(OSError):
            stamp.write_text(_signature(factory))


def _stamp() -> Path | None:
    """Named after interpreter and optimisation, as the caches are."""
    cached = edged.__spec__.cached if edged.__spec__ is not None else None
    return Path(f"{cached}.stamp") if cached else None


def _signature(factory: str) -> str:
    """Of all sources of this package and of the one that the uplink's factory is in."""
    root = Path(edged.__file__ or "").parent.parent
    seen = 0
    for package in ("edged", factory.partition(".")[0] or "edged"):
        for folder, _, files in os.walk(root / package):
            for name in sorted(files):
                if name.endswith(".py"):
                    found = os.stat(f"{folder}/{name}")  # noqa: PTH116 (hundreds of them)
                    seen = zlib.crc32(f"{folder}/{name} {found.st_mtime_ns} {found.st_size}\n".encode(), seen)
    return f"{sys.version} {factory} {seen:08x}"
