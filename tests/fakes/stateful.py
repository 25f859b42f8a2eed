"""One StatefulSet with its pods and claims, in memory; every change goes by the store's own pure rules."""

from __future__ import annotations

import itertools
from typing import Any

from cloudlink.hub.changes import Create, Delete, MarkDeleted, ObjectChange, Update, UpdateStatus
from cloudlink.hub.controllers.history import REVISION_LABEL
from cloudlink.hub.controllers.identity import ordinal_of
from cloudlink.hub.controllers.statefulset import reconcile
from cloudlink.hub.decision import Decision, Note
from cloudlink.hub.objects import is_active, is_ready
from cloudlink.hub.revisions import draft
from cloudlink.hub.shelves import Objects, key_of
from cloudlink.kube.apps import ControllerRevision, StatefulSet
from cloudlink.kube.core import Namespace, PersistentVolumeClaim, Pod
from cloudlink.kube.meta import ObjectMeta
from cloudlink.kube.parse import parse
from tests.fakes.hub_brain import NOW, pod_spec, reported

CLAIM = {
    "metadata": {"name": "data"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
}


def stateful_set(replicas: int = 3, name: str = "db", **spec: Any) -> StatefulSet:
    document = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "serviceName": "peers",
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod_spec()},
            **spec,
        },
    }
    made = parse(document)
    assert isinstance(made, StatefulSet)
    return made


class Shelf:
    """:ivar lost: names of pods on a node that is away: one that is asked to end stays, and none is ready."""

    def __init__(self, wanted: StatefulSet) -> None:
        self.now, self.objects, self.revision = NOW, Objects(), 0
        self.lost: set[str] = set()
        self.broken_images: set[str] = set()  # pods with one of these never get ready
        self.notes: list[Note] = []
        self._uids = itertools.count(1)
        self.commit(Create(Namespace(metadata=ObjectMeta(name="default"))), Create(wanted))

    def commit(self, *changes: ObjectChange) -> None:
        work, _ = draft(self.objects, changes, self.revision, self.now, lambda: f"uid-{next(self._uids)}")
        for write in work.writes:
            if write.type == "DELETED":
                self.objects.remove(key_of(write.object))
            else:
                self.objects.put(write.object)
        self.revision = work.revision

    def all(self, kind: type[Any]) -> list[Any]:
        return self.objects.list(kind.__name__)

    @property
    def set(self) -> StatefulSet:
        [found] = self.all(StatefulSet)
        return found  # type: ignore[no-any-return]

    def pod(self, number: int) -> Pod | None:
        found = self.objects.get(("Pod", "default", f"{self.set.metadata.name}-{number}"))
        assert found is None or isinstance(found, Pod)
        return found

    def claim(self, name: str) -> PersistentVolumeClaim | None:
        found = self.objects.get(("PersistentVolumeClaim", "default", name))
        assert found is None or isinstance(found, PersistentVolumeClaim)
        return found

    def claims(self) -> list[str]:
        return [c.metadata.name for c in self.all(PersistentVolumeClaim)]

    def numbers(self) -> list[int]:
        """Of the pods that are there, in order of their names."""
        found = (ordinal_of(self.set, p.metadata.name) for p in self.all(Pod))
        return sorted(n for n in found if n is not None)

    def images(self) -> list[str]:
        pods = sorted(self.all(Pod), key=lambda p: ordinal_of(self.set, p.metadata.name) or 0)
        return [p.spec.containers[0].image for p in pods]

    # ------------------------------------------------------------ the controller

    def decide(self) -> Decision:
        revisions = self.all(ControllerRevision)
        taken = [r.metadata.name for r in revisions]
        return reconcile(self.set, self.all(Pod), self.claim, revisions, taken, self.now)

    def step(self) -> bool:
        """One decision; False if it changes nothing."""
        before, decision = self.revision, self.decide()
        self.commit(*decision.changes)
        self.notes += decision.notes
        return self.revision != before

    def settle(self) -> None:
        for _ in range(100):
            if not self.step():
                return
        raise AssertionError("it doesn't come to an end")

    # ------------------------------------------------------------ people

    def change(self, **spec: Any) -> None:
        wanted = self.set
        self.commit(Update(wanted.model_copy(update={"spec": wanted.spec.model_copy(update=spec)})))

    def use_image(self, image: str) -> None:
        template = self.set.spec.template
        [main] = template.spec.containers
        pods = template.spec.model_copy(update={"containers": (main.model_copy(update={"image": image}),)})
        self.change(template=template.model_copy(update={"spec": pods}))

    def remove(self, number: int) -> None:
        """kubectl delete pod"""
        self.commit(MarkDeleted("Pod", "default", f"{self.set.metadata.name}-{number}", 30))

    # ------------------------------------------------------------ nodes and the garbage collector

    def bind(self) -> None:
        for p in self.all(Pod):
            if is_active(p) and not p.spec.node_name:
                spec = p.spec.model_copy(update={"node_name": "pi"})
                self.commit(Update(p.model_copy(update={"spec": spec})))

    def report(self, number: int, ready: bool = True, phase: str = "Running") -> None:
        pod = self.pod(number)
        assert pod is not None
        self.commit(UpdateStatus(reported(pod, self.now, ready, phase)))

    def work(self) -> None:
        """What nodes do: one pod that was asked to end goes, or else the first that may gets ready."""
        self.bind()
        for p in self.all(Pod):
            if p.metadata.deletion_timestamp and p.metadata.name not in self.lost:
                self.commit(Delete("Pod", "default", p.metadata.name))
                return
        for p in self.all(Pod):
            broken = p.spec.containers[0].image in self.broken_images or p.metadata.name in self.lost
            if is_active(p) and not is_ready(p) and not broken:
                self.commit(UpdateStatus(reported(p, self.now)))
                return

    def collect_garbage(self) -> None:
        uids = {o.metadata.uid for kind in (Pod, StatefulSet) for o in self.all(kind)}
        for claim in self.all(PersistentVolumeClaim):
            owners = claim.metadata.owner_references
            if owners and all(r.uid not in uids for r in owners):
                self.commit(Delete(claim.kind, "default", claim.metadata.name))

    def run(self, rounds: int = 400) -> None:
        """Until nothing changes any more."""
        for _ in range(rounds):
            before = self.revision
            self.step()
            self.work()
            self.collect_garbage()
            if self.revision == before:
                return
        raise AssertionError("it doesn't come to an end")


def label(pod: Pod | None) -> str:
    return pod.metadata.labels.get(REVISION_LABEL, "") if pod is not None else ""
