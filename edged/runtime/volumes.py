"""Volumes of a pod: emptyDir, hostPath, and configs and secrets as files.

emptyDir lives on the disk beside the containers' own layers, or as a tmpfs; only there its size limit is enforced.
Configs and secrets live in run_dir, which is memory, in Kubernetes' layout (pkg/volume/util/atomic_writer.go), so that
all files of a volume change at once:

    <volume>/..2/app.conf           the content, a new folder for each change
    <volume>/..data -> ..2          replaced by rename
    <volume>/app.conf -> ..data/app.conf
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from edged.errors import PermanentError, RetryError
from edged.model import (
    ConfigFiles,
    Container,
    EmptyDir,
    HostPath,
    KeyToPath,
    Material,
    Mount,
    Pod,
    SecretFiles,
    Value,
    Volume,
)
from edged.runtime import mounts
from edged.runtime.bundle import BindMount, check_mount_path
from edged.runtime.environment import look_up, missing_key
from edged.runtime.records import LABEL

FILES_LIMIT = 8 << 20  # bytes of one config or secret volume; Kubernetes allows 1 MiB for each object

HOST_PATH_KINDS = {  # Kubernetes' hostPath types that check: what stat() must say
    "Directory": stat.S_ISDIR,
    "DirectoryOrCreate": stat.S_ISDIR,
    "File": stat.S_ISREG,
    "FileOrCreate": stat.S_ISREG,
    "Socket": stat.S_ISSOCK,
    "CharDevice": stat.S_ISCHR,
    "BlockDevice": stat.S_ISBLK,
}


class File(Value, frozen=True):
    content: bytes
    mode: int


class ContainerMounts(Value, frozen=True):
    """What goes into config.json, and what must first be put in place in the container's own view."""

    binds: tuple[BindMount, ...]
    staged: tuple[mounts.Bind, ...]


class Volumes:
    """One pod's volumes. `memory` is a folder below run_dir, `disk` one below state_dir."""

    def __init__(self, pod: Pod, memory: Path, disk: Path) -> None:
        self._pod = pod
        self._memory = memory
        self._disk = disk

    def prepare(self, material: Material) -> None:
        """Make all of them; those that exist are brought up to date.

        :raises RetryError: something that a volume refers to is missing.
        :raises PermanentError: a volume makes no sense.
        """
        try:
            for volume in self._pod.volumes:
                if not LABEL.fullmatch(volume.name):
                    raise PermanentError(f"{self._name(volume)} must be named with lower case letters, digits and '-'")
                self._prepare(volume, material)
        except OSError as e:
            raise RetryError(f"volumes of pod {self._pod.title} can't be made: {e}") from e

    def _prepare(self, volume: Volume, material: Material) -> None:
        match volume.source:
            case EmptyDir(memory=True, size_limit=limit):
                self._tmpfs(self._memory / volume.name, limit)
            case EmptyDir():
                folder = self._disk / volume.name
                if not folder.is_dir():
                    folder.mkdir(parents=True)
                    folder.chmod(0o777)  # as in Kubernetes: any user of any container of the pod
            case HostPath(path=path, kind=kind):
                self._check_host_path(volume, path, kind)
            case ConfigFiles() | SecretFiles():
                write_files(self._memory / volume.name, self._files(volume, volume.source, material))

    def _tmpfs(self, folder: Path, limit: int | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if not folder.is_mount():
            size = f",size={limit}" if limit else ""
            mounts.mount("edged", os.fspath(folder), "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV, f"mode=0777{size}")

    def _check_host_path(self, volume: Volume, path: str, kind: str) -> None:
        host = Path(path)
        if not host.is_absolute() or ".." in host.parts:
            raise PermanentError(f"{self._name(volume)}: hostPath {path!r} must be absolute and without '..'")
        if kind == "DirectoryOrCreate" and not host.exists():
            host.mkdir(mode=0o755, parents=True)
        elif kind == "FileOrCreate" and not host.exists():
            host.touch(0o644)
        try:
            mode = host.stat().st_mode
        except OSError as e:
            raise RetryError(
                f"{self._name(volume)}: hostPath {path} can't be used: {e.strerror}; make it, or give its type as"
                " DirectoryOrCreate or FileOrCreate",
                after=5.0,
            ) from e
        if kind and kind not in HOST_PATH_KINDS:
            raise PermanentError(
                f"{self._name(volume)}: hostPath type {kind!r} is not one of {', '.join(HOST_PATH_KINDS)}"
            )
        if kind and not HOST_PATH_KINDS[kind](mode):
            raise RetryError(f"{self._name(volume)}: hostPath {path} is there, but not a {kind}", after=5.0)

    def _files(self, volume: Volume, source: ConfigFiles | SecretFiles, material: Material) -> dict[str, File]:
        kind, name = ("secret", source.secret) if isinstance(source, SecretFiles) else ("config map", source.config)
        used_by = f"volume '{volume.name}'"
        content = look_up(kind, name, self._pod, used_by, material, source.optional) or {}
        items = source.items or tuple(KeyToPath(key, key) for key in sorted(content))
        files: dict[str, File] = {}
        for item in items:
            if item.key not in content:
                if source.optional:
                    continue
                raise missing_key(kind, name, item.key, self._pod, used_by)
            parts = PurePosixPath(item.path).parts
            if not parts or parts[0] == "/" or ".." in parts or parts[0].startswith(".."):
                raise PermanentError(f"{self._name(volume)}: path {item.path!r} of key '{item.key}' leads out of it")
            files["/".join(parts)] = File(content[item.key], source.mode if item.mode is None else item.mode)
        if sum(len(f.content) for f in files.values()) > FILES_LIMIT:
            raise PermanentError(f"{self._name(volume)} has more than {FILES_LIMIT >> 20} MiB; use a hostPath")
        return files

    # ------------------------------------------------------------ into a container

    def mounts_of(self, container: Container, staging: Path) -> ContainerMounts:
        """:param staging: an empty folder of this attempt; sub paths are put there in the container's own view."""
        binds: list[BindMount] = []
        staged: list[mounts.Bind] = []
        volumes = {v.name: v for v in self._pod.volumes}
        for number, mount in enumerate(container.mounts):
            what = f"mountPath of volume '{mount.volume}' in container '{container.name}' of pod {self._pod.title}"
            volume = volumes.get(mount.volume)
            if volume is None:
                raise PermanentError(f"{what}: the pod has no volume of that name; it has {sorted(volumes) or 'none'}")
            path = check_mount_path(mount.path, what)
            source = self._source(volume)
            if mount.sub_path:
                stage = self._stage(volume, mount, source, staging / str(number))
                staged.append(stage)
                source = Path(stage.target)
            fixed = isinstance(volume.source, ConfigFiles | SecretFiles)
            binds.append(BindMount(os.fspath(source), path, mount.read_only or fixed))
        binds.sort(key=lambda b: b.path.count("/"))  # a mount inside another one comes after it
        return ContainerMounts(tuple(binds), tuple(staged))

    def _source(self, volume: Volume) -> Path:
        match volume.source:
            case HostPath(path=path):
                return Path(path)
            case EmptyDir(memory=False):
                return self._disk / volume.name
            case _:
                return self._memory / volume.name

    def _stage(self, volume: Volume, mount: Mount, root: Path, target: Path) -> mounts.Bind:
        """Make the sub path where it is missing, never following a link out of the volume."""
        parts = PurePosixPath(mount.sub_path).parts
        if not parts or parts[0] == "/" or ".." in parts:
            raise PermanentError(f"{self._name(volume)}: subPath {mount.sub_path!r} must be relative and without '..'")
        try:
            is_folder = _ensure_beneath(root, parts, isinstance(volume.source, EmptyDir | HostPath))
            target.parent.mkdir(parents=True, exist_ok=True)
            if is_folder:
                target.mkdir(exist_ok=True)
            else:
                target.touch()
        except OSError as e:
            raise RetryError(
                f"{self._name(volume)}: subPath {mount.sub_path!r} can't be used: {e.strerror}", 5.0
            ) from e
        return mounts.Bind(os.fspath(root), "/".join(parts), os.fspath(target))

    def _name(self, volume: Volume) -> str:
        return f"volume '{volume.name}' of pod {self._pod.title}"


def _ensure_beneath(root: Path, parts: tuple[str, ...], create: bool) -> bool:
    """Whether what `parts` lead to below `root` is a folder; missing folders are made. :raises OSError:"""
    base = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for depth in range(1, len(parts) + 1):
            try:
                fd = mounts.open_beneath(base, "/".join(parts[:depth]), os.O_PATH)
            except FileNotFoundError:
                if not create:
                    raise
                parent = mounts.open_beneath(base, "/".join(parts[: depth - 1]) or ".", os.O_PATH | os.O_DIRECTORY)
                try:
                    os.mkdir(parts[depth - 1], 0o755, dir_fd=parent)
                finally:
                    os.close(parent)
                continue
            is_folder = stat.S_ISDIR(os.fstat(fd).st_mode)
            os.close(fd)
            if not is_folder:
                return False
        return True
    finally:
        os.close(base)


def write_files(folder: Path, files: Mapping[str, File]) -> bool:
    """Make `folder` show exactly these files, all changing at once. False if it does already.

    :param files: relative path -> content. :raises OSError: no room; what was there stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    current = folder / "..data"
    if current.is_dir() and _read_files(current) == dict(files):
        return False
    numbers = [int(n.name[2:]) for n in folder.iterdir() if n.name.startswith("..") and n.name[2:].isdecimal()]
    new = folder / f"..{max(numbers, default=0) + 1}"
    try:
        new.mkdir(mode=0o755)
        for path, file in files.items():
            target = new / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.content)
            target.chmod(file.mode & 0o777)
        link = folder / "..data_tmp"
        link.unlink(missing_ok=True)
        link.symlink_to(new.name)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        raise
    link.rename(current)
    _link_names(folder, {path.split("/", 1)[0] for path in files})
    for number in numbers:
        shutil.rmtree(folder / f"..{number}", ignore_errors=True)
    return True


def _link_names(folder: Path, names: set[str]) -> None:
    """The names that users see: one link for each, and none for what is gone."""
    for entry in folder.iterdir():
        if not entry.name.startswith("..") and entry.name not in names:
            entry.unlink(missing_ok=True)
    for name in names:
        with contextlib.suppress(FileExistsError):
            (folder / name).symlink_to(f"..data/{name}")


def _read_files(folder: Path) -> dict[str, File]:
    return {
        os.fspath(p.relative_to(folder)): File(p.read_bytes(), stat.S_IMODE(p.stat().st_mode))
        for p in _plain_files(folder)
    }


def _plain_files(folder: Path) -> Iterator[Path]:
    """The link ..data itself is followed."""
    for below, _, names in os.walk(os.fspath(folder) + "/"):
        yield from (Path(below) / name for name in names)
