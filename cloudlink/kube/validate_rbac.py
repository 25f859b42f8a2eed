"""Rules for roles, bindings and access reviews (k8s.io/kubernetes/pkg/apis/{rbac,authorization,authentication})."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cloudlink.kube import names, rbac, reviews
from cloudlink.kube.findings import Check, Findings
from cloudlink.kube.meta import KubeObject

MIN_TOKEN_SECONDS = 600
MAX_TOKEN_SECONDS = 1 << 32


def path_segment(text: str) -> str:
    """What may stand in a path by itself (path.IsValidPathSegmentName): names of roles and bindings."""
    if text in (".", ".."):
        return f"may not be '{text}'"
    for character in "/%":
        if character in text:
            return f"may not contain '{character}'"
    return "" if len(text) <= 253 else "must be no more than 253 characters"


# ---------------------------------------------------------------- roles


def role(obj: rbac.Role, found: Findings) -> None:
    for i, rule in enumerate(obj.rules):
        _rule(rule, True, f"rules[{i}]", found)


def cluster_role(obj: rbac.ClusterRole, found: Findings) -> None:
    for i, rule in enumerate(obj.rules):
        _rule(rule, False, f"rules[{i}]", found)
    if obj.aggregation_rule is not None and not obj.aggregation_rule.cluster_role_selectors:
        found.required(
            "aggregationRule.clusterRoleSelectors",
            "at least one clusterRoleSelector required if aggregationRule is non-nil",
        )


def _rule(rule: rbac.PolicyRule, namespaced: bool, path: str, found: Findings) -> None:
    if not rule.verbs:
        found.required(f"{path}.verbs", "verbs must contain at least one value")
    if rule.non_resource_urls:
        urls = list(rule.non_resource_urls)
        if namespaced:
            found.invalid(f"{path}.nonResourceURLs", urls, "namespaced rules cannot apply to non-resource URLs")
        if rule.api_groups or rule.resources or rule.resource_names:
            why = "rules cannot apply to both regular resources and non-resource URLs"
            found.invalid(f"{path}.nonResourceURLs", urls, why)
        return
    if not rule.api_groups:
        found.required(f"{path}.apiGroups", "resource rules must supply at least one api group")
    if not rule.resources:
        found.required(f"{path}.resources", "resource rules must supply at least one resource")


# ---------------------------------------------------------------- bindings


def role_binding(obj: rbac.RoleBinding, found: Findings) -> None:
    _role_ref(obj.role_ref, ("Role", "ClusterRole"), found)
    for i, subject in enumerate(obj.subjects):
        _subject(subject, True, f"subjects[{i}]", found)


def cluster_role_binding(obj: rbac.ClusterRoleBinding, found: Findings) -> None:
    _role_ref(obj.role_ref, ("ClusterRole",), found)
    for i, subject in enumerate(obj.subjects):
        _subject(subject, False, f"subjects[{i}]", found)


def _role_ref(ref: rbac.RoleRef, kinds: tuple[str, ...], found: Findings) -> None:
    if ref.api_group != rbac.GROUP:
        found.unsupported("roleRef.apiGroup", ref.api_group, (rbac.GROUP,))
    if ref.kind not in kinds:
        found.unsupported("roleRef.kind", ref.kind, kinds)
    found.text("roleRef.name", ref.name, path_segment)


def _subject(subject: rbac.Subject, namespaced: bool, path: str, found: Findings) -> None:
    if not subject.name:
        found.required(f"{path}.name")
    if subject.kind == "ServiceAccount":
        if subject.name and (why := names.dns_subdomain(subject.name)):
            found.invalid(f"{path}.name", subject.name, why)
        if subject.api_group:
            found.unsupported(f"{path}.apiGroup", subject.api_group, ("",))
        if not namespaced and not subject.namespace:
            found.required(f"{path}.namespace")
    elif subject.kind in ("User", "Group"):
        if subject.api_group != rbac.GROUP:
            found.unsupported(f"{path}.apiGroup", subject.api_group, (rbac.GROUP,))
    else:
        found.unsupported(f"{path}.kind", subject.kind, ("ServiceAccount", "User", "Group"))


# ---------------------------------------------------------------- reviews


def self_access_review(obj: reviews.SelfSubjectAccessReview, found: Findings) -> None:
    _attributes(obj.spec, found)


def access_review(obj: reviews.SubjectAccessReview | reviews.LocalSubjectAccessReview, found: Findings) -> None:
    _attributes(obj.spec, found)
    if not obj.spec.user and not obj.spec.groups:
        found.invalid("spec.user", obj.spec.user, "at least one of user or group must be specified")
    if isinstance(obj, reviews.LocalSubjectAccessReview):
        asked = obj.spec.resource_attributes
        if asked is not None and asked.namespace != obj.metadata.namespace:
            found.invalid("spec.resourceAttributes.namespace", asked.namespace, "must match metadata.namespace")
        if obj.spec.non_resource_attributes is not None:
            found.invalid("spec.nonResourceAttributes", {}, "disallowed on this kind of request")


def _attributes(spec: reviews.SelfSubjectAccessReviewSpec | reviews.SubjectAccessReviewSpec, found: Findings) -> None:
    both = spec.resource_attributes is not None, spec.non_resource_attributes is not None
    if all(both):
        found.invalid("spec.nonResourceAttributes", {}, "cannot be specified in combination with resourceAttributes")
    elif not any(both):
        found.invalid("spec.resourceAttributes", {}, "exactly one of nonResourceAttributes or resourceAttributes")


def token_request(obj: reviews.TokenRequest, found: Findings) -> None:
    seconds, path = obj.spec.expiration_seconds, "spec.expirationSeconds"
    if seconds < MIN_TOKEN_SECONDS:
        found.invalid(path, seconds, "may not specify a duration less than 10 minutes")
    elif seconds > MAX_TOKEN_SECONDS:
        found.invalid(path, seconds, f"may not specify a duration larger than 2^32 seconds ({MAX_TOKEN_SECONDS})")


NAMES: Mapping[type[KubeObject], Check] = dict.fromkeys(
    (rbac.Role, rbac.ClusterRole, rbac.RoleBinding, rbac.ClusterRoleBinding), path_segment
)

CHECKS: Mapping[type[KubeObject], Callable[..., None]] = {
    rbac.Role: role,
    rbac.ClusterRole: cluster_role,
    rbac.RoleBinding: role_binding,
    rbac.ClusterRoleBinding: cluster_role_binding,
    reviews.SelfSubjectAccessReview: self_access_review,
    reviews.SubjectAccessReview: access_review,
    reviews.LocalSubjectAccessReview: access_review,
    reviews.TokenRequest: token_request,
}
