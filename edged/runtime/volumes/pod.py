"""One pod's volumes, and where its containers see them.

emptyDir lives on the disk beside the containers' own layers, or as a tmpfs whose pages count as the memory of the
container that writes them. What is made of configs, secrets and the pod's own fields lives in run_dir, which is memory.
Persistent volumes and NFS are mounted at <memory>/<volume name>; they go when the pod's folder is unmounted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Protocol

from edged.errors import EdgedError, PermanentError, RetryError
from edged.model import (
    ClaimFiles,
    ConfigFiles,
    Container,
    DownwardFiles,
    EmptyDir,
    HostPath,
    Material,
    Mount,
    NfsMount,
    Pod,
    Projected,
    Propagation,
    SecretFiles,
    Value,
    Volume,
)
from edged.runtime import mounts, nfs
from edged.runtime.bundle import BindMount, check_mount_path
from edged.runtime.environment import REFERENCE, expand
from edged.runtime.records import LABEL
from edged.runtime.volumes.content import files_of, name_of
from edged.runtime.volumes.files import write_files
from edged.runtime.volumes.hostpath import check_host_path
from edged.runtime.volumes.owner import give_to_group
from edged.runtime.volumes.subpath import ensure_beneath

FIXED = ConfigFiles | SecretFiles | DownwardFiles | Projected  # read-only for everybody


class ClaimStore(Protocol):
    """edged.runtime.claims.Claims, as far as it matters here."""

    async def show(self, claim: ClaimFiles, target: Path, title: str) -> None: ...
    def release(self) -> None: ...


class ScratchQuota(Protocol):
    """edged.runtime.quota.ScratchQuotas, as far as it matters here."""

    def limit(self, folder: Path, size: int) -> None: ...
    def release(self, scratch: Path) -> None: ...


class ContainerMounts(Value, frozen=True):
    """What goes into config.json, and what must first be put in place in the container's own view."""

    binds: tuple[BindMount, ...]
    staged: tuple[mounts.Bind | mounts.SharedBind, ...]


class Volumes:
    """`memory` is a folder below run_dir, `disk` one below state_dir; `claims` is needed to prepare those."""

    def __init__(
        self,
        pod: Pod,
        memory: Path,
        disk: Path,
        claims: ClaimStore | None = None,
        quotas: ScratchQuota | None = None,
    ) -> None:
        self._pod = pod
        self._memory = memory
        self._disk = disk
        self._claims = claims
        self._quotas = quotas

    # ------------------------------------------------------------ making

    async def prepare(self, material: Material) -> None:
        """Make all of them; those that exist are brought up to date.

        :raises RetryError: something that a volume refers to is missing.
        :raises PermanentError: a volume makes no sense.
        """
        try:
            for volume in self._pod.volumes:
                if not LABEL.fullmatch(volume.name):
                    raise PermanentError(f"{self._name(volume)} must be named with lower case letters, digits and '-'")
                await self._prepare(volume, material)
        except OSError as e:
            raise RetryError(f"volumes of pod {self._pod.title} can't be made: {e}") from e

    def refresh(self, material: Material) -> None:
        """Bring the files of configs, secrets and the pod's own fields up to date, each volume at once.

        What can't be made anew stays as it is, for a pod that ran goes on after its config was removed; the others
        are brought up to date nevertheless.

        :raises RetryError, PermanentError: the first that failed.
        """
        failed: EdgedError | None = None
        for volume in self._pod.volumes:
            if isinstance(volume.source, FIXED) and (self._memory / volume.name).is_dir():
                try:
                    self._write(volume, volume.source, material)
                except EdgedError as e:
                    failed = failed or e
                except OSError as e:
                    failed = failed or RetryError(f"{self._name(volume)} can't be brought up to date: {e}")
        if failed is not None:
            raise failed

    async def _prepare(self, volume: Volume, material: Material) -> None:
        match volume.source:
            case EmptyDir(memory=True, size_limit=limit):
                self._tmpfs(self._memory / volume.name, limit)
                await self._give(self._memory / volume.name)
            case EmptyDir(size_limit=limit):
                folder = self._disk / volume.name
                if not folder.is_dir():
                    folder.mkdir(parents=True)
                    folder.chmod(0o777)  # as in Kubernetes: any user of any container of the pod
                if limit is not None and self._quotas is not None:
                    self._quotas.limit(folder, limit)
                await self._give(folder)
            case HostPath(path=path, kind=kind):
                check_host_path(self._name(volume), path, kind)
            case ClaimFiles() as claim:
                await self._show_claim(volume, claim)
            case NfsMount() as export:
                await nfs.mount(self._name(volume), export, self._memory / volume.name)
            case source:
                self._write(volume, source, material)

    def _write(self, volume: Volume, source: FIXED, material: Material) -> None:
        files = files_of(self._pod, volume, source, material)
        write_files(self._memory / volume.name, files, self._pod.fs_group)

    async def _show_claim(self, volume: Volume, claim: ClaimFiles) -> None:
        if self._claims is None:
            raise PermanentError(f"{self._name(volume)} is a persistent volume, which this node doesn't keep")
        target = self._memory / volume.name
        await self._claims.show(claim, target, f"{self._pod.namespace}/{claim.claim}")
        if not claim.read_only:
            await self._give(target)

    async def _give(self, folder: Path) -> None:
        if self._pod.fs_group is not None:
            await give_to_group(folder, self._pod.fs_group, self._pod.fs_group_always)

    def _tmpfs(self, folder: Path, limit: int | None) -> None:
        """As large as asked for, but no larger than what the pod's containers may use together."""
        folder.mkdir(parents=True, exist_ok=True)
        if folder.is_mount():
            return
        limits = [c.limits.memory_limit for c in self._pod.containers]
        together = sum(one for one in limits if one is not None) if None not in limits else None
        sizes = [size for size in (limit, together) if size]
        size = f",size={min(sizes)}" if sizes else ""
        mounts.mount("edged", os.fspath(folder), "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV, f"mode=0777{size}")

    # ------------------------------------------------------------ into a container

    def mounts_of(self, container: Container, staging: Path, env: Mapping[str, str] | None = None) -> ContainerMounts:
        """:param staging: an empty folder of this attempt; sub paths are put there in the container's own view.
        :param env: the container's own variables, for sub paths that name them.
        """
        binds: list[BindMount] = []
        staged: list[mounts.Bind | mounts.SharedBind] = []
        volumes = {v.name: v for v in self._pod.volumes}
        for number, mount in enumerate(container.mounts):
            what = f"mountPath of volume '{mount.volume}' in container '{container.name}' of pod {self._pod.title}"
            volume = volumes.get(mount.volume)
            if volume is None:
                raise PermanentError(f"{what}: the pod has no volume of that name; it has {sorted(volumes) or 'none'}")
            path = check_mount_path(mount.path, what)
            source = self._source(volume)
            shared = mount.propagation is Propagation.BIDIRECTIONAL
            if shared and not container.security.privileged:
                raise PermanentError(f"{what}: mountPropagation Bidirectional is for privileged containers only")
            if mount.sub_path:
                stage = self._stage(volume, mount, source, staging / str(number), env or {})
                staged.append(stage)
                source = Path(stage.target)
            elif shared:
                staged.append(self._stage_shared(source, staging / str(number)))
                source = staging / str(number)
            fixed = isinstance(volume.source, FIXED) or _is_read_only(volume)
            read_only = mount.read_only or fixed
            whole = read_only and _may_hold_mounts(volume) and source.is_dir() and mounts.can_set_attributes()
            binds.append(BindMount(os.fspath(source), path, read_only, mount.propagation, whole))
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

    def _stage(self, volume: Volume, mount: Mount, root: Path, target: Path, env: Mapping[str, str]) -> mounts.Bind:
        """Make the sub path where it is missing, never following a link out of the volume."""
        sub_path = self._expanded(volume, mount, env) if mount.expand else mount.sub_path
        parts = PurePosixPath(sub_path).parts
        if not parts or parts[0] == "/" or ".." in parts or "\0" in sub_path:
            raise PermanentError(f"{self._name(volume)}: subPath {sub_path!r} must be relative and without '..'")
        if isinstance(volume.source, NfsMount):  # a server that doesn't answer would make the whole node wait
            raise PermanentError(
                f"{self._name(volume)}: subPath {sub_path!r} of an nfs volume isn't possible; make it a part of the nfs"
                " path"
            )
        may_make = isinstance(volume.source, EmptyDir | HostPath | ClaimFiles) and not _is_read_only(volume)
        try:
            is_folder = ensure_beneath(root, parts, may_make)
            target.parent.mkdir(parents=True, exist_ok=True)
            if is_folder:
                target.mkdir(exist_ok=True)
            else:
                target.touch()
        except OSError as e:
            raise RetryError(f"{self._name(volume)}: subPath {sub_path!r} can't be used: {e.strerror}", 5.0) from e
        return mounts.Bind(os.fspath(root), "/".join(parts), os.fspath(target))

    def _stage_shared(self, source: Path, target: Path) -> mounts.SharedBind:
        if not source.is_dir():
            raise PermanentError(f"{source} is not a folder; mountPropagation Bidirectional needs one")
        target.mkdir(parents=True, exist_ok=True)
        return mounts.SharedBind(os.fspath(source), os.fspath(target))

    def _expanded(self, volume: Volume, mount: Mount, env: Mapping[str, str]) -> str:
        """Kubernetes' subPathExpr: unlike elsewhere, a variable that isn't there is an error."""
        for match in REFERENCE.finditer(mount.sub_path):
            if match.group(1) is not None and match.group(1) not in env:
                raise PermanentError(
                    f"{self._name(volume)}: subPathExpr {mount.sub_path!r} names variable {match.group(1)}, which the"
                    " container doesn't have"
                )
        return expand(mount.sub_path, env)

    def _name(self, volume: Volume) -> str:
        return name_of(self._pod, volume)


def _may_hold_mounts(volume: Volume) -> bool:
    return isinstance(volume.source, HostPath | EmptyDir)


def _is_read_only(volume: Volume) -> bool:
    return isinstance(volume.source, ClaimFiles | NfsMount) and volume.source.read_only
