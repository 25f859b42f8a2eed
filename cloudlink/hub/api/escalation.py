"""What a user may not give away, asked before anything is written on their behalf."""

from __future__ import annotations

from dataclasses import replace

from cloudlink.hub.api.answers import ApiError, forbidden
from cloudlink.hub.api.calls import Context
from cloudlink.hub.api.paths import Target
from cloudlink.hub.auth.authority import Authority
from cloudlink.hub.auth.escalation import objection
from cloudlink.hub.auth.rbac import KINDS
from cloudlink.hub.auth.requests import Request, refusal
from cloudlink.hub.auth.users import User
from cloudlink.kube.meta import KubeObject


def guarded_context(context: Context, authority: Authority, user: User, target: Target, method: str) -> Context:
    """The context for one user's write: `admit` asks what depends on more than the request.

    Whether they may give that much away, of a role or binding; whether they may create, of an apply (which is a patch)
    that finds nothing. There, because every way of writing (POST, PUT, each sort of patch, apply) ends in `admit` with
    the object as it would be stored.
    """
    if target.resource.key not in KINDS and method != "PATCH":
        return context
    admit = context.admit

    def asked(new: KubeObject, old: KubeObject | None) -> None:
        if old is None and method == "PATCH":
            _check_create(authority, user, target)
        admit(new, old)
        if why := objection(authority.index, user, new, old):
            raise forbidden(target.resource, new.metadata.name, why)

    return replace(context, admit=asked)


def _check_create(authority: Authority, user: User, target: Target) -> None:
    kind = target.resource
    request = Request("create", "", kind.group, kind.version, kind.plural, namespace=target.namespace, name=target.name)
    verdict = authority.check(user, request)
    if not verdict.allowed:
        raise ApiError(403, "Forbidden", refusal(user.name, request, verdict.reason), kind, target.name)
