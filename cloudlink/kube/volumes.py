"""core/v1: what a pod keeps its files in, and where its containers see them."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from cloudlink.kube.env import ObjectFieldSelector, ResourceFieldSelector
from cloudlink.kube.meta import Many, Model, Quantity, put


class VolumeMount(Model):
    """:ivar sub_path: a path inside the volume; such a mount doesn't follow changes of a ConfigMap or Secret.
    :ivar sub_path_expr: the same with `$(VAR)` replaced; only one of the two.
    :ivar mount_propagation: Bidirectional is for privileged containers.
    """

    name: str
    mount_path: str
    read_only: bool = False
    sub_path: str = ""
    sub_path_expr: str = ""
    mount_propagation: Literal["None", "HostToContainer", "Bidirectional"] | None = None

    unsupported: ClassVar = frozenset({"recursiveReadOnly"})


class EmptyDirVolume(Model):
    """Scratch space that lives as long as the pod.

    :ivar medium: "Memory" is a tmpfs, counted as memory of the containers that write there.
    :ivar size_limit: a tmpfs can't grow beyond it; on disk the pod is evicted.
    """

    medium: Literal["", "Memory"] = ""
    size_limit: Quantity | None = None


class HostPathVolume(Model):
    """A file or folder of the machine itself."""

    path: str
    type: Literal[
        "", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"
    ] = ""


class KeyToPath(Model):
    """:ivar mode: permission bits; YAML takes 0640, JSON 416."""

    key: str
    path: str
    mode: int | None = None


class ConfigMapVolume(Model):
    """Keys as files; changes reach running pods, all at once."""

    name: str
    items: Many[KeyToPath] = ()
    default_mode: int = 0o644
    optional: bool = False


class SecretVolume(Model):
    """As a ConfigMap's, on memory-backed storage."""

    secret_name: str
    items: Many[KeyToPath] = ()
    default_mode: int = 0o644
    optional: bool = False


class DownwardAPIVolumeFile(Model):
    """Exactly one of the references."""

    path: str
    field_ref: ObjectFieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None
    mode: int | None = None


class DownwardAPIVolume(Model):
    """What the pod may know of itself, as files; they follow the pod's labels and annotations."""

    items: Many[DownwardAPIVolumeFile] = ()
    default_mode: int = 0o644


class ConfigMapProjection(Model):
    name: str
    items: Many[KeyToPath] = ()
    optional: bool = False


class SecretProjection(Model):
    name: str
    items: Many[KeyToPath] = ()
    optional: bool = False


class DownwardAPIProjection(Model):
    items: Many[DownwardAPIVolumeFile] = ()


class VolumeProjection(Model):
    """Exactly one source."""

    config_map: ConfigMapProjection | None = None
    secret: SecretProjection | None = None
    downward_api: DownwardAPIProjection | None = None

    unsupported: ClassVar = frozenset({"clusterTrustBundle", "podCertificate", "serviceAccountToken"})
    why_not: ClassVar = {
        "serviceAccountToken": "pods here have no Kubernetes API to call; remove it"
        " (volumes named kube-api-access-... are another cluster's own)"
    }


class ProjectedVolume(Model):
    """Several sources in one folder."""

    sources: Many[VolumeProjection] = ()
    default_mode: int = 0o644


class PersistentVolumeClaimVolume(Model):
    """A claim of the pod's namespace; the pod runs where the claim's data is."""

    claim_name: str
    read_only: bool = False


class NFSVolume(Model):
    """A folder that an NFS server exports; the node mounts it."""

    server: str
    path: str
    read_only: bool = False


class Volume(Model):
    """A name and exactly one source; no source at all is an emptyDir, as in Kubernetes."""

    name: str
    empty_dir: EmptyDirVolume | None = None
    host_path: HostPathVolume | None = None
    config_map: ConfigMapVolume | None = None
    secret: SecretVolume | None = None
    downward_api: DownwardAPIVolume | None = None
    projected: ProjectedVolume | None = None
    persistent_volume_claim: PersistentVolumeClaimVolume | None = None
    nfs: NFSVolume | None = None

    unsupported: ClassVar = frozenset(
        {"awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "csi", "ephemeral"}
        | {"fc", "flexVolume", "flocker", "gcePersistentDisk", "gitRepo", "glusterfs", "image", "iscsi"}
        | {"photonPersistentDisk", "portworxVolume", "quobyte", "rbd", "scaleIO", "storageos", "vsphereVolume"}
    )
    why_not: ClassVar = {
        "csi": "there are no storage drivers here; use persistentVolumeClaim, hostPath or nfs",
        "ephemeral": "use emptyDir, or a PersistentVolumeClaim of its own",
    }

    @property
    def sources(self) -> tuple[object, ...]:
        """Those that are given; one, once it is valid."""
        every = (self.empty_dir, self.host_path, self.config_map, self.secret, self.downward_api, self.projected)
        return tuple(s for s in (*every, self.persistent_volume_claim, self.nfs) if s is not None)

    @model_validator(mode="after")
    def _empty_dir_by_default(self) -> Volume:
        if not self.sources:
            put(self, empty_dir=EmptyDirVolume())
        return self
