"""What a pod keeps its files in, and where containers see them."""

from __future__ import annotations

import enum

from edged.model.base import Value


class Propagation(enum.StrEnum):
    """How mounts made below a mount travel (v1 MountPropagationMode, mount_namespaces(7))."""

    NONE = "None"  # private
    HOST_TO_CONTAINER = "HostToContainer"  # rslave
    BIDIRECTIONAL = "Bidirectional"  # rshared; privileged containers only


class Mount(Value, frozen=True):
    """Where a volume of the pod appears inside one container.

    :ivar sub_path: a path inside the volume; with `expand`, `$(VAR)` in it is replaced (v1 subPathExpr).
    """

    volume: str
    path: str
    read_only: bool = False
    sub_path: str = ""
    expand: bool = False
    propagation: Propagation = Propagation.NONE


class KeyToPath(Value, frozen=True):
    """One key of a config or secret as a file below the mount; mode are permission bits."""

    key: str
    path: str
    mode: int | None = None


class ResourceRef(Value, frozen=True):
    """A limit or request as a number (v1 ResourceFieldSelector), rounded up after division.

    :ivar resource: "limits.memory", "requests.cpu", "limits.ephemeral-storage" and so on.
    :ivar container: whose; "" = the one that asks. A limit that isn't set is what the node has for pods.
    :ivar divisor: in thousandths: 1000 stands for "1", 1048576000 for "1Mi", 1 for "1m".
    """

    resource: str
    container: str = ""
    divisor: int = 1000


class DownwardItem(Value, frozen=True):
    """One file of a downward volume: a field of the pod ("metadata.labels", "metadata.labels['app']") or a number."""

    path: str
    field: str = ""
    resource: ResourceRef | None = None
    mode: int | None = None


class EmptyDir(Value, frozen=True, tag="emptyDir"):
    """Scratch space that lives as long as the pod."""

    memory: bool = False
    size_limit: int | None = None


class HostPath(Value, frozen=True, tag="hostPath"):
    """A file or folder of the machine itself. `kind` is Kubernetes' hostPath type ("" = no check)."""

    path: str
    kind: str = ""


class ConfigFiles(Value, frozen=True, tag="config"):
    """A config's keys as files; all of them unless `items` picks some."""

    config: str
    items: tuple[KeyToPath, ...] = ()
    mode: int = 0o644
    optional: bool = False


class SecretFiles(Value, frozen=True, tag="secret"):
    """A secret's keys as files on memory-backed storage."""

    secret: str
    items: tuple[KeyToPath, ...] = ()
    mode: int = 0o644
    optional: bool = False


class DownwardFiles(Value, frozen=True, tag="downward"):
    """What the pod may know of itself, as files; they follow the pod's labels and annotations."""

    items: tuple[DownwardItem, ...]
    mode: int = 0o644


class Projected(Value, frozen=True, tag="projected"):
    """Several sources in one folder; each source's own `mode` is ignored."""

    sources: tuple[ConfigFiles | SecretFiles | DownwardFiles, ...]
    mode: int = 0o644


class ClaimFiles(Value, frozen=True, tag="claim"):
    """A persistent volume on this node's storage; `size` bytes are enforced. See `Claim`."""

    claim: str
    uid: str
    size: int
    read_only: bool = False


class NfsMount(Value, frozen=True, tag="nfs"):
    """A folder that an NFS server exports."""

    server: str
    path: str
    read_only: bool = False


VolumeSource = EmptyDir | HostPath | ConfigFiles | SecretFiles | DownwardFiles | Projected | ClaimFiles | NfsMount


class Volume(Value, frozen=True):
    name: str
    source: VolumeSource


class Claim(Value, frozen=True):
    """A persistent volume that lives on this node. It is deleted only when the desired document no longer lists it
    and no pod uses it; `uid` tells it from an earlier one of the same name."""

    namespace: str
    name: str
    uid: str
    size: int

    @property
    def title(self) -> str:
        return f"{self.namespace}/{self.name}"
