"""How objects of the core group name each other."""

from __future__ import annotations

from cloudlink.kube.meta import Model


class ObjectReference(Model):
    """core/v1 ObjectReference."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    api_version: str = ""
    resource_version: str = ""
    field_path: str = ""


class TypedLocalObjectReference(Model):
    """core/v1 TypedLocalObjectReference: an object of the same namespace, of any kind."""

    api_group: str | None = None
    kind: str
    name: str
