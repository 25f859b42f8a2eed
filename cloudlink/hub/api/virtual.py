"""Objects that are stored nowhere: worked out of others when kubectl asks for them.

Endpoints and EndpointSlices (what a Service reaches) and Leases (when a node was last heard of) for `kubectl
describe`. They aren't in discovery, because they can be neither watched nor written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloudlink.hub.api.answers import Answer, answer
from cloudlink.hub.api.selectors import SelectorError, label_requirements
from cloudlink.hub.store import Store
from cloudlink.kube.core import Node, Pod, Service, ServicePort
from cloudlink.kube.meta import matches

Document = dict[str, Any]

WORKED_OUT = ("Endpoints", "EndpointSlice", "Lease")  # kinds that are stored as well; what is worked out goes first
LEASES = "kube-node-lease"

_SERVICE_NAME = "kubernetes.io/service-name"
_LEASE_SECONDS = 40  # what kubelets use; here only for show


def virtual(store: Store, method: str, path: str, query: Mapping[str, str]) -> Answer | None:
    """The answer for a path of ours, None for every other path (and where there is nothing to tell)."""
    document: Document | None = None
    match (method, *path.strip("/").split("/")):
        case "GET", "api", "v1", "namespaces", namespace, "endpoints", name:
            document = _endpoints(store, namespace, name)
        case "GET", "apis", "discovery.k8s.io", "v1", "namespaces", namespace, "endpointslices":
            document = _slices(store, namespace, query.get("labelSelector", ""))
        case "GET", "apis", "coordination.k8s.io", "v1", "namespaces", namespace, "leases", name if namespace == LEASES:
            document = _lease(store, name)
        case _:
            pass
    return None if document is None else answer(document)


def _list(store: Store, api_version: str, kind: str, items: list[Document]) -> Document:
    metadata = {"resourceVersion": str(store.revision)}
    return {"kind": f"{kind}List", "apiVersion": api_version, "metadata": metadata, "items": items}


# ---------------------------------------------------------------- Services


def _pods(store: Store, service: Service) -> list[Pod]:
    """Those with an address that the Service selects; one without a selector selects none."""
    if not service.spec.selector:
        return []
    pods = [p for p in store.list("Pod", service.metadata.namespace) if isinstance(p, Pod)]
    return [p for p in pods if p.status.pod_ip and matches(service.spec.selector, p.metadata.labels)]


def _ready(pod: Pod) -> bool:
    ready = any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions)
    return ready and not pod.metadata.deletion_timestamp


def _target(port: ServicePort, pods: list[Pod]) -> int:
    """A named target port is looked up in the first pod that has it; 0 where none does."""
    if isinstance(port.target_port, int):
        return port.target_port
    ports = [p for pod in pods for c in pod.spec.containers for p in c.ports]
    return next((p.container_port for p in ports if p.name == port.target_port), 0)


def _ports(service: Service, pods: list[Pod]) -> list[Document]:
    return [  # with a name even where it is empty: kubectl describe falls over without
        {"name": p.name, "port": target, "protocol": p.protocol}
        for p in service.spec.ports
        if (target := _target(p, pods))
    ]


def _metadata(service: Service, name: str) -> Document:
    labels = {_SERVICE_NAME: service.metadata.name}
    meta = service.metadata
    return {
        "name": name,
        "namespace": meta.namespace,
        "labels": labels,
        "creationTimestamp": meta.creation_timestamp,
        "resourceVersion": meta.resource_version,
    }


def _endpoints(store: Store, namespace: str, name: str) -> Document | None:
    service = store.get("Service", namespace, name)
    if not isinstance(service, Service) or not service.spec.selector or store.get("Endpoints", namespace, name):
        return None
    pods = _pods(store, service)
    addresses: dict[bool, list[Document]] = {True: [], False: []}
    for pod in pods:
        addresses[_ready(pod)].append({"ip": pod.status.pod_ip, "nodeName": pod.spec.node_name, "targetRef": _ref(pod)})
    subset = {"ports": _ports(service, pods)}
    subset |= {k: v for k, v in (("addresses", addresses[True]), ("notReadyAddresses", addresses[False])) if v}
    return {
        "kind": "Endpoints",
        "apiVersion": "v1",
        "metadata": _metadata(service, name),
        "subsets": [subset] if pods else [],
    }


def _ref(pod: Pod) -> Document:
    return {"kind": "Pod", "namespace": pod.metadata.namespace, "name": pod.metadata.name, "uid": pod.metadata.uid}


def _slices(store: Store, namespace: str, selector: str) -> Document | None:
    try:
        wanted = label_requirements(selector)
    except SelectorError:
        return None
    if store.list("EndpointSlice", namespace):
        return None
    items: list[Document] = []
    for service in store.list("Service", namespace):
        labels = {_SERVICE_NAME: service.metadata.name}
        if not isinstance(service, Service) or not all(r.matches(labels) for r in wanted):
            continue
        pods = _pods(store, service)
        endpoints = [
            {
                "addresses": [pod.status.pod_ip],
                "conditions": {"ready": _ready(pod), "serving": _ready(pod)},
                "nodeName": pod.spec.node_name,
                "targetRef": _ref(pod),
            }
            for pod in pods
        ]
        items.append(
            {
                "metadata": _metadata(service, f"{service.metadata.name}-edged"),
                "addressType": "IPv4",
                "ports": _ports(service, pods),
                "endpoints": endpoints,
            }
        )
    return _list(store, "discovery.k8s.io/v1", "EndpointSlice", items)


# ---------------------------------------------------------------- Nodes


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
