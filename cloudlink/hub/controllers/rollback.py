"""Going back from a revision that fails to the last one that was good. Pure.

The good template is written into the Deployment, as `kubectl rollout undo` does it. Considered: leaving the spec and
running another revision than it says; then `kubectl get -o yaml` would show what doesn't run, and kubectl's history,
diff and undo would be wrong.

It takes two decisions: the first says that the revision failed, in the words by which `kubectl rollout status` ends
with an error; the second goes back. What the hub went back to is not judged again (`Family.is_restored`), so it
never goes to and fro between bad revisions; a template that somebody applies is, whether it failed before or not.
"""

from __future__ import annotations

from cloudlink.hub.changes import ObjectChange, Update, UpdateStatus
from cloudlink.hub.controllers import judging, progress
from cloudlink.hub.controllers.family import COMPONENT, REVISION, Family, images_of, revision_of
from cloudlink.hub.controllers.judging import Verdict
from cloudlink.hub.controllers.refusals import FAILURE
from cloudlink.hub.decision import Decision, Note
from cloudlink.hub.objects import find_condition, with_condition, with_meta, without_hash
from cloudlink.kube.annotations import RESTORED
from cloudlink.kube.apps import Deployment, DeploymentCondition, ReplicaSet

ROLLED_BACK = "RolledBack"  # type of the condition, reason of the event
IMPOSSIBLE = "NoGoodRevision"
_CAUSE = "kubernetes.io/change-cause"


def verdict_of(family: Family, of_wave: Verdict) -> Verdict:
    """Whether the present revision fails; never true of one that was good, nor of one that was gone back to."""
    deployment, new = family.deployment, family.new
    if new is None or family.is_proven or family.is_restored or deployment.spec.paused:
        return Verdict()
    if of_wave.cause:
        return of_wave
    pods = family.active(new)
    verdict = judging.judge(pods, family.now)
    told = find_condition(deployment.status.conditions, "Progressing")
    timed_out = told is not None and told.status == "False" and told.reason == progress.TIMED_OUT
    if verdict.cause or not timed_out or told is None:
        return verdict
    failure = find_condition(new.status.conditions, FAILURE)
    if len(pods) > deployment.status.updated_replicas or (not pods and failure is None):
        return verdict  # Recreate waited for the old pods to leave: the new revision has had no chance yet
    if told.message != progress.timed_out(new.metadata.name):
        ours = f"{_who(family)}: "  # said by `failed`; a pod may have recovered since, which is no news any more
        if told.message.startswith(ours):
            return Verdict(told.reason, told.message.removeprefix(ours))
        return verdict
    wanted, limit = min(family.cap, deployment.spec.replicas), deployment.spec.progress_deadline_seconds
    return judging.standstill(pods, wanted, limit, failure.message if failure is not None else "")


def undone(family: Family, target: ReplicaSet, verdict: Verdict) -> Decision:
    """The second decision: write the good template; `target` is its set."""
    deployment = family.deployment
    number = family.revision() + 1
    message = (
        f"{_who(family)} undone: {verdict.cause}; revision {revision_of(target)} ({images_of(target)}) is rolled out"
        f" again, as revision {number}"
    )
    annotations = {k: v for k, v in deployment.metadata.annotations.items() if k != _CAUSE}
    if cause := target.metadata.annotations.get(_CAUSE):
        annotations[_CAUSE] = cause
    spec = deployment.spec.model_copy(update={"template": without_hash(target.spec.template)})
    changed = deployment.model_copy(update={"spec": spec} | with_meta(deployment, annotations=annotations))
    marked = target.metadata.annotations | {REVISION: str(number), RESTORED: str(number)}
    conditions = with_condition(
        deployment.status.conditions,
        progress.condition("Progressing", "True", ROLLED_BACK, f"Rolled back to revision {number}", family.now),
    )
    conditions = with_condition(
        conditions, progress.condition(ROLLED_BACK, "True", verdict.reason, message, family.now)
    )
    status = deployment.status.model_copy(update={"conditions": conditions})
    changes: tuple[ObjectChange, ...] = (
        Update(changed, expect=deployment.metadata.resource_version or None),
        Update(target.model_copy(update=with_meta(target, annotations=marked))),
        UpdateStatus(deployment.model_copy(update={"status": status})),
    )
    return Decision(changes, (Note(deployment, "Warning", ROLLED_BACK, message, COMPONENT),))


def failed(family: Family, verdict: Verdict) -> Decision:
    """The first decision: the condition Progressing says that this revision won't come to anything."""
    deployment = family.deployment
    message = f"{_who(family)}: {verdict.cause}"
    new = progress.condition("Progressing", "False", progress.TIMED_OUT, message, family.now)
    status = deployment.status.model_copy(
        update={
            "observed_generation": deployment.metadata.generation,
            "conditions": with_condition(deployment.status.conditions, new),
        }
    )
    return Decision((UpdateStatus(deployment.model_copy(update={"status": status})),))


def is_told(deployment: Deployment) -> bool:
    """Whether the first decision was carried out, and people could see it."""
    told = find_condition(deployment.status.conditions, "Progressing")
    return (
        told is not None
        and told.status == "False"
        and told.reason == progress.TIMED_OUT
        and deployment.status.observed_generation >= deployment.metadata.generation
    )


def told_of(
    family: Family, verdict: Verdict, conditions: tuple[DeploymentCondition, ...]
) -> tuple[tuple[DeploymentCondition, ...], list[Note]]:
    """The condition RolledBack as long as it is about the present: it goes with the next revision."""
    deployment = family.deployment
    there = find_condition(conditions, ROLLED_BACK)
    if verdict.cause and family.policy.rollback and family.last_good() is None:
        message = (
            f"{_who(family)} fails: {verdict.cause}; no earlier revision was good, so there is nothing to go back to"
        )
        new = progress.condition(ROLLED_BACK, "False", IMPOSSIBLE, message, family.now)
        is_news = there is None or there.reason != IMPOSSIBLE
        if not is_news:
            return conditions, []  # the numbers in it change all the time
        return with_condition(conditions, new), [Note(deployment, "Warning", IMPOSSIBLE, message, COMPONENT)]
    stays = there is not None and (family.is_restored if there.status == "True" else not family.is_proven)
    if there is None or stays:
        return conditions, []
    return tuple(c for c in conditions if c is not there), []


def _who(family: Family) -> str:
    assert family.new is not None
    return f"revision {family.revision()} ({images_of(family.new)})"
