"""core/v1 Node: a board, what it can give, and who may run there."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from cloudlink.kube.meta import Condition, KubeObject, Many, Model, Report, ResourceList


class Taint(Model):
    key: str
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]
    time_added: str = ""


class NodeSpec(Model):
    unschedulable: bool = False
    taints: Many[Taint] = ()
    pod_cidr: str = ""
    pod_cidrs: Many[str] = ()
    provider_id: str = ""

    unsupported: ClassVar = frozenset({"configSource", "externalID"})


class NodeCondition(Condition):
    always: ClassVar = frozenset()

    last_heartbeat_time: str = ""


class NodeAddress(Report):
    type: str
    address: str


class NodeSystemInfo(Report):
    always: ClassVar = frozenset(
        {
            "architecture",
            "boot_id",
            "container_runtime_version",
            "kernel_version",
            "kube_proxy_version",
            "kubelet_version",
            "machine_id",
            "operating_system",
            "os_image",
            "system_uuid",
        }
    )

    machine_id: str = ""
    system_uuid: str = ""
    boot_id: str = ""
    kernel_version: str = ""
    os_image: str = ""
    container_runtime_version: str = ""
    kubelet_version: str = ""
    kube_proxy_version: str = ""
    operating_system: str = "linux"
    architecture: str = ""


class ContainerImage(Report):
    """An image that a node has; `sizeBytes` counts layers that others share, too."""

    names: Many[str] = ()
    size_bytes: int = 0


class NodeStatus(Report):
    capacity: ResourceList = Field(default={})
    allocatable: ResourceList = Field(default={})
    conditions: Many[NodeCondition] = ()
    addresses: Many[NodeAddress] = ()
    node_info: NodeSystemInfo = NodeSystemInfo()
    images: Many[ContainerImage] = ()


class Node(KubeObject):
    api_version: Literal["v1"] = "v1"
    kind: Literal["Node"] = "Node"
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()
