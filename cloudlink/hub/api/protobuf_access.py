"""Field numbers of the messages about who may do what (rbac/v1, authorization/v1, authentication/v1, ServiceAccount);
in the notation of `protobuf_fields`."""

from __future__ import annotations

from collections.abc import Mapping

_REVIEW = "1 metadata ObjectMeta, 3 status skip"
_ATTRIBUTES = "1 resourceAttributes ResourceAttributes, 2 nonResourceAttributes NonResourceAttributes"

ACCESS_KINDS = (
    *("ServiceAccount", "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"),
    *("SelfSubjectAccessReview", "SelfSubjectRulesReview", "SubjectAccessReview", "LocalSubjectAccessReview"),
    *("SelfSubjectReview", "TokenReview", "TokenRequest"),
)

ACCESS_MESSAGES: Mapping[str, str] = {
    "ServiceAccount": "1 metadata ObjectMeta, 2 secrets ObjectReference*, 3 imagePullSecrets LocalObjectReference*,"
    " 4 automountServiceAccountToken? bool",
    # rbac
    "PolicyRule": "1 verbs string*, 2 apiGroups string*, 3 resources string*, 4 resourceNames string*,"
    " 5 nonResourceURLs string*",
    "AggregationRule": "1 clusterRoleSelectors LabelSelector*",
    "Role": "1 metadata ObjectMeta, 2 rules PolicyRule*",
    "ClusterRole": "1 metadata ObjectMeta, 2 rules PolicyRule*, 3 aggregationRule AggregationRule",
    "RoleRef": "1 apiGroup, 2 kind, 3 name",
    "Subject": "1 kind, 2 apiGroup, 3 name, 4 namespace",
    "RoleBinding": "1 metadata ObjectMeta, 2 subjects Subject*, 3 roleRef RoleRef",
    "ClusterRoleBinding": "1 metadata ObjectMeta, 2 subjects Subject*, 3 roleRef RoleRef",
    # authorization
    "SelectorRequirement": "1 key, 2 operator, 3 values string*",
    "SelectorAttributes": "1 rawSelector, 2 requirements SelectorRequirement*",
    "ResourceAttributes": "1 namespace, 2 verb, 3 group, 4 version, 5 resource, 6 subresource, 7 name,"
    " 8 fieldSelector SelectorAttributes, 9 labelSelector SelectorAttributes",
    "NonResourceAttributes": "1 path, 2 verb",
    "SelfSubjectAccessReview": f"{_REVIEW}, 2 spec SelfSubjectAccessReviewSpec",
    "SelfSubjectAccessReviewSpec": _ATTRIBUTES,
    "SubjectAccessReview": f"{_REVIEW}, 2 spec SubjectAccessReviewSpec",
    "LocalSubjectAccessReview": f"{_REVIEW}, 2 spec SubjectAccessReviewSpec",
    "SubjectAccessReviewSpec": f"{_ATTRIBUTES}, 3 user, 4 groups string*, 5 extra Strings{{}}, 6 uid",
    "SelfSubjectRulesReview": f"{_REVIEW}, 2 spec SelfSubjectRulesReviewSpec",
    "SelfSubjectRulesReviewSpec": "1 namespace",
    # authentication
    "SelfSubjectReview": "1 metadata ObjectMeta, 2 status skip",
    "TokenReview": f"{_REVIEW}, 2 spec TokenReviewSpec",
    "TokenReviewSpec": "1 token, 2 audiences string*",
    "TokenRequest": f"{_REVIEW}, 2 spec TokenRequestSpec",
    "TokenRequestSpec": "1 audiences string*, 3 boundObjectRef BoundObjectReference, 4 expirationSeconds? int",
    "BoundObjectReference": "1 kind, 2 apiVersion, 3 name, 4 uid",
}
