"""Which controller decides about an object, and what it needs to know for that: one line each.

Deciding itself is in `controllers`; this only reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from cloudlink.hub.controllers import (
    access,
    claims,
    cronjob,
    daemonset,
    definitions,
    deployment,
    disruption,
    endpoints,
    eviction,
    garbage,
    identity,
    job,
    job_pods,
    quota,
    replicaset,
    statefulset,
)
from cloudlink.hub.controllers.claiming import Selects, adopt, claim
from cloudlink.hub.decision import Decision, Suffix
from cloudlink.hub.listening import Always, Listening
from cloudlink.hub.objects import is_deleted
from cloudlink.hub.schedule.storage import claims_of
from cloudlink.hub.store import Store, WatchEvent
from cloudlink.hub.world import World
from cloudlink.kube.accounts import ServiceAccount
from cloudlink.kube.apps import ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet
from cloudlink.kube.batch import CronJob, Job
from cloudlink.kube.core import Namespace, Node, PersistentVolumeClaim, Pod, Service
from cloudlink.kube.definitions import CustomResourceDefinition
from cloudlink.kube.endpoints import Endpoints, EndpointSlice
from cloudlink.kube.meta import KubeObject, matches
from cloudlink.kube.policy import PodDisruptionBudget
from cloudlink.kube.quotas import ResourceQuota
from cloudlink.kube.rbac import ClusterRole
from cloudlink.kube.replication import ReplicationController

# Kinds that control pods of their own, and are asked again whenever one of these changes.
PODS_OF: dict[str, type[KubeObject]] = {
    "DaemonSet": DaemonSet,
    "Job": Job,
    "ReplicaSet": ReplicaSet,
    "ReplicationController": ReplicationController,
    "StatefulSet": StatefulSet,
}

# Kinds that somebody decides about when one of them is new or has changed.
DECIDED = frozenset(PODS_OF) | {
    *("ClusterRole", "CronJob", "CustomResourceDefinition", "Deployment", "Namespace", "PersistentVolumeClaim", "Pod"),
    *("PodDisruptionBudget", "ResourceQuota", "Service"),
}


def decide(
    obj: KubeObject, world: World, store: Store, now: float, suffix: Suffix, listening: Listening | None = None
) -> Decision:
    """What its controller wants done about one object. `now` in seconds since 1970.

    :param listening: since when nodes are heard; None: for ever.
    """
    namespace, uid = obj.metadata.namespace, obj.metadata.uid
    collected = garbage.collect(obj, world.owner, world.owned(uid, KubeObject))
    if collected.changes:
        return collected
    if (selects := selector_of(obj)) is not None:
        return Decision() if _is_dying(namespace, world) else _of_pods(obj, selects, world, now, suffix)
    match obj:
        case Namespace() if is_deleted(obj):
            return garbage.dying_namespace(obj, store.within(obj.metadata.name), now)
        case CustomResourceDefinition():
            return definitions.cleanup(obj, store.list(obj.defines), now)
        case Namespace():
            account = world.get(ServiceAccount, obj.metadata.name, access.DEFAULT_ACCOUNT)
            return access.default_account(obj, account is not None)
        case ClusterRole() if obj.aggregation_rule is not None:
            return access.gathering(obj, world.all(ClusterRole))
        case Pod():
            return _of_a_pod(obj, world, now, (listening or Always()).settled_at(now))
        case PodDisruptionBudget():
            pods = [p for p in world.all(Pod, namespace) if disruption.concerns(obj, p)]
            return disruption.reconcile(obj, pods, world.owner, now)
        case Service() if not _is_dying(namespace, world):
            there = world.get(Endpoints, namespace, obj.metadata.name)
            slices = world.owned(uid, EndpointSlice)
            return endpoints.reconcile(obj, world.all(Pod, namespace), there, slices, suffix)
        case ResourceQuota():
            return quota.reconcile(obj, store.list, store.catalogue, now)
        case PersistentVolumeClaim():
            return claims.reconcile(obj, [p for p in world.all(Pod, namespace) if claims.uses(p, obj)])
        case CronJob() if not _is_dying(namespace, world):
            surroundings = cronjob.Surroundings(
                world.owned(uid, Job),
                frozenset(j.metadata.name for j in world.all(Job, namespace)),
                lambda j: world.owned(j.metadata.uid, Pod),
                lambda name: world.get(Node, "", name),
            )
            return cronjob.reconcile(obj, surroundings, now)
        case Deployment() if not _is_dying(namespace, world):
            sets = world.owned(uid, ReplicaSet)
            pods = [p for s in sets for p in world.owned(s.metadata.uid, Pod)]
            taken = frozenset(s.metadata.name for s in world.all(ReplicaSet, namespace))
            return deployment.reconcile(obj, sets, pods, now, taken)
    return Decision()


def selector_of(obj: KubeObject) -> Selects | None:
    """Which labels a controller's pods have; None for what has no pods of its own."""
    match obj:
        case ReplicaSet() | DaemonSet() | StatefulSet():
            return obj.spec.selector.matches
        case Job() if obj.spec.selector is not None:
            return obj.spec.selector.matches
        case ReplicationController(spec=spec):
            return lambda labels: matches(spec.selector, labels)
    return None


def controllers_of(pod: Pod, world: World) -> Iterator[KubeObject]:
    """Those of a pod's namespace that would take it in."""
    for kind in PODS_OF.values():
        for obj in world.all(kind, pod.metadata.namespace):
            selects = selector_of(obj)
            if selects is not None and selects(pod.metadata.labels):
                yield obj


def _of_a_pod(pod: Pod, world: World, now: float, settled_at: float) -> Decision:
    """What its Job and its node mean for a pod: nobody counts it any more; gone for good, or a place to leave."""
    if job_pods.is_tracked(pod) and not _has_job(pod, world):
        return Decision((job_pods.untracked(pod),))
    node = world.get(Node, "", pod.spec.node_name) if pod.spec.node_name else None
    lost = garbage.lost_pod(pod, node)
    if lost.changes or node is None or not node.spec.taints:
        return lost
    claims = (world.get(PersistentVolumeClaim, *title.split("/", 1)) for title in claims_of(pod))
    tied = tuple(c.metadata.name for c in claims if c is not None and c.node == node.metadata.name)
    return eviction.reconcile(pod, node, now, settled_at, tied)


def is_own_word(event: WatchEvent) -> bool:
    """Whether a set's status has changed and nothing else: its controller said so itself, and need not look again. One
    that counts a thousand pods takes a while to."""
    new, old = event.object, event.before
    if not isinstance(new, DaemonSet | StatefulSet) or not isinstance(old, DaemonSet | StatefulSet):
        return False
    same = {"resource_version": "", "managed_fields": ()}
    known = new.status.collision_count == old.status.collision_count  # with it the decision has only begun
    return (
        known and new.spec == old.spec and new.metadata.model_copy(update=same) == old.metadata.model_copy(update=same)
    )


def sets_of(claim: KubeObject, world: World) -> Iterator[StatefulSet]:
    """Those whose pods use a claim of this name; they wait for it to go, or to be made anew."""
    if isinstance(claim, PersistentVolumeClaim):
        for sts in world.all(StatefulSet, claim.metadata.namespace):
            if identity.makes_claim(sts, claim.metadata.name):
                yield sts


def _of_pods(obj: KubeObject, selects: Selects, world: World, now: float, suffix: Suffix) -> Decision:
    namespace = obj.metadata.namespace
    loose = world.loose(namespace)
    if isinstance(obj, StatefulSet):  # others that match have no number
        loose = [p for p in loose if identity.ordinal_of(obj, p.metadata.name) is not None]
    pods, claimed = claim(obj, selects, world.owned(obj.metadata.uid, Pod), loose)
    decision = Decision()
    match obj:
        case ReplicaSet() | ReplicationController():
            decision = replicaset.reconcile(obj, pods, now, suffix)
        case Job():
            decision = job.reconcile(obj, pods, now, suffix)
        case DaemonSet() | StatefulSet():
            all_revisions = world.all(ControllerRevision, namespace)
            claimed = (*claimed, *adopt(obj, selects, all_revisions))
            if not claimed:  # else it is asked again: what was taken in is decided on as it is stored then
                decision = _with_history(obj, pods, all_revisions, world, now, suffix)
    return replace(decision, changes=(*claimed, *decision.changes))


def _with_history(
    obj: DaemonSet | StatefulSet,
    pods: Sequence[Pod],
    all_revisions: Sequence[ControllerRevision],
    world: World,
    now: float,
    suffix: Suffix,
) -> Decision:
    namespace, uid = obj.metadata.namespace, obj.metadata.uid
    taken = frozenset(r.metadata.name for r in all_revisions)
    revisions = world.owned(uid, ControllerRevision)
    if isinstance(obj, DaemonSet):
        return daemonset.reconcile(obj, world.all(Node), pods, revisions, taken, now, suffix)
    return statefulset.reconcile(
        obj, pods, lambda name: world.get(PersistentVolumeClaim, namespace, name), revisions, taken, now
    )


def _has_job(pod: Pod, world: World) -> bool:
    return any(r.controller and isinstance(world.owner(pod, r), Job) for r in pod.metadata.owner_references)


def _is_dying(namespace: str, world: World) -> bool:
    home = world.get(Namespace, "", namespace)
    return home is None or is_deleted(home)
