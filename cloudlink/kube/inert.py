"""Which fields are taken and kept while nobody acts upon them (yet), each with a sentence. Pure.

Refused is what would be dangerous or misleading to ignore; what stands here is harmless to ignore, as long as it is
said: as a `Warning:` to whoever writes it, and in docs/hub-kinds.md, which is made of these tables. For whole kinds
see `Resource.inert` in the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from cloudlink.kube import apps, core
from cloudlink.kube.container import Container
from cloudlink.kube.definitions import CustomResourceDefinition
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.pod import PodSpec
from cloudlink.kube.podspecs import pod_spec_of
from cloudlink.kube.registry import by_kind
from cloudlink.kube.rollouts import more_than_there_are
from cloudlink.kube.validate_definition import notes

T = TypeVar("T")

MAX_MESSAGES = 20  # of one object; a person reads no more, and headers are bounded


@dataclass(frozen=True, slots=True)
class Field(Generic[T]):
    """:ivar path: below the part that it belongs to.
    :ivar given: whether an object asks for it.
    :ivar why: what happens instead; half a sentence.
    """

    path: str
    given: Callable[[T], bool]
    why: str


POD: tuple[Field[PodSpec], ...] = (
    Field("readinessGates", lambda s: bool(s.readiness_gates), "a pod is ready when its containers are"),
)

CONTAINER: tuple[Field[Container], ...] = (
    Field("resizePolicy", lambda c: bool(c.resize_policy), "resources of a running container don't change"),
)

SERVICE: tuple[Field[core.ServiceSpec], ...] = (
    Field("type=NodePort", lambda s: s.type == "NodePort", "no port is opened on the nodes; pods reach clusterIP"),
    Field(
        "type=LoadBalancer",
        lambda s: s.type == "LoadBalancer",
        "there is no load balancer, EXTERNAL-IP stays <pending>; pods reach clusterIP",
    ),
    Field("type=ExternalName", lambda s: s.type == "ExternalName", "the name is not answered by the nodes' DNS"),
    Field("externalIPs", lambda s: bool(s.external_ips), "nothing leads from these addresses to the pods"),
    Field("sessionAffinity", lambda s: s.session_affinity != "None", "connections of one client go to any pod"),
    Field(
        "internalTrafficPolicy",
        lambda s: s.internal_traffic_policy == "Local",
        "connections go to pods of other nodes, too",
    ),
    Field("trafficDistribution", lambda s: bool(s.traffic_distribution), "connections go to any pod"),
    Field(
        "ipFamilyPolicy",
        lambda s: s.ip_family_policy != "SingleStack",
        "there are IPv4 addresses only",
    ),
)


def inert_fields(obj: KubeObject) -> list[str]:
    """What of an object nobody acts upon: `spec.template.spec.affinity: not acted upon yet: ...`.

    Empty for kinds that are inert as a whole: they say so themselves.
    """
    resource = by_kind(obj.api_version, obj.kind)
    if resource is not None and resource.inert:
        return []
    return list(dict.fromkeys(_said(obj)))[:MAX_MESSAGES]


def _said(obj: KubeObject) -> Iterator[str]:
    if isinstance(obj, CustomResourceDefinition):
        yield from notes(obj)
    if isinstance(obj, apps.Deployment):
        yield from more_than_there_are(obj.metadata.annotations, obj.spec.replicas, "metadata.annotations")
    if isinstance(obj, core.Service):
        yield from _of(SERVICE, obj.spec, "spec")
    there = pod_spec_of(obj)
    if there is None:
        return
    path, spec = there
    yield from _of(POD, spec, path)
    for group, containers in (("initContainers", spec.init_containers), ("containers", spec.containers)):
        for i, container in enumerate(containers):
            yield from _of(CONTAINER, container, f"{path}.{group}[{i}]")


def _of(fields: tuple[Field[T], ...], part: T, path: str) -> Iterator[str]:
    for field in fields:
        if field.given(part):
            yield f"{path}.{field.path}: not acted upon yet: {field.why}"
