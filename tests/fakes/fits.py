"""A hub in memory whose nodes do what they are told at once: what `fit` foresees, and what then really happens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cloudlink.hub import admission
from cloudlink.hub.api.server import create_app
from cloudlink.hub.auth.authority import bootstrap
from cloudlink.hub.changes import Change, Create, Delete, UpdateStatus
from cloudlink.hub.foresight import Foresight
from cloudlink.hub.manager import Manager
from cloudlink.hub.objects import controller_of
from cloudlink.hub.schedule.sizes import asked
from cloudlink.hub.store import Store
from cloudlink.kube.core import Node, Pod
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.parse import parse
from cloudlink.kube.quantity import to_int
from tests.fakes.hub_brain import Clock, names, reported
from tests.fakes.hub_client import TOKEN, Client

Document = dict[str, Any]

_PLURALS = {"PriorityClass": "priorityclasses"}
_ROOTS = {"Pod": "/api/v1", "ReplicationController": "/api/v1", "Namespace": "/api/v1"}
_GROUPS = {"Job": "batch/v1", "CronJob": "batch/v1", "PriorityClass": "scheduling.k8s.io/v1"}


def workload(kind: str, name: str, memory: str = "", replicas: int = 1, **pod: Any) -> Document:
    """A manifest of any kind that has pods, each with one container."""
    labels = {"app": name}
    annotations = pod.pop("annotations", {})
    resources: dict[str, Any] = {"requests": {"memory": memory}} if memory else {}
    spec: Document = {"containers": [{"name": "main", "image": "demo:1", "resources": resources}], **pod}
    meta: Document = {"name": name, "namespace": "default"}
    version = "v1" if kind in ("Pod", "ReplicationController") else _GROUPS.get(kind, "apps/v1")
    head: Document = {"apiVersion": version, "kind": kind, "metadata": meta}
    template: Document = {"metadata": {"labels": labels, "annotations": annotations}, "spec": spec}
    match kind:
        case "Pod":
            return {**head, "metadata": {**meta, **template["metadata"]}, "spec": spec}
        case "Job":
            spec["restartPolicy"] = "Never"
            return {**head, "spec": {"parallelism": replicas, "template": template}}
        case "CronJob":
            job = workload("Job", name, memory, replicas, **pod)
            return {**head, "spec": {"schedule": "0 3 * * *", "jobTemplate": {"spec": job["spec"]}}}
        case "ReplicationController":
            return {**head, "spec": {"replicas": replicas, "selector": labels, "template": template}}
    body: Document = {"selector": {"matchLabels": labels}, "template": template}
    if kind != "DaemonSet":
        body["replicas"] = replicas
    if kind == "StatefulSet":
        body["serviceName"] = name
    return {**head, "spec": body}


class Place:
    """One hub. `fit` changes nothing; `apply` lets everything happen that follows."""

    def __init__(self, *nodes: Node) -> None:
        self.clock = Clock()
        self.store = Store.open("sqlite://", self.clock)
        bootstrap(self.store)

        def admit(new: KubeObject, old: KubeObject | None) -> None:
            admission.check_size(new, old, self.store.list("Node"))

        app = create_app(self.store, {TOKEN: "root"}.get, admit=admit, now=self.clock, foresee=Foresight())
        self.client = Client(app)
        for node in nodes:
            self.store.commit([Create(node), UpdateStatus(node)])
        self.manager = Manager(self.store, self.clock, names())
        self.live()

    def ask(self, manifest: object, namespace: str = "default", **headers: str) -> tuple[int, Document]:
        """A manifest as text, as one document or as several; None = how the fleet is packed."""
        documents = manifest if isinstance(manifest, list) else [manifest]
        text = manifest if isinstance(manifest, str) else "\n---\n".join(map(json.dumps, documents))
        body = {"apiVersion": "edged.dev/v1", "kind": "Fit", "spec": {"manifest": text if manifest else ""}}
        path = f"/apis/edged.dev/v1/namespaces/{namespace}/fits"
        headers = {"content-type": "application/json", **headers}
        answer = self.client.raw("POST", path, json.dumps(body).encode(), headers=headers)
        return answer.status_code, json.loads(answer.content)

    def fit(self, manifest: object, namespace: str = "default") -> Document:
        code, answer = self.ask(manifest, namespace)
        assert code == 201, answer
        status: Document = answer["status"]
        return status

    def apply(self, document: Document) -> bool:
        """False where it is refused because no node is large enough."""
        kind, meta = document["kind"], document["metadata"]
        root = _ROOTS.get(kind) or f"/apis/{document['apiVersion']}"
        space = f"/namespaces/{meta['namespace']}" if "namespace" in meta else ""
        plural = _PLURALS.get(kind, f"{kind.lower()}s")
        path = f"{root}{space}/{plural}/{meta['name']}?fieldManager=edgectl&force=true"
        code, answer = self.client.request("PATCH", path, document, "application/apply-patch+yaml")
        assert code in (200, 201) or "allocatable" in answer["message"], answer
        self.live()
        return code != 422

    def live(self) -> None:
        """Until nothing is left to do: pods start and become ready, pods that are to end are gone."""
        for _ in range(500):
            self.manager.settle()
            if not (changes := list(self._news_of_nodes())):
                return
            self.store.commit(changes)
        raise AssertionError("it doesn't come to an end")

    def _news_of_nodes(self) -> Iterator[Change]:
        admitted: list[Pod] = []
        for pod in self.pods():
            if pod.metadata.deletion_timestamp:
                yield Delete("Pod", pod.metadata.namespace, pod.metadata.name)
            elif pod.spec.node_name and pod.status.phase == "Pending":
                fits = self._has_room(pod, admitted)
                admitted += [pod] if fits else []
                yield UpdateStatus(reported(pod, self.clock.now, fits, "Running" if fits else "Failed"))

    def _has_room(self, pod: Pod, admitted: list[Pod]) -> bool:
        node = self.store.get("Node", None, pod.spec.node_name)
        assert isinstance(node, Node)
        there = [p for p in self.pods() if p.status.phase == "Running"] + [*admitted, pod]
        here = [p for p in there if p.spec.node_name == pod.spec.node_name]
        taken = sum(to_int(asked(p.spec.containers[0], "memory")) for p in here)
        return taken <= to_int(node.status.allocatable["memory"])

    def pods(self, app: str = "") -> list[Pod]:
        pods = [p for p in self.store.list("Pod") if isinstance(p, Pod)]
        return [p for p in pods if not app or p.metadata.labels.get("app") == app]

    def root(self, pod: Pod) -> str:
        """kind/name of what a person wrote."""
        obj: Any = pod
        while (owner := controller_of(obj)) is not None:
            above = self.store.get(owner.kind, pod.metadata.namespace, owner.name)
            if above is None:
                break
            obj = above
        return f"{obj.kind}/{obj.metadata.name}"

    def priority(self, name: str, value: int) -> None:
        head = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}}
        self.store.commit([Create(parse({**head, "value": value}))])


@contextmanager
def a_place(*nodes: Node) -> Iterator[Place]:
    place = Place(*nodes)
    try:
        yield place
    finally:
        place.store.close()
