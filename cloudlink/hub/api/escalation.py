"""What a user may not give away, asked before anything is written on their behalf."""

from __future__ import annotations

from dataclasses import replace

from cloudlink.hub.api.answers import forbidden
from cloudlink.hub.api.calls import Context
from cloudlink.hub.api.paths import Target
from cloudlink.hub.auth.authority import Authority
from cloudlink.hub.auth.escalation import objection
from cloudlink.hub.auth.rbac import KINDS
from cloudlink.hub.auth.users import User
from cloudlink.kube.meta import KubeObject


def guarded_context(context: Context, authority: Authority, user: User, target: Target) -> Context:
    """The context for one user's write to a role or binding: `admit` asks whether they may give that much away.

    There, because every way of writing (POST, PUT, each sort of patch, apply) ends in `admit` with the object as it
    would be stored.
    """
    if target.resource.kind not in KINDS:
        return context
    admit = context.admit

    def asked(new: KubeObject, old: KubeObject | None) -> None:
        admit(new, old)
        if why := objection(authority.index, user, new, old):
            raise forbidden(target.resource, new.metadata.name, why)

    return replace(context, admit=asked)
