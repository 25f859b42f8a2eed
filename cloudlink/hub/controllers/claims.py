"""PersistentVolumeClaims: bound to the node of their first pod, protected while a pod uses them. Pure.

After Kubernetes' persistent volume binder (WaitForFirstConsumer) and its pvc-protection controller. The data itself
is made and deleted by the node, which has a claim for as long as its document lists it: as long as the object exists.
"""

from __future__ import annotations

from collections.abc import Sequence

from cloudlink.hub.changes import ObjectChange, Update, UpdateStatus
from cloudlink.hub.decision import Decision, Note
from cloudlink.hub.objects import is_deleted
from cloudlink.kube.claims import BINDING, PROTECTION, SELECTED_NODE, PersistentVolumeClaimStatus
from cloudlink.kube.core import PersistentVolumeClaim, Pod
from cloudlink.kube.meta import ObjectMeta

COMPONENT = "persistentvolume-controller"


def reconcile(claim: PersistentVolumeClaim, users: Sequence[Pod]) -> Decision:
    """Decide about one claim, given every pod that names it."""
    scheduled = sorted(
        (p for p in users if p.spec.node_name), key=lambda p: (p.metadata.creation_timestamp, p.metadata.uid)
    )
    if is_deleted(claim):
        return _released(claim) if not scheduled else Decision()
    node = claim.node or (scheduled[0].spec.node_name if scheduled else "")
    wanted = _bound(claim, node) if node else claim
    finalizers = tuple(dict.fromkeys((*claim.metadata.finalizers, PROTECTION)))
    wanted = _with_meta(wanted, finalizers=finalizers)
    status = _status(wanted, node)
    changes: list[ObjectChange] = []
    if wanted != claim:
        changes.append(Update(wanted, expect=claim.metadata.resource_version or None))
    if status != claim.status:
        changes.append(UpdateStatus(claim.model_copy(update={"status": status})))
    return Decision(tuple(changes), _notes(claim, status, node))


def uses(pod: Pod, claim: PersistentVolumeClaim) -> bool:
    """Whether a pod of the claim's namespace names it."""
    named = (v.persistent_volume_claim for v in pod.spec.volumes)
    return any(c is not None and c.claim_name == claim.metadata.name for c in named)


def _released(claim: PersistentVolumeClaim) -> Decision:
    """No pod has it any more: let it go, and with it its data."""
    left = tuple(f for f in claim.metadata.finalizers if f != PROTECTION)
    if left == claim.metadata.finalizers:
        return Decision()
    return Decision((Update(_with_meta(claim, finalizers=left)),))


def _bound(claim: PersistentVolumeClaim, node: str) -> PersistentVolumeClaim:
    marks = {SELECTED_NODE: node} | {name: "yes" for name in BINDING if name != SELECTED_NODE}
    claim = _with_meta(claim, annotations=claim.metadata.annotations | marks)
    volume = claim.spec.volume_name or f"pvc-{claim.metadata.uid}"
    return claim.model_copy(update={"spec": claim.spec.model_copy(update={"volume_name": volume})})


def _status(claim: PersistentVolumeClaim, node: str) -> PersistentVolumeClaimStatus:
    if not node:
        return claim.status.model_copy(update={"phase": "Pending"})
    bound = {
        "phase": "Bound",
        "access_modes": claim.spec.access_modes,
        "capacity": {"storage": claim.storage},
    }
    return claim.status.model_copy(update=bound)


def _notes(claim: PersistentVolumeClaim, status: PersistentVolumeClaimStatus, node: str) -> tuple[Note, ...]:
    if status.phase == claim.status.phase:
        return ()
    if status.phase == "Pending":
        text = "waiting for first consumer to be created before binding"
        return (Note(claim, "Normal", "WaitForFirstConsumer", text, COMPONENT),)
    text = f"Successfully provisioned volume pvc-{claim.metadata.uid} on node {node}"
    return (Note(claim, "Normal", "ProvisioningSucceeded", text, COMPONENT),)


def _with_meta(claim: PersistentVolumeClaim, **fields: object) -> PersistentVolumeClaim:
    meta: ObjectMeta = claim.metadata.model_copy(update=fields)
    return claim.model_copy(update={"metadata": meta})
