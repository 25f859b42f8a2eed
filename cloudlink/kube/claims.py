"""core/v1 PersistentVolumeClaim: storage that outlives pods, on the disk of one node."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from cloudlink.kube.meta import Condition, KubeObject, Many, Model, Report, ResourceList

STORAGE_CLASS = "edged-local"
SELECTED_NODE = "volume.kubernetes.io/selected-node"  # annotation: where the data is; Kubernetes' own name
BINDING = frozenset({SELECTED_NODE, "pv.kubernetes.io/bind-completed", "pv.kubernetes.io/bound-by-controller"})
PROTECTION = "kubernetes.io/pvc-protection"  # finalizer: no pod may lose its data under its hands


class VolumeResourceRequirements(Model):
    """`requests.storage` is enforced as the volume's size. It may grow later, not shrink."""

    requests: ResourceList = Field(default={})

    unsupported: ClassVar = frozenset({"limits"})


class PersistentVolumeClaimSpec(Model):
    """:ivar access_modes: ReadWriteOnce (pods of one node) or ReadWriteOncePod: storage is local to a node.
    :ivar storage_class_name: "edged-local", "" or none: they all mean the node's own disk.
    :ivar volume_name: given by the hub once a node was chosen.
    """

    access_modes: Many[str] = ()
    resources: VolumeResourceRequirements = VolumeResourceRequirements()
    storage_class_name: str = STORAGE_CLASS
    volume_mode: Literal["Filesystem"] = "Filesystem"
    volume_name: str = ""

    unsupported: ClassVar = frozenset({"dataSource", "dataSourceRef", "selector", "volumeAttributesClassName"})


class PersistentVolumeClaimStatus(Report):
    phase: Literal["", "Pending", "Bound", "Lost"] = ""
    access_modes: Many[str] = ()
    capacity: ResourceList = Field(default={})
    conditions: Many[Condition] = ()


class PersistentVolumeClaim(KubeObject):
    """Bound to the node of the first pod that uses it, and only there from then on. Deleting it deletes its data, as
    soon as no pod uses it any more."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["PersistentVolumeClaim"] = "PersistentVolumeClaim"
    spec: PersistentVolumeClaimSpec = PersistentVolumeClaimSpec()
    status: PersistentVolumeClaimStatus = PersistentVolumeClaimStatus()

    @property
    def node(self) -> str:
        """Where its data is, or will be; "" while no pod has used it yet."""
        return self.metadata.annotations.get(SELECTED_NODE, "")

    @property
    def storage(self) -> str:
        """The quantity asked for."""
        return self.spec.resources.requests.get("storage", "0")
