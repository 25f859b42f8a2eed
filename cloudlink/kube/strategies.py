"""How lists and mappings of Kubernetes' types merge: the one table that strategic merge patch, server-side apply and
OpenAPI's x-kubernetes-* extensions go by. Pure.

The rows are the tags of Kubernetes' Go types (k8s.io/api: `listType`, `listMapKey`, `structType`, `mapType`,
`patchStrategy`, `patchMergeKey`), by the names of our models; a model inherits the rows of its bases. What is not here
is what Kubernetes takes for granted: lists change as a whole, mappings key by key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cloudlink.kube.meta import Model

ListType = Literal["atomic", "set", "map"]


@dataclass(frozen=True, slots=True)
class Strategy:
    """How one field merges.

    :ivar list_type: `x-kubernetes-list-type`: whose items have owners of their own under server-side apply.
    :ivar keys: `x-kubernetes-list-map-keys`, what tells the items of a "map" apart.
    :ivar patch: `x-kubernetes-patch-strategy`: "merge", "retainKeys" (of a mapping only one alternative may be set),
        "merge,retainKeys", "replace" or "".
    :ivar patch_key: `x-kubernetes-patch-merge-key`; "" for a list of plain values that merges as a set.
    :ivar atomic: of a mapping: it changes as a whole under server-side apply (`x-kubernetes-map-type: atomic`).
    """

    list_type: ListType = "atomic"
    keys: tuple[str, ...] = ()
    patch: str = ""
    patch_key: str = ""
    atomic: bool = False

    @property
    def merges(self) -> bool:
        """Whether a strategic merge patch merges this list; otherwise it replaces it."""
        return "merge" in self.patch.split(",")


def _map(*keys: str, patch: str = "merge") -> Strategy:
    """A list whose items are told apart by these keys; a strategic merge patch looks at the first only."""
    return Strategy("map", keys, patch, keys[0])


_NAME = _map("name")
_TYPE = _map("type")
_DEVICES = _map("devicePath")
_PORTS = _map("containerPort", "protocol")
_PODS_OWN = _map("name", patch="merge,retainKeys")
_SET = Strategy("set", patch="merge")
_ONLY_APPLIED_AS_SET = Strategy("set")  # a strategic merge patch replaces it
_ATOMIC_MAPPING = Strategy(atomic=True)
_PLAIN = Strategy()

STRATEGIES: Mapping[tuple[str, str], Strategy] = {
    ("ObjectMeta", "ownerReferences"): _map("uid"),
    ("ObjectMeta", "finalizers"): _SET,
    # core/v1
    ("PodSpec", "containers"): _NAME,
    ("PodSpec", "initContainers"): _NAME,
    ("PodSpec", "ephemeralContainers"): _NAME,
    ("PodSpec", "imagePullSecrets"): _NAME,
    ("PodSpec", "schedulingGates"): _NAME,
    ("PodSpec", "hostAliases"): _map("ip"),
    ("PodSpec", "volumes"): _PODS_OWN,
    ("PodSpec", "resourceClaims"): _PODS_OWN,
    ("PodSpec", "topologySpreadConstraints"): _map("topologyKey", "whenUnsatisfiable"),
    ("PodSpec", "nodeSelector"): _ATOMIC_MAPPING,
    ("Container", "ports"): _PORTS,
    ("Container", "env"): _NAME,
    ("Container", "volumeMounts"): _map("mountPath"),
    ("Container", "volumeDevices"): _DEVICES,
    ("EphemeralContainer", "ports"): _PORTS,
    ("EphemeralContainer", "env"): _NAME,
    ("EphemeralContainer", "volumeMounts"): _map("mountPath"),
    ("EphemeralContainer", "volumeDevices"): _DEVICES,
    ("ResourceRequirements", "claims"): Strategy("map", ("name",)),
    ("ServiceSpec", "ports"): _map("port", "protocol"),
    ("ServiceSpec", "selector"): _ATOMIC_MAPPING,
    ("ReplicationControllerSpec", "selector"): _ATOMIC_MAPPING,
    ("ServiceAccount", "secrets"): _NAME,
    ("NodeSpec", "podCIDRs"): _SET,
    ("PodStatus", "conditions"): _TYPE,
    ("PodStatus", "podIPs"): _map("ip"),
    ("PodStatus", "hostIPs"): Strategy(patch="merge", patch_key="ip"),
    ("PodStatus", "resourceClaimStatuses"): _PODS_OWN,
    ("ContainerStatus", "volumeMounts"): _map("mountPath"),
    ("NodeStatus", "conditions"): _TYPE,
    ("NodeStatus", "addresses"): _TYPE,
    ("NamespaceStatus", "conditions"): _TYPE,
    ("ServiceStatus", "conditions"): _TYPE,
    ("PersistentVolumeClaimStatus", "conditions"): _TYPE,
    ("ReplicationControllerStatus", "conditions"): _TYPE,
    # apps/v1, batch/v1, discovery.k8s.io/v1, policy/v1
    ("DeploymentSpec", "strategy"): Strategy(patch="retainKeys"),
    ("DeploymentStatus", "conditions"): _TYPE,
    ("ReplicaSetStatus", "conditions"): _TYPE,
    ("DaemonSetStatus", "conditions"): _TYPE,
    ("StatefulSetStatus", "conditions"): _TYPE,
    ("JobStatus", "conditions"): Strategy(patch="merge", patch_key="type"),
    ("UncountedTerminatedPods", "succeeded"): _ONLY_APPLIED_AS_SET,
    ("UncountedTerminatedPods", "failed"): _ONLY_APPLIED_AS_SET,
    ("PodFailurePolicyOnExitCodesRequirement", "values"): _ONLY_APPLIED_AS_SET,
    ("Endpoint", "addresses"): _ONLY_APPLIED_AS_SET,
    ("PodDisruptionBudgetSpec", "selector"): Strategy(patch="replace"),
    ("PodDisruptionBudgetStatus", "conditions"): _TYPE,
    # apiextensions.k8s.io/v1
    ("CustomResourceDefinitionStatus", "conditions"): Strategy("map", ("type",)),
    ("JSONSchemaProps", "x-kubernetes-validations"): _map("rule"),
}

# Mappings that change as a whole wherever they stand (`structType=atomic`).
ATOMIC_TYPES = frozenset(
    {"CrossVersionObjectReference", "EndpointAddress", "EndpointPort", "EndpointsPort", "KeySelector", "LabelSelector"}
    | {"LocalObjectReference", "NodeSelector", "NodeSelectorTerm", "ObjectFieldSelector", "ObjectReference"}
    | {"OwnerReference", "ResourceFieldSelector", "RoleRef", "ScopeSelector", "SecretReference", "ServiceBackendPort"}
    | {"Subject", "TopologySelectorTerm", "TypedLocalObjectReference"}
    | {"ConfigMapKeySelector", "FileKeySelector", "SecretKeySelector"}
)


def strategy_of(model: type[Model], field: str) -> Strategy:
    """How a field of a model merges; `field` is its name in documents."""
    for base in model.__mro__:
        if (found := STRATEGIES.get((base.__name__, field))) is not None:
            return found
    return _PLAIN


def is_atomic(model: type[Model]) -> bool:
    """Whether its mappings change as a whole under server-side apply."""
    return any(base.__name__ in ATOMIC_TYPES for base in model.__mro__)


def merge_extensions(model: type[Model], field: str, is_list: bool) -> dict[str, object]:
    """The x-kubernetes-* extensions of a field's OpenAPI schema."""
    strategy = strategy_of(model, field)
    told: dict[str, object] = {}
    if is_list:
        told["x-kubernetes-list-type"] = strategy.list_type
        if strategy.list_type == "map":
            told["x-kubernetes-list-map-keys"] = list(strategy.keys)
    elif strategy.atomic:
        told["x-kubernetes-map-type"] = "atomic"
    if strategy.patch:
        told["x-kubernetes-patch-strategy"] = strategy.patch
    if strategy.patch_key:
        told["x-kubernetes-patch-merge-key"] = strategy.patch_key
    return told
