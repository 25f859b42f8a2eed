"""core/v1 ServiceAccount: who a program is towards the hub."""

from __future__ import annotations

from typing import Literal

from cloudlink.kube.meta import KubeObject, Many, Model


class LocalObjectReference(Model):
    name: str = ""


class SecretReference(Model):
    """core/v1 ObjectReference, as `secrets` of a ServiceAccount has it; only the name says anything."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    api_version: str = ""
    resource_version: str = ""
    field_path: str = ""


class ServiceAccount(KubeObject):
    """Tokens are asked for (`kubectl create token`), never stored: `secrets` is kept as it is written."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["ServiceAccount"] = "ServiceAccount"
    secrets: Many[SecretReference] = ()
    image_pull_secrets: Many[LocalObjectReference] = ()
    automount_service_account_token: bool | None = None
