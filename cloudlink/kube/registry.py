"""Which kinds exist, what they are called in URLs and on the command line, and which model each one has."""

from __future__ import annotations

from dataclasses import dataclass

from cloudlink.kube import (
    accounts,
    apps,
    batch,
    core,
    definitions,
    endpoints,
    fits,
    networking,
    policy,
    quotas,
    rbac,
    replication,
    reviews,
    scheduling,
)
from cloudlink.kube.custom import Shape
from cloudlink.kube.meta import KubeObject

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Resource:
    """One entry of API discovery (metav1.APIResource). `group` is "" for the core group.

    :ivar inert: for kinds that are stored and served while nobody acts upon them (yet): the sentence that who writes
        one gets as a Warning, and that docs/hub.md lists. "" where somebody does act.
    :ivar verbs: what can be done with it; a review can only be posted, and is stored nowhere.
    :ivar definition: name of the CustomResourceDefinition that it comes from; "" for what is built in.
    :ivar shape: what that definition says of this version; None for what is built in.
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
    verbs: tuple[str, ...] = VERBS
    shape: Shape | None = None

    @property
    def stored(self) -> bool:
        return "get" in self.verbs

    @property
    def key(self) -> str:
        """What the store files its objects under (KubeObject.key): other people's kinds may be called as ours are."""
        return f"{self.kind}.{self.group}" if self.definition else self.kind

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


def _review(group: str, kind: str, model: type[KubeObject], namespaced: bool = False, version: str = "v1") -> Resource:
    singular = kind.lower()
    return Resource(group, version, kind, f"{singular}s", singular, (), namespaced, (), model, verbs=("create",))


RESOURCES: tuple[Resource, ...] = (
    Resource(
        "",
        "v1",
        "Namespace",
        "namespaces",
        "namespace",
        ("ns",),
        False,
        ("status", "finalize"),
        core.Namespace,
        verbs=tuple(v for v in VERBS if v != "deletecollection"),  # one at a time, as in Kubernetes
    ),
    Resource(
        "",
        "v1",
        "Pod",
        "pods",
        "pod",
        ("po",),
        True,
        ("status", "eviction", "binding", "log", "exec", "attach", "portforward"),
        core.Pod,
        ("all",),
    ),
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
    Resource(
        "apps",
        "v1",
        "DaemonSet",
        "daemonsets",
        "daemonset",
        ("ds",),
        True,
        ("status",),
        apps.DaemonSet,
        ("all",),
    ),
    Resource(
        "apps",
        "v1",
        "StatefulSet",
        "statefulsets",
        "statefulset",
        ("sts",),
        True,
        ("status", "scale"),
        apps.StatefulSet,
        ("all",),
    ),
    Resource(
        "apps",
        "v1",
        "ControllerRevision",
        "controllerrevisions",
        "controllerrevision",
        (),
        True,
        (),
        apps.ControllerRevision,
    ),
    Resource(
        "batch",
        "v1",
        "Job",
        "jobs",
        "job",
        (),
        True,
        ("status",),
        batch.Job,
        ("all",),
    ),
    Resource(
        "batch",
        "v1",
        "CronJob",
        "cronjobs",
        "cronjob",
        ("cj",),
        True,
        ("status",),
        batch.CronJob,
        ("all",),
    ),
    Resource(
        "",
        "v1",
        "ReplicationController",
        "replicationcontrollers",
        "replicationcontroller",
        ("rc",),
        True,
        ("status", "scale"),
        replication.ReplicationController,
        ("all",),
    ),
    Resource(
        "",
        "v1",
        "Endpoints",
        "endpoints",
        "endpoints",
        ("ep",),
        True,
        (),
        endpoints.Endpoints,
        inert="Endpoints that are made by hand are stored, but Services lead to the pods that they select only",
    ),
    Resource(
        "discovery.k8s.io",
        "v1",
        "EndpointSlice",
        "endpointslices",
        "endpointslice",
        (),
        True,
        (),
        endpoints.EndpointSlice,
        inert="EndpointSlices that are made by hand are stored, but Services lead to the pods that they select only",
    ),
    Resource(
        "",
        "v1",
        "LimitRange",
        "limitranges",
        "limitrange",
        ("limits",),
        True,
        (),
        quotas.LimitRange,
    ),
    Resource(
        "",
        "v1",
        "ResourceQuota",
        "resourcequotas",
        "resourcequota",
        ("quota",),
        True,
        ("status",),
        quotas.ResourceQuota,
    ),
    Resource(
        "scheduling.k8s.io",
        "v1",
        "PriorityClass",
        "priorityclasses",
        "priorityclass",
        ("pc",),
        False,
        (),
        scheduling.PriorityClass,
    ),
    Resource(
        "coordination.k8s.io",
        "v1",
        "Lease",
        "leases",
        "lease",
        (),
        True,
        (),
        scheduling.Lease,
    ),
    Resource(
        "policy",
        "v1",
        "PodDisruptionBudget",
        "poddisruptionbudgets",
        "poddisruptionbudget",
        ("pdb",),
        True,
        ("status",),
        policy.PodDisruptionBudget,
    ),
    Resource(
        "networking.k8s.io",
        "v1",
        "NetworkPolicy",
        "networkpolicies",
        "networkpolicy",
        ("netpol",),
        True,
        (),
        networking.NetworkPolicy,
        inert="NetworkPolicies are stored, but not enforced: all traffic between pods is allowed",
    ),
    Resource(
        "networking.k8s.io",
        "v1",
        "Ingress",
        "ingresses",
        "ingress",
        ("ing",),
        True,
        ("status",),
        networking.Ingress,
        inert="Ingresses are stored, but there is no ingress controller here: nothing listens for them",
    ),
    Resource(
        "networking.k8s.io",
        "v1",
        "IngressClass",
        "ingressclasses",
        "ingressclass",
        (),
        False,
        (),
        networking.IngressClass,
        inert="IngressClasses are stored, but there is no ingress controller here",
    ),
    # who may do what
    Resource(
        "",
        "v1",
        "ServiceAccount",
        "serviceaccounts",
        "serviceaccount",
        ("sa",),
        True,
        ("token",),
        accounts.ServiceAccount,
    ),
    Resource(rbac.GROUP, "v1", "Role", "roles", "role", (), True, (), rbac.Role),
    Resource(rbac.GROUP, "v1", "RoleBinding", "rolebindings", "rolebinding", (), True, (), rbac.RoleBinding),
    Resource(rbac.GROUP, "v1", "ClusterRole", "clusterroles", "clusterrole", (), False, (), rbac.ClusterRole),
    Resource(
        *(rbac.GROUP, "v1", "ClusterRoleBinding", "clusterrolebindings", "clusterrolebinding", (), False, ()),
        rbac.ClusterRoleBinding,
    ),
    _review("authorization.k8s.io", "SelfSubjectAccessReview", reviews.SelfSubjectAccessReview),
    _review("authorization.k8s.io", "SelfSubjectRulesReview", reviews.SelfSubjectRulesReview),
    _review("authorization.k8s.io", "SubjectAccessReview", reviews.SubjectAccessReview),
    _review("authorization.k8s.io", "LocalSubjectAccessReview", reviews.LocalSubjectAccessReview, namespaced=True),
    _review("authentication.k8s.io", "SelfSubjectReview", reviews.SelfSubjectReview),
    _review("authentication.k8s.io", "TokenReview", reviews.TokenReview),
    _review("authentication.k8s.io", "SelfSubjectReview", reviews.SelfSubjectReviewV1beta1, version="v1beta1"),
    _review("edged.dev", "Fit", fits.Fit, namespaced=True),
    Resource(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        "customresourcedefinition",
        ("crd", "crds"),
        False,
        ("status",),
        definitions.CustomResourceDefinition,
        ("api-extensions",),
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
