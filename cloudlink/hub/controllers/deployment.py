"""Deployment -> ReplicaSets: one for each template there was, the newest one grown at the older ones' cost.

After Kubernetes' pkg/controller/deployment. The arithmetic is in `rollout`, what is told in `progress`.

Invariant: at most one ReplicaSet has the Deployment's present template; it is never removed; templates of
ReplicaSets never change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cloudlink.hub.changes import Create, Delete, ObjectChange, Update, UpdateStatus
from cloudlink.hub.controllers import progress, rollback, waves
from cloudlink.hub.controllers.family import (
    COMPONENT,
    DESIRED,
    REVISION,
    Family,
    family_of,
    number,
    revision_of,
)
from cloudlink.hub.controllers.refusals import FAILURE
from cloudlink.hub.controllers.rollout import Count, fill, roll, scale
from cloudlink.hub.decision import NEVER, Decision, Note
from cloudlink.hub.objects import (
    HASH_LABEL,
    available_at,
    find_condition,
    is_deleted,
    is_ready,
    owned_by,
    template_hash,
    with_meta,
)
from cloudlink.kube.annotations import ROLLOUT_STATE, SUCCEEDED
from cloudlink.kube.apps import Deployment, ReplicaSet, ReplicaSetSpec
from cloudlink.kube.core import Pod
from cloudlink.kube.meta import Condition, LabelSelector, ObjectMeta
from cloudlink.kube.pod import PodTemplateSpec


def reconcile(
    deployment: Deployment, replica_sets: Sequence[ReplicaSet], pods: Sequence[Pod], now: float, taken: frozenset[str]
) -> Decision:
    """Decide about one Deployment, given the ReplicaSets that it controls and all pods of those.

    :param now: seconds since 1970.
    :param taken: names of all ReplicaSets of the namespace, whoever they belong to.
    """
    if is_deleted(deployment):
        return Decision()
    family = family_of(deployment, replica_sets, pods, now)
    course = waves.course_of(family)
    family = replace(family, cap=course.cap)
    if deployment.spec.paused:
        changes, notes = _resize(family, family.sets, _scaled(family))
        status, wake_at = progress.summarise(family_facts(family, created=""), deployment, now)
        return _decision(deployment, status, changes, notes, wake_at)
    verdict = rollback.verdict_of(family, course.verdict)
    if verdict.cause and family.policy.rollback and (target := family.last_good()) is not None:
        if rollback.is_told(deployment):
            return rollback.undone(family, target, verdict)
        return rollback.failed(family, verdict)
    proven_at = family.proven_at()
    proven = {SUCCEEDED: str(family.revision())} if proven_at <= now else {}
    family = replace(family, marks=course.marks | proven)
    created, collisions = (None, deployment.status.collision_count) if family.new else _new_set(family, taken)
    if collisions != deployment.status.collision_count:
        status = deployment.status.model_copy(update={"collision_count": collisions})
        return Decision((UpdateStatus(deployment.model_copy(update={"status": status})),))
    if created is not None:
        changes, notes = [Create(created)], _growth_notes(deployment, created.metadata.name, 0, created.spec.replicas)
    else:
        changes, notes = _next_sizes(family)
        changes += _forget_history(family)
    changes += _with_revision(deployment, created or family.new)
    facts = family_facts(family, created.metadata.name if created else "", course.hold)
    status, wake_at = progress.summarise(facts, deployment, now)
    if family.new is not None:
        conditions, told = rollback.told_of(family, verdict, status.conditions)
        status, notes = status.model_copy(update={"conditions": conditions}), [*notes, *told]
    wake_at = min(wake_at, course.wake_at, verdict.wake_at, proven_at if proven_at > now else NEVER)
    return _decision(deployment, status, changes, [*course.notes, *notes], wake_at)


def _with_revision(deployment: Deployment, newest: ReplicaSet | None) -> list[ObjectChange]:
    """The Deployment says which revision it has; what `kubectl rollout undo` copied from a set says nothing here."""
    there = deployment.metadata.annotations
    revision = newest.metadata.annotations.get(REVISION, "") if newest else ""
    wanted = {k: v for k, v in there.items() if k not in ROLLOUT_STATE} | ({REVISION: revision} if revision else {})
    if wanted == there:
        return []
    return [Update(deployment.model_copy(update=with_meta(deployment, annotations=wanted)))]


def family_facts(family: Family, created: str, hold: progress.Hold | None = None) -> progress.Facts:
    """The counts that conditions are made of."""
    present = [(rs, family.active(rs)) for rs in family.sets]
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
        updated_available=family.count(family.new).available if family.new else 0,
        max_unavailable=family.limits.unavailable,
        next_available=min((t for t in times if t > family.now), default=NEVER),
        hold=hold,
        failure=_failure(family),
    )


def _failure(family: Family) -> Condition | None:
    """What a set of it says of pods that weren't let in; the newest set first."""
    sets = sorted(family.sets, key=lambda rs: rs is not family.new)
    return next((c for rs in sets if (c := find_condition(rs.status.conditions, FAILURE)) is not None), None)


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
        any(s.spec.replicas for s in family.old) or family.any_pod_left()
    ):
        replicas = 0
    else:
        old = [family.count(s) for s in family.old]
        replicas = roll(deployment.spec.replicas, family.limits, Count(name, 0, 0, 0), old, family.cap)[name]
    return _made(family, name, digest, replicas), collisions


def _made(family: Family, name: str, digest: str, replicas: int) -> ReplicaSet:
    deployment = family.deployment
    template = deployment.spec.template
    labels = template.metadata.labels | {HASH_LABEL: digest}
    meta = ObjectMeta(
        name=name,
        namespace=deployment.metadata.namespace,
        labels=labels,
        annotations=_annotations(family, {}),
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


def _annotations(family: Family, present: dict[str, str]) -> dict[str, str]:
    """Those of the newest set: the Deployment's own, and what sizes, history and waves need."""
    own = {REVISION: str(family.revision())}
    return family.with_policy(present) | family.copied() | family.sizing() | dict(family.marks) | own


# ---------------------------------------------------------------- sizes


def _next_sizes(family: Family) -> tuple[list[ObjectChange], list[Note]]:
    """What the sets should be told next; the newest also gets its annotations and the highest revision."""
    assert family.new is not None
    deployment = family.deployment
    by_worth = sorted(family.old, key=lambda s: bool(number(s.metadata.annotations.get(SUCCEEDED, ""))))
    old = [family.count(s) for s in by_worth]  # what never was good goes first, then the oldest
    new = family.count(family.new)
    if _replicas_changed(family):
        sizes = _scaled(family)
    elif deployment.spec.strategy.type == "Recreate":
        sizes = {c.name: 0 for c in old}
        if not any(c.wanted for c in old) and not family.any_pod_left():
            sizes[new.name] = deployment.spec.replicas
    else:
        sizes = roll(deployment.spec.replicas, family.limits, new, old, family.cap)
        sizes = _filled(family, sizes, max(family.cap, new.wanted))
    return _resize(family, family.sets, sizes)


def _filled(family: Family, sizes: dict[str, int], cap: int) -> dict[str, int]:
    """While a wave holds the new set at `cap`, the old ones have the rest of the pods."""
    with_pods = [s for s in family.old if s.spec.replicas]
    stay = family.last_good() or (with_pods[-1] if with_pods else None)
    if family.new is None or stay is None or cap >= family.deployment.spec.replicas:
        return sizes
    every = {s.metadata.name: sizes.get(s.metadata.name, s.spec.replicas) for s in family.sets}
    return fill(family.deployment.spec.replicas, every, family.new.metadata.name, cap, stay.metadata.name)


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
    if len(active) > 1 and not _replicas_changed(family):
        return {}  # paused in a rollout: it stands as it is
    sizes = scale(replicas, family.limits, [family.count(s) for s in active], active[-1].metadata.name)
    if family.new is not None and (name := family.new.metadata.name) in sizes:
        sizes[name] = min(sizes[name], replicas)  # what may be too many is for the old pods
    if family.policy.waves and (good := family.last_good()) is not None:
        for rs in family.old:  # an abandoned canary doesn't grow; the good ones do instead
            more = sizes.get(rs.metadata.name, 0) - rs.spec.replicas
            if more > 0 and not number(rs.metadata.annotations.get(SUCCEEDED, "")):
                sizes[rs.metadata.name] = rs.spec.replicas
                sizes[good.metadata.name] = sizes.get(good.metadata.name, good.spec.replicas) + more
    return _filled(family, sizes, family.cap)


def _resize(family: Family, sets: Sequence[ReplicaSet], sizes: dict[str, int]) -> tuple[list[ObjectChange], list[Note]]:
    changes: list[ObjectChange] = []
    notes: list[Note] = []
    for rs in sets:
        meta = rs.metadata
        size = sizes.get(meta.name, rs.spec.replicas)
        annotations = family.with_policy(meta.annotations)
        if rs is family.new:
            annotations = _annotations(family, meta.annotations)
        else:
            if size or rs.spec.replicas:
                annotations |= family.sizing()
            if family.was_good(rs):
                annotations[SUCCEEDED] = str(revision_of(rs))
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
    """Remove the oldest empty sets beyond `revisionHistoryLimit`; never the one to go back to, while that may be."""
    needed = None if family.is_proven else family.last_good()
    empty = [s for s in family.old if not s.spec.replicas and not family.pods.get(s.metadata.uid)]
    empty.sort(key=revision_of)
    surplus = empty[: max(len(empty) - family.deployment.spec.revision_history_limit, 0)]
    return [
        Delete("ReplicaSet", s.metadata.namespace, s.metadata.name, uid=s.metadata.uid or None)
        for s in surplus
        if s is not needed
    ]
