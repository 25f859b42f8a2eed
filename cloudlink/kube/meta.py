"""What every Kubernetes object has in common (apimachinery's metav1), and the base of all models here.

Attributes are Kubernetes' names in snake_case (`pod.metadata.resource_version`), documents carry camelCase. An
absent value is the field's falsy default (None, "", 0, False, (), {}), as Go's omitempty has it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from cloudlink.kube.errors import printable
from cloudlink.kube.quantity import QuantityError, canonical

MAX_STRING = 4 << 20  # characters; more than any object may have in all

T = TypeVar("T")

# Documents carry lists; frozen models carry tuples. Only the outer type is lax, items stay strict.
Many = Annotated[tuple[T, ...], Field(strict=False)]

_INITIALS = {
    "api_group": "apiGroup",
    "boot_id": "bootID",
    "cluster_ip": "clusterIP",
    "cluster_ips": "clusterIPs",
    "container_id": "containerID",
    "downward_api": "downwardAPI",
    "except_": "except",
    "from_": "from",
    "external_ips": "externalIPs",
    "host_ip": "hostIP",
    "host_ipc": "hostIPC",
    "host_ips": "hostIPs",
    "host_pid": "hostPID",
    "image_id": "imageID",
    "client_ip": "clientIP",
    "load_balancer_ip": "loadBalancerIP",
    "set_hostname_as_fqdn": "setHostnameAsFQDN",
    "machine_id": "machineID",
    "non_resource_urls": "nonResourceURLs",
    "pod_cidr": "podCIDR",
    "pod_cidrs": "podCIDRs",
    "pod_ip": "podIP",
    "pod_ips": "podIPs",
    "provider_id": "providerID",
    "system_uuid": "systemUUID",
}


def camel(name: str) -> str:
    """snake_case -> the name in documents, initials included: pod_ip -> podIP."""
    return _INITIALS.get(name) or to_camel(name)


def _int_or_string(value: object) -> int | str:
    if isinstance(value, str) and len(value) <= 256 and value.isascii():  # a port's name or a percentage
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise PydanticCustomError("int_or_string_type", "must be a whole number or a short text")


def _quantity(value: object) -> str:
    try:
        return canonical(value)  # type: ignore[arg-type]  # it refuses everything else by itself
    except QuantityError as e:
        raise PydanticCustomError("quantity", "{problem}", {"problem": printable(str(e))}) from None


IntOrString = Annotated[int | str, PlainValidator(_int_or_string)]
Quantity = Annotated[str, PlainValidator(_quantity)]  # canonical text; see cloudlink.kube.quantity
StringMap = dict[str, str]
ResourceList = dict[str, Quantity]


_new, _set = object.__new__, object.__setattr__


class Model(BaseModel):
    """Base of every part of an object.

    :cvar unsupported: names that Kubernetes knows in this place and this version refuses.
    :cvar always: attributes that are written even where they say nothing, as Kubernetes does: clients with strict
        models (its own Python client) refuse documents without them.
    :cvar why_not: name -> half a sentence with the reason, and what to do instead, where there is more to say.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=camel,
        populate_by_name=True,
        str_max_length=MAX_STRING,  # also what makes pydantic refuse lone surrogates, which JSON can spell
    )

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's, in a tenth of the time: the hub makes some for every write."""
        if deep:
            return super().model_copy(update=update, deep=True)
        made = _new(type(self))
        given = self.__pydantic_fields_set__
        _set(made, "__dict__", {**self.__dict__, **update} if update else self.__dict__.copy())
        _set(made, "__pydantic_fields_set__", {*given, *update} if update else given.copy())
        _set(made, "__pydantic_extra__", None)  # extra="forbid"
        _set(made, "__pydantic_private__", None)
        return made

    def __eq__(self, other: object) -> bool:
        """As pydantic's: of one class, and all fields equal. Models here have neither extra nor private attributes."""
        if self is other:
            return True
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.values()))

    always: ClassVar[frozenset[str]] = frozenset()
    unsupported: ClassVar[frozenset[str]] = frozenset()
    why_not: ClassVar[Mapping[str, str]] = {}


def put(model: Model, **values: object) -> None:
    """Fill in defaults of a frozen model while it is being made; only for validators."""
    for name, value in values.items():
        object.__setattr__(model, name, value)


class Report(Model):
    """Base of status models: written by nodes and controllers, so fields from other clusters are passed over."""

    model_config = ConfigDict(extra="ignore")


class OwnerReference(Model):
    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False
    block_owner_deletion: bool = False


class FieldsV1:
    """metav1.FieldsV1, a set of fields as nested mappings, kept as JSON text: a tenth of what the mappings would take
    in memory. Its meaning is told by cloudlink.hub.api.fields."""

    __slots__ = ("text",)

    def __init__(self, document: Mapping[str, object]) -> None:
        self.text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)

    def document(self) -> dict[str, object]:
        made: dict[str, object] = json.loads(self.text)
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FieldsV1) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


def _fields_v1(value: object) -> FieldsV1:
    if isinstance(value, FieldsV1):
        return value
    if not _only_mappings(value):
        raise PydanticCustomError("fields_v1", "must be a mapping of mappings")
    fields = FieldsV1(value)  # type: ignore[arg-type]  # just seen
    try:
        fields.text.encode()
    except UnicodeEncodeError:  # JSON can spell lone surrogates
        raise PydanticCustomError("string_unicode", "must be valid Unicode text") from None
    return fields


def _only_mappings(value: object) -> bool:
    """Recursion is bounded: documents are not nested deeper than parse.MAX_DEPTH."""
    return isinstance(value, dict) and all(isinstance(k, str) and _only_mappings(v) for k, v in value.items())


_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)


def _time(value: object) -> str:
    if isinstance(value, str) and (not value or _TIME.fullmatch(value)):
        return value
    raise PydanticCustomError("time", 'must be a time as RFC 3339 has it, such as "2026-01-31T08:00:00Z"')


class ManagedFieldsEntry(Model):
    """Which fields one manager owns. What makes no sense in it is passed over when it is written, as in Kubernetes.

    :ivar operation: "Apply" or "Update".
    :ivar subresource: "status" or "scale", "" for the object itself.
    """

    manager: str = ""
    operation: str = ""
    api_version: str = ""
    time: Annotated[str, PlainValidator(_time)] = ""
    fields_type: str = ""
    fields_v1: Annotated[FieldsV1, PlainValidator(_fields_v1)] | None = None
    subresource: str = ""


class ObjectMeta(Model):
    """metav1.ObjectMeta. Times are RFC 3339 text; `selfLink` is accepted and dropped."""

    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str = ""
    deletion_grace_period_seconds: int | None = None
    labels: StringMap = {}
    annotations: StringMap = {}
    owner_references: Many[OwnerReference] = ()
    finalizers: Many[str] = ()
    managed_fields: Many[ManagedFieldsEntry] = ()
    self_link: Annotated[Literal[""], PlainValidator(lambda _: "")] = ""


class LabelSelectorRequirement(Model):
    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: Many[str] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                return labels.get(self.key) not in self.values
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels


class LabelSelector(Model):
    """metav1.LabelSelector; all requirements must hold, and none at all matches everything."""

    match_labels: StringMap = {}
    match_expressions: Many[LabelSelectorRequirement] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(labels.get(k) == v for k, v in self.match_labels.items()) and all(
            e.matches(labels) for e in self.match_expressions
        )


class KubeObject(Model):
    """Anything with a kind and a name. `metadata.namespace` is "" for kinds that live outside namespaces."""

    api_version: str
    kind: str
    metadata: ObjectMeta = ObjectMeta()

    @property
    def key(self) -> str:
        """What the store files it under: the kind, for those built in. See Resource.key."""
        return self.kind

    @property
    def title(self) -> str:
        """ "namespace/name", or the name alone."""
        meta = self.metadata
        return f"{meta.namespace}/{meta.name}" if meta.namespace else meta.name


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """A Service's or nodeSelector's plain form: every pair must be there."""
    return all(labels.get(k) == v for k, v in selector.items())


ConditionStatus = Literal["True", "False", "Unknown"]


class Condition(Report):
    """What conditions of all kinds share."""

    always: ClassVar = frozenset({"reason", "message"})

    type: str
    status: ConditionStatus
    last_transition_time: str = ""
    reason: str = ""
    message: str = ""
