"""core/v1 Container and its resources."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from cloudlink.kube.affinity import ContainerResizePolicy
from cloudlink.kube.env import EnvFromSource, EnvVar
from cloudlink.kube.meta import Many, Model, ResourceList, put
from cloudlink.kube.probes import Lifecycle, Probe
from cloudlink.kube.security import SecurityContext
from cloudlink.kube.volumes import VolumeMount

Protocol = Literal["TCP", "UDP"]

DEVICE_PREFIX = "edged.dev/"  # of extended resources: edged.dev/<device name>


class ContainerPort(Model):
    """:ivar host_port: a port of the machine that leads here; with hostNetwork the same as `containerPort`.
    :ivar host_ip: the machine's address that it is opened on; all of them by default.
    """

    container_port: int
    name: str = ""
    protocol: Protocol = "TCP"
    host_port: int = 0
    host_ip: str = ""


class ResourceRequirements(Model):
    """A request that is not given is the limit.

    :ivar limits: memory, cpu, ephemeral-storage, and `edged.dev/<device name>: 1` for a device of the board.
    :ivar requests: the same names; for devices equal to the limit.
    """

    limits: ResourceList = Field(default={})
    requests: ResourceList = Field(default={})

    unsupported: ClassVar = frozenset({"claims"})

    @model_validator(mode="after")
    def _requests_default_to_limits(self) -> ResourceRequirements:
        if self.limits.keys() - self.requests.keys():
            put(self, requests=self.limits | self.requests)
        return self


def default_pull_policy(image: str) -> Literal["Always", "IfNotPresent"]:
    """Kubernetes': Always for :latest and for no tag at all."""
    if "@" in image:
        return "IfNotPresent"
    tag = image.rpartition("/")[2].partition(":")[2]
    return "IfNotPresent" if tag and tag != "latest" else "Always"


class Container(Model):
    """One of `containers`, or of `initContainers`.

    :ivar restart_policy: of init containers only: Always makes a sidecar, which is started in its turn and stays.
    :ivar liveness_probe, readiness_probe, startup_probe, lifecycle: of init containers only for sidecars.
    :ivar image_pull_policy: by default Always for the tag latest or none, else IfNotPresent. Always asks the registry
        for each new pod; what is here is used where it can't be reached.
    :ivar resize_policy: kept; resources of a running container don't change.
    :ivar termination_message_path: what the container writes there is shown as the message of its end.
    :ivar stdin: `kubectl attach -i` reaches its standard input; with stdinOnce that ends when the first one leaves.
    """

    name: str
    image: str = ""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    command: Many[str] = ()
    args: Many[str] = ()
    working_dir: str = ""
    ports: Many[ContainerPort] = ()
    env: Many[EnvVar] = ()
    env_from: Many[EnvFromSource] = ()
    resources: ResourceRequirements = ResourceRequirements()
    volume_mounts: Many[VolumeMount] = ()
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle | None = None
    restart_policy: Literal["Always"] | None = None
    termination_message_path: str = "/dev/termination-log"
    termination_message_policy: Literal["File", "FallbackToLogsOnError"] = "File"
    security_context: SecurityContext | None = None
    resize_policy: Many[ContainerResizePolicy] = ()
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False

    unsupported: ClassVar = frozenset({"restartPolicyRules", "volumeDevices"})
    why_not: ClassVar = {
        "volumeDevices": "claims are file systems here; claim a board's own device by resources.limits edged.dev/..."
    }

    @model_validator(mode="after")
    def _defaults(self) -> Container:
        if self.image_pull_policy is None:
            put(self, image_pull_policy=default_pull_policy(self.image))
        if not self.termination_message_path:
            put(self, termination_message_path="/dev/termination-log")
        return self

    @property
    def is_sidecar(self) -> bool:
        """Among init containers: it keeps running beside the others."""
        return self.restart_policy == "Always"
