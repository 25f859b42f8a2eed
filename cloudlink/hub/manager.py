"""Runs the controllers and the scheduler: what they decide becomes commits, until there is nothing left to decide.

Nothing polls. A change in the store says who has to look; a round asks all of them and commits their answers
together, so that twenty pods cost one fsync. Deciding and committing happen without giving way to anybody else,
which is why decisions are never stale.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from cloudlink.hub.admitting import Admitting
from cloudlink.hub.controllers import endpoints, events, garbage
from cloudlink.hub.deciding import DECIDED, PODS_OF, controllers_of, decide, is_own_word, sets_of
from cloudlink.hub.decision import Note, Suffix, describe
from cloudlink.hub.errors import Gone, StoreError
from cloudlink.hub.lives import LIVES, Lives
from cloudlink.hub.objects import controller_of, is_deleted
from cloudlink.hub.patience import DEFAULT_PATIENCE, Patience
from cloudlink.hub.rounds import Answer, is_news_of_a_pod, pause_after, without_repeats
from cloudlink.hub.schedule.seats import Policy
from cloudlink.hub.schedule.storage import claims_of
from cloudlink.hub.scheduling import SCHEDULER, Scheduler
from cloudlink.hub.store import Store, WatchEvent
from cloudlink.hub.workqueue import Task, WorkQueue
from cloudlink.hub.world import UNFOLLOWED, World
from cloudlink.kube.accounts import ServiceAccount
from cloudlink.kube.apps import ControllerRevision, DaemonSet, ReplicaSet
from cloudlink.kube.batch import Job
from cloudlink.kube.core import Event, Node, PersistentVolumeClaim, Pod
from cloudlink.kube.custom import CustomObject
from cloudlink.kube.definitions import CustomResourceDefinition
from cloudlink.kube.endpoints import Endpoints, EndpointSlice
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.rbac import ClusterRole
from edged.errors import EdgedError, RetryError

log = logging.getLogger(__name__)

NOTES_WAITING = 2000  # said since the last quiet moment; the store keeps fewer anyway
ROUNDS_IN_A_ROW = 200  # more than any honest rollout needs; beyond it two controllers are at odds
PAUSE = 1.0  # seconds to give way then, and after a commit that the database refused
# By disruption budgets.
COUNTED = frozenset({"Pod", "Deployment", "ReplicaSet", "StatefulSet", "ReplicationController"})


def random_suffix() -> str:
    """Five characters for names, from the alphabet that Kubernetes uses."""
    return "".join(random.choices("bcdfghjklmnpqrstvwxz2456789", k=5))


class Manager:
    """Owns the decisions of one hub. `run` for ever, or `settle` once (tests).

    :param now: wall clock, seconds since 1970; the same that the store has.
    :param patience: how long pods that don't say otherwise stay bound to a lost node.
    :param policy: how pods are packed.
    :param look_at_all: first; otherwise only what changes from now on is looked at (foresight.py).
    """

    def __init__(
        self,
        store: Store,
        now: Callable[[], float] = time.time,
        suffix: Suffix = random_suffix,
        lives: Lives | None = None,
        patience: Patience = DEFAULT_PATIENCE,
        policy: Policy = "tight",
        look_at_all: bool = True,
    ) -> None:
        self._store = store
        self._now = now
        self._suffix = suffix
        self._lives = lives or Lives()
        self._patience, self._policy = patience, policy
        self._notes: deque[Note] = deque(maxlen=NOTES_WAITING)
        self._begin(look_at_all)

    def _begin(self, look_at_all: bool = True) -> None:
        """Look at everything: at the start, and again should the watch ever fall behind."""
        self._queue = WorkQueue()
        self._watch = self._store.subscribe()
        self._world = World(self._store)
        self._scheduler = Scheduler(self._world, self._policy)
        self._admitting = Admitting(self._world, self._store, self._patience)
        if not look_at_all:
            return
        for kind in sorted(self._store.kinds() - UNFOLLOWED):
            for obj in self._store.list(kind):
                self._look_at(obj)
        self._queue.add(SCHEDULER)
        self._lives.begin(self._world)
        self._queue.add(LIVES)

    # ------------------------------------------------------------ the loop

    async def run(self) -> None:
        """Until cancelled, or until the store is closed."""
        try:
            while True:
                wake_at = await self._work_off()
                delay = max(wake_at - self._now(), 0.0)
                try:
                    async with asyncio.timeout(delay if delay < float("inf") else None):
                        news = await self._watch.batch()
                except TimeoutError:
                    continue
                except Gone:
                    self._begin()
                    continue
                if not news:
                    return
                self._notice(news)
        finally:
            self._watch.close()

    async def _work_off(self) -> float:
        for _ in range(ROUNDS_IN_A_ROW):
            if not self.round():
                self.tell()
                return self._queue.next_at()
            await asyncio.sleep(0)  # others react to each round's commit at once: the exchange publishes
        log.error("%d rounds of decisions didn't come to an end; pausing for %g s", ROUNDS_IN_A_ROW, PAUSE)
        self.tell()
        await asyncio.sleep(PAUSE)
        return self._now()

    def settle(self) -> float:
        """Decide and commit until nothing is left to do; the second at which something will be."""
        for _ in range(ROUNDS_IN_A_ROW):
            if not self.round():
                self.tell()
                return self._queue.next_at()
        raise RuntimeError(f"not settled after {ROUNDS_IN_A_ROW} rounds")

    def round(self) -> bool:
        """One round: everybody whose turn it is decides, one commit. False if it was nobody's turn."""
        try:
            self._notice(self._watch.drain())
        except Gone:
            self._begin()
        now = self._now()
        tasks = self._queue.take(now)
        if not tasks:
            return False
        answers = [self._ask(task, now) for task in tasks if task != SCHEDULER]
        answers = self._admitting.answers(answers, now)
        answers = self._with_places(answers, SCHEDULER in tasks, now)
        self._carry_out(without_repeats(answers), now)
        return True

    # ------------------------------------------------------------ who has to look

    def _notice(self, news: Iterable[WatchEvent]) -> None:
        followed = [e for e in news if e.kind not in UNFOLLOWED]
        for event in followed:
            self._world.notice(event)
            if self._scheduler.notice(event):
                self._queue.add(SCHEDULER)
        for event in followed:
            if event.type == "DELETED":
                self._look_around_the_gone(event.object)
            else:
                self._queue.succeeded(_task(event.object))  # it may have been mended: no reason to wait any longer
                if is_news_of_a_pod(event):
                    self._look_around_a_pod(event.object)  # type: ignore[arg-type]  # it is one
                elif not is_own_word(event):
                    self._look_at(event.object)
            for task in (*self._lives.concerned(event, self._world), *self._admitting.notice(event)):
                self._queue.add(task)
            if not is_news_of_a_pod(event):
                self._look_for_garbage(event)
            for sts in sets_of(event.object, self._world):
                self._queue.add(_task(sts))
            if isinstance(event.object, Node) and _is_another_place(event):
                for daemons in self._world.all(DaemonSet):
                    self._queue.add(_task(daemons))
            if event.before is not None and isinstance(event.object, Pod):
                self._look_at_owners(event.before)  # it may have been let go
            self._look_around(event)
        if any(isinstance(e.object, ClusterRole) for e in followed):
            self._look_at_gatherers()

    def _look_around(self, event: WatchEvent) -> None:
        """What counts pods, or leads to them."""
        if isinstance(event.object, Pod | Endpoints | EndpointSlice):
            before = event.object if event.type == "DELETED" else event.before
            services = self._store.list("Service", event.object.metadata.namespace)
            for service in endpoints.concerned(before, event.object, services):
                self._queue.add(_task(service))
        if event.kind in COUNTED:
            for budget in self._store.list("PodDisruptionBudget", event.object.metadata.namespace):
                self._queue.add(_task(budget))

    def _look_at(self, obj: KubeObject) -> None:
        if obj.kind in DECIDED:
            self._queue.add(_task(obj))
        if isinstance(obj, PersistentVolumeClaim):
            self._queue.add(SCHEDULER)  # pods may wait for it, or for the room that it leaves
        if isinstance(obj, Pod):
            self._look_around_a_pod(obj)
        elif isinstance(obj, ReplicaSet | ControllerRevision | Job):
            self._look_at_owners(obj)

    def _look_around_a_pod(self, pod: Pod) -> None:
        self._look_at_owners(pod)
        self._look_at_claims(pod)

    def _look_at_owners(self, obj: KubeObject) -> None:
        """Pods matter to their ReplicaSet and to its Deployment, which counts them itself."""
        owner = controller_of(obj)
        if owner is None and isinstance(obj, Pod):
            for there in controllers_of(obj, self._world):  # one of them may take it in
                self._queue.add(_task(there))
        if owner is None or (owner.kind not in PODS_OF and owner.kind not in ("Deployment", "CronJob")):
            return
        self._queue.add(Task(owner.kind, owner.kind, obj.metadata.namespace, owner.name))
        if owner.kind in ("ReplicaSet", "Job"):
            above = self._world.get(PODS_OF[owner.kind], obj.metadata.namespace, owner.name)
            if above is not None:
                self._look_at_owners(above)

    def _look_at_gatherers(self) -> None:
        """A ClusterRole came, changed or went: those that gather the rules of others look again."""
        for role in self._world.all(ClusterRole):
            if role.aggregation_rule is not None:
                self._queue.add(_task(role))

    def _look_for_garbage(self, event: WatchEvent) -> None:
        """Owners that wait for their dependents to go, and dependents of an owner that does."""
        obj = event.object
        refs = (*obj.metadata.owner_references, *(event.before.metadata.owner_references if event.before else ()))
        if refs or is_deleted(obj):
            self._queue.add(_task(obj))
        for owner in {r.uid: self._world.owner(obj, r) for r in refs}.values():
            if not isinstance(owner, str) and garbage.is_waiting(owner):
                self._queue.add(_task(owner))
        if garbage.is_waiting(obj):
            for owned in self._world.owned(obj.metadata.uid, KubeObject):
                self._queue.add(_task(owned))

    def _look_at_claims(self, pod: Pod) -> None:
        """A claim is bound by its first pod and let go by its last."""
        for title in claims_of(pod):
            kind = PersistentVolumeClaim.__name__
            self._queue.add(Task(kind, kind, *title.split("/", 1)))

    def _look_around_the_gone(self, obj: KubeObject) -> None:
        self._queue.succeeded(_task(obj))
        for owned in self._world.owned(obj.metadata.uid, KubeObject):
            self._queue.add(_task(owned))
        self._look_at_owners(obj)
        if isinstance(obj, Node):
            for pod in self._world.on_node(obj.metadata.name):
                self._queue.add(_task(pod))
        if isinstance(obj, CustomObject):
            for definition in self._world.all(CustomResourceDefinition):
                if definition.defines == obj.key and is_deleted(definition):
                    self._queue.add(_task(definition))
        if isinstance(obj, Pod):
            self._look_at_claims(obj)
        if isinstance(obj, Pod | Node | PersistentVolumeClaim):
            self._queue.add(SCHEDULER)
        if isinstance(obj, ServiceAccount):
            self._queue.add(Task("Namespace", "Namespace", "", obj.metadata.namespace))

    # ------------------------------------------------------------ asking

    def _ask(self, task: Task, now: float) -> Answer:
        """One controller's answer. A bug in it, or an object it can't cope with, stops nobody else."""
        obj = self._store.get(task.kind, task.namespace or None, task.name) if task != LIVES else None
        if obj is None and task != LIVES:
            self._queue.succeeded(task)
            return Answer(task)
        try:
            if obj is None:
                decision = self._lives.decide(self._world, now)
            else:
                decision = decide(obj, self._world, self._store, now, self._suffix, self._lives.listening)
        except Exception as e:
            delay = self._queue.failed(task, now)
            if obj is None:
                log.exception("the nodes' taints can't be decided; next try in %g s", delay)
                return Answer(task)
            log.exception("%s %s can't be decided; next try in %g s", obj.kind, obj.title, delay)
            text = f"the hub can't handle this object: {e}"
            return Answer(task, notes=(Note(obj, "Warning", "ReconcileError", text, "manager"),))
        self._queue.succeeded(task)
        if (pause := pause_after(obj, decision)) > 0:
            self._queue.rest(task, now + pause)
        if decision.wake_at < float("inf"):
            self._queue.add(task, decision.wake_at)
        return Answer(task, decision.changes, decision.notes)

    # ------------------------------------------------------------ scheduling

    def _with_places(self, answers: list[Answer], asked: bool, now: float) -> list[Answer]:
        """Give every pod a node: those that wait, and those that these very answers create."""
        try:
            placed = self._scheduler.answers(answers, asked, now)
        except Exception:
            delay = self._queue.failed(SCHEDULER, now)
            log.exception("pods can't be scheduled; next try in %g s", delay)
            return answers
        self._queue.succeeded(SCHEDULER)
        if self._scheduler.unfinished:
            self._queue.add(SCHEDULER)
        return placed

    # ------------------------------------------------------------ carrying out

    def _carry_out(self, answers: Sequence[Answer], now: float) -> None:
        changes = [c for a in answers for c in a.changes]
        try:
            if changes:
                self._store.commit(changes)
                log.debug("%s", "; ".join(map(describe, changes)))
        except RetryError as e:
            log.error("%s; next try in %g s", e, PAUSE)
            for a in answers:
                self._queue.add(a.task, now + PAUSE)
            return
        except StoreError:
            self._one_by_one(answers, now)
            return
        except Exception:  # the outermost loop of the controllers
            log.exception("the changes of a round can't be committed together")
            self._one_by_one(answers, now)
            return
        for a in answers:
            self._notes.extend(a.notes)

    def _one_by_one(self, answers: Sequence[Answer], now: float) -> None:
        """One of them can't be done: find out which, do the others, and ask that one again later."""
        for a in answers:
            try:
                self._store.commit(a.changes)
                self._notes.extend(a.notes)
            except EdgedError as e:
                delay = self._queue.failed(a.task, now)
                log.warning("%s %s/%s: %s; next try in %g s", a.task.kind, a.task.namespace, a.task.name, e, delay)
            except Exception:
                delay = self._queue.failed(a.task, now)
                log.exception("%s %s/%s; next try in %g s", a.task.kind, a.task.namespace, a.task.name, delay)

    def tell(self) -> None:
        """Write what was said since last time as Events: after the deeds, which must not wait for it."""
        if not self._notes:
            return
        notes = [replace(n, about=self._newest(n.about)) for n in self._notes]
        self._notes.clear()
        try:
            self._store.commit(events.record(notes, self._find_event, self._now()))
        except EdgedError as e:
            log.warning("events are lost: %s", e)

    def _newest(self, about: KubeObject) -> KubeObject:
        """The object as stored: one that a decision created had no uid when it was spoken of."""
        return self._store.get(about.key, about.metadata.namespace or None, about.metadata.name) or about

    def _find_event(self, namespace: str, name: str) -> Event | None:
        return self._world.get(Event, namespace, name)


def _task(obj: KubeObject) -> Task:
    return Task(obj.key, obj.key, obj.metadata.namespace, obj.metadata.name)


def _is_another_place(event: WatchEvent) -> bool:
    """Whether a Node has changed in what decides who may run there; its heartbeats don't."""
    new, old = event.object, event.before
    if event.type == "DELETED" or not isinstance(new, Node) or not isinstance(old, Node):
        return True
    return (new.metadata.labels, new.spec, is_deleted(new)) != (old.metadata.labels, old.spec, is_deleted(old))
