"""Sandboxes: what a pod has before its containers. Folders, files below /etc, volumes, and a network namespace."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from edged.errors import RetryError
from edged.model import EmptyDir, Material, Pod, SandboxState
from edged.runtime import bundle, mounts
from edged.runtime.containers import Sandbox, remove_tree
from edged.runtime.records import UID, Places, SandboxRecord, read, sandbox_state, write_atomically
from edged.runtime.volumes import ClaimStore, Volumes

RESOLV_CONF = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
ETC = ("hosts", "hostname", "resolv.conf")


class Namespace(Protocol):
    """edged.runtime.network.Netns, as far as it matters here."""

    @property
    def path(self) -> str: ...
    @property
    def ip(self) -> str: ...


class PodNetwork(Protocol):
    """edged.runtime.network.Network, as far as it matters here."""

    async def attach(self, pod_uid: str) -> Namespace: ...
    async def detach(self, pod_uid: str) -> None: ...
    def observe(self) -> Mapping[str, Namespace]: ...


class Sandboxes:
    """All sandboxes of one node. Owned by PodRuntime; one loop.

    A pod's emptyDirs on disk outlive a power cut, as in Kubernetes: after one, the pod is seen as a sandbox that is
    not ready, so that it is made again around them, or removed with them if it is no longer wanted.
    """

    def __init__(
        self, places: Places, network: PodNetwork, cluster_domain: str, claims: ClaimStore | None = None
    ) -> None:
        self._places = places
        self._network = network
        self._domain = cluster_domain
        self._claims = claims
        self._remembered: dict[str, SandboxRecord] = {}

    async def open(self) -> None:
        """Sweep what containers of an earlier boot wrote, and remember the pods whose volumes are still there."""
        self._places.pods.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._places.writable.mkdir(mode=0o700, parents=True, exist_ok=True)
        for scratch in sorted(self._places.writable.iterdir()):
            if not UID.fullmatch(scratch.name) or self._places.pod(scratch.name).is_dir():
                continue  # lost+found, say
            record = read(scratch / "sandbox", SandboxRecord)
            if record is None or not (scratch / "volumes").is_dir():
                await remove_tree(scratch)
                continue
            self._remembered[scratch.name] = record
            for entry in scratch.iterdir():
                if entry.name not in ("sandbox", "volumes"):
                    await remove_tree(entry)

    def observe(self) -> Iterator[SandboxState]:
        alive = self._network.observe()
        seen = set()
        for record in self._places.sandboxes():
            seen.add(record.pod_uid)
            namespace = alive.get(record.pod_uid)
            yield sandbox_state(record, ready=namespace is not None and namespace.ip == record.ip)
        for uid, record in self._remembered.items():
            if uid not in seen:
                yield sandbox_state(msgspec.structs.replace(record, ip=""), ready=False)

    async def prepare(self, pod: Pod, material: Material, nameserver: str) -> SandboxState:
        """Make what is missing, bring the rest up to date."""
        folder, scratch = self._places.pod(pod.uid), self._places.scratch(pod.uid)
        record = SandboxRecord(pod.uid, pod.title, pod.termination_grace, memory_request=pod.memory_request)
        try:
            (folder / "etc").mkdir(mode=0o755, parents=True, exist_ok=True)
            folder.chmod(0o700)
            if not (folder / "sandbox").exists():
                self._places.write_sandbox(record)
            if any(isinstance(v.source, EmptyDir) and not v.source.memory for v in pod.volumes):
                scratch.mkdir(parents=True, exist_ok=True)
                write_atomically(scratch / "sandbox", msgspec.msgpack.encode(record))
        except OSError as e:
            raise RetryError(f"sandbox of pod {pod.title} can't be made: {e}") from e
        await self.volumes(pod).prepare(material)
        namespace = await self._network.attach(pod.uid)
        self._write_etc(pod, namespace.ip, nameserver)
        record = msgspec.structs.replace(record, ip=namespace.ip, material=material.digest)
        self._places.write_sandbox(record)
        self._remembered.pop(pod.uid, None)
        return sandbox_state(record, ready=True)

    def refresh(self, pod: Pod, material: Material) -> None:
        """Bring the files of configs, secrets and the pod's own fields up to date, and record what they show now.

        What can't be made anew stays: a pod that ran goes on after its config was removed.

        :raises RetryError, PermanentError: the first volume that failed; the others were brought up to date.
        """
        self.volumes(pod).refresh(material)
        record = read(self._places.pod(pod.uid) / "sandbox", SandboxRecord)
        if record is not None and record.material != material.digest:
            self._places.write_sandbox(msgspec.structs.replace(record, material=material.digest))

    def volumes(self, pod: Pod) -> Volumes:
        folder, scratch = self._places.pod(pod.uid), self._places.scratch(pod.uid)
        return Volumes(pod, folder / "volumes", scratch / "volumes", self._claims)

    def of(self, pod: Pod) -> Sandbox:
        """:raises RetryError: it is not ready."""
        namespace = self._network.observe().get(pod.uid)
        etc = self._places.pod(pod.uid) / "etc"
        if namespace is None or not etc.is_dir():
            raise RetryError(f"the sandbox of pod {pod.title} is not ready")
        # read-only: they live in run_dir, which a container could fill otherwise
        files = tuple(bundle.BindMount(os.fspath(etc / name), f"/etc/{name}", read_only=True) for name in ETC)
        return Sandbox(os.fspath(namespace.path), files)

    async def remove(self, pod_uid: str) -> None:
        """Repeatable; the record goes last."""
        folder = self._places.pod(pod_uid)
        await self._network.detach(pod_uid)
        if folder.is_dir():
            mounts.unmount_below(os.fspath(folder))
        await remove_tree(self._places.scratch(pod_uid))
        for part in ("volumes", "etc", "containers"):
            shutil.rmtree(folder / part, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        self._remembered.pop(pod_uid, None)

    # ------------------------------------------------------------ /etc

    def _write_etc(self, pod: Pod, ip: str, nameserver: str) -> None:
        etc = self._places.pod(pod.uid) / "etc"
        _overwrite(etc / "hosts", bundle.hosts_file(pod, ip))
        _overwrite(etc / "hostname", bundle.hostname_of(pod) + "\n")
        _overwrite(etc / "resolv.conf", bundle.resolv_conf(pod.namespace, nameserver, self._domain, hosts_own()))

    def use_nameserver(self, nameserver: str) -> None:
        """Tell the pods that are there: the first Service has come, or the last one gone."""
        own = hosts_own()
        for record in self._places.sandboxes():
            namespace = record.pod.partition("/")[0]
            with contextlib.suppress(OSError):
                _overwrite(
                    self._places.pod(record.pod_uid) / "etc" / "resolv.conf",
                    bundle.resolv_conf(namespace, nameserver, self._domain, own),
                )


def hosts_own() -> str:
    """The machine's resolv.conf; systemd-resolved's real one, for its stub listens on loopback only."""
    for file in RESOLV_CONF:
        with contextlib.suppress(OSError):
            text = file.read_text()
            servers = [line.split()[1] for line in text.splitlines() if line.startswith("nameserver ")]
            if any(not s.startswith("127.") and s != "::1" for s in servers):
                return text
    return ""


def _overwrite(file: Path, text: str) -> None:
    """In place, for it is bind-mounted: a renamed file would not be seen inside."""
    with contextlib.suppress(FileNotFoundError):
        if file.read_text() == text:
            return
    file.write_text(text)
    file.chmod(0o644)
