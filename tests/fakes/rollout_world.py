"""A Deployment among people and boards that do as they like: what a property test of rollouts drives.

Pods behave as their image's name says ("crash:7" crashes); the controllers are the real ones, over a Cluster.
"""

from __future__ import annotations

import re

from cloudlink.hub.changes import Delete, MarkDeleted, Update, UpdateStatus
from cloudlink.hub.controllers.family import REVISION, number, revision_of
from cloudlink.hub.controllers.rollout import bounds
from cloudlink.hub.controllers.waves import read_state
from cloudlink.hub.objects import available_at, find_condition, is_ready, rfc3339, with_condition, without_hash
from cloudlink.kube.annotations import CONFIRM, RESTORED, SUCCEEDED, WAVES
from cloudlink.kube.apps import Deployment, ReplicaSet
from cloudlink.kube.core import Pod, PodCondition
from cloudlink.kube.pod import ContainerStatus
from cloudlink.kube.rollouts import policy_of
from tests.fakes.hub_brain import Cluster, with_meta
from tests.fakes.rollouts import image_of

GOOD = "good"
BAD = ("crash", "flash", "hungry", "missing", "slow")
NATURES = (GOOD, *BAD)
NOT_COPIED = ("kubectl.kubernetes.io/", "deployment.kubernetes.io/")  # by kubectl rollout undo
_WAITS = re.compile(re.escape(CONFIRM) + r"=(\d+/\d+)")


def image_in(thing: Deployment | ReplicaSet) -> str:
    return thing.spec.template.spec.containers[0].image


def nature_of(image: str) -> str:
    return image.partition(":")[0]


class RolloutWorld:
    """:ivar wish: the image that a person asked for last.
    :ivar undone: images that the hub went back from since a person asked for them last.
    :ivar accidents: something happened to pods since that wish that is not their image's fault.
    """

    def __init__(self, wanted: Deployment) -> None:
        self.cluster = Cluster(wanted)
        self.wish = image_in(wanted)
        self.undone: set[str] = set()
        self.accidents = False
        self._images = 1
        self._replicas = wanted.spec.replicas

    # ------------------------------------------------------------ what is there

    @property
    def deployment(self) -> Deployment:
        return self.cluster.deployment

    @property
    def newest(self) -> ReplicaSet | None:
        wanted = without_hash(self.deployment.spec.template)
        return next((s for s in self.cluster.sets if without_hash(s.spec.template) == wanted), None)

    def available(self) -> int:
        wait = self.deployment.spec.min_ready_seconds
        return sum(available_at(p, wait) <= self.cluster.clock.now for p in self.cluster.pods)

    def by_image(self) -> dict[str, int]:
        """Pods of each revision, those on their way out not counted."""
        found: dict[str, int] = {image_in(s): 0 for s in self.cluster.sets}
        for pod in self.cluster.pods:
            found[image_of(pod)] = found.get(image_of(pod), 0) + 1
        return found

    def wanted_by_image(self) -> dict[str, int]:
        """Pods that each revision's set is told to have."""
        return {image_in(s): s.spec.replicas for s in self.cluster.sets}

    def good_images(self) -> set[str]:
        return {image_in(s) for s in self.cluster.sets if number(s.metadata.annotations.get(SUCCEEDED, ""))}

    def cap(self) -> int:
        """Pods that the newest revision may have; by what is written down, not by the code that is being tested."""
        new, replicas = self.newest, self.deployment.spec.replicas
        sizes = policy_of(self.deployment.metadata.annotations).sizes(replicas)
        if new is None or not sizes or number(new.metadata.annotations.get(SUCCEEDED, "")):
            return replicas
        if number(new.metadata.annotations.get(RESTORED, "")) == revision_of(new):
            return replicas
        state = read_state(new)
        if state is None or state.revision != revision_of(new):
            return replicas if not self.others() else sizes[0]
        return sizes[min(state.wave, len(sizes)) - 1]

    def others(self) -> bool:
        """Whether any other revision has pods, or was good."""
        return any(
            s is not self.newest and (s.spec.replicas or number(s.metadata.annotations.get(SUCCEEDED, "")))
            for s in self.cluster.sets
        )

    def is_complete(self) -> bool:
        there, replicas, image = self.cluster.pods, self.deployment.spec.replicas, image_in(self.deployment)
        return len(there) == replicas == self.available() and all(image_of(p) == image for p in there)

    # ------------------------------------------------------------ people

    def edit(self, nature: str) -> None:
        self._images += 1
        self._wanted(f"{nature}:{self._images}")
        self.cluster.use_image(self.wish)

    def _wanted(self, image: str) -> None:
        self.wish, self.accidents = image, False
        self.undone.discard(image)

    def undo(self) -> None:
        """kubectl rollout undo: template and annotations of the revision before, written by the client."""
        if self.deployment.spec.paused:
            return  # kubectl refuses
        by_age = sorted(self.cluster.sets, key=revision_of)
        if len(by_age) < 2:
            return
        before = by_age[-2]
        there = self.deployment.metadata.annotations
        copied = {k: v for k, v in before.metadata.annotations.items() if not k.startswith(NOT_COPIED)}
        kept = {k: v for k, v in there.items() if k.startswith(NOT_COPIED)}
        spec = self.deployment.spec.model_copy(update={"template": without_hash(before.spec.template)})
        self._wanted(image_in(before))
        self.cluster.commit(
            Update(with_meta(self.deployment, annotations=copied | kept).model_copy(update={"spec": spec}))
        )

    def annotate(self, key: str, value: str) -> None:
        annotations = self.deployment.metadata.annotations | {key: value}
        self.cluster.commit(Update(with_meta(self.deployment, annotations=annotations)))

    def confirm(self) -> bool:
        """edgectl confirm, if it waits for that."""
        told = find_condition(self.deployment.status.conditions, "Progressing")
        found = _WAITS.search(told.message) if told else None
        if found:
            self.annotate(CONFIRM, found[1])
        return bool(found)

    # ------------------------------------------------------------ boards

    def live(self, pod: Pod) -> None:
        """What its image does next."""
        if not pod.spec.node_name:
            return
        restarts = sum(c.restart_count for c in pod.status.container_statuses)
        match nature_of(image_of(pod)):
            case "good":
                self._say(pod, True, restarts, {"running": {}})
            case "missing":
                self._say(pod, False, 0, {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}})
            case "slow":
                self._say(pod, False, 0, {"running": {}})
            case "flash" if not is_ready(pod):
                self._say(pod, True, restarts, {"running": {}})
            case nature:
                reason = "OOMKilled" if nature == "hungry" else "Error"
                self.fall(pod, reason)

    def fall(self, pod: Pod, reason: str = "Error") -> None:
        """Its container ends and is to be started again."""
        if not pod.spec.node_name:
            return
        restarts = sum(c.restart_count for c in pod.status.container_statuses) + 1
        waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "it ended"}}
        self._say(pod, False, restarts, waiting, {"terminated": {"exitCode": 1, "reason": reason}})

    def silence(self, pod: Pod) -> None:
        """Its node is lost."""
        self._condition(pod, False)

    def _say(self, pod: Pod, ready: bool, restarts: int, state: object, last: object = None) -> None:
        told = {"name": "main", "ready": ready, "restartCount": restarts, "state": state, "image": image_of(pod)}
        there = next(iter(pod.status.container_statuses), None)
        if last is not None:
            told["lastState"] = last
        status = ContainerStatus.model_validate(told)
        if last is None and there is not None:
            status = status.model_copy(update={"last_state": there.last_state})
        pod = pod.model_copy(update={"status": pod.status.model_copy(update={"container_statuses": (status,)})})
        self._condition(pod, ready)

    def _condition(self, pod: Pod, ready: bool) -> None:
        now = rfc3339(self.cluster.clock.now)
        condition = PodCondition(type="Ready", status="True" if ready else "False", last_transition_time=now)
        status = pod.status.model_copy(
            update={
                "phase": "Running",
                "start_time": pod.status.start_time or now,
                "conditions": with_condition(pod.status.conditions, condition),
            }
        )
        self.cluster.commit(UpdateStatus(pod.model_copy(update={"status": status})))

    def remove(self, pod: Pod, at_once: bool) -> None:
        meta = pod.metadata
        self.cluster.commit(
            Delete("Pod", meta.namespace, meta.name) if at_once else MarkDeleted("Pod", meta.namespace, meta.name, 1)
        )

    # ------------------------------------------------------------ the hub

    def settle(self) -> None:
        """The controllers until nothing changes, and what holds of everything that they do by themselves."""
        deployment = self.deployment
        before, had, image = self.available(), self.wanted_by_image(), image_in(deployment)
        revision = deployment.metadata.annotations.get(REVISION, "")
        self.cluster.settle()
        now = image_in(self.deployment)
        if now != image:
            assert now in self.good_images(), f"went from {image} to {now}, which never was good"
            assert now not in self.undone, f"{now} is rolled out a second time"
            assert policy_of(deployment.metadata.annotations).rollback, "not asked for"
            self.undone.add(image)
        decision = self.cluster.ask_deployment()
        assert decision.changes == (), f"looking twice changes something: {decision.changes}"
        self._check_sizes(before, had)
        assert number(self.deployment.metadata.annotations[REVISION]) >= number(revision)

    def _check_sizes(self, before: int, had: dict[str, int]) -> None:
        deployment = self.deployment
        rolling, replicas = deployment.spec.strategy.rolling_update, deployment.spec.replicas
        assert rolling is not None
        limits = bounds(replicas, rolling.max_surge, rolling.max_unavailable)
        assert len(self.cluster.pods) <= replicas + limits.surge, f"{len(self.cluster.pods)} pods"
        least = min(before, replicas - limits.unavailable)
        assert self.available() >= least, f"{self.available()} available, {before} before, {least} are to stay"
        now, image, good = self.wanted_by_image(), image_in(deployment), self.good_images()
        if deployment.metadata.annotations.get(WAVES):
            most = max(self.cap(), had.get(image, 0))
            assert now.get(image, 0) <= most, f"{now.get(image, 0)} pods of {image}, {most} are allowed"
        scaled, self._replicas = replicas != self._replicas, replicas
        for other in now.keys() - {image} - good:
            # Without waves scaling is spread over all sets, as in Kubernetes.
            if good - {image} and (not scaled or deployment.metadata.annotations.get(WAVES)):
                assert now[other] <= had.get(other, 0), f"{other} grows, which nobody wants"

    def happen(self) -> None:
        """Some seconds, in which boards do what they are told."""
        self.settle()
        self.cluster.bind_all()
        self.cluster.take_away()
        for pod in self.cluster.pods:
            self.live(pod)
        self.settle()
