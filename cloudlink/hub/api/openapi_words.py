"""What each kind is, for `kubectl explain`, where its model has no sentences of its own. Pure."""

from __future__ import annotations

from collections.abc import Mapping

KINDS: Mapping[str, str] = {
    "ClusterRole": "ClusterRole is a set of permissions that holds in the whole cluster, or wherever it is bound.",
    "ClusterRoleBinding": "ClusterRoleBinding gives somebody the permissions of a ClusterRole, in the whole cluster.",
    "CronJob": "CronJob makes Jobs on a schedule.",
    "DaemonSet": "DaemonSet is one pod on every node, or on every node of a kind.",
    "Deployment": "Deployment is a number of equal pods, and how they are replaced by newer ones.",
    "EndpointSlice": "EndpointSlice is a part of the addresses that a Service leads to.",
    "Endpoints": "Endpoints are the addresses that a Service leads to; EndpointSlice is the newer form.",
    "Ingress": "Ingress leads HTTP from outside to Services, by host and path.",
    "IngressClass": "IngressClass names who acts upon Ingresses.",
    "Job": "Job runs pods until so many of them have succeeded.",
    "Lease": "Lease is held by one at a time: who leads, or when somebody was last heard of.",
    "LimitRange": "LimitRange bounds what a pod, container or claim of a namespace may ask for, and fills in defaults.",
    "Namespace": "Namespace is a room for names: what lives in one goes with it.",
    "NetworkPolicy": "NetworkPolicy says who may speak with which pods.",
    "Node": "Node is a board that runs pods.",
    "Pod": "Pod is a set of containers that share a network, volumes and their fate on one node.",
    "PodDisruptionBudget": "PodDisruptionBudget says how many pods of a set may be missing for somebody's convenience.",
    "PriorityClass": "PriorityClass names how important a pod is.",
    "ReplicaSet": "ReplicaSet keeps a number of equal pods; Deployments make them.",
    "ReplicationController": "ReplicationController keeps a number of equal pods; Deployment is the newer way.",
    "ResourceQuota": "ResourceQuota bounds what all objects of a namespace may use together.",
    "Role": "Role is a set of permissions in one namespace.",
    "RoleBinding": "RoleBinding gives somebody the permissions of a Role, or of a ClusterRole, in one namespace.",
    "SelfSubjectAccessReview": "SelfSubjectAccessReview asks whether who asks may do something.",
    "SelfSubjectReview": "SelfSubjectReview asks who one is, as far as the server knows.",
    "SelfSubjectRulesReview": "SelfSubjectRulesReview asks for all that who asks may do in a namespace.",
    "Service": "Service is one name and address for a set of pods.",
    "StatefulSet": "StatefulSet is a number of pods that each keep a name and storage of their own.",
    "SubjectAccessReview": "SubjectAccessReview asks whether somebody may do something.",
    "TokenReview": "TokenReview asks whose a token is.",
}
