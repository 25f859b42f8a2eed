"""Turns one layer (a tar, plain or compressed) into a folder that overlayfs can stack.

Follows the OCI image specification's layer format: owners, modes, times, links, devices and extended attributes are
kept; whiteouts become what overlayfs understands (a character device 0:0, or the attribute trusted.overlay.opaque).

The archive is hostile until its digest has been seen, which is only at its end. So nothing is ever created through a
path: every folder on the way is opened by itself, relative to its parent, without following links (openat, O_NOFOLLOW).
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from edged.errors import EdgedError, PermanentError
from edged.images import filelist, space, tarstream
from edged.images.filelist import OPAQUE_XATTR
from edged.images.layerstream import LayerStream
from edged.images.tarstream import Entry, TarReader, show
from edged.model import Value

DEEPEST = 200  # folders within each other; each costs an open file while one goes down
LONGEST_PATH = 4096  # bytes, the kernel's PATH_MAX
MOST_LINKS = 40  # symbolic links on one way, the kernel's limit too
LARGEST_ID = (1 << 32) - 2
WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Bounds(Value, frozen=True):
    """How much one layer may bring: entries, and bytes after decompression."""

    entries: int = 1_000_000
    total_bytes: int = 16 << 30


def unpack_layer(stream: LayerStream, destination: Path, bounds: Bounds) -> int:
    """Unpack into `destination`, an empty folder, and verify the digests that `stream` knows. What is in there then is
    listed beside it (filelist.beside).

    :returns: bytes of all regular files.
    :raises PermanentError: the layer is malformed, hostile or not what its digest says; `destination` is then garbage.
    :raises RetryError: the disk is full or failing.
    """
    with _open_list(destination) as file:
        recorder = filelist.Recorder(file)
        unpacker = _Unpacker(destination, stream.what, recorder)
        try:
            reader = TarReader(stream.read, stream.what)
            for number, entry in enumerate(reader):
                if number >= bounds.entries:
                    raise PermanentError(f"{stream.what}: has more than {bounds.entries} entries, the limit")
                unpacker.add(entry, reader.content)
            stream.finish()
        finally:
            unpacker.close()
        try:
            if unpacker.replaced:
                recorder.rebuild(destination)
            else:
                recorder.finish()
        except OSError as e:
            raise space.disk_error(filelist.beside(destination), e) from e
    return unpacker.size


def _open_list(destination: Path) -> BinaryIO:
    try:
        return filelist.beside(destination).open("wb+")
    except OSError as e:
        raise space.disk_error(destination, e) from e


class _Unpacker:
    """:ivar replaced: something was put where something else had been; a list made on the way is then wrong."""

    def __init__(self, root: Path, what: str, recorder: filelist.Recorder) -> None:
        self._what = what
        self._recorder = recorder
        self.replaced = False
        self._place_of_root = root
        self._root = os.open(root, _OPEN_DIRECTORY)
        # A layer without an entry for "/" must still give a root that any user may enter; mkdir's mode is masked.
        os.fchmod(self._root, 0o755)
        self._parent: tuple[bytes, int] | None = None  # the folder used last: most entries are neighbours
        self.size = 0

    def close(self) -> None:
        self._forget_parent()
        os.close(self._root)

    def add(self, entry: Entry, content: Callable[[], Iterator[bytes]]) -> None:
        try:
            self._add(entry, content)
        except FileNotFoundError as e:
            raise self._refuse(entry.name, "something on its way is missing") from e
        except OSError as e:
            if e.errno in space.PASSING:
                raise space.disk_error(self._place_of_root, e) from e
            raise PermanentError(f"{self._what}: cannot create {show(entry.name)}: {e.strerror}") from e
        except (ValueError, OverflowError) as e:  # a NUL in a name, a number too large for the kernel
            raise self._refuse(entry.name, str(e)) from e

    def _add(self, entry: Entry, content: Callable[[], Iterator[bytes]]) -> None:
        if max(entry.uid, entry.gid) > LARGEST_ID:
            raise self._refuse(entry.name, f"owner {entry.uid}:{entry.gid} does not exist")
        parts = self._components(entry.name)
        if not parts:
            if entry.kind != tarstream.DIRECTORY:
                raise self._refuse(entry.name, "the root can only be a directory")
            self._dress(self._root, entry)
            return
        *folders, leaf = parts
        whiteout = leaf.startswith(WHITEOUT)
        try:
            parent = self._enter_parent(folders, entry.name, follow=not whiteout)
        except NotADirectoryError:
            return  # a whiteout below what is no folder any more: some tools write them; there is nothing left to hide
        with self._changed(parent):
            if whiteout:
                self._white_out(parent, leaf, entry.name, folders)
            else:
                self._place(parent, leaf, entry, content, b"/".join(parts))

    def _place(
        self, parent: int, leaf: bytes, entry: Entry, content: Callable[[], Iterator[bytes]], path: bytes
    ) -> None:
        """Create the entry; of two with the same name the later wins, but a directory stays with its content."""
        there = _lstat(parent, leaf)
        hides_lower = False
        if there and not (entry.kind == tarstream.DIRECTORY and stat.S_ISDIR(there.st_mode)):
            hides_lower = is_whiteout(there)
            self._remove(parent, leaf, there)
            self.replaced = True
        if entry.kind == tarstream.DIRECTORY:
            self._make_directory(parent, leaf, entry, hides_lower)
            self._recorder.add("o" if hides_lower else "d", path)
        elif entry.kind == tarstream.REGULAR:
            self._recorder.add("f", path, entry.size, self._make_file(parent, leaf, entry, content))
        elif entry.kind == tarstream.HARD_LINK:
            self._make_hard_link(parent, leaf, entry)
            self._recorder.add("x", path)
        elif entry.kind == tarstream.SYMLINK:
            if not entry.link:
                raise self._refuse(entry.name, "it is a symbolic link to nothing")
            os.symlink(entry.link, leaf, dir_fd=parent)
            self._dress_by_name(parent, leaf, entry)
            self._recorder.add("l", path, len(entry.link), zlib.crc32(entry.link))
        else:
            self._make_node(parent, leaf, entry)
            self._recorder.add("x", path)

    def _make_directory(self, parent: int, leaf: bytes, entry: Entry, hides_lower: bool) -> None:
        with suppress(FileExistsError):
            os.mkdir(leaf, 0o700, dir_fd=parent)
        directory = os.open(leaf, _OPEN_DIRECTORY, dir_fd=parent)
        try:
            if hides_lower:
                os.setxattr(directory, OPAQUE_XATTR, b"y")
            self._dress(directory, entry)
        finally:
            os.close(directory)

    def _make_file(self, parent: int, leaf: bytes, entry: Entry, content: Callable[[], Iterator[bytes]]) -> int:
        """Returns the CRC-32 of its content."""
        crc = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(leaf, flags, 0o600, dir_fd=parent)
        try:
            for chunk in content():
                crc = zlib.crc32(chunk, crc)
                view = memoryview(chunk)
                while view:
                    view = view[os.write(file, view) :]
            self._dress(file, entry)
        finally:
            os.close(file)
        self.size += entry.size
        return crc

    def _make_hard_link(self, parent: int, leaf: bytes, entry: Entry) -> None:
        parts = self._components(entry.link)
        if not parts:
            raise self._refuse(entry.name, "it is a hard link to the root")
        source = self._enter(parts[:-1], entry.link, create=False)
        try:
            os.link(parts[-1], leaf, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError as e:
            raise self._refuse(entry.name, f"it is a hard link to {show(entry.link)}, which the layer has not") from e
        finally:
            os.close(source)

    def _make_node(self, parent: int, leaf: bytes, entry: Entry) -> None:
        kind = {
            tarstream.CHAR_DEVICE: stat.S_IFCHR,
            tarstream.BLOCK_DEVICE: stat.S_IFBLK,
            tarstream.FIFO: stat.S_IFIFO,
        }[entry.kind]
        if kind == stat.S_IFCHR and entry.device == (0, 0):
            raise self._refuse(entry.name, "a character device 0:0 would hide files of other layers")
        os.mknod(leaf, kind | 0o600, os.makedev(*entry.device), dir_fd=parent)
        self._dress_by_name(parent, leaf, entry)

    def _white_out(self, parent: int, leaf: bytes, name: bytes, folders: list[bytes]) -> None:
        """Hide a file of lower layers (`.wh.NAME`) or all that a folder has there (`.wh..wh..opq`)."""
        if leaf == OPAQUE:
            os.setxattr(parent, OPAQUE_XATTR, b"y")
            self._recorder.add("o", b"/".join(folders))
            return
        if leaf.startswith(WHITEOUT + WHITEOUT):
            return  # AUFS' own bookkeeping
        hidden = leaf.removeprefix(WHITEOUT)
        if hidden in (b"", b".", b".."):
            raise self._refuse(name, "it hides nothing that can exist")
        there = _lstat(parent, hidden)
        path = b"/".join([*folders, hidden])
        if there is None:
            os.mknod(hidden, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
            self._recorder.add("w", path)
        elif stat.S_ISDIR(there.st_mode):  # a whiteout speaks of lower layers; this layer's own folder stays
            directory = os.open(hidden, _OPEN_DIRECTORY, dir_fd=parent)
            try:
                os.setxattr(directory, OPAQUE_XATTR, b"y")
            finally:
                os.close(directory)
            self._recorder.add("o", path)

    @staticmethod
    def _remove(parent: int, leaf: bytes, there: os.stat_result) -> None:
        if stat.S_ISDIR(there.st_mode):
            shutil.rmtree(os.fsdecode(leaf), dir_fd=parent)
        else:
            os.unlink(leaf, dir_fd=parent)

    def _dress(self, file: int, entry: Entry) -> None:
        """Owner first: changing it takes away set-uid bits and capabilities."""
        os.fchown(file, entry.uid, entry.gid)
        os.fchmod(file, entry.mode)
        for key, value in entry.xattrs.items():
            _set_xattr(file, key, value)
        os.utime(file, ns=(entry.mtime, entry.mtime))

    def _dress_by_name(self, parent: int, leaf: bytes, entry: Entry) -> None:
        """For what must not be opened: links and devices. `leaf` is new, so nothing is followed."""
        os.chown(leaf, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if entry.kind != tarstream.SYMLINK:
            os.chmod(leaf, entry.mode, dir_fd=parent)
        os.utime(leaf, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)

    # ------------------------------------------------------------ ways

    def _components(self, name: bytes) -> list[bytes]:
        if name.startswith(b"/"):
            raise self._refuse(name, "the path is absolute")
        if len(name) > LONGEST_PATH:
            raise self._refuse(name, f"the path is longer than {LONGEST_PATH} bytes")
        parts = [part for part in name.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise self._refuse(name, "the path has '..' in it")
        if len(parts) > DEEPEST:
            raise self._refuse(name, f"it lies more than {DEEPEST} folders deep")
        return parts

    def _enter_parent(self, folders: list[bytes], name: bytes, follow: bool) -> int:
        key = b"/".join(folders)
        if self._parent is None or self._parent[0] != key:
            self._forget_parent()  # only one is kept, so nothing on the way to it can have been replaced since
            self._parent = (key, self._enter(folders, name, create=True, follow=follow))
        return self._parent[1]

    def _forget_parent(self) -> None:
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None

    def _enter(self, folders: list[bytes], name: bytes, create: bool, follow: bool = True) -> int:
        """Open the folder at the end of `folders`, step by step; the caller closes it.

        Links within the layer are followed as long as they stay relative and inside, as other tools would.

        :raises NotADirectoryError: there is a link or a file on the way, and `follow` is False.
        """
        way = [os.dup(self._root)]
        todo, links = folders[::-1], 0
        try:
            while todo:
                part = todo.pop()
                if part in (b"", b"."):
                    continue
                if part == b"..":
                    if len(way) == 1:
                        raise self._refuse(name, "it goes through a symbolic link that leads outside")
                    os.close(way.pop())
                    continue
                if len(way) > DEEPEST:
                    raise self._refuse(name, f"it lies more than {DEEPEST} folders deep")
                target = self._step(way, part, name, create, follow)
                if target is not None:
                    links += 1
                    if target.startswith(b"/") or links > MOST_LINKS:
                        where = "outside" if links <= MOST_LINKS else "in circles"
                        link = f"{show(part)}, a symbolic link to {show(target)}"
                        raise self._refuse(name, f"it goes through {link} that leads {where}")
                    todo.extend(reversed(target.split(b"/")))
            return way.pop()
        finally:
            for directory in way:
                os.close(directory)

    def _step(self, way: list[int], part: bytes, name: bytes, create: bool, follow: bool) -> bytes | None:
        """Go down into `part`, or return the target if it is a symbolic link."""
        here = way[-1]
        there = _lstat(here, part)
        if not follow and there is not None and not stat.S_ISDIR(there.st_mode) and not is_whiteout(there):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if there is not None and stat.S_ISLNK(there.st_mode):
            return os.readlink(part, dir_fd=here)
        whiteout = there is not None and is_whiteout(there)
        if there is None or whiteout:
            if not create:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            with self._changed(here):
                if whiteout:
                    os.unlink(part, dir_fd=here)
                    self.replaced = True
                os.mkdir(part, dir_fd=here)
        elif not stat.S_ISDIR(there.st_mode):
            raise self._refuse(name, f"it goes through {show(part)}, which is not a directory")
        way.append(os.open(part, _OPEN_DIRECTORY, dir_fd=here))
        if there is None or whiteout:
            os.fchmod(way[-1], 0o755)  # an archive that leaves its folders out gets what Docker gives
            os.utime(way[-1], ns=(0, 0))
            if whiteout:
                os.setxattr(way[-1], OPAQUE_XATTR, b"y")
        return None

    @contextmanager
    def _changed(self, directory: int) -> Iterator[int]:
        """Keep the folder's mtime over a change in it; so no list of folders to mend at the end is needed."""
        before = os.fstat(directory)
        yield directory
        os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))

    def _refuse(self, name: bytes, why: str) -> EdgedError:
        return PermanentError(f"{self._what}: refused the entry {show(name)}: {why}")


def is_whiteout(s: os.stat_result) -> bool:
    """Overlayfs' own mark for "not here"."""
    return stat.S_ISCHR(s.st_mode) and s.st_rdev == 0


def _lstat(parent: int, leaf: bytes) -> os.stat_result | None:
    try:
        return os.stat(leaf, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _set_xattr(file: int, key: str, value: bytes) -> None:
    """Keep what programs in containers rely on; drop what speaks to this machine (overlay's own, SELinux, IMA)."""
    essential = key == "security.capability"
    harmless = key.startswith(("user.", "system.posix_acl_")) and not key.startswith("user.overlay.")
    if not essential and not harmless:
        return
    try:
        os.setxattr(file, key, value)
    except OSError as e:
        if essential or e.errno not in (errno.ENOTSUP, errno.EPERM):
            raise
