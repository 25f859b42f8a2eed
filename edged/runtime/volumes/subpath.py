"""A part of a volume as a mount of its own: no link in the volume may lead out of it, whoever swaps it when."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from edged.runtime import mounts


def ensure_beneath(root: os.PathLike[str], parts: Sequence[str], create: bool) -> bool:
    """Walk down from `root`, making folders where `create`; whether what is there in the end is a folder.

    What is made has the permissions of `root` itself, as in Kubernetes, so that whoever may write there may here.

    :raises OSError: EXDEV where a link leads out; ENOENT where something is missing and may not be made.
    """
    base = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mode = stat.S_IMODE(os.fstat(base).st_mode)
        for depth in range(1, len(parts) + 1):
            try:
                fd = mounts.open_beneath(base, "/".join(parts[:depth]), os.O_PATH)
            except FileNotFoundError:
                if not create:
                    raise
                _make(base, parts[: depth - 1], parts[depth - 1], mode)
                continue
            is_folder = stat.S_ISDIR(os.fstat(fd).st_mode)
            os.close(fd)
            if not is_folder:
                return False
        return True
    finally:
        os.close(base)


def _make(base: int, above: Sequence[str], name: str, mode: int) -> None:
    parent = mounts.open_beneath(base, "/".join(above) or ".", os.O_PATH | os.O_DIRECTORY)
    try:
        os.mkdir(name, mode & 0o777, dir_fd=parent)
        made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.fchmod(made, mode)  # whatever our umask is
        finally:
            os.close(made)
    finally:
        os.close(parent)
