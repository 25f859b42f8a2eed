"""apiextensions.k8s.io/v1: CustomResourceDefinition, by which people add kinds of their own while the hub runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cloudlink.kube.meta import Condition, KubeObject, Many, Model, Report, put

CLEANUP = "customresourcecleanup.apiextensions.k8s.io"  # finalizer: its objects go first

Document = dict[str, Any]


class CustomResourceDefinitionNames(Model):
    """What the kind is called in URLs, in documents and on the command line."""

    plural: str
    kind: str
    singular: str = ""
    list_kind: str = ""
    short_names: Many[str] = ()
    categories: Many[str] = ()


class CustomResourceValidation(Model):
    """The schema that objects of this version are pruned, completed and checked by."""

    root: Document = Field(default={}, alias="openAPIV3Schema")


class CustomResourceColumnDefinition(Model):
    """A column of `kubectl get`: a JSON path into the object, and how to show what is there."""

    name: str
    type: str
    json_path: str
    format: str = ""
    description: str = ""
    priority: int = 0


class SelectableField(Model):
    """A field that field selectors may name."""

    json_path: str


class CustomResourceSubresourceScale(Model):
    """Where in an object `kubectl scale` finds its numbers."""

    spec_replicas_path: str
    status_replicas_path: str
    label_selector_path: str = ""


class CustomResourceSubresourceStatus(Model):
    """Its presence makes `status` a subresource."""


class CustomResourceSubresources(Model):
    status: CustomResourceSubresourceStatus | None = None
    scale: CustomResourceSubresourceScale | None = None


class CustomResourceDefinitionVersion(Model):
    """One version of the kind.

    :ivar served: it can be had under its URL.
    :ivar storage: objects are stored as of this version; exactly one is.
    """

    name: str
    served: bool
    storage: bool
    validation: Annotated[CustomResourceValidation | None, Field(alias="schema")] = None
    subresources: CustomResourceSubresources | None = None
    additional_printer_columns: Many[CustomResourceColumnDefinition] = ()
    selectable_fields: Many[SelectableField] = ()
    deprecated: bool = False
    deprecation_warning: str = ""


class CustomResourceConversion(Model):
    """How objects get from one version to another; here by their apiVersion alone."""

    strategy: str = "None"
    webhook: Document | None = None


class CustomResourceDefinitionSpec(Model):
    group: str
    names: CustomResourceDefinitionNames
    scope: Literal["Namespaced", "Cluster"]
    versions: Many[CustomResourceDefinitionVersion]
    conversion: CustomResourceConversion = CustomResourceConversion()
    preserve_unknown_fields: bool = False

    @model_validator(mode="after")
    def _names_have_defaults(self) -> CustomResourceDefinitionSpec:
        names = self.names
        put(
            names,
            singular=names.singular or names.kind.lower(),
            list_kind=names.list_kind or f"{names.kind}List",
        )
        return self


class AcceptedNames(Report):
    """Names as CustomResourceDefinitionNames has them, all of them optional."""

    plural: str = ""
    kind: str = ""
    singular: str = ""
    list_kind: str = ""
    short_names: Many[str] = ()
    categories: Many[str] = ()


class CustomResourceDefinitionStatus(Report):
    conditions: Many[Condition] = ()
    accepted_names: AcceptedNames = AcceptedNames()
    stored_versions: Many[str] = ()


class CustomResourceDefinition(KubeObject):
    """A kind of one's own: what it is called, its versions, and the schema of each. Its objects are stored and served
    like all others; acting upon them is the business of whoever defined it."""

    api_version: Literal["apiextensions.k8s.io/v1"] = "apiextensions.k8s.io/v1"
    kind: Literal["CustomResourceDefinition"] = "CustomResourceDefinition"
    spec: CustomResourceDefinitionSpec
    status: CustomResourceDefinitionStatus = CustomResourceDefinitionStatus()

    @property
    def defines(self) -> str:
        """What the store files its objects under (KubeObject.key); "" while its kind is another definition's."""
        kind = self.status.accepted_names.kind
        return f"{kind}.{self.spec.group}" if kind else ""
