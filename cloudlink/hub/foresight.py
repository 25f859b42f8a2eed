"""What would become of a manifest: applied to a copy of the hub's store, and played to its end there.

Nothing is guessed at here. The documents go through the same handlers as a PATCH of the API; the same manager, with its
controllers and its scheduler, decides what follows, round by round; and nodes do what they do when all goes well: what
is bound to them runs and is ready, what is asked to end is gone. What is left waiting then, waits with the scheduler's
own sentence. Other people's rollouts stand still meanwhile.

Works on values of one moment, in a thread of its own: a large fleet takes a second, and the hub has others to serve.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cloudlink.hub import admission, learned
from cloudlink.hub.api import patches, writes
from cloudlink.hub.api.answers import ApiError, bad_request, from_error
from cloudlink.hub.api.calls import Admit, Call, Context, Question
from cloudlink.hub.api.escalation import guarded_context
from cloudlink.hub.api.merge import APPLY
from cloudlink.hub.api.paths import Target
from cloudlink.hub.auth.authority import Authority
from cloudlink.hub.auth.requests import Request, refusal
from cloudlink.hub.branch import branch
from cloudlink.hub.changes import Change, Create, Delete, Update, UpdateStatus
from cloudlink.hub.decision import Decision
from cloudlink.hub.errors import Gone
from cloudlink.hub.forecast import MAKERS, Outcome, packing, told, wanted_of
from cloudlink.hub.manager import Manager
from cloudlink.hub.objects import find_condition, is_deleted, owned_by, rfc3339, with_condition, with_meta
from cloudlink.hub.rounds import pause_after
from cloudlink.hub.schedule.fleet import fleet_with, has
from cloudlink.hub.schedule.sizes import size_of
from cloudlink.hub.schedule.words import in_bytes
from cloudlink.hub.store import Store, Subscription
from cloudlink.kube.annotations import CONFIRM
from cloudlink.kube.apps import DaemonSet, Deployment, StatefulSet
from cloudlink.kube.batch import CronJob, Job
from cloudlink.kube.core import Node, Pod, PodCondition
from cloudlink.kube.errors import Invalid
from cloudlink.kube.fits import FitStatus, FitWorkload
from cloudlink.kube.meta import KubeObject, ObjectMeta
from cloudlink.kube.parse import parse
from cloudlink.kube.rollouts import policy_of
from edged.errors import EdgedError

MANAGER = "edgectl"
_CLIENT_SIDE = "kubectl-client-side-apply"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
RECORDS = (learned.BUCKET,)  # what is decided by, beside objects
MOST_ASKING = 8
MOST_PODS = 5000  # made for one question
MOST_TURNS = 500  # of manager and nodes
MOST_WAITS = 200  # for something that happens after a time: the next wave, a pod that has been ready for long enough
_ASKED_TO_CONFIRM = re.compile(re.escape(CONFIRM) + r"=(\d+)/\d+")


class Foresight:
    """Answers questions, one after the other: each may cost a second of a core."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._asking = 0

    async def __call__(self, context: Context, question: Question) -> FitStatus:
        """:raises ApiError: a document that couldn't be applied; what is wrong with it, in the API's words."""
        if self._asking >= MOST_ASKING:
            why = f"{self._asking} others ask what would fit just now; ask again in a moment"
            raise ApiError(429, "TooManyRequests", why, retry_after=1)
        self._asking += 1
        try:
            async with self._turn:
                clock = _Clock(context.now())
                store = branch(context.store, clock, RECORDS)
                context = replace(context, store=store, now=clock, admit=_admit(store), on_change=lambda: None)
                if not question.documents:
                    return await asyncio.to_thread(packing, store)
                return await asyncio.to_thread(lambda: Play(context, question, clock).status())
        finally:
            self._asking -= 1


def _admit(store: Store) -> Admit:
    def admit(new: KubeObject, old: KubeObject | None) -> None:
        try:
            admission.check_size(new, old, store.list("Node"))
        except Invalid as e:
            raise _TooLarge(e.causes, e.kind, e.name) from None

    return admit


class _TooLarge(Invalid):
    """No node could ever run it: the API refuses that, and here it is what was asked."""


@dataclass(slots=True)
class _Clock:
    now: float

    def __call__(self) -> float:
        return self.now


@dataclass(slots=True)
class Play:
    """One manifest, on a store of its own."""

    context: Context
    question: Question
    clock: _Clock
    outcome: Outcome = field(init=False)
    manager: Manager = field(init=False)
    _waits: int = 0

    def __post_init__(self) -> None:
        self.outcome = Outcome(self.store)
        self.manager = Manager(
            self.store, self.clock, patience=self.context.patience, policy=self.context.policy, look_at_all=False
        )

    @property
    def store(self) -> Store:
        return self.context.store

    def status(self) -> FitStatus:
        authority = Authority(self.store)
        with self.store.subscribe({"Pod"}) as news:
            for document in self.question.documents:
                obj = self._apply(document, authority)
                if obj is not None and type(obj) in MAKERS:
                    self._check_size(wanted_of(obj, self.store))
                    self.outcome.asked.append(obj)
                if isinstance(obj, CronJob):
                    self.store.commit([Create(_occurrence(obj))])
                self._to_the_end(news)
        return told(self.outcome)

    # ------------------------------------------------------------ applying

    def _apply(self, document: Mapping[str, Any], authority: Authority) -> KubeObject | None:
        """As `edgectl apply` does; what has only a generateName, as `kubectl create` does. None where it would be
        refused for its size."""
        resource = self.store.catalogue.by_kind(str(document.get("apiVersion")), str(document.get("kind")))
        if resource is None or not resource.stored:
            try:
                parse(document)  # knows what is wrong
            except Invalid as e:
                raise from_error(e, None, "") from None
            raise bad_request(f"a {document.get('kind')} can't be applied")
        metadata = document.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        namespace = str(metadata.get("namespace") or self.question.namespace) if resource.namespaced else ""
        name = str(metadata.get("name") or "")
        method = "PATCH" if name else "POST"
        target = Target(resource, namespace, name)
        verb = "patch" if name else "create"
        request = Request(verb, "", resource.group, resource.version, resource.plural, "", namespace, name)
        verdict = authority.check(self.question.user, request)
        if not verdict.allowed:
            raise ApiError(403, "Forbidden", refusal(self.question.user.name, request, verdict.reason), resource, name)
        try:
            query = {"fieldManager": self._adopted(target), "force": "true"} if name else {}
            kind = APPLY if name else "application/json"
            call = Call(method, target, query, json.dumps(document).encode(), kind, user=self.question.user)
            context = guarded_context(self.context, authority, self.question.user, target, method)
            done = (patches.patch if name else writes.create)(context, call)
        except _TooLarge as e:
            self.outcome.refused.append(_refusal(resource.kind, namespace, e))
            return None
        except EdgedError as e:
            raise from_error(e, resource, name) from e
        made = json.loads(done.body)["metadata"]["name"]
        obj = self.store.get(resource.key, namespace or None, made)
        assert obj is not None  # it was stored this moment
        return obj

    def _adopted(self, target: Target) -> str:
        """The manager to apply as: the one that has applied it before, so that fields that are no longer said go."""
        there = self.store.get(target.resource.key, target.namespace or None, target.name)
        if there is None:
            return MANAGER
        entries = there.metadata.managed_fields
        if LAST_APPLIED in there.metadata.annotations:  # as kubectl itself takes over what it has applied
            owned = tuple(
                e.model_copy(update={"operation": "Apply"})
                if (e.manager, e.operation, e.subresource) == (_CLIENT_SIDE, "Update", "")
                else e
                for e in entries
            )
            if owned != entries:
                self.store.commit([Update(there.model_copy(update=with_meta(there, managed_fields=owned)))])
                return _CLIENT_SIDE
        appliers = {e.manager for e in entries if e.operation == "Apply" and not e.subresource}
        return next((m for m in (MANAGER, "kubectl") if m in appliers), MANAGER)

    # ------------------------------------------------------------ playing

    def _to_the_end(self, news: Subscription) -> None:
        pods: dict[str, Pod] = {}
        try:
            for _ in range(MOST_TURNS):
                more = self.manager.round()
                self.outcome.hear(news.drain(), pods)
                self._check_size(len(self.outcome.made))
                if more:
                    continue
                if changes := self._nodes_do(pods.values()):
                    pods.clear()
                    self.store.commit(changes)
                elif not self._wait(self.manager.settle()):
                    return
        except Gone:
            pass
        raise bad_request("this can't be foreseen: too much would change; ask for less at once")

    def _check_size(self, pods: int) -> None:
        if pods > MOST_PODS:
            raise bad_request(f"this can't be foreseen: it makes more than {MOST_PODS} pods; ask for fewer")

    def _nodes_do(self, pods: Iterable[Pod]) -> list[Change]:
        changes: list[Change] = []
        now = rfc3339(self.clock.now)
        boards = _Boards(self.store)
        for pod in pods:
            if is_deleted(pod):
                changes.append(Delete("Pod", pod.metadata.namespace, pod.metadata.name, uid=pod.metadata.uid))
            elif pod.spec.node_name and pod.status.phase == "Pending" and self._is_up(pod.spec.node_name):
                refused = boards.refusal(pod)
                changes.append(UpdateStatus(_refused(pod, refused, now) if refused else _running(pod, now)))
        return changes

    def _is_up(self, name: str) -> bool:
        node = self.store.get("Node", None, name)
        return isinstance(node, Node) and has(node, "Ready")

    # ------------------------------------------------------------ waiting

    def _wait(self, due: float) -> bool:
        """Let time pass, or confirm a wave, where that is all that a rollout waits for; False where it is at its end.

        Not where a pod of it has no node: then the deadlines would pass, and hide the reason.
        """
        there = self.outcome.current()
        under_way = [o for o in there if _is_under_way(o)]
        if due - self.clock.now <= max(map(_rest, there), default=0.0) and self._waits < MOST_WAITS:
            self._waits += 1
            self.clock.now = max(due, self.clock.now)
            return True
        if not under_way or self.outcome.waiting() or self._waits >= MOST_WAITS:
            return False
        self._waits += 1
        patience = max(map(_patience, under_way))
        if patience and due - self.clock.now <= patience:
            self.clock.now = max(due, self.clock.now)
            return True
        confirmed = [c for o in under_way if (c := _confirmed(o)) is not None]
        self.store.commit(confirmed)
        return bool(confirmed)


class _Boards:
    """What nodes have room for, for pods that the scheduler didn't place: their node would refuse them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._on: dict[str, list[Pod]] | None = None

    def refusal(self, pod: Pod) -> str:
        """Why its node would refuse it; "" where it would not."""
        placed = find_condition(pod.status.conditions, "PodScheduled")
        node = self._store.get("Node", None, pod.spec.node_name)
        if (placed is not None and placed.status == "True") or not isinstance(node, Node):
            return ""
        if self._on is None:
            self._on = {}
            for other in self._store.list("Pod"):
                if isinstance(other, Pod) and other.spec.node_name:
                    self._on.setdefault(other.spec.node_name, []).append(other)
        others = [p for p in self._on.get(pod.spec.node_name, ()) if p.metadata.uid != pod.metadata.uid]
        fleet, size = fleet_with([node], others), size_of(pod.spec, pod.metadata.annotations)
        for resource, amount in (("memory", size.memory), ("storage", size.storage), ("pods", size.pods)):
            free = int(fleet.free[resource][0])
            if amount <= free:
                continue
            self._on[pod.spec.node_name] = others
            if resource == "pods":
                return f"{pod.spec.node_name} has no room for another pod"
            return f"{pod.spec.node_name} lacks {in_bytes(amount)} {resource} (free {in_bytes(max(free, 0))})"
        return ""


def _is_under_way(obj: KubeObject) -> bool:
    """Whether its controller still has something to replace or to add."""
    match obj:
        case Deployment(spec=spec, status=status):
            return not spec.paused and (status.updated_replicas < spec.replicas or status.replicas > spec.replicas)
        case StatefulSet(spec=spec, status=status):
            wanted = spec.replicas if spec.replicas is not None else 1
            return status.ready_replicas < wanted or status.current_revision != status.update_revision
        case DaemonSet(status=status):
            return status.updated_number_scheduled < status.desired_number_scheduled
    return False


def _rest(obj: KubeObject) -> float:
    """Seconds for which the manager may leave it alone, because counting its pods costs so much."""
    return pause_after(obj, Decision())


def _patience(obj: KubeObject) -> float:
    """Seconds that a step of its rollout may last though all goes well."""
    ready = float(getattr(getattr(obj, "spec", None), "min_ready_seconds", None) or 0)
    hold = policy_of(obj.metadata.annotations).hold if isinstance(obj, Deployment) else 0.0
    return ready + (hold or 0.0)


def _confirmed(obj: KubeObject) -> Update | None:
    """All waves of a revision that waits for a person, as `edgectl confirm --all` has them go on."""
    if not isinstance(obj, Deployment):
        return None
    progressing = find_condition(obj.status.conditions, "Progressing")
    asked = _ASKED_TO_CONFIRM.search(progressing.message) if progressing is not None else None
    if asked is None:
        return None
    annotations = obj.metadata.annotations | {CONFIRM: asked[1]}
    return Update(obj.model_copy(update=with_meta(obj, annotations=annotations)))


def _refusal(kind: str, namespace: str, error: Invalid) -> FitWorkload:
    why = "; ".join(map(str, error.causes))
    return FitWorkload(kind=kind, namespace=namespace, name=error.name, pods=1, why=why)


def _occurrence(cron: CronJob) -> Job:
    """One Job of a CronJob, as `kubectl create job --from` makes it."""
    template = cron.spec.job_template
    meta = ObjectMeta(
        name=f"{cron.metadata.name[:50]}-fit",
        namespace=cron.metadata.namespace,
        labels=template.metadata.labels,
        annotations=template.metadata.annotations,
        owner_references=(owned_by(cron),),
    )
    job = Job(metadata=meta, spec=template.spec)
    return job.model_copy(update={"spec": job.spec.model_copy(update={"suspend": False})})


def _running(pod: Pod, now: str) -> Pod:
    conditions = pod.status.conditions
    for kind in ("Initialized", "ContainersReady", "Ready"):
        conditions = with_condition(conditions, PodCondition(type=kind, status="True", last_transition_time=now))
    status = {"phase": "Running", "start_time": now, "conditions": conditions}
    return pod.model_copy(update={"status": pod.status.model_copy(update=status)})


def _refused(pod: Pod, why: str, now: str) -> Pod:
    status = {"phase": "Failed", "start_time": now, "reason": "OutOfResources", "message": why}
    return pod.model_copy(update={"status": pod.status.model_copy(update=status)})
