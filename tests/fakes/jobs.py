"""Jobs in memory, whose pods end as a test says; every change by the store's own rules."""

from __future__ import annotations

import itertools
from typing import Any

from cloudlink.hub.changes import Create, Delete, ObjectChange, Update, UpdateStatus
from cloudlink.hub.controllers import garbage
from cloudlink.hub.controllers.job import reconcile
from cloudlink.hub.decision import Decision, Note
from cloudlink.hub.deletion import deletion
from cloudlink.hub.objects import is_active, rfc3339
from cloudlink.hub.revisions import draft
from cloudlink.hub.shelves import Objects, key_of
from cloudlink.kube.batch import Job, JobStatus
from cloudlink.kube.core import Namespace, Pod
from cloudlink.kube.meta import ObjectMeta
from cloudlink.kube.parse import parse
from cloudlink.kube.pod import ContainerState, ContainerStateTerminated, ContainerStatus
from tests.fakes.hub_brain import NOW, names, node, pod_spec, reported


def job(name: str = "sum", restart: str = "Never", annotations: dict[str, str] | None = None, **spec: Any) -> Job:
    template = {"metadata": {"labels": {"app": name}}, "spec": pod_spec(restartPolicy=restart)}
    meta = {"name": name, "namespace": "default", "annotations": annotations or {}}
    made = parse({"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": {"template": template, **spec}})
    assert isinstance(made, Job)
    return made


class Store:
    """The store's rules over objects in memory, and a clock."""

    def __init__(self) -> None:
        self.now, self.objects, self.revision = NOW, Objects(), 0
        self._uids, self.suffix = itertools.count(1), names()
        self.commit(Create(Namespace(metadata=ObjectMeta(name="default"))))

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


class Work(Store):
    """One Job and its pods.

    :ivar ended: uid of each pod that ended, and how; for checking the counts.
    """

    def __init__(self, wanted: Job) -> None:
        super().__init__()
        self.ended: dict[str, str] = {}
        self.notes: list[Note] = []
        self.wake_at = float("inf")
        self.commit(Create(wanted))

    @property
    def job(self) -> Job:
        [found] = self.all(Job)
        return found  # type: ignore[no-any-return]

    @property
    def status(self) -> JobStatus:
        return self.job.status

    @property
    def pods(self) -> list[Pod]:
        return self.all(Pod)

    @property
    def active(self) -> list[Pod]:
        return [p for p in self.pods if is_active(p)]

    def change(self, **spec: Any) -> None:
        self.commit(Update(self.job.model_copy(update={"spec": self.job.spec.model_copy(update=spec)})))

    def conditions(self) -> dict[str, str]:
        """Of those that hold: type -> reason."""
        return {c.type: c.reason for c in self.status.conditions if c.status == "True"}

    def ask(self) -> Decision:
        return reconcile(self.job, self.pods, self.now, self.suffix)

    def step(self) -> bool:
        """The Job's controller and the pod garbage collector, once."""
        before = self.revision
        decision = self.ask()
        self.commit(*decision.changes)
        self.notes += decision.notes
        self.wake_at = decision.wake_at
        for pod in self.pods:
            self.commit(*garbage.lost_pod(pod, node()).changes)
        return self.revision != before

    def settle(self) -> None:
        for _ in range(100):
            if not self.all(Job) or not self.step():
                return
        raise AssertionError("the controller doesn't come to an end")

    def wait(self) -> None:
        """Until it is the controller's turn again, were nothing to happen."""
        self.settle()
        assert self.now < self.wake_at < float("inf")
        self.now = self.wake_at
        self.settle()

    # ------------------------------------------------------------ the node

    def bind(self, pod: Pod) -> Pod:
        if not pod.spec.node_name:
            self.commit(Update(pod.model_copy(update={"spec": pod.spec.model_copy(update={"node_name": "pi"})})))
        [found] = [p for p in self.pods if p.metadata.uid == pod.metadata.uid]
        return found

    def run(self, pod: Pod, restarts: int = 0) -> None:
        told = ContainerStatus(name="main", ready=True, restart_count=restarts, image="demo:1")
        self._report(self.bind(pod), "Running", told)

    def end(self, pod: Pod, code: int = 0) -> None:
        """Its only container ends, and isn't restarted."""
        pod = self.bind(pod)
        ended = ContainerStateTerminated(exit_code=code, finished_at=rfc3339(self.now))
        state = ContainerState(terminated=ended)
        told = ContainerStatus(name="main", ready=False, restart_count=0, image="demo:1", state=state)
        self.ended.setdefault(pod.metadata.uid, "Failed" if code else "Succeeded")
        self._report(pod, "Failed" if code else "Succeeded", told)

    def _report(self, pod: Pod, phase: str, told: ContainerStatus) -> None:
        pod = reported(pod, self.now, phase == "Running", phase)
        status = pod.status.model_copy(update={"container_statuses": (told,)})
        self.commit(UpdateStatus(pod.model_copy(update={"status": status})))

    def delete(self, pod: Pod) -> None:
        """As `kubectl delete pod` does."""
        if (change := deletion(pod)) is not None:
            self.commit(change)

    def take_away(self) -> None:
        """The node is through with all pods that it was asked to end."""
        for pod in self.pods:
            if pod.metadata.deletion_timestamp:
                self.commit(Delete("Pod", "default", pod.metadata.name, uid=pod.metadata.uid))
