"""Taints that the hub itself puts on nodes, and how long a pod stands a node's taints. Pure.

After k8s.io/api/core/v1 (well_known_taints.go), component-helpers/scheduling/corev1 (GetMatchingTolerations) and
pkg/controller/tainteviction (getMinTolerationTime).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cloudlink.kube.core import Taint, Toleration
from cloudlink.kube.placement import tolerates

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
MEMORY_PRESSURE = "node.kubernetes.io/memory-pressure"
DISK_PRESSURE = "node.kubernetes.io/disk-pressure"
PID_PRESSURE = "node.kubernetes.io/pid-pressure"
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"

OF_LIFE = frozenset({NOT_READY, UNREACHABLE})  # a node has one of them while it isn't Ready
PRESSURES = {"MemoryPressure": MEMORY_PRESSURE, "DiskPressure": DISK_PRESSURE, "PIDPressure": PID_PRESSURE}

FOREVER = float("inf")


def endures(taint: Taint, tolerations: Sequence[Toleration]) -> float:
    """Seconds for which a pod stands a taint of effect NoExecute: 0 where nothing tolerates it, FOREVER if unbounded.

    As in Kubernetes the first toleration that fits counts, whatever later ones say.
    """
    for toleration in tolerations:
        if tolerates((toleration,), taint):
            bound = toleration.toleration_seconds
            return FOREVER if bound is None else float(max(bound, 0))
    return 0.0


def executing(taints: Iterable[Taint]) -> list[Taint]:
    """Those that end pods which are there already."""
    return [t for t in taints if t.effect == "NoExecute"]
