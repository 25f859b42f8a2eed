"""What a StatefulSet's pods are called, and what is theirs: names, labels, host names, claims. Pure.

After Kubernetes' pkg/controller/statefulset/stateful_set_utils.
"""

from __future__ import annotations

from collections.abc import Iterator

from cloudlink.hub.controllers.history import REVISION_LABEL
from cloudlink.hub.controllers.retries import mark
from cloudlink.hub.objects import NAME_MAX, controller_of, owned_by
from cloudlink.kube.apps import StatefulSet
from cloudlink.kube.core import PersistentVolumeClaim, Pod
from cloudlink.kube.meta import KubeObject, ObjectMeta, OwnerReference
from cloudlink.kube.pod import PodTemplateSpec
from cloudlink.kube.volumes import PersistentVolumeClaimVolume, Volume

POD_NAME_LABEL = "statefulset.kubernetes.io/pod-name"
INDEX_LABEL = "apps.kubernetes.io/pod-index"


def ordinals(sts: StatefulSet) -> range:
    """The numbers that its pods should have."""
    start = sts.spec.ordinals.start if sts.spec.ordinals is not None else 0
    return range(start, start + sts.spec.replicas)


def pod_name(sts: StatefulSet, ordinal: int) -> str:
    return f"{sts.metadata.name}-{ordinal}"


def ordinal_of(sts: StatefulSet, name: str) -> int | None:
    """The number of its pod of this name; None for a name that it gives to none of its pods."""
    digits = name.removeprefix(f"{sts.metadata.name}-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10):
        return None
    ordinal = int(digits)
    return ordinal if name == pod_name(sts, ordinal) else None


def too_long(sts: StatefulSet, ordinal: int) -> str:
    """Why there can't be a pod of this number; "" if there can."""
    name = pod_name(sts, ordinal)
    if len(name) <= NAME_MAX:
        return ""
    return f'Pod "{name}" is invalid: metadata.labels: Invalid value: "{name}": must be no more than 63 characters'


# ---------------------------------------------------------------- pods


def new_pod(sts: StatefulSet, template: PodTemplateSpec, label: str, ordinal: int, last: Pod | None = None) -> Pod:
    """:param label: of the template's revision. :param last: the pod that it follows, where that one has failed."""
    name = pod_name(sts, ordinal)
    meta = ObjectMeta(
        name=name,
        generate_name=f"{sts.metadata.name}-",
        namespace=sts.metadata.namespace,
        labels=template.metadata.labels | _own_labels(name, ordinal) | {REVISION_LABEL: label},
        annotations={**template.metadata.annotations, **mark(last)},
        owner_references=(owned_by(sts),),
    )
    claims = tuple(_volume(c.metadata.name, claim_name(sts, c, ordinal)) for c in sts.spec.volume_claim_templates)
    replaced = {v.name for v in claims}
    others = tuple(v for v in template.spec.volumes if v.name not in replaced)
    own = {"hostname": name, "subdomain": sts.spec.service_name, "volumes": (*claims, *others)}
    return Pod(metadata=meta, spec=template.spec.model_copy(update=own))


def with_identity(pod: Pod, ordinal: int) -> Pod:
    """The pod with its own labels; the same pod where it has them. One that was taken in may lack them."""
    own = _own_labels(pod.metadata.name, ordinal)
    if own.items() <= pod.metadata.labels.items():
        return pod
    meta = pod.metadata.model_copy(update={"labels": pod.metadata.labels | own})
    return pod.model_copy(update={"metadata": meta})


def _own_labels(name: str, ordinal: int) -> dict[str, str]:
    return {POD_NAME_LABEL: name, INDEX_LABEL: str(ordinal)}


def _volume(name: str, claim: str) -> Volume:
    return Volume(name=name, persistent_volume_claim=PersistentVolumeClaimVolume(claim_name=claim))


# ---------------------------------------------------------------- claims


def claim_name(sts: StatefulSet, template: PersistentVolumeClaim, ordinal: int) -> str:
    return f"{template.metadata.name}-{pod_name(sts, ordinal)}"


def claims_for(sts: StatefulSet, ordinal: int) -> Iterator[PersistentVolumeClaim]:
    """What the pod of this number stores its data in, as it is made."""
    for template in sts.spec.volume_claim_templates:
        meta = ObjectMeta(
            name=claim_name(sts, template, ordinal),
            namespace=sts.metadata.namespace,
            labels=template.metadata.labels | sts.spec.selector.match_labels,
            annotations=template.metadata.annotations,
        )
        made = PersistentVolumeClaim(metadata=meta, spec=template.spec)
        yield with_owners(made, sts, None, condemned=False)


def makes_claim(sts: StatefulSet, name: str) -> bool:
    """Whether a claim of this name is one of its pods'."""
    for template in sts.spec.volume_claim_templates:
        prefix = f"{template.metadata.name}-"
        if name.startswith(prefix) and ordinal_of(sts, name.removeprefix(prefix)) is not None:
            return True
    return False


def of_another_life(claim: PersistentVolumeClaim, pod: str) -> bool:
    """Whether it goes with an earlier pod of this name: with that one it was scaled away (PodClaimIsStale)."""
    return any(r.kind == "Pod" and r.name == pod for r in claim.metadata.owner_references)


def with_owners(
    claim: PersistentVolumeClaim, sts: StatefulSet, pod: Pod | None, *, condemned: bool
) -> PersistentVolumeClaim:
    """The claim with the owners that the set's retention policy gives it; the same claim where nothing changes.

    With an owner it goes, when that goes: with the set, or with a pod that is scaled away. One that somebody else
    controls, or that belongs to an earlier set or pod of the same name, is left alone.

    :param pod: its pod, if there is one. :param condemned: the pod is to be scaled away.
    """
    references = claim.metadata.owner_references
    ours = [r for r in references if _means(r, sts) or (pod is not None and _means(r, pod))]
    if any(r.uid != (sts if _means(r, sts) else pod or sts).metadata.uid for r in ours):
        return claim
    kept = tuple(r for r in references if r not in ours)
    policy = sts.spec.persistent_volume_claim_retention_policy
    owner: KubeObject | None = None
    if condemned and policy.when_scaled == "Delete":
        owner = pod
    elif policy.when_deleted == "Delete":
        owner = sts
    controller = controller_of(claim)
    if owner is not None and (controller is None or controller in ours):
        kept = (*kept, owned_by(owner))
    if kept == references:
        return claim
    return claim.model_copy(update={"metadata": claim.metadata.model_copy(update={"owner_references": kept})})


def _means(reference: OwnerReference, owner: KubeObject) -> bool:
    named = (reference.api_version, reference.kind, reference.name)
    return named == (owner.api_version, owner.kind, owner.metadata.name)
