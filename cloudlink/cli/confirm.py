"""`edgectl confirm`: let a rollout in waves go on that waits for a person (edged.dev/wave-hold: manual)."""

from __future__ import annotations

import re
from typing import Any

from cloudlink.cli.client import JSON, HubClient
from cloudlink.kube.annotations import CONFIRM
from edged.errors import PermanentError

_ASKED = re.compile(re.escape(CONFIRM) + r"=(\d+)/(\d+)")


def confirm(client: HubClient, what: str, namespace: str, everything: bool) -> str:
    """Confirm the wave that a Deployment waits with, or all waves of its revision.

    :param what: "deployment/name", or the name alone.
    :raises PermanentError: there is no such Deployment, or it isn't waiting; says what it does instead.
    """
    kind, _, name = what.rpartition("/")
    if kind.lower() not in ("", "deployment", "deployments", "deploy", "deployment.apps", "deployments.apps"):
        raise PermanentError(f'"{what}": only Deployments are rolled out in waves; write deployment/{name}')
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"
    value = asked_of(client.call("GET", path), everything)
    body = {"metadata": {"annotations": {CONFIRM: value}}}
    client.call("PATCH", path, body, "application/merge-patch+json")
    return f"deployment/{name}: {'all waves of revision' if everything else 'revision/wave'} {value} confirmed"


def asked_of(deployment: JSON, everything: bool) -> str:
    """What the annotation has to say: "revision/wave", or "revision" for all of its waves."""
    status: dict[str, Any] = deployment.get("status") or {}
    told: dict[str, Any] = next((c for c in status.get("conditions") or () if c["type"] == "Progressing"), {})
    found = _ASKED.search(told.get("message", ""))
    if found is None:
        name = deployment["metadata"]["name"]
        why = told.get("message") or "nothing is being rolled out"
        raise PermanentError(f"deployment/{name} does not wait for a confirmation: {why}")
    return found[1] if everything else f"{found[1]}/{found[2]}"
