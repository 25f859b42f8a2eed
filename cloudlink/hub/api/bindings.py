"""POST pods/{name}/binding: a scheduler of somebody's own gives a pod its node. PUT namespaces/{name}/finalize."""

from __future__ import annotations

from cloudlink.hub.api.answers import Answer, answer, bad_request, conflict
from cloudlink.hub.api.calls import Call, Context
from cloudlink.hub.api.evictions import DONE
from cloudlink.hub.api.reads import existing, shown
from cloudlink.hub.api.writes import parsed
from cloudlink.hub.changes import Change, Update, UpdateStatus
from cloudlink.hub.objects import rfc3339, with_condition
from cloudlink.hub.revisions import with_meta
from cloudlink.kube.core import Namespace, Pod, PodCondition
from cloudlink.kube.errors import Cause, Invalid


def bind(context: Context, call: Call) -> Answer:
    """v1 Binding: once only, and never while the pod is on its way out."""
    pod = existing(context, call)
    assert isinstance(pod, Pod)  # only pods have this subresource
    document = call.document()
    if document.get("kind", "Binding") != "Binding":
        raise bad_request("the body must be a Binding of v1")
    metadata, target = document.get("metadata") or {}, document.get("target") or {}
    if not isinstance(metadata, dict) or not isinstance(target, dict):
        raise bad_request("metadata and target must be mappings")
    if metadata.get("name") not in (None, "", pod.metadata.name):
        raise bad_request(f"name in URL does not match name in Binding object: {pod.metadata.name}")
    causes: list[Cause] = []
    if target.get("kind") not in (None, "", "Node"):
        listed = 'supported values: "Node", "<empty>"'
        causes.append(Cause("target.kind", "FieldValueNotSupported", f"Unsupported value: {listed}"))
    node = target.get("name")
    if not isinstance(node, str) or not node:
        causes.append(Cause("target.name", "FieldValueRequired", "Required value"))
    if causes:
        raise Invalid(causes, "Binding", pod.metadata.name)
    assert isinstance(node, str)
    if pod.metadata.deletion_timestamp:
        why = f"pod {pod.metadata.name} is being deleted, cannot be assigned to a host"
        raise conflict(call.target.resource, pod.metadata.name, why)
    if pod.spec.node_name:
        why = f'pod {pod.metadata.name} is already assigned to node "{pod.spec.node_name}"'
        raise conflict(call.target.resource, pod.metadata.name, why)
    said = metadata.get("annotations") or {}
    annotations = {k: v for k, v in said.items() if isinstance(v, str)} if isinstance(said, dict) else {}
    bound = with_meta(pod, annotations={**pod.metadata.annotations, **annotations})
    bound = bound.model_copy(update={"spec": pod.spec.model_copy(update={"node_name": node})})
    condition = PodCondition(type="PodScheduled", status="True", last_transition_time=rfc3339(context.now()))
    status = pod.status.model_copy(update={"conditions": with_condition(pod.status.conditions, condition)})
    changes: list[Change] = [
        Update(bound, pod.metadata.resource_version),
        UpdateStatus(bound.model_copy(update={"status": status})),
    ]
    context.commit(changes, call.dry_run)
    return answer(DONE, 201)


def finalize(context: Context, call: Call) -> Answer:
    """Take over `spec.finalizers`, and nothing else. The hub empties a dying namespace whether or not its own finalizer
    ("kubernetes") is there, so that nothing is left behind that belongs to none."""
    old = existing(context, call)
    assert isinstance(old, Namespace)  # only namespaces have this subresource
    new = parsed(call, call.document())
    assert isinstance(new, Namespace)  # the path's kind
    finalized = old.model_copy(update={"spec": old.spec.model_copy(update={"finalizers": new.spec.finalizers})})
    [done] = context.commit([Update(finalized, new.metadata.resource_version or None)], call.dry_run)
    return shown(context, call, done)
