"""core/v1 ServiceAccount: who a program is towards the hub."""

from __future__ import annotations

from typing import Literal

from cloudlink.kube.core import ObjectReference
from cloudlink.kube.meta import KubeObject, Many
from cloudlink.kube.pod import LocalObjectReference


class ServiceAccount(KubeObject):
    """Tokens are asked for (`kubectl create token`), never stored: `secrets` is kept as it is written."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["ServiceAccount"] = "ServiceAccount"
    secrets: Many[ObjectReference] = ()
    image_pull_secrets: Many[LocalObjectReference] = ()
    automount_service_account_token: bool | None = None
