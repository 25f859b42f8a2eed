"""The writing side of the image store (layout: edged.images.store). One writer at a time, in a process that ends.

Order is everything here: content first, then one syncfs() for the whole file system instead of an fsync() for each
of thousands of files, then the rename that makes a layer appear, and index.json last. Killed or unplugged anywhere,
the store is the old one or the new one, and the next writer clears away the rest.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from types import TracebackType

import msgspec

from edged.errors import EdgedError, PermanentError, RetryError
from edged.images import filelist, oci, space
from edged.images.reference import normalise
from edged.images.store import LAYER_NAME_DIGITS, ImageEntry, ImageStore, StoreIndex, layer_name

_LAYER_NAME = re.compile(rf"[0-9a-f]{{{LAYER_NAME_DIGITS}}}")


class StoreWriter:
    """Use as a context manager; entering waits for another writer to finish.

    :param waiting: called once if there is one.
    """

    def __init__(self, root: Path, waiting: Callable[[], None] = lambda: None) -> None:
        self._store = ImageStore(root)
        self._root = self._store.root
        self._tmp = self._root / "tmp"
        self._waiting = waiting
        self._lock = -1
        self._index = StoreIndex()

    def __enter__(self) -> StoreWriter:
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._root.chmod(0o700)
            self._acquire()
            for folder in (self._store.blobs, self._store.layers, self._store.lists, self._tmp):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._index = self._store.read_index()
            self._clear_leftovers()
        except OSError as e:
            self._release()
            raise self._disk_error(e) from e
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, _k: type[BaseException] | None, error: BaseException | None, _t: TracebackType | None) -> None:
        try:
            if isinstance(error, PermanentError):
                self.sweep()  # layers of an image that will never be complete
            self._empty_tmp()
        except OSError as e:
            raise self._disk_error(e) from e
        finally:
            self._release()
        if isinstance(error, OSError):
            raise self._disk_error(error) from error

    # ------------------------------------------------------------ what importers call

    def has_layer(self, diff_id: str) -> bool:
        """Whether it is there, whole, and not waiting to be compared (StoreIndex.unsettled)."""
        if diff_id not in self._index.layers or diff_id in self._index.doubtful(self._store.boot):
            return False
        return (self._store.layers / layer_name(diff_id)).is_dir()

    def add_layer(self, diff_id: str, unpack: Callable[[Path], int], pending: str = "") -> None:
        """Make a layer out of what `unpack` puts into the folder it is given; it returns bytes of files.

        :param pending: reference of the image that it is for: it is kept even if that isn't complete in this run, so
            that a retry needn't start over. Without one the next sweep takes it unless an image has it by then.
        """
        name = layer_name(oci.hex_of(diff_id, "layer"))
        for other in self._index.layers:
            if layer_name(other) == name and other != diff_id:
                raise PermanentError(f"layer {diff_id} has the same first digits as {other}; one of them is forged")
        folder = self.scratch()
        size = unpack(folder)
        self._sync()
        filelist.beside(folder).rename(self._store.lists / name)  # of no meaning before the layer is in the index
        target = self._store.layers / name
        if target.exists():  # not listed, so of unknown quality; a mount may still use it
            target.rename(self._store.layers / f"{name}.{folder.name}")
        folder.rename(target)
        _fsync(self._store.lists)
        _fsync(self._store.layers)
        layers, unsettled = self._index.layers | {diff_id: size}, self._index.unsettled | {diff_id: self._store.boot}
        waiting = {d: r for d, r in self._index.pending.items() if d != diff_id} | (
            {diff_id: pending} if pending else {}
        )
        self._write_index(msgspec.structs.replace(self._index, layers=layers, unsettled=unsettled, pending=waiting))

    def add_image(
        self, reference: str, manifest: bytes, config: bytes, diff_ids: tuple[str, ...], imported: bool = False
    ) -> None:
        """Give a canonical reference to an image whose layers are all here. The old holder of the name loses it."""
        missing = [d for d in diff_ids if not self.has_layer(d)]
        if missing:
            raise PermanentError(f"image {reference}: layers {', '.join(missing)} were not added")
        for blob in (manifest, config):
            self._write_blob(blob)
        self._sync()
        entry = ImageEntry(manifest=oci.digest_of(manifest), imported=imported)
        images = self._index.images | {reference: entry}
        pending = {d: r for d, r in self._index.pending.items() if r != reference and d not in diff_ids}
        self._write_index(msgspec.structs.replace(self._index, images=images, pending=pending))

    def remove_image(self, reference: str, force: bool = False) -> None:
        """Forget the name, and delete what only it needed.

        :param force: even if a container runs from it. That one goes on, but can't be started again from here.
        :raises PermanentError: there is no such image, or it is the last name of one that a container runs from.
        """
        if reference not in self._index.images:
            known = ", ".join(sorted(self._index.images)) or "none at all"
            raise PermanentError(f"there is no image {reference} in {self._root}; there is: {known}")
        if not force and self._is_used(reference):
            raise PermanentError(
                f"image {reference} is in use: a container on this node runs from it; take its pod away first, or add "
                "--force (it runs on, but could not be started again)"
            )
        images = {name: entry for name, entry in self._index.images.items() if name != reference}
        left = msgspec.structs.replace(self._index, images=images)
        try:
            self._write_index(left)
        except OSError as e:
            if e.errno not in space.FULL:
                raise
            self._delete_layers_of(reference)
            self._write_index(left)
        self.sweep()

    def references(self) -> frozenset[str]:
        return frozenset(self._index.images)

    def settle(self, whole: Collection[str], broken: Collection[str]) -> None:
        """Believe the layers that are `whole` from now on, and drop those that are `broken`: their images are gone
        until they are fetched again. A layer that a container has mounted stays where it is until that has ended."""
        unsettled = {d: boot for d, boot in self._index.unsettled.items() if d not in whole and d not in broken}
        layers = {d: size for d, size in self._index.layers.items() if d not in broken}
        pending = {d: r for d, r in self._index.pending.items() if d not in broken}
        if (unsettled, layers) != (self._index.unsettled, self._index.layers):
            self._write_index(msgspec.structs.replace(self._index, layers=layers, unsettled=unsettled, pending=pending))
            self._clear_leftovers()

    def sweep(self, wanted: Collection[str] | None = None) -> None:
        """Delete layers and blobs that no image refers to, except layers that are mounted somewhere, and those of pulls
        that aren't through.

        :param wanted: references whose pulls may still come to their end; None = all may.
        """
        diff_ids, blobs = self._referred()
        diff_ids |= {d for d, reference in self._index.pending.items() if wanted is None or reference in wanted}
        if unused := self._index.layers.keys() - diff_ids:
            mounted = mounted_layers()
            unused = {d for d in unused if layer_name(d) not in mounted}
            kept = {d: size for d, size in self._index.layers.items() if d not in unused}
            unsettled = {d: boot for d, boot in self._index.unsettled.items() if d in kept}
            pending = {d: r for d, r in self._index.pending.items() if d in kept and d in diff_ids}
            self._write_index(msgspec.structs.replace(self._index, layers=kept, unsettled=unsettled, pending=pending))
        self._clear_leftovers()
        for blob in self._store.blobs.iterdir():
            if f"sha256:{blob.name}" not in blobs:
                blob.unlink()

    def _delete_layers_of(self, reference: str) -> None:
        """On a disk so full that the index can't be written, content goes first. Cut in between, the image is one whose
        layers are missing, and so isn't there."""
        self._empty_tmp()
        others = {d for name in self._index.images if name != reference for d in self._store.layers_of(name)}
        own = set(self._store.layers_of(reference)) - others - self._index.pending.keys()
        mounted = mounted_layers()
        for name in map(layer_name, own):
            if name not in mounted:
                shutil.rmtree(self._store.layers / name, ignore_errors=True)

    def _is_used(self, reference: str) -> bool:
        """Whether some container's root consists of exactly its layers, and no other name stands for the same image."""
        image = next((i for i in self._store.list() if i.reference == reference), None)
        if image is None or any(i.id == image.id and i.reference != reference for i in self._store.list()):
            return False
        return frozenset(Path(layer).name for layer in image.layers) in mounted_stacks()

    def scratch(self) -> Path:
        """A new empty folder on the store's file system, gone when the writer leaves."""
        return Path(tempfile.mkdtemp(dir=self._tmp, prefix=""))

    # ------------------------------------------------------------ inside

    def _disk_error(self, e: OSError) -> EdgedError:
        if e.errno in space.PASSING:
            return space.disk_error(self._root, e)
        return PermanentError(f"image store {self._root} cannot be written: {e.strerror} ({e.filename})")

    def _acquire(self) -> None:
        self._lock = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._waiting()
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def _release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _clear_leftovers(self) -> None:
        """Unfinished work of a writer that was killed: tmp/, and layers that never got into the index."""
        self._empty_tmp()
        listed = {layer_name(d) for d in self._index.layers}
        # Out of sight first, then ask who uses them: a mount that came in between is seen, a later one fails.
        hidden = [(layer, self._tmp / layer.name) for layer in self._store.layers.iterdir() if layer.name not in listed]
        for layer, aside in hidden:
            layer.rename(aside)
        mounted = mounted_layers() if hidden else frozenset()
        for layer, aside in hidden:
            if layer.name[:LAYER_NAME_DIGITS] in mounted:
                aside.rename(layer)
            else:
                shutil.rmtree(aside)
        for listing in self._store.lists.iterdir():
            if listing.name not in listed:
                listing.unlink()

    def _empty_tmp(self) -> None:
        for leftover in self._tmp.iterdir():
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()

    def _referred(self) -> tuple[set[str], set[str]]:
        """Diff ids and blob digests that images need. Of a damaged image nothing is known, so nothing is kept."""
        diff_ids: set[str] = set()
        blobs: set[str] = set()
        for reference, entry in self._index.images.items():
            what = f"image {reference}"
            try:
                manifest = oci.decode(self._store.read_blob(entry.manifest, what), oci.Manifest, what)
                blobs |= {entry.manifest, manifest.config.digest}
                raw = self._store.read_blob(manifest.config.digest, what)
                diff_ids.update(oci.decode(raw, oci.ImageConfig, what).rootfs.diff_ids or ())
            except PermanentError:
                continue
        return diff_ids, blobs

    def _write_blob(self, blob: bytes) -> None:
        target = self._store.blobs / oci.digest_of(blob).removeprefix("sha256:")
        scratch = self.scratch() / "blob"
        scratch.write_bytes(blob)
        scratch.rename(target)

    def _write_index(self, index: StoreIndex) -> None:
        scratch = self.scratch() / "index.json"
        with scratch.open("wb") as f:
            f.write(msgspec.json.format(msgspec.json.encode(index, order="deterministic"), indent=1))
            f.flush()
            os.fsync(f.fileno())
        scratch.rename(self._store.index_file)
        _fsync(self._root)
        self._index = index

    def _sync(self) -> None:
        """Everything written so far reaches the disk; one call, however many files."""
        libc = ctypes.CDLL(None, use_errno=True)
        fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if libc.syncfs(fd) != 0:
                number = ctypes.get_errno()
                raise RetryError(f"image store {self._root}: writing to the disk failed: {os.strerror(number)}", 60.0)
        finally:
            os.close(fd)


def remove(root: Path, reference: str, force: bool = False) -> None:
    """Forget one image and delete the layers that no other image and no mount uses; raises as StoreWriter."""
    with StoreWriter(root) as writer:
        writer.remove_image(normalise(reference), force)


def mounted_layers() -> frozenset[str]:
    """Names of layers that some overlay mount uses, in any mount namespace of this machine."""
    return frozenset(name for stack in mounted_stacks() for name in stack)


def mounted_stacks() -> frozenset[frozenset[str]]:
    """The layers of each overlay mount, in any mount namespace of this machine.

    A running container is in a namespace of its own, and its root mount names its layers there.
    """
    found: set[frozenset[str]] = set()
    seen: set[str] = set()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            namespace = str((process / "ns" / "mnt").readlink())
            if namespace in seen:
                continue
            seen.add(namespace)
            for line in (process / "mountinfo").read_text(errors="replace").splitlines():
                if " - overlay " in line:
                    found.add(frozenset(_LAYER_NAME.findall(line)))
        except OSError as e:
            if e.errno not in (errno.ENOENT, errno.ESRCH, errno.EACCES, errno.EPERM, errno.EINVAL):
                raise
    return frozenset(found)


def _fsync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
