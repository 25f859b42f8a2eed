"""Objects that are stored nowhere: worked out of others when kubectl asks for them.

A node's Lease (when it was last heard of), for `kubectl describe node`: a heartbeat must not write to the disk.
"""

from __future__ import annotations

from typing import Any

from cloudlink.hub.api.answers import Answer, answer
from cloudlink.hub.store import Store
from cloudlink.kube.core import Node

Document = dict[str, Any]

WORKED_OUT = ("Lease",)  # kinds that are stored as well; what is worked out goes first
LEASES = "kube-node-lease"

_LEASE_SECONDS = 40  # what kubelets use; here only for show


def virtual(store: Store, method: str, path: str) -> Answer | None:
    """The answer for a path of ours, None for every other path (and where there is nothing to tell)."""
    document: Document | None = None
    match (method, *path.strip("/").split("/")):
        case "GET", "apis", "coordination.k8s.io", "v1", "namespaces", namespace, "leases", name if namespace == LEASES:
            document = _lease(store, name)
        case _:
            pass
    return None if document is None else answer(document)


def _lease(store: Store, name: str) -> Document | None:
    node = store.get("Node", None, name)
    if not isinstance(node, Node):
        return None
    heard = next((c.last_heartbeat_time for c in node.status.conditions if c.type == "Ready"), "")
    spec: Document = {"holderIdentity": name, "leaseDurationSeconds": _LEASE_SECONDS}
    if heard:
        spec["renewTime"] = heard.removesuffix("Z").partition(".")[0] + ".000000Z"  # metav1.MicroTime
    metadata = {"name": name, "namespace": "kube-node-lease", "resourceVersion": node.metadata.resource_version}
    return {"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": metadata, "spec": spec}
