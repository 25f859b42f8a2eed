"""Kernel parameters of a pod: to which of its namespaces each belongs, and where it is written. Pure.

Names are written with dots, or with slashes where a part has a dot in it (sysctl.d(5)): whichever comes first
separates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from edged.errors import PermanentError

NAME = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_./-]*")
IPC = re.compile(r"kernel/(shm|msg)[a-z_]*|kernel/sem|fs/mqueue/[a-z_]+")  # Linux' ipc_namespaces(7)


class Split(NamedTuple):
    """(name, value) of those of the network namespace, of the IPC namespace, and the rest."""

    net: tuple[tuple[str, str], ...]
    ipc: tuple[tuple[str, str], ...]
    other: tuple[tuple[str, str], ...]


def path_of(name: str) -> str:
    """Below /proc/sys. :raises PermanentError: it is no name of a kernel parameter."""
    separator = re.search(r"[./]", name)
    parts = name.split("/") if separator is not None and separator[0] == "/" else _undotted(name)
    if not NAME.fullmatch(name) or any(part in ("", ".", "..") for part in parts):
        raise PermanentError(f"sysctl {name!r} is not the name of a kernel parameter")
    return "/".join(parts)


def _undotted(name: str) -> list[str]:
    return [part.replace("/", ".") for part in name.split(".")]


def split(sysctls: Sequence[tuple[str, str]]) -> Split:
    """:raises PermanentError: a name that can't be one."""
    net, ipc, other = [], [], []
    for name, value in sysctls:
        path = path_of(name)
        if path.startswith("net/"):
            net.append((name, value))
        elif IPC.fullmatch(path):
            ipc.append((name, value))
        else:
            other.append((name, value))
    return Split(tuple(net), tuple(ipc), tuple(other))
