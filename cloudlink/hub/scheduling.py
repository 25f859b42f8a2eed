"""The scheduler's part of a round: every pod that waits, and every pod about to be made, gets a node or a reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from cloudlink.hub.changes import Create, ObjectChange
from cloudlink.hub.decision import Note
from cloudlink.hub.objects import is_deleted, is_finished
from cloudlink.hub.rounds import Answer, as_changes, placed_change
from cloudlink.hub.schedule import binding
from cloudlink.hub.schedule.place import Binding, Verdict, place
from cloudlink.hub.schedule.preempt import Preemption
from cloudlink.hub.schedule.seats import Policy
from cloudlink.hub.tenancy import Tenancy
from cloudlink.hub.waking import Waking
from cloudlink.hub.watch import WatchEvent
from cloudlink.hub.workqueue import Task
from cloudlink.hub.world import World
from cloudlink.kube.core import Pod
from cloudlink.kube.policy import PodDisruptionBudget

SCHEDULER = Task("schedule", "", "", "")


class Scheduler:
    """Keeps what it needs to decide quickly; decides only when asked.

    :ivar unfinished: there was more to decide than a round takes; it has to be asked again, with nothing new.
    """

    def __init__(self, world: World, policy: Policy = "tight") -> None:
        self._world, self._policy = world, policy
        self._tenancy = Tenancy(world)
        # Pods that room is kept for. Bounded by the pods that wait.
        self._nominated = {_key(p) for p in world.on_node("") if p.status.nominated_node_name}
        self._waking = Waking(world.on_node(""))
        self._passed = 0  # see `Preemption.passed`
        self.unfinished = False

    def notice(self, event: WatchEvent) -> bool:
        """Whether it is its turn now."""
        self._tenancy.notice(event)
        if isinstance(event.object, Pod):
            pod = event.object
            if event.type != "DELETED" and pod.status.nominated_node_name and not pod.spec.node_name:
                self._nominated.add(_key(pod))
            else:
                self._nominated.discard(_key(pod))
        return self._waking.by(event)

    def answers(self, answers: Sequence[Answer], asked: bool, now: float) -> list[Answer]:
        """The answers of a round with a node for each new pod, and one more for the pods that wait.

        :param asked: it is the scheduler's turn: all pods that wait are looked at, not only those that room is kept
            for, which new pods must not take.
        """
        created = [c.object for a in answers for c in a.changes if isinstance(c, Create) and isinstance(c.object, Pod)]
        created = [p for p in created if not p.spec.node_name]
        self.unfinished = False
        waiting = self._waiting(asked, bool(created))
        if not created and not waiting:
            return list(answers)
        storage = self._tenancy.places()
        fleet = self._tenancy.fleet(storage)
        preemption = Preemption(self._world.all(PodDisruptionBudget), self._passed)
        verdicts = place([*waiting, *created], fleet, storage, self._tenancy.spaces, self._policy, preemption)
        self.unfinished = preemption.unfinished
        self._passed = preemption.passed if preemption.unfinished else 0
        placed = {_key(v.pod): binding.with_verdict(v, now) for v in verdicts}
        notes = [note for v in verdicts if (note := binding.note(v)) is not None]
        changes = [c for p in waiting for c in as_changes(p, placed)]
        for verdict in verdicts:
            self._make_room(verdict, changes, notes, now)
        bound = Answer(SCHEDULER, tuple(changes), tuple(notes))
        return [*(replace(a, changes=tuple(placed_change(c, placed) for c in a.changes)) for a in answers), bound]

    def _waiting(self, asked: bool, created: bool) -> list[Pod]:
        if asked:
            there: Iterable[Pod | None] = self._world.on_node("")
        else:
            there = [self._world.get(Pod, *key) for key in sorted(self._nominated)] if created else []
        return [p for p in there if p is not None and not is_deleted(p) and not is_finished(p)]

    def _make_room(self, verdict: Verdict, changes: list[ObjectChange], notes: list[Note], now: float) -> None:
        if isinstance(verdict, Binding):
            return
        for tenant in verdict.victims:
            victim = self._world.get(Pod, *tenant.key)
            if victim is not None and victim.metadata.uid == tenant.uid:
                changes += binding.farewell(victim, now)
                notes.append(binding.farewell_note(victim, verdict.pod, verdict.nominated))


def _key(pod: Pod) -> tuple[str, str]:
    return pod.metadata.namespace, pod.metadata.name
