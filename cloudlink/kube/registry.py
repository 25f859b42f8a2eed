"""Which kinds exist, what they are called in URLs and on the command line, and which model each one has."""

from __future__ import annotations

from dataclasses import dataclass

from cloudlink.kube import apps, core
from cloudlink.kube.meta import KubeObject


@dataclass(frozen=True, slots=True)
class Resource:
    """One entry of API discovery (metav1.APIResource). `group` is "" for the core group.

    :ivar inert: for kinds that are stored and served while nobody acts upon them (yet): the sentence that who writes
        one gets as a Warning, and that docs/hub.md lists. "" where somebody does act.
    :ivar definition: name of the CustomResourceDefinition that it comes from; "" for what is built in.
    """

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...]
    namespaced: bool
    subresources: tuple[str, ...]
    model: type[KubeObject]
    categories: tuple[str, ...] = ()
    inert: str = ""
    definition: str = ""

    @property
    def key(self) -> str:
        """What the store files its objects under (KubeObject.key): other people's kinds may be called as ours are."""
        return f"{self.kind}.{self.group}" if self.definition else self.kind

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


RESOURCES: tuple[Resource, ...] = (
    Resource("", "v1", "Namespace", "namespaces", "namespace", ("ns",), False, ("status",), core.Namespace),
    Resource("", "v1", "Pod", "pods", "pod", ("po",), True, ("status",), core.Pod, ("all",)),
    Resource("", "v1", "Service", "services", "service", ("svc",), True, ("status",), core.Service, ("all",)),
    Resource("", "v1", "ConfigMap", "configmaps", "configmap", ("cm",), True, (), core.ConfigMap),
    Resource("", "v1", "Secret", "secrets", "secret", (), True, (), core.Secret),
    Resource(
        "",
        "v1",
        "PersistentVolumeClaim",
        "persistentvolumeclaims",
        "persistentvolumeclaim",
        ("pvc",),
        True,
        ("status",),
        core.PersistentVolumeClaim,
    ),
    Resource("", "v1", "Node", "nodes", "node", ("no",), False, ("status",), core.Node),
    Resource("", "v1", "Event", "events", "event", ("ev",), True, (), core.Event),
    Resource(
        "apps",
        "v1",
        "Deployment",
        "deployments",
        "deployment",
        ("deploy",),
        True,
        ("status", "scale"),
        apps.Deployment,
        ("all",),
    ),
    Resource(
        "apps",
        "v1",
        "ReplicaSet",
        "replicasets",
        "replicaset",
        ("rs",),
        True,
        ("status", "scale"),
        apps.ReplicaSet,
        ("all",),
    ),
)

_BY_PLURAL = {(r.group, r.version, r.plural): r for r in RESOURCES}
_BY_KIND = {(r.api_version, r.kind): r for r in RESOURCES}


def by_plural(group: str, version: str, plural: str) -> Resource | None:
    """As URLs name it: ("apps", "v1", "deployments"); None if there is no such kind."""
    return _BY_PLURAL.get((group, version, plural))


def by_kind(api_version: str, kind: str) -> Resource | None:
    """As documents name it: ("apps/v1", "Deployment"); None if there is no such kind."""
    return _BY_KIND.get((api_version, kind))
