"""authorization.k8s.io/v1 and authentication.k8s.io/v1: questions that are posted, answered in `status`, and stored
nowhere.

Their models are strict about `spec`; `status` is the answer, and what a client writes there is passed over.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from cloudlink.kube.meta import KubeObject, Many, Model, Report

Extra = dict[str, Many[str]]
AUTHORIZATION: Literal["authorization.k8s.io/v1"] = "authorization.k8s.io/v1"
AUTHENTICATION: Literal["authentication.k8s.io/v1"] = "authentication.k8s.io/v1"


class Review(KubeObject):
    """Base of all of them: they need no name."""


# ---------------------------------------------------------------- authorization


class SelectorRequirement(Model):
    key: str = ""
    operator: str = ""
    values: Many[str] = ()


class SelectorAttributes(Model):
    """Taken and passed over, as RBAC does: a rule can't speak of selectors."""

    raw_selector: str = ""
    requirements: Many[SelectorRequirement] = ()


class ResourceAttributes(Model):
    """A request for a resource; "" = all of them, where `namespace` is meant: the whole cluster."""

    namespace: str = ""
    verb: str = ""
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""
    field_selector: SelectorAttributes | None = None
    label_selector: SelectorAttributes | None = None


class NonResourceAttributes(Model):
    path: str = ""
    verb: str = ""


class SubjectAccessReviewStatus(Report):
    """`denied` is always absent: RBAC only ever allows."""

    always: ClassVar = frozenset({"allowed"})

    allowed: bool = False
    denied: bool = False
    reason: str = ""
    evaluation_error: str = ""


class SelfSubjectAccessReviewSpec(Model):
    resource_attributes: ResourceAttributes | None = None
    non_resource_attributes: NonResourceAttributes | None = None


class SubjectAccessReviewSpec(Model):
    resource_attributes: ResourceAttributes | None = None
    non_resource_attributes: NonResourceAttributes | None = None
    user: str = ""
    groups: Many[str] = ()
    extra: Extra = Field(default={})
    uid: str = ""


class SelfSubjectAccessReview(Review):
    api_version: Literal["authorization.k8s.io/v1"] = AUTHORIZATION
    kind: Literal["SelfSubjectAccessReview"] = "SelfSubjectAccessReview"
    spec: SelfSubjectAccessReviewSpec
    status: SubjectAccessReviewStatus = SubjectAccessReviewStatus()


class SubjectAccessReview(Review):
    api_version: Literal["authorization.k8s.io/v1"] = AUTHORIZATION
    kind: Literal["SubjectAccessReview"] = "SubjectAccessReview"
    spec: SubjectAccessReviewSpec
    status: SubjectAccessReviewStatus = SubjectAccessReviewStatus()


class LocalSubjectAccessReview(Review):
    """Like SubjectAccessReview, for the namespace that it is posted to."""

    api_version: Literal["authorization.k8s.io/v1"] = AUTHORIZATION
    kind: Literal["LocalSubjectAccessReview"] = "LocalSubjectAccessReview"
    spec: SubjectAccessReviewSpec
    status: SubjectAccessReviewStatus = SubjectAccessReviewStatus()


class ResourceRule(Report):
    always: ClassVar = frozenset({"verbs"})

    verbs: Many[str] = ()
    api_groups: Many[str] = ()
    resources: Many[str] = ()
    resource_names: Many[str] = ()


class NonResourceRule(Report):
    always: ClassVar = frozenset({"verbs"})

    verbs: Many[str] = ()
    non_resource_urls: Many[str] = ()


class SubjectRulesReviewStatus(Report):
    always: ClassVar = frozenset({"incomplete", "non_resource_rules", "resource_rules"})

    resource_rules: Many[ResourceRule] = ()
    non_resource_rules: Many[NonResourceRule] = ()
    incomplete: bool = False
    evaluation_error: str = ""


class SelfSubjectRulesReviewSpec(Model):
    namespace: str = ""


class SelfSubjectRulesReview(Review):
    api_version: Literal["authorization.k8s.io/v1"] = AUTHORIZATION
    kind: Literal["SelfSubjectRulesReview"] = "SelfSubjectRulesReview"
    spec: SelfSubjectRulesReviewSpec
    status: SubjectRulesReviewStatus = SubjectRulesReviewStatus()


# ---------------------------------------------------------------- authentication


class UserInfo(Report):
    username: str = ""
    uid: str = ""
    groups: Many[str] = ()
    extra: Extra = Field(default={})


class SelfSubjectReviewStatus(Report):
    user_info: UserInfo = UserInfo()


class SelfSubjectReview(Review):
    api_version: Literal["authentication.k8s.io/v1"] = AUTHENTICATION
    kind: Literal["SelfSubjectReview"] = "SelfSubjectReview"
    status: SelfSubjectReviewStatus = SelfSubjectReviewStatus()


class SelfSubjectReviewV1beta1(Review):
    """The same, as kubectl 1.27 asks for it (`kubectl auth whoami`)."""

    api_version: Literal["authentication.k8s.io/v1beta1"] = "authentication.k8s.io/v1beta1"
    kind: Literal["SelfSubjectReview"] = "SelfSubjectReview"
    status: SelfSubjectReviewStatus = SelfSubjectReviewStatus()


class TokenReviewSpec(Model):
    token: str = Field(default="", repr=False)
    audiences: Many[str] = ()


class TokenReviewStatus(Report):
    authenticated: bool = False
    user: UserInfo = UserInfo()
    audiences: Many[str] = ()
    error: str = ""


class TokenReview(Review):
    api_version: Literal["authentication.k8s.io/v1"] = AUTHENTICATION
    kind: Literal["TokenReview"] = "TokenReview"
    spec: TokenReviewSpec
    status: TokenReviewStatus = TokenReviewStatus()


class BoundObjectReference(Model):
    """The token ends with that object: a Pod, a Node or a Secret."""

    kind: str = ""
    api_version: str = ""
    name: str = ""
    uid: str = ""


class TokenRequestSpec(Model):
    """:ivar expiration_seconds: 600 at least; the hub may give less than what is asked for."""

    audiences: Many[str] = ()
    expiration_seconds: int = 3600
    bound_object_ref: BoundObjectReference | None = None


class TokenRequestStatus(Report):
    token: str = Field(default="", repr=False)
    expiration_timestamp: str = ""


class TokenRequest(Review):
    """Posted to serviceaccounts/{name}/token."""

    api_version: Literal["authentication.k8s.io/v1"] = AUTHENTICATION
    kind: Literal["TokenRequest"] = "TokenRequest"
    spec: TokenRequestSpec = TokenRequestSpec()
    status: TokenRequestStatus = TokenRequestStatus()
