"""POST .../namespaces/{namespace}/fits of edged.dev/v1: would it fit? `edgectl fit`.

Who may ask: who may create `fits` in that namespace, and for each object of the manifest, who may apply it (patch; or
create, where it isn't there). So nobody learns about objects that they may not write. What is told of others' pods and
of nodes is what the asker may list anyway: nodes need `list nodes`; pods that would be ended in a namespace whose pods
they may not list are counted, not named.
"""

from __future__ import annotations

from cloudlink.hub.api.answers import Answer, ApiError, answer, bad_request
from cloudlink.hub.api.calls import Call, Context, Question
from cloudlink.hub.api.reviews import parsed_review
from cloudlink.hub.auth.access import Access
from cloudlink.hub.auth.requests import Request, refusal
from cloudlink.hub.auth.users import User
from cloudlink.kube.errors import Invalid
from cloudlink.kube.fits import Fit, FitStatus
from cloudlink.kube.parse import dump, load_yaml

MOST_DOCUMENTS = 500


async def ask(access: Access, context: Context, call: Call) -> Answer:
    asked = parsed_review(call, call.target.resource)
    assert isinstance(asked, Fit)
    try:
        documents = load_yaml(asked.spec.manifest, "the manifest") if asked.spec.manifest.strip() else []
    except Invalid as e:
        raise bad_request(str(e)) from None
    if len(documents) > MOST_DOCUMENTS:
        raise bad_request(f"the manifest has {len(documents)} documents; ask for {MOST_DOCUMENTS} at a time")
    nodes = Request("list", "", "", "v1", "nodes")
    verdict = access.authority.check(call.user, nodes)
    if not documents and not verdict.allowed:
        raise ApiError(403, "Forbidden", refusal(call.user.name, nodes, verdict.reason))
    if context.foresee is None:
        raise ApiError(501, "NotImplemented", "there is no scheduler here that could answer this")
    status = await context.foresee(context, Question(documents, call.target.namespace, call.user))
    document = dump(asked)
    document["metadata"] = {"creationTimestamp": None} | document.get("metadata", {})
    document["status"] = {"fits": status.fits} | dump(_visible(status, access, call.user, verdict.allowed))
    return answer(document, 201)


def _visible(status: FitStatus, access: Access, user: User, nodes: bool) -> FitStatus:
    """What this user may see of it."""
    spaces = {v.namespace for v in status.preempted} | {w.namespace for w in status.workloads if not w.asked}
    seen = {s for s in spaces if access.authority.check(user, Request("list", "", "", "v1", "pods", "", s)).allowed}
    preempted = tuple(v for v in status.preempted if v.namespace in seen)
    return status.model_copy(
        update={
            "workloads": tuple(w for w in status.workloads if w.asked or w.namespace in seen),
            "preempted": preempted,
            "hidden": len(status.preempted) - len(preempted),
            "nodes": status.nodes if nodes else (),
            **({} if nodes else {"occupied": 0, "needed": 0}),
        }
    )
