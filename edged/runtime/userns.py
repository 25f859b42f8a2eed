"""Pods with users of their own (hostUsers: false; user_namespaces(7)): root inside is nobody outside.

Each such pod has 65,536 host uids and gids, recorded with its sandbox. Its image's layers and its volumes are shown
through id-mapped mounts (mount_setattr(2)): on the disk nothing changes owner, and a pod's files mean the same whatever
numbers it has today. What it writes to its root belongs to those numbers, on the disk too.

The rungs below, said aloud in `degraded`: before Linux 5.19 the files of an image, before 6.3 those in memory (configs,
secrets), and on file systems without id-mapped mounts (NFS) those of a volume, are as they are: whoever they belong to
is nobody inside. They can be read where everybody may, and not be changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from msgspec.structs import replace

from edged.config import UsersConfig
from edged.errors import PermanentError, RetryError
from edged.model import Pod
from edged.runtime import mounts, process
from edged.runtime.bundle import USERS_OF_A_POD, BindMount

LAYERS_SINCE = (5, 19)  # overlayfs takes id-mapped layers
MEMORY_SINCE = (6, 3)  # tmpfs can be id-mapped
HOLD_TIMEOUT = 20.0  # seconds to start one tiny process
UNCHANGED = ("/dev/shm",)  # everybody may write there anyway


def choose(taken: Collection[int], config: UsersConfig) -> int:
    """The first of 65,536 host ids that no other pod has. :raises RetryError: all are in use."""
    for number in range(config.pods):
        first = config.first + number * USERS_OF_A_POD
        if first not in taken:
            return first
    raise RetryError(
        f"all {config.pods} ranges of users for pods with hostUsers: false are in use; raise pods below [users] in the"
        " node's settings",
        after=10.0,
    )


def check_available(pod: Pod, folder: Path) -> None:
    """:param folder: where all pods are; the pod's root must be able to pass through, for crun acts as that.
    :raises PermanentError: this kernel gives no user namespaces, or the pod can't have one.
    """
    if pod.host_network:
        raise PermanentError(
            f"pod {pod.title} can't have users of its own in the node's own network; remove hostUsers or hostNetwork"
        )
    if _most_namespaces() == 0:
        raise PermanentError(
            f"pod {pod.title} has hostUsers: false, but this machine gives no user namespaces: set the sysctl"
            " user.max_user_namespaces, or remove hostUsers"
        )
    _check_way(folder)


def _check_way(folder: Path) -> None:
    for part in (*reversed(folder.parents), folder):
        if not part.stat().st_mode & 0o001:
            raise PermanentError(
                f"pods with hostUsers: false can't be started, for their users can't pass through {part} to reach"
                f" run_dir; `chmod o+x {part}`, or choose another run_dir in the node's settings"
            )


def degraded() -> Iterator[str]:
    release = kernel_release(os.uname().release)
    if _most_namespaces() == 0:
        yield "pods can't have users of their own (hostUsers: false): sysctl user.max_user_namespaces is 0 or missing"
    elif release < LAYERS_SINCE:
        yield (
            "in pods with hostUsers: false the files of images and of configs belong to nobody and can only be read"
            " where everybody may: id-mapped layers need Linux 5.19, id-mapped memory 6.3"
        )
    elif release < MEMORY_SINCE:
        yield (
            "in pods with hostUsers: false the files of configs and secrets belong to nobody and can only be read where"
            " everybody may: id-mapped memory needs Linux 6.3"
        )


def kernel_release(text: str) -> tuple[int, int]:
    """(6, 1) of "6.1.0-28-arm64"."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def shifted(
    binds: tuple[BindMount, ...], contents: tuple[mounts.Content, ...], folder: Path, netns: str
) -> tuple[tuple[BindMount, ...], tuple[mounts.Content, ...], str]:
    """The same for a pod with users of its own: each layer id-mapped before they are stacked, each bind put into
    `folder` (of this attempt, made here) and taken from there. And where its /sys will be: its root can't mount one,
    for the network namespace isn't its own. :raises OSError: no room."""
    made: list[mounts.Content] = []
    for content in contents:
        if isinstance(content, mounts.Overlay) and kernel_release(os.uname().release) >= LAYERS_SINCE:
            made += [mounts.IdMapped(layer, layer) for layer in content.lower]
        made.append(content)
    folder.mkdir()
    moved: list[BindMount] = []
    for number, bind in enumerate(binds):
        if bind.path in UNCHANGED:
            moved.append(bind)
            continue
        target = folder / str(number)
        if Path(bind.source).is_dir():
            target.mkdir()
        else:
            target.touch()
        made.append(mounts.IdMapped(bind.source, os.fspath(target)))
        moved.append(replace(bind, source=os.fspath(target)))
    sysfs = folder / "sys"
    sysfs.mkdir()
    made.append(mounts.Sysfs(netns, os.fspath(sysfs)))
    return tuple(moved), tuple(made), os.fspath(sysfs)


async def hold(first: int) -> int:
    """A descriptor of a new user namespace where 0 to 65535 are `first` and so on: what an id-mapped mount needs.

    :raises RetryError: the kernel gives none now.
    """
    there_read, there_write = os.pipe()
    back_read, back_write = os.pipe()
    try:
        child = process.start(["unshare", "--user", "cat"], files={0: there_read, 1: back_write})
        try:
            os.write(there_write, b".")  # comes back when cat runs, and so is inside
            async with asyncio.timeout(HOLD_TIMEOUT):
                watching = asyncio.ensure_future(process.readable(back_read))
                ended = asyncio.ensure_future(child.wait())
                try:
                    await asyncio.wait((watching, ended), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    watching.cancel()
                    ended.cancel()
            for kind in ("uid", "gid"):
                Path(f"/proc/{child.pid}/{kind}_map").write_text(f"0 {first} {USERS_OF_A_POD}")
            return os.open(f"/proc/{child.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            child.abandon()
    except (OSError, TimeoutError) as e:
        raise RetryError(f"no user namespace could be made: {e}") from e
    finally:
        for fd in (there_read, there_write, back_read, back_write):
            with contextlib.suppress(OSError):
                os.close(fd)


def _most_namespaces() -> int:
    try:
        return int(Path("/proc/sys/user/max_user_namespaces").read_text())
    except (OSError, ValueError):
        return 0
