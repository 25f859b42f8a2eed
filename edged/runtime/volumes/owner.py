"""Giving a volume to the pod's fs_group, by Kubernetes' rules (pkg/volume/volume_linux.go).

Files get the group and are readable and writable for it, folders get setgid as well, so that what is made later belongs
to the group too. A volume of any size is done in small pieces, between which the loop does other things; cut off in the
middle, it is done again, because the top folder is given last.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from edged.errors import RetryError

PIECE = 0.005  # seconds of work at a time
PATIENCE = 600.0  # seconds for one volume
FILE_BITS, FOLDER_BITS = 0o660, 0o2770


async def give_to_group(folder: Path, group: int, always: bool) -> None:
    """:param always: also where the top folder is the group's already (fsGroupChangePolicy Always).
    :raises RetryError: it takes too long. :raises OSError: the file system can't have owners, say.
    """
    if not always and _is_given(folder.stat(), group):
        return
    started = piece = time.monotonic()
    for _ in _give_below(folder, group):
        now = time.monotonic()
        if now - piece < PIECE:
            continue
        if now - started > PATIENCE:
            raise RetryError(
                f"giving {folder} to group {group} takes longer than {PATIENCE:g} s; set fsGroupChangePolicy:"
                " OnRootMismatch, or give it once by hand"
            )
        await asyncio.sleep(0)
        piece = time.monotonic()


def _give_below(folder: Path, group: int) -> Iterator[None]:
    """Never through a link: everything is named relative to an open folder."""
    for _, folders, files, fd in os.fwalk(folder, topdown=False):
        for name in (*files, *folders):
            _give(name, group, fd)
            yield
        if not folders and not files:
            yield
    _give(os.fspath(folder), group, None)


def _give(name: str, group: int, within: int | None) -> None:
    try:
        seen = os.stat(name, dir_fd=within, follow_symlinks=False)
        if seen.st_gid != group:
            os.chown(name, -1, group, dir_fd=within, follow_symlinks=False)
        if stat.S_ISLNK(seen.st_mode):
            return
        mode = stat.S_IMODE(seen.st_mode)
        wanted = mode | (FOLDER_BITS if stat.S_ISDIR(seen.st_mode) else FILE_BITS)
        if wanted != mode or seen.st_gid != group:  # chown takes set-id bits away
            _chmod(name, wanted, within, stat.S_IFMT(seen.st_mode))
    except FileNotFoundError:  # another pod uses the volume at the same time
        pass


def _chmod(name: str, mode: int, within: int | None, kind: int) -> None:
    """fchmodat(2) has no way of not following links: the file itself is held by a descriptor meanwhile."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)
    try:
        if stat.S_IFMT(os.fstat(fd).st_mode) == kind:
            os.chmod(f"/proc/self/fd/{fd}", mode)  # noqa: PTH101
    finally:
        os.close(fd)


def _is_given(seen: os.stat_result, group: int) -> bool:
    return seen.st_gid == group and stat.S_IMODE(seen.st_mode) & FOLDER_BITS == FOLDER_BITS
