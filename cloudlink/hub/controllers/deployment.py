"""Deployment -> ReplicaSets: one for each template there was, the newest one grown at the older ones' cost.

After Kubernetes' pkg/controller/deployment. The arithmetic is in `rollout`, what is told in `progress`.

Invariant: at most one ReplicaSet has the Deployment's present template; it is never removed; templates of
ReplicaSets never change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloudlink.hub.changes import Create, Delete, ObjectChange, Update, UpdateStatus
from cloudlink.hub.controllers import progress
from cloudlink.hub.controllers.rollout import Bounds, Count, bounds, roll, scale
from cloudlink.hub.decision import NEVER, Decision, Note
from cloudlink.hub.objects import (
    HASH_LABEL,
    available_at,
    controller_of,
    is_active,
    is_deleted,
    is_finished,
    is_ready,
    owned_by,
    seconds,
    template_hash,
    with_meta,
    without_hash,
)
from cloudlink.kube.apps import Deployment, ReplicaSet, ReplicaSetSpec
from cloudlink.kube.core import Pod
from cloudlink.kube.meta import LabelSelector, ObjectMeta
from cloudlink.kube.pod import PodTemplateSpec

COMPONENT = "deployment-controller"
REVISION = "deployment.kubernetes.io/revision"
DESIRED = "deployment.kubernetes.io/desired-replicas"  # the Deployment's replicas when this set was last sized
MAXIMUM = "deployment.kubernetes.io/max-replicas"
_NOT_COPIED = frozenset({"kubectl.kubernetes.io/last-applied-configuration", REVISION, DESIRED, MAXIMUM})


@dataclass(frozen=True, slots=True)
class Family:
    """A Deployment with its ReplicaSets and their pods.

    :ivar new: the set with the present template, if there is one already.
    :ivar old: the others, oldest first.
    :ivar pods: by the uid of their ReplicaSet.
    """

    deployment: Deployment
    new: ReplicaSet | None
    old: tuple[ReplicaSet, ...]
    pods: dict[str, tuple[Pod, ...]]
    limits: Bounds
    now: float

    @property
    def sets(self) -> tuple[ReplicaSet, ...]:
        return (*self.old, self.new) if self.new else self.old

    def count(self, rs: ReplicaSet) -> Count:
        active = [p for p in self.pods.get(rs.metadata.uid, ()) if is_active(p)]
        wait = self.deployment.spec.min_ready_seconds
        available = sum(available_at(p, wait) <= self.now for p in active)
        return Count(rs.metadata.name, rs.spec.replicas, len(active), available)


def reconcile(
    deployment: Deployment, replica_sets: Sequence[ReplicaSet], pods: Sequence[Pod], now: float, taken: frozenset[str]
) -> Decision:
    """Decide about one Deployment, given the ReplicaSets that it controls and all pods of those.

    :param now: seconds since 1970.
    :param taken: names of all ReplicaSets of the namespace, whoever they belong to.
    """
    family = _family(deployment, replica_sets, pods, now)
    if is_deleted(deployment):
        return Decision()
    if deployment.spec.paused:
        sizes = _scaled(family)
        changes, notes = _resize(family, family.sets, sizes)
        status, wake_at = progress.summarise(family_facts(family, created=""), deployment, now)
        return _decision(deployment, status, changes, notes, wake_at)
    created, collisions = (None, deployment.status.collision_count) if family.new else _new_set(family, taken)
    if collisions != deployment.status.collision_count:
        status = deployment.status.model_copy(update={"collision_count": collisions})
        return Decision((UpdateStatus(deployment.model_copy(update={"status": status})),))
    if created is not None:
        changes, notes = [Create(created)], _growth_notes(deployment, created.metadata.name, 0, created.spec.replicas)
    else:
        changes, notes = _next_sizes(family)
        changes += _forget_history(family)
    revision = _revision(created or family.new)
    if revision and deployment.metadata.annotations.get(REVISION) != revision:
        annotations = deployment.metadata.annotations | {REVISION: revision}
        changes.append(Update(deployment.model_copy(update=with_meta(deployment, annotations=annotations))))
    facts = family_facts(family, created.metadata.name if created else "")
    status, wake_at = progress.summarise(facts, deployment, now)
    return _decision(deployment, status, changes, notes, wake_at)


def family_facts(family: Family, created: str) -> progress.Facts:
    """The counts that conditions are made of."""
    present = [(rs, [p for p in family.pods.get(rs.metadata.uid, ()) if is_active(p)]) for rs in family.sets]
    pods = [p for _, of_set in present for p in of_set]
    wait = family.deployment.spec.min_ready_seconds
    times = [available_at(p, wait) for p in pods]
    return progress.Facts(
        newest=family.new.metadata.name if family.new else created,
        created=bool(created),
        replicas=len(pods),
        updated=sum(len(of_set) for rs, of_set in present if rs is family.new),
        ready=sum(is_ready(p) for p in pods),
        available=sum(t <= family.now for t in times),
        max_unavailable=family.limits.unavailable,
        next_available=min((t for t in times if t > family.now), default=NEVER),
    )


def _decision(
    deployment: Deployment,
    status: object,
    changes: Sequence[ObjectChange],
    notes: Sequence[Note],
    wake_at: float,
) -> Decision:
    if status != deployment.status:
        changes = [*changes, UpdateStatus(deployment.model_copy(update={"status": status}))]
    return Decision(tuple(changes), tuple(notes), wake_at)


def _family(deployment: Deployment, sets: Sequence[ReplicaSet], pods: Sequence[Pod], now: float) -> Family:
    in_order = sorted(
        (s for s in sets if not is_deleted(s)), key=lambda s: (seconds(s.metadata.creation_timestamp), s.metadata.name)
    )
    wanted = without_hash(deployment.spec.template)
    new = next((s for s in in_order if without_hash(s.spec.template) == wanted), None)
    by_set: dict[str, tuple[Pod, ...]] = {}
    for pod in pods:
        if owner := controller_of(pod):
            by_set[owner.uid] = (*by_set.get(owner.uid, ()), pod)
    spec = deployment.spec
    rolling = spec.strategy.rolling_update
    if spec.strategy.type == "Recreate" or rolling is None:
        limits = Bounds(surge=0, unavailable=0)
    else:
        limits = bounds(spec.replicas, rolling.max_surge, rolling.max_unavailable)
    return Family(deployment, new, tuple(s for s in in_order if s is not new), by_set, limits, now)


# ---------------------------------------------------------------- the set with the present template


def _new_set(family: Family, taken: frozenset[str]) -> tuple[ReplicaSet | None, int | None]:
    """The ReplicaSet to create, or None and a raised collision count where its name belongs to another one."""
    deployment = family.deployment
    collisions = deployment.status.collision_count
    digest = template_hash(deployment.spec.template, collisions or 0)
    name = f"{deployment.metadata.name}-{digest}"
    if name in taken:
        return None, (collisions or 0) + 1
    if deployment.spec.strategy.type == "Recreate" and (
        any(s.spec.replicas for s in family.old) or _any_pod_left(family)
    ):
        replicas = 0
    else:
        replicas = roll(
            deployment.spec.replicas, family.limits, Count(name, 0, 0, 0), [family.count(s) for s in family.old]
        )[name]
    return _made(family, name, digest, replicas), collisions


def _made(family: Family, name: str, digest: str, replicas: int) -> ReplicaSet:
    deployment = family.deployment
    template = deployment.spec.template
    labels = template.metadata.labels | {HASH_LABEL: digest}
    meta = ObjectMeta(
        name=name,
        namespace=deployment.metadata.namespace,
        labels=labels,
        annotations=_annotations(family, {}, str(_last_revision(family) + 1)),
        owner_references=(owned_by(deployment),),
    )
    spec = ReplicaSetSpec(
        replicas=replicas,
        min_ready_seconds=deployment.spec.min_ready_seconds,
        selector=LabelSelector(
            match_labels=deployment.spec.selector.match_labels | {HASH_LABEL: digest},
            match_expressions=deployment.spec.selector.match_expressions,
        ),
        template=PodTemplateSpec(
            metadata=ObjectMeta(labels=labels, annotations=template.metadata.annotations), spec=template.spec
        ),
    )
    return ReplicaSet(metadata=meta, spec=spec)


def _last_revision(family: Family) -> int:
    return max((_number(s.metadata.annotations.get(REVISION, "")) for s in family.old), default=0)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def _revision(newest: ReplicaSet | None) -> str:
    return newest.metadata.annotations.get(REVISION, "") if newest else ""


def _annotations(family: Family, present: dict[str, str], revision: str) -> dict[str, str]:
    """The Deployment's own (a change cause, say) and the three that sizes and history need."""
    replicas = family.deployment.spec.replicas
    copied = {k: v for k, v in family.deployment.metadata.annotations.items() if k not in _NOT_COPIED}
    sizes = {DESIRED: str(replicas), MAXIMUM: str(replicas + family.limits.surge)}
    return present | copied | sizes | {REVISION: revision}


# ---------------------------------------------------------------- sizes


def _next_sizes(family: Family) -> tuple[list[ObjectChange], list[Note]]:
    """What the sets should be told next; the newest also gets its annotations and the highest revision."""
    assert family.new is not None
    deployment = family.deployment
    old = [family.count(s) for s in family.old]
    new = family.count(family.new)
    if _replicas_changed(family):
        sizes = _scaled(family)
    elif deployment.spec.strategy.type == "Recreate":
        sizes = {c.name: 0 for c in old}
        if not any(c.wanted for c in old) and not _any_pod_left(family):
            sizes[new.name] = deployment.spec.replicas
    else:
        sizes = roll(deployment.spec.replicas, family.limits, new, old)
    return _resize(family, family.sets, sizes)


def _any_pod_left(family: Family) -> bool:
    """Recreate starts nothing before the last old pod is off its node, on its way out or not."""
    return any(not is_finished(p) for s in family.old for p in family.pods.get(s.metadata.uid, ()))


def _replicas_changed(family: Family) -> bool:
    """Whether somebody scaled since the sets were sized last."""
    wanted = str(family.deployment.spec.replicas)
    return any(s.spec.replicas and s.metadata.annotations.get(DESIRED, wanted) != wanted for s in family.sets)


def _scaled(family: Family) -> dict[str, int]:
    replicas = family.deployment.spec.replicas
    active = [s for s in family.sets if s.spec.replicas] or list(family.sets[-1:])
    if not active:
        return {}
    if len(active) > 1 and family.deployment.spec.strategy.type == "Recreate":
        return {}
    return scale(replicas, family.limits, [family.count(s) for s in active], active[-1].metadata.name)


def _resize(family: Family, sets: Sequence[ReplicaSet], sizes: dict[str, int]) -> tuple[list[ObjectChange], list[Note]]:
    changes: list[ObjectChange] = []
    notes: list[Note] = []
    for rs in sets:
        meta = rs.metadata
        size = sizes.get(meta.name, rs.spec.replicas)
        revision = meta.annotations.get(REVISION, "")
        annotations = meta.annotations
        if rs is family.new:
            revision = str(max(_last_revision(family) + 1, _number(revision)))
            annotations = _annotations(family, meta.annotations, revision)
        elif size or rs.spec.replicas:
            annotations = meta.annotations | {
                k: v for k, v in _annotations(family, {}, revision).items() if k in (DESIRED, MAXIMUM)
            }
        spec = rs.spec.model_copy(
            update={"replicas": size, "min_ready_seconds": family.deployment.spec.min_ready_seconds}
        )
        if spec == rs.spec and annotations == meta.annotations:
            continue
        changes.append(Update(rs.model_copy(update={"spec": spec} | with_meta(rs, annotations=annotations))))
        notes += _growth_notes(family.deployment, meta.name, rs.spec.replicas, size)
    return changes, notes


def _growth_notes(deployment: Deployment, name: str, before: int, after: int) -> list[Note]:
    if before == after:
        return []
    verb = "up" if after > before else "down"
    text = f"Scaled {verb} replica set {name} from {before} to {after}"
    return [Note(deployment, "Normal", "ScalingReplicaSet", text, COMPONENT)]


def _forget_history(family: Family) -> list[ObjectChange]:
    """Remove the oldest empty sets beyond `revisionHistoryLimit`, once the rollout is through."""
    empty = [s for s in family.old if not s.spec.replicas and not family.pods.get(s.metadata.uid)]
    empty.sort(key=lambda s: _number(s.metadata.annotations.get(REVISION, "")))
    surplus = empty[: max(len(empty) - family.deployment.spec.revision_history_limit, 0)]
    return [Delete("ReplicaSet", s.metadata.namespace, s.metadata.name, uid=s.metadata.uid or None) for s in surplus]
