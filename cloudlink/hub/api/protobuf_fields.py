"""Field numbers of Kubernetes' messages, as far as we read them: those of runtime and meta/v1, and all together.

Notation: "number name kind", kind being a message of the tables or string (where left out), int, bool, bytes, Time,
Quantity, IntOrString, RawExtension (any JSON), Strings (a list of them in a message of its own) or `unsupported`
(refused by name, unless empty). `name?` is there as soon as it is written, even with 0 or "" (a pointer in Go, or a
required field); others are absent when empty. `kind*` is a list, `kind{}` a map with string keys, and the name `<` an
embedded message whose fields stand in its parent.
"""

from __future__ import annotations

from collections.abc import Mapping

from cloudlink.hub.api.protobuf_core import CORE
from cloudlink.hub.api.protobuf_groups import GROUPS

# Kinds whose objects (and requests) come as protobuf; each is the name of its message.
ROOTS = frozenset(
    {
        *("Binding", "ConfigMap", "Endpoints", "Event", "LimitRange", "Namespace", "Node", "PersistentVolumeClaim"),
        *("Pod", "ReplicationController", "ResourceQuota", "Secret", "Service", "ServiceAccount"),
        *("ControllerRevision", "DaemonSet", "Deployment", "ReplicaSet", "StatefulSet", "CronJob", "Job"),
        *("EndpointSlice", "Eviction", "Ingress", "IngressClass", "Lease", "NetworkPolicy", "PodDisruptionBudget"),
        *("PriorityClass", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Scale", "TokenRequest"),
        *("LocalSubjectAccessReview", "SelfSubjectAccessReview", "SelfSubjectRulesReview", "SubjectAccessReview"),
        *("SelfSubjectReview", "TokenReview", "DeleteOptions"),
    }
)

_META: Mapping[str, str] = {
    "Unknown": "1 < TypeMeta, 2 raw bytes, 3 contentEncoding, 4 contentType",
    "TypeMeta": "1 apiVersion, 2 kind",
    "ObjectMeta": "1 name, 2 generateName, 3 namespace, 4 selfLink, 5 uid, 6 resourceVersion, 7 generation int,"
    " 8 creationTimestamp Time, 9 deletionTimestamp Time, 10 deletionGracePeriodSeconds? int, 11 labels string{},"
    " 12 annotations string{}, 13 ownerReferences OwnerReference*, 14 finalizers string*,"
    " 17 managedFields ManagedFieldsEntry*",
    "ManagedFieldsEntry": "1 manager, 2 operation, 3 apiVersion, 4 time Time, 6 fieldsType, 7 fieldsV1 RawExtension,"
    " 8 subresource",
    "OwnerReference": "1 kind, 3 name, 4 uid, 5 apiVersion, 6 controller? bool, 7 blockOwnerDeletion? bool",
    "LabelSelector": "1 matchLabels string{}, 2 matchExpressions LabelSelectorRequirement*",
    "LabelSelectorRequirement": "1 key, 2 operator, 3 values string*",
    "Condition": "1 type?, 2 status?, 3 observedGeneration int, 4 lastTransitionTime Time, 5 reason?, 6 message?",
    "DeleteOptions": "1 gracePeriodSeconds? int, 2 preconditions Preconditions, 3 orphanDependents? bool,"
    " 4 propagationPolicy?, 5 dryRun string*, 6 ignoreStoreReadErrorWithClusterBreakingPotential? bool",
    "Preconditions": "1 uid?, 2 resourceVersion?",
}

MESSAGES: Mapping[str, str] = {**_META, **CORE, **GROUPS}
