"""POST pods/{name}/eviction (policy/v1 Eviction): a deletion that PodDisruptionBudgets have a say in. kubectl drain."""

from __future__ import annotations

from typing import Any

from cloudlink.hub.api.answers import Answer, ApiError, answer, bad_request, forbidden
from cloudlink.hub.api.calls import Call, Context
from cloudlink.hub.api.deletes import check_preconditions, options_of
from cloudlink.hub.api.reads import existing
from cloudlink.hub.changes import Change, UpdateStatus
from cloudlink.hub.controllers.disruption import concerns
from cloudlink.hub.deletion import deletion
from cloudlink.hub.objects import is_deleted, is_ready, rfc3339, with_condition
from cloudlink.kube.core import Pod, PodCondition
from cloudlink.kube.errors import Cause
from cloudlink.kube.policy import PodDisruptionBudget

MAX_DISRUPTED = 2000  # evictions that one budget remembers, as in Kubernetes
REFUSED = "Cannot evict pod as it would violate the pod's disruption budget."
DONE = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def evict(context: Context, call: Call) -> Answer:
    pod = existing(context, call)
    assert isinstance(pod, Pod)  # only pods have this subresource
    document = call.document()
    if document.get("kind", "Eviction") != "Eviction":
        raise bad_request("the body of an eviction must be an Eviction of policy/v1")
    named = (document.get("metadata") or {}).get("name") if isinstance(document.get("metadata"), dict) else None
    if named and named != pod.metadata.name:
        raise bad_request(f"name in URL does not match name in Eviction object: {call.target.name} is not {named}")
    said: dict[str, Any] = document.get("deleteOptions") or {}
    if not isinstance(said, dict):
        raise bad_request("deleteOptions must be a mapping")
    options = options_of(call, said)
    check_preconditions(call, pod, options)
    changes = _allowed(context, call, pod)
    if not is_deleted(pod):
        changes.append(UpdateStatus(_disrupted(pod, context.now())))
    # The condition is written in the same commit before: a precondition on the revision has been checked above.
    change = deletion(pod, options.policy, options.grace, options.uid)
    context.commit([*changes, *([change] if change is not None else [])], options.dry_run)
    return answer(DONE, 201)


def _disrupted(pod: Pod, now: float) -> Pod:
    """With the condition that tells why it ends."""
    condition = PodCondition(
        type="DisruptionTarget",
        status="True",
        reason="EvictionByEvictionAPI",
        message="Eviction API: evicting",
        last_transition_time=rfc3339(now),
    )
    status = pod.status.model_copy(update={"conditions": with_condition(pod.status.conditions, condition)})
    return pod.model_copy(update={"status": status})


def _allowed(context: Context, call: Call, pod: Pod) -> list[Change]:
    """What must be noted in the pod's budget; ApiError where the budget doesn't allow it now."""
    if is_deleted(pod) or pod.status.phase in ("", "Pending", "Succeeded", "Failed"):
        return []  # it serves nobody
    there = context.store.list("PodDisruptionBudget", pod.metadata.namespace)
    budgets = [b for b in there if isinstance(b, PodDisruptionBudget) and concerns(b, pod)]
    if not budgets:
        return []
    if len(budgets) > 1:
        message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
        raise ApiError(500, "InternalError", message)
    [budget] = budgets
    if not is_ready(pod) and _unhealthy_may_go(budget):
        return []
    status, name = budget.status, budget.metadata.name
    if status.observed_generation < budget.metadata.generation:
        raise _refused(f"The disruption budget {name} is still being processed by the server.", retry_after=10)
    if len(status.disrupted_pods) > MAX_DISRUPTED:
        raise forbidden(
            call.target.resource,
            pod.metadata.name,
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        )
    if status.disruptions_allowed <= 0:
        healthy, desired = status.current_healthy, status.desired_healthy
        raise _refused(f"The disruption budget {name} needs {desired} healthy pods and has {healthy} currently")
    noted = status.model_copy(
        update={
            "disruptions_allowed": status.disruptions_allowed - 1,
            "disrupted_pods": {**status.disrupted_pods, pod.metadata.name: rfc3339(context.now())},
        }
    )
    # Two evictions at the same time, through two hubs: the second finds another budget than it has read, and is told.
    return [UpdateStatus(budget.model_copy(update={"status": noted}), budget.metadata.resource_version)]


def _unhealthy_may_go(budget: PodDisruptionBudget) -> bool:
    status = budget.status
    if budget.spec.unhealthy_pod_eviction_policy == "AlwaysAllow":
        return True
    return status.current_healthy >= status.desired_healthy > 0


def _refused(why: str, retry_after: int = 0) -> ApiError:
    """Kubernetes leaves the budget's name to the causes, which kubectl doesn't show."""
    cause = Cause("", "DisruptionBudget", why)
    return ApiError(429, "TooManyRequests", f"{REFUSED} {why}", causes=[cause], retry_after=retry_after)
