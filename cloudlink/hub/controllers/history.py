"""ControllerRevisions: the templates that a DaemonSet or StatefulSet has had, for `kubectl rollout history` and `undo`.

After Kubernetes' pkg/controller/history. Two revisions are the same if their templates are, read as this hub reads
them: another release that writes defaults out does not roll a fleet.

Invariant: a template has one revision; it is never changed but for its number, which grows when it is used again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from cloudlink.hub.changes import Create, Delete, ObjectChange, Update
from cloudlink.hub.objects import NAME_MAX, is_deleted, owned_by, template_hash
from cloudlink.kube.apps import ControllerRevision, DaemonSet, StatefulSet
from cloudlink.kube.meta import ObjectMeta
from cloudlink.kube.parse import dump
from cloudlink.kube.pod import PodTemplateSpec

REVISION_LABEL = "controller-revision-hash"  # on pods; of DaemonSets also on revisions
_HASH_LABEL = "controller.kubernetes.io/hash"  # on revisions of StatefulSets
_BASE_MAX = NAME_MAX - 11  # a StatefulSet's pods have the whole name as a label
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True, slots=True)
class History:
    """:ivar update: the present template's revision; perhaps made by `changes`.
    :ivar known: all others, oldest first.
    :ivar collisions: to be written into the status first, where it isn't what is there: the name was taken.
    """

    update: ControllerRevision
    known: tuple[ControllerRevision, ...]
    changes: tuple[ObjectChange, ...]
    collisions: int | None

    def find(self, name: str) -> ControllerRevision | None:
        return next((r for r in (self.update, *self.known) if r.metadata.name == name), None)


def remember(
    owner: DaemonSet | StatefulSet, revisions: Sequence[ControllerRevision], taken: Collection[str]
) -> History:
    """The history with the present template in it.

    :param revisions: those that the owner controls. :param taken: names of all of the namespace.
    """
    known = sorted((r for r in revisions if not is_deleted(r)), key=lambda r: (r.revision, r.metadata.name))
    collisions = owner.status.collision_count
    data = _data(owner.spec.template)
    there = next((r for r in reversed(known) if r.data == data), None)
    if there is None:
        there = next((r for r in reversed(known) if template_of(r) == owner.spec.template), None)
    newest = known[-1].revision if known else 0
    if there is None:
        digest = template_hash(owner.spec.template, collisions or 0)
        made = _made(owner, f"{owner.metadata.name[:_BASE_MAX]}-{digest}", digest, newest + 1, data)
        if made.metadata.name in taken:
            return History(made, tuple(known), (), (collisions or 0) + 1)
        return History(made, tuple(known), (Create(made),), collisions)
    others = tuple(r for r in known if r is not there)
    if there.revision == newest:
        return History(there, others, (), collisions)
    again = there.model_copy(update={"revision": newest + 1})
    return History(again, others, (Update(again, expect=there.metadata.resource_version or None),), collisions)


def forget(owner: DaemonSet | StatefulSet, history: History, used: Collection[str]) -> list[ObjectChange]:
    """The oldest revisions beyond `revisionHistoryLimit`. :param used: names of those that pods still have."""
    idle = [r for r in history.known if r.metadata.name not in used]
    surplus = idle[: max(len(idle) - owner.spec.revision_history_limit, 0)]
    return [Delete(r.kind, r.metadata.namespace, r.metadata.name, uid=r.metadata.uid or None) for r in surplus]


def template_of(revision: ControllerRevision) -> PodTemplateSpec | None:
    """None where it isn't one that this hub can read."""
    try:
        document = {k: v for k, v in revision.data["spec"]["template"].items() if k != "$patch"}
        return PodTemplateSpec.model_validate(document)
    except (ValidationError, KeyError, AttributeError, TypeError):
        return None


def label_of(revision: ControllerRevision, owner: DaemonSet | StatefulSet) -> str:
    """What REVISION_LABEL says on pods of this revision."""
    if isinstance(owner, DaemonSet):
        return revision.metadata.labels.get(REVISION_LABEL, "")
    return revision.metadata.name


def _data(template: PodTemplateSpec) -> dict[str, object]:
    """A strategic merge patch, which `kubectl rollout undo` sends as it is."""
    return {"spec": {"template": {**dump(template), "$patch": "replace"}}}


def _made(
    owner: DaemonSet | StatefulSet, name: str, digest: str, number: int, data: dict[str, object]
) -> ControllerRevision:
    label = REVISION_LABEL if isinstance(owner, DaemonSet) else _HASH_LABEL
    meta = ObjectMeta(
        name=name,
        namespace=owner.metadata.namespace,
        labels=owner.spec.template.metadata.labels | {label: digest},
        annotations={k: v for k, v in owner.metadata.annotations.items() if k != _LAST_APPLIED},
        owner_references=(owned_by(owner),),
    )
    return ControllerRevision(metadata=meta, revision=number, data=data)
