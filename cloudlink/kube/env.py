"""core/v1: where a container's environment variables come from, and references to a pod's own fields."""

from __future__ import annotations

from typing import ClassVar

from cloudlink.kube.meta import Model, Quantity


class KeySelector(Model):
    """One key of a ConfigMap or Secret of the pod's namespace.

    :ivar optional: a missing object or key leaves the variable unset instead of holding up the container.
    """

    name: str
    key: str
    optional: bool = False


class ObjectFieldSelector(Model):
    """A field of the pod itself.

    :ivar field_path: metadata.name, metadata.namespace, metadata.uid, metadata.labels['key'],
        metadata.annotations['key'], spec.nodeName, spec.serviceAccountName, status.hostIP, status.hostIPs,
        status.podIP, status.podIPs; in a volume also metadata.labels and metadata.annotations as a whole, and none
        of spec and status.
    """

    api_version: str = "v1"
    field_path: str


class ResourceFieldSelector(Model):
    """A request or limit as a number, divided by `divisor` and rounded up; a limit that isn't set is what the node
    has for pods.

    :ivar resource: limits.cpu, limits.memory, limits.ephemeral-storage, or the same of requests.
    :ivar container_name: whose; in an environment variable by default its own.
    """

    container_name: str = ""
    resource: str
    divisor: Quantity = "0"


class EnvVarSource(Model):
    """Exactly one of them."""

    field_ref: ObjectFieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None
    config_map_key_ref: KeySelector | None = None
    secret_key_ref: KeySelector | None = None

    unsupported: ClassVar = frozenset({"fileKeyRef"})


class EnvVar(Model):
    """`$(NAME)` in `value` stands for a variable defined above it; `$$` for one dollar."""

    name: str
    value: str = ""
    value_from: EnvVarSource | None = None


class EnvFromRef(Model):
    name: str
    optional: bool = False


class EnvFromSource(Model):
    """Every key of a ConfigMap or Secret as a variable; exactly one of the references."""

    prefix: str = ""
    config_map_ref: EnvFromRef | None = None
    secret_ref: EnvFromRef | None = None
