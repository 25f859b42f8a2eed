"""Mounts and mount namespaces: the few system calls that Python doesn't have, and starting a program in a private view.

A container's overlay is mounted in a mount namespace that only its monitor and its runtime ever see. We enter a new
one, mount there, start the program and go back, all within one call: 0.5 ms, no shell, no helper. So nothing of it
is ever left on the host, whoever dies when.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from edged.errors import PermanentError, RetryError
from edged.model import Value

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_SLAVE, MS_SHARED = 0x20, 0x1000, 0x4000, 1 << 19, 1 << 20
MNT_DETACH = 2
CLONE_FS, CLONE_NEWNS, CLONE_NEWNET = 0x200, 0x20000, 0x40000000
PR_SET_CHILD_SUBREAPER = 36
SYS_OPEN_TREE, SYS_MOVE_MOUNT, SYS_OPENAT2, SYS_MOUNT_SETATTR = 428, 429, 437, 442  # the same on every architecture
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE, OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY = -100, 0x1000, 0x8000, 1, 0x4
MOUNT_ATTR_IDMAP = 0x100000
RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 0x02, 0x04, 0x08
PAGE = 4096  # what mount(2) takes of options, with the closing zero

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


class MountPoint(NamedTuple):
    """One line of /proc/self/mountinfo, as far as it matters here (proc(5))."""

    path: str
    fstype: str
    options: str
    shared: bool
    device: str = ""  # "major:minor"
    root: str = ""  # which part of its file system


class Overlay(Value, frozen=True):
    """`lower`: folders, the lowest first. `upper` and `work` are on one file system; `target` exists."""

    lower: tuple[str, ...]
    upper: str
    work: str
    target: str


class Bind(Value, frozen=True):
    """`target` (exists) shows what is at `sub_path` below `root`; links may not lead out of `root`."""

    root: str
    sub_path: str
    target: str


class SharedBind(Value, frozen=True):
    """`target` (exists) shows `source`, and what is mounted below one of them appears below the other, on the host
    too: where the host's mount is shared (mount_namespaces(7))."""

    source: str
    target: str


class IdMapped(Value, frozen=True):
    """`target` (exists) shows `source`, owners shifted by the user namespace of the call; where the file system can't
    do that (EINVAL), as it is."""

    source: str
    target: str


class ReadOnly(Value, frozen=True):
    """The file at `path` can't be written to by way of it."""

    path: str


class Sysfs(Value, frozen=True):
    """`target` (exists) shows /sys as it is in the network namespace at `netns`, read-only."""

    netns: str
    target: str


Content = Overlay | Bind | SharedBind | IdMapped | ReadOnly | Sysfs


def mount(source: str, target: str, fstype: str, flags: int = 0, options: str = "") -> None:
    """mount(2). :raises OSError: with a sentence."""
    _check(
        _libc.mount(
            os.fsencode(source), os.fsencode(target), os.fsencode(fstype), ctypes.c_ulong(flags), os.fsencode(options)
        ),
        f"mount {fstype or 'bind'} on {target}",
    )


def unmount(target: str) -> None:
    """Detach whatever is mounted there; nothing happens where nothing is."""
    if _libc.umount2(os.fsencode(target), MNT_DETACH) < 0 and ctypes.get_errno() not in (errno.EINVAL, errno.ENOENT):
        _check(-1, f"unmount {target}")


def become_subreaper() -> None:
    """Orphans of our descendants become our children, so that their exit codes can be learned (prctl(2))."""
    _check(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl PR_SET_CHILD_SUBREAPER")


def parse_mountinfo(text: str) -> Iterator[MountPoint]:
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        kind = right.split(" ")
        path = fields[4].encode().decode("unicode_escape") if "\\" in fields[4] else fields[4]
        yield MountPoint(path, kind[0], kind[2], any(f.startswith("shared:") for f in fields[6:]), fields[2], fields[3])


def mount_points() -> list[MountPoint]:
    with open("/proc/self/mountinfo") as f:  # noqa: PTH123
        return list(parse_mountinfo(f.read()))


def make_memory(folder: str, size: int) -> None:
    """Make sure that `folder` is memory, and a mount of its own that shares its changes.

    Shared, because namespaces of monitors are copies: without it a network namespace that is unmounted here would
    live on in every copy.

    :param size: bytes that it may use at most, where it has to be mounted.
    """
    os.makedirs(folder, mode=0o755, exist_ok=True)  # noqa: PTH103
    folder = os.path.realpath(folder)
    points = mount_points()
    over = [p for p in points if folder == p.path or folder.startswith(p.path.rstrip("/") + "/")]
    home = max(over, key=lambda p: (len(p.path), points.index(p)))
    if home.path == folder and home.shared:
        return
    if home.fstype in ("tmpfs", "ramfs"):
        if home.path != folder:
            mount(folder, folder, "", MS_BIND)
    else:
        mount("edged", folder, "tmpfs", MS_NOSUID | MS_NODEV, f"mode=0755,size={size}")
    mount("", folder, "", MS_SHARED)


def unmount_below(folder: str) -> None:
    """Detach everything mounted at or below `folder`, the last mounted first."""
    folder = os.path.realpath(folder)
    for point in reversed(mount_points()):
        if point.path == folder or point.path.startswith(folder + "/"):
            unmount(point.path)


def open_beneath(root: int | str, path: str, flags: int, resolve: int = 0) -> int:
    """openat2(2) with RESOLVE_BENEATH: links are followed, but never out of `root`; `resolve` may say more.

    :raises OSError: EXDEV where the path leads out of `root`.
    """
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if isinstance(root, str) else root
    try:
        how = (ctypes.c_uint64 * 3)(flags | os.O_CLOEXEC, 0, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | resolve)
        fd = _libc.syscall(
            ctypes.c_long(SYS_OPENAT2), folder, os.fsencode(path), ctypes.byref(how), ctypes.c_size_t(24)
        )
        if fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
        return int(fd)
    finally:
        if isinstance(root, str):
            os.close(folder)


def overlay_options(overlay: Overlay) -> tuple[str, str]:
    """(folder to be in, options). Lower layers are named relative to the folder they share, to fit into a page.

    :raises PermanentError: the image has none, or too many layers.
    """
    if not overlay.lower:
        raise PermanentError("the image has no layers, so there is nothing to run; build it again")
    parents = {os.path.dirname(p) for p in overlay.lower}  # noqa: PTH120
    base = parents.pop() if len(parents) == 1 else ""
    names = [p[len(base) + 1 :] if base else p for p in reversed(overlay.lower)]
    lower = ":".join(_escape(n, ":") for n in names)
    options = f"lowerdir={lower},upperdir={_escape(overlay.upper)},workdir={_escape(overlay.work)}"
    if len(os.fsencode(options)) + len(",volatile") >= PAGE:
        raise PermanentError(
            f"the image has {len(overlay.lower)} layers, too many for one mount's {PAGE} bytes of options;"
            " build it with fewer"
        )
    return base or "/", options


def can_set_attributes() -> bool:
    """Whether the kernel has mount_setattr(2) (Linux 5.12), with which a whole tree of mounts becomes read-only."""
    _libc.syscall(ctypes.c_long(SYS_MOUNT_SETATTR), -1, b"", 0, None, ctypes.c_size_t(0))
    return ctypes.get_errno() != errno.ENOSYS


def start_privately(
    spawn: Callable[[], int], contents: Sequence[Content], hidden: Sequence[str], users: int = -1
) -> int:
    """Call `spawn` in a new mount namespace where `contents` are mounted and `hidden` mounts are taken off.

    Nothing else of this process is affected: the call does not await, other threads keep their own namespace.

    :param users: descriptor of the user namespace for what is IdMapped.
    :returns: what `spawn` does.
    :raises RetryError: the kernel refused a mount.
    """
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    where = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(CLONE_FS | CLONE_NEWNS), "unshare the mount namespace")
        try:
            _furnish(contents, hidden, users)
            os.chdir("/")
            return spawn()
        finally:
            if _libc.setns(own, CLONE_NEWNS) < 0:  # going on in the wrong namespace would be worse than ending
                raise SystemExit("edged can't return to its own mount namespace")
            os.fchdir(where)
    finally:
        os.close(own)
        os.close(where)


def _furnish(contents: Sequence[Content], hidden: Sequence[str], users: int) -> None:
    """Make the namespace we are in into the one that the program should see."""
    held: list[int] = []
    try:
        shared = [c for c in contents if isinstance(c, SharedBind)]
        for bind in shared:
            held.append(_hold(bind.source))
        mount("", "/", "", MS_REC | MS_SLAVE)
        for path in hidden:
            unmount(path)
        for fd, bind in zip(held, shared, strict=True):
            _put(fd, bind.target)
        for content in contents:
            if isinstance(content, Overlay):
                _mount_overlay(content)
            elif isinstance(content, Bind):
                _bind_beneath(content)
            elif isinstance(content, IdMapped):
                _put_idmapped(content, users)
            elif isinstance(content, ReadOnly):
                mount(content.path, content.path, "", MS_BIND)
                mount("", content.path, "", MS_REMOUNT | MS_BIND | MS_RDONLY)
            elif isinstance(content, Sysfs):
                _mount_sysfs(content)
    except OSError as e:
        raise RetryError(f"a mount for the container was refused: {e}") from e
    finally:
        for fd in held:
            os.close(fd)


def _hold(source: str) -> int:
    """A copy of the mounts at `source` that is not mounted anywhere yet, still a peer of the host's own: what is
    done to this namespace doesn't change that (open_tree(2))."""
    fd = _libc.syscall(
        ctypes.c_long(SYS_OPEN_TREE),
        AT_FDCWD,
        os.fsencode(source),
        ctypes.c_uint(OPEN_TREE_CLONE | os.O_CLOEXEC | AT_RECURSIVE),
    )
    _check(fd, f"copy the mounts at {source}")
    return int(fd)


def _put(fd: int, target: str) -> None:
    """move_mount(2)."""
    _check(
        _libc.syscall(
            ctypes.c_long(SYS_MOVE_MOUNT), fd, b"", AT_FDCWD, os.fsencode(target), ctypes.c_uint(MOVE_MOUNT_F_EMPTY)
        ),
        f"mount on {target}",
    )


def _mount_sysfs(content: Sysfs) -> None:
    """Which network interfaces it shows is told by the namespace of who mounts it (network_namespaces(7))."""
    in_network(
        content.netns,
        lambda: mount("sysfs", content.target, "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC),
    )


def in_network(netns: str, call: Callable[[], T]) -> T:
    """Call it in the network namespace at `netns`; nothing else of this process is affected, for it does not await.

    :returns: what it does. :raises OSError: there is no such namespace.
    """
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        other = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(other, CLONE_NEWNET), f"enter the network namespace {netns}")
        finally:
            os.close(other)
        try:
            return call()
        finally:
            if _libc.setns(own, CLONE_NEWNET) < 0:  # going on in the wrong namespace would be worse than ending
                raise SystemExit("edged can't return to its own network namespace")
    finally:
        os.close(own)


def _put_idmapped(content: IdMapped, users: int) -> None:
    """mount_setattr(2) with MOUNT_ATTR_IDMAP, which a mount takes only while it isn't mounted anywhere."""
    fd = _hold(content.source)
    try:
        attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_IDMAP, 0, 0, users)
        done = _libc.syscall(
            ctypes.c_long(SYS_MOUNT_SETATTR),
            fd,
            b"",
            ctypes.c_uint(AT_EMPTY_PATH | AT_RECURSIVE),
            ctypes.byref(attributes),
            ctypes.c_size_t(ctypes.sizeof(attributes)),
        )
        if done < 0 and ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            _check(done, f"shift the owners of {content.source}")
        _put(fd, content.target)
    finally:
        os.close(fd)


def _mount_overlay(overlay: Overlay) -> None:
    folder, options = overlay_options(overlay)
    os.chdir(folder)
    try:
        # volatile: no sync at unmount; what a container writes to its root is lost with it anyway (Linux 5.10)
        mount("overlay", overlay.target, "overlay", MS_NODEV, f"{options},volatile")
    except OSError as e:
        if e.errno != errno.EINVAL:
            raise
        mount("overlay", overlay.target, "overlay", MS_NODEV, options)


def _bind_beneath(bind: Bind) -> None:
    fd = open_beneath(bind.root, bind.sub_path, os.O_PATH)
    try:
        mount(f"/proc/self/fd/{fd}", bind.target, "", MS_BIND | MS_REC)
    finally:
        os.close(fd)


def _escape(path: str, also: str = "") -> str:
    """Overlay's options use commas (and colons between lower layers) themselves."""
    for character in "\\," + also:
        path = path.replace(character, "\\" + character)
    return path


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
