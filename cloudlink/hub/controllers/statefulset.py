"""StatefulSet -> Pods and claims: one of each number, with a name, a host name and storage that outlive it.

After Kubernetes' pkg/controller/statefulset. `OrderedReady`: a pod is made when all before it are available, the last
one leaves first, one at a time. `Parallel`: all at once; updates go by `maxUnavailable` all the same.

Two things are different on purpose:
- A pod that doesn't get ready holds up everything after it, in Kubernetes also the mended template: somebody has to
  delete it by hand (its "forced rollback"). Here a pod that isn't available is replaced if its template isn't the
  present one any more: it has nothing to lose. Unless the present one hasn't proved itself yet: while a pod that has
  it isn't available, no other one gets it, or one bad moment of the network would spread a broken template.
- A pod that failed is made again later and later, as those of a DaemonSet.

Invariant: a number has one pod at most. One that was asked to end is replaced once it is gone for good, however long
its node is away: it may still be writing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from cloudlink.hub.changes import Create, Delete, ObjectChange, Update, UpdateStatus
from cloudlink.hub.controllers import history, identity, retries
from cloudlink.hub.controllers.history import REVISION_LABEL, History
from cloudlink.hub.controllers.replicaset import BURST, NOTES_EACH, is_available, remove_pod
from cloudlink.hub.controllers.rollout import percent_of
from cloudlink.hub.decision import NEVER, Decision, Note
from cloudlink.hub.objects import available_at, is_active, is_deleted, is_finished, is_ready
from cloudlink.kube.apps import ControllerRevision, StatefulSet, StatefulSetStatus
from cloudlink.kube.core import PersistentVolumeClaim, Pod
from cloudlink.kube.pod import PodTemplateSpec

COMPONENT = "statefulset-controller"

ClaimOf = Callable[[str], PersistentVolumeClaim | None]  # by name, in the set's namespace


@dataclass(frozen=True, slots=True)
class _Scene:
    """:ivar members: by number, those that should be there. :ivar condemned: all others, the highest number first."""

    sts: StatefulSet
    numbers: range
    members: Mapping[int, Pod]
    condemned: tuple[tuple[int, Pod], ...]
    past: History
    current: ControllerRevision
    claim: ClaimOf
    now: float

    @property
    def update(self) -> str:
        return self.past.update.metadata.name

    @property
    def ordered(self) -> bool:
        return self.sts.spec.pod_management_policy == "OrderedReady"

    @property
    def first_rolling(self) -> int:
        """Pods from this number on get the new template; the others keep theirs."""
        rolling = self.sts.spec.update_strategy.rolling_update
        return self.numbers.start + (rolling.partition if rolling is not None else 0)

    def available(self, pod: Pod) -> bool:
        return is_active(pod) and is_available(pod, self.sts.spec.min_ready_seconds, self.now)

    def template(self, number: int) -> tuple[PodTemplateSpec, str]:
        """What a new pod is made from, and the label of its revision."""
        if number < self.first_rolling and self.current is not self.past.update:
            there = history.template_of(self.current)
            if there is not None:
                return there, self.current.metadata.name
        return self.sts.spec.template, self.update


@dataclass(slots=True)
class _Plan:
    """What comes of it, collected."""

    created: list[Pod] = field(default_factory=list)
    removed: list[Pod] = field(default_factory=list)
    others: list[ObjectChange] = field(default_factory=list)  # claims, and labels of pods
    notes: list[Note] = field(default_factory=list)
    wake_at: float = NEVER


def reconcile(
    sts: StatefulSet,
    pods: Sequence[Pod],
    claim: ClaimOf,
    revisions: Sequence[ControllerRevision],
    taken: Collection[str],
    now: float,
) -> Decision:
    """Decide about one StatefulSet. `now` in seconds since 1970.

    :param pods: all that it controls. :param revisions: likewise; `taken`: the names of all of the namespace.
    """
    if is_deleted(sts):
        return Decision()
    past = history.remember(sts, revisions, taken)
    if past.collisions != sts.status.collision_count:
        told = sts.status.model_copy(update={"collision_count": past.collisions})
        return Decision((UpdateStatus(sts.model_copy(update={"status": told})),))
    scene, plan = _scene(sts, pods, past, claim, now), _Plan()
    waits_at = _fill(scene, plan)
    if waits_at is None and not (_shrink(scene, plan) and scene.ordered):
        _roll(scene, plan)
    elif waits_at is not None:
        _mend(scene, waits_at, plan)
    status = _status(scene, plan)
    labels = {p.metadata.labels.get(REVISION_LABEL, "") for p in pods}
    used = {*labels, status.current_revision, scene.current.metadata.name}
    changes: list[ObjectChange] = [*past.changes, *plan.others]
    changes += [*map(remove_pod, plan.removed), *map(Create, plan.created)]
    changes += history.forget(sts, past, used)
    if status != sts.status:
        changes.append(UpdateStatus(sts.model_copy(update={"status": status})))
    notes = (*plan.notes, *_told(sts, "delete", plan.removed), *_told(sts, "create", plan.created))
    times = [t for p in scene.members.values() if (t := available_at(p, sts.spec.min_ready_seconds)) > now]
    return Decision(tuple(changes), notes, min(plan.wake_at, *times, NEVER))


def _scene(sts: StatefulSet, pods: Sequence[Pod], past: History, claim: ClaimOf, now: float) -> _Scene:
    numbered = [(n, p) for p in pods if (n := identity.ordinal_of(sts, p.metadata.name)) is not None]
    numbers = identity.ordinals(sts)
    condemned = sorted(((n, p) for n, p in numbered if n not in numbers), key=lambda pair: -pair[0])
    members = {n: p for n, p in numbered if n in numbers}
    current = past.find(sts.status.current_revision) or past.update
    return _Scene(sts, numbers, members, tuple(condemned), past, current, claim, now)


# ---------------------------------------------------------------- a pod for each number


def _fill(scene: _Scene, plan: _Plan) -> int | None:
    """See to every number's pod. The one that all later ones wait for; None if all are available, or nobody waits."""
    for number in scene.numbers:
        if not _tend(scene, number, plan) and scene.ordered:
            return number
        if len(plan.created) + len(plan.others) >= BURST:
            plan.wake_at = scene.now
            break
    return None


def _tend(scene: _Scene, number: int, plan: _Plan) -> bool:
    """Whether its pod is available."""
    pod = scene.members.get(number)
    if pod is None:
        _create(scene, number, plan)
        return False
    if is_deleted(pod):
        return False
    if is_finished(pod):
        _again(scene, number, pod, plan)
        return False
    if not pod.spec.node_name:
        _claims(scene, number, plan)  # one may have been deleted while it waited
    _own_claims(scene, pod, number, plan)
    if (named := identity.with_identity(pod, number)) is not pod:
        plan.others.append(Update(named, expect=pod.metadata.resource_version or None))
    return scene.available(pod)


def _create(scene: _Scene, number: int, plan: _Plan, last: Pod | None = None) -> None:
    """Its claims, and once they are there, the pod."""
    if why := identity.too_long(scene.sts, number) or _stale(scene, number):
        name = identity.pod_name(scene.sts, number)
        text = f"create Pod {name} in StatefulSet {scene.sts.metadata.name} failed error: {why}"
        plan.notes.append(Note(scene.sts, "Warning", "FailedCreate", text, COMPONENT))
    elif _claims(scene, number, plan):
        plan.wake_at = scene.now
    else:
        plan.created.append(identity.new_pod(scene.sts, *scene.template(number), number, last))


def _stale(scene: _Scene, number: int) -> str:
    """A claim that is about to go, with the data in it: the pod must not begin with that."""
    for made in identity.claims_for(scene.sts, number):
        there = scene.claim(made.metadata.name)
        name = identity.pod_name(scene.sts, number)
        if there is not None and (is_deleted(there) or identity.of_another_life(there, name)):
            return f"persistentvolumeclaim {made.metadata.name} is being deleted; the pod is made once it is gone"
    return ""


def _claims(scene: _Scene, number: int, plan: _Plan) -> bool:
    """Make those that are missing; whether there are any."""
    missing = [c for c in identity.claims_for(scene.sts, number) if scene.claim(c.metadata.name) is None]
    for made in missing:
        plan.others.append(Create(made))
        name, set_name = identity.pod_name(scene.sts, number), scene.sts.metadata.name
        text = f"create Claim {made.metadata.name} Pod {name} in StatefulSet {set_name} success"
        plan.notes.append(Note(scene.sts, "Normal", "SuccessfulCreate", text, COMPONENT))
    return bool(missing)


def _own_claims(scene: _Scene, pod: Pod, number: int, plan: _Plan, *, condemned: bool = False) -> None:
    """Whom its claims go with, by the set's retention policy."""
    for template in scene.sts.spec.volume_claim_templates:
        there = scene.claim(identity.claim_name(scene.sts, template, number))
        if there is None or is_deleted(there):
            continue
        owned = identity.with_owners(there, scene.sts, pod, condemned=condemned)
        if owned is not there:
            plan.others.append(Update(owned, expect=there.metadata.resource_version or None))


def _again(scene: _Scene, number: int, pod: Pod, plan: _Plan) -> None:
    """It has ended, which pods of a StatefulSet never should."""
    if (due := retries.due(pod)) > scene.now:
        plan.wake_at = min(plan.wake_at, due)
        return
    failed = pod.status.phase == "Failed"
    reason, word = ("RecreatingFailedPod", "failed") if failed else ("RecreatingTerminatedPod", "terminated")
    text = f"StatefulSet {scene.sts.title} is recreating {word} Pod {pod.metadata.name}"
    plan.notes.append(Note(scene.sts, "Warning" if failed else "Normal", reason, text, COMPONENT))
    plan.removed.append(pod)
    if not pod.metadata.finalizers:
        _create(scene, number, plan, pod)


# ---------------------------------------------------------------- fewer, and other ones


def _shrink(scene: _Scene, plan: _Plan) -> bool:
    """Send the surplus away; whether there is any. Other than in Kubernetes, a pod that is to go needn't be ready for
    it: only those that stay must."""
    for number, pod in scene.condemned:
        _own_claims(scene, pod, number, plan, condemned=True)
    for _, pod in scene.condemned:
        if not is_deleted(pod):
            plan.removed.append(pod)
        if scene.ordered or len(plan.removed) >= BURST:
            break
    return bool(scene.condemned)


def _mend(scene: _Scene, number: int, plan: _Plan) -> None:
    """Replace the pod that the others wait for, if the reason may be a template that isn't the present one."""
    pod = scene.members.get(number)
    if pod is None or not _outdated(scene, number, pod):
        return
    leaving = any(is_deleted(p) for p in scene.members.values())
    if not leaving and not _unproven(scene):
        plan.removed.append(pod)


def _roll(scene: _Scene, plan: _Plan) -> None:
    """Replace pods of other revisions, from the highest number down; first those that aren't available anyway."""
    rolling = scene.sts.spec.update_strategy.rolling_update
    if rolling is None:
        return
    gone = {p.metadata.name for p in plan.removed}
    alive = {n: p for n, p in scene.members.items() if is_active(p) and p.metadata.name not in gone}
    old = [n for n in sorted(alive, reverse=True) if _outdated(scene, n, alive[n])]
    down = [n for n in old if not scene.available(alive[n])]
    up = [n for n in old if scene.available(alive[n])]
    most = 1
    if rolling.max_unavailable is not None:
        most = max(percent_of(rolling.max_unavailable, len(scene.numbers), up=True), 1)
    missing = len(scene.numbers) - len(alive)
    others = sum(not scene.available(p) for n, p in alive.items() if n not in old)
    unproven = _unproven(scene)
    chosen = down[: max(most - missing - unproven, 0)]
    chosen += up[: max(most - missing - others - len(down), 0)]
    plan.removed += [alive[n] for n in chosen]


def _outdated(scene: _Scene, number: int, pod: Pod) -> bool:
    """A pod that the strategy lets us replace, because it has another template than it should have."""
    rolls = scene.sts.spec.update_strategy.type == "RollingUpdate" and number >= scene.first_rolling
    return rolls and is_active(pod) and pod.metadata.labels.get(REVISION_LABEL) != scene.update


def _unproven(scene: _Scene) -> int:
    """How many pods of the present template aren't available; none if all pods had it before, and were."""
    if scene.update == scene.current.metadata.name:
        return 0
    pods = [p for p in scene.members.values() if p.metadata.labels.get(REVISION_LABEL) == scene.update]
    return sum(is_active(p) and not scene.available(p) for p in pods)


# ---------------------------------------------------------------- telling


def _status(scene: _Scene, plan: _Plan) -> StatefulSetStatus:
    """As it is once the decision is committed. Pods that leave count as there, as in Kubernetes, but have no revision
    any more."""
    gone = {p.metadata.name: isinstance(remove_pod(p), Delete) for p in plan.removed}
    before = [*scene.members.values(), *(p for _, p in scene.condemned)]
    there = [p for p in before if not gone.get(p.metadata.name, False)] + plan.created
    stay = [p for p in before if not is_deleted(p) and p.metadata.name not in gone] + plan.created
    staying = [p.metadata.labels.get(REVISION_LABEL) for p in stay]
    current = scene.current.metadata.name
    wait = scene.sts.spec.min_ready_seconds
    ready = [p for p in there if is_ready(p) and not is_finished(p)]
    available = sum(is_available(p, wait, scene.now) for p in ready)
    updated, wanted = staying.count(scene.update), scene.sts.spec.replicas
    strategy = scene.sts.spec.update_strategy.type
    if strategy == "RollingUpdate" and (updated, available, len(there)) == (wanted, wanted, wanted):
        current = scene.update
    return scene.sts.status.model_copy(
        update={
            "observed_generation": scene.sts.metadata.generation,
            "replicas": len(there),
            "ready_replicas": len(ready),
            "available_replicas": available,
            "current_replicas": staying.count(current),
            "updated_replicas": updated,
            "current_revision": current,
            "update_revision": scene.update,
        }
    )


def _told(sts: StatefulSet, verb: str, pods: Sequence[Pod]) -> list[Note]:
    """Events about the set: a few pods by name, the rest counted."""
    reason, set_name = f"Successful{verb.capitalize()}", sts.metadata.name
    texts = [f"{verb} Pod {p.metadata.name} in StatefulSet {set_name} successful" for p in pods[:NOTES_EACH]]
    if len(pods) > NOTES_EACH:
        texts.append(f"{verb} {len(pods) - NOTES_EACH} more Pods in StatefulSet {set_name} successful")
    return [Note(sts, "Normal", reason, text, COMPONENT) for text in texts]
