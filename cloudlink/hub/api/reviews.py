"""What can only be posted: questions about who may do what, and requests for a ServiceAccount's token."""

from __future__ import annotations

from typing import Any

from cloudlink.hub.api.answers import Answer, ApiError, answer, bad_request, conflict, not_found
from cloudlink.hub.api.calls import Call, Context, document_of
from cloudlink.hub.auth.access import Access
from cloudlink.hub.auth.accounts import BOUND_TO, ISSUER
from cloudlink.hub.auth.authenticate import Unauthorized
from cloudlink.hub.auth.requests import Request
from cloudlink.hub.auth.users import User
from cloudlink.hub.revisions import timestamp
from cloudlink.kube import reviews
from cloudlink.kube.accounts import ServiceAccount
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.parse import dump, parse
from cloudlink.kube.registry import Resource, by_kind

TOKEN_REQUEST = Resource(
    *("authentication.k8s.io", "v1", "TokenRequest", "tokenrequests", "tokenrequest", (), True, ()),
    reviews.TokenRequest,
    verbs=("create",),
)


def review(access: Access, call: Call) -> Answer:
    """Answers with what was posted and its `status`."""
    resource = call.target.resource
    asked = parsed_review(call, resource)
    status: dict[str, Any]
    match asked:
        case reviews.SelfSubjectAccessReview():
            status = _verdict(access, call.user, asked.spec)
        case reviews.SubjectAccessReview() | reviews.LocalSubjectAccessReview():
            spec = asked.spec
            extra = {key.lower(): tuple(values) for key, values in spec.extra.items()}
            status = _verdict(access, User(spec.user, tuple(spec.groups), spec.uid, extra), spec)
        case reviews.SelfSubjectRulesReview():
            if not asked.spec.namespace:
                raise bad_request("no namespace on request")
            status = _rules(access, call.user, asked.spec.namespace)
        case reviews.SelfSubjectReview() | reviews.SelfSubjectReviewV1beta1():
            status = {"userInfo": call.user.info()}
        case reviews.TokenReview():
            status = _of_token(access, asked.spec)
        case _:
            raise ApiError(405, "MethodNotAllowed", f"a {resource.kind} can't be posted here", resource)
    return _answered(asked, status)


def parsed_review(call: Call, resource: Resource) -> KubeObject:
    document = document_of(call.body, call.content_type)
    document = {"apiVersion": resource.api_version, "kind": resource.kind} | document
    if (document["apiVersion"], document["kind"]) != (resource.api_version, resource.kind):
        raise bad_request(f"this path takes a {resource.kind} of {resource.api_version}")
    namespace = call.target.namespace
    if namespace:
        metadata = document.get("metadata") or {}
        if not isinstance(metadata, dict) or metadata.get("namespace") not in (None, "", namespace):
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        document["metadata"] = metadata | {"namespace": namespace}
    return parse({k: v for k, v in document.items() if k != "status"}, resource)


def _answered(asked: KubeObject, status: dict[str, Any]) -> Answer:
    document = dump(asked) | {"status": {k: v for k, v in status.items() if v not in ("", [], None)}}
    return answer(document | {"metadata": {"creationTimestamp": None} | document.get("metadata", {})}, 201)


def _verdict(
    access: Access,
    user: User,
    spec: reviews.SelfSubjectAccessReviewSpec | reviews.SubjectAccessReviewSpec,
) -> dict[str, Any]:
    asked, path = spec.resource_attributes, spec.non_resource_attributes
    if asked is not None:
        request = Request(
            asked.verb,
            group=asked.group,
            version=asked.version,
            resource=asked.resource,
            subresource=asked.subresource,
            namespace=asked.namespace,
            name=asked.name,
        )
    else:
        assert path is not None  # validated
        request = Request(path.verb, path.path, of_resource=False)
    verdict = access.authority.check(user, request)
    return {"allowed": verdict.allowed, "reason": verdict.reason}


def _rules(access: Access, user: User, namespace: str) -> dict[str, Any]:
    of_resources: list[dict[str, Any]] = []
    of_paths: list[dict[str, Any]] = []
    for rule in access.authority.index.rules_for(user, namespace):
        (of_paths if rule.non_resource_urls else of_resources).append(dump(rule))
    # Lists, even empty ones, have to be there: kubectl reads them without asking.
    document = {"resourceRules": of_resources, "nonResourceRules": of_paths, "incomplete": False}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in document.items()}


def _of_token(access: Access, spec: reviews.TokenReviewSpec) -> dict[str, Any]:
    audiences = list(spec.audiences)
    try:
        user = access.accounts.review(spec.token, audiences or (ISSUER,))
        meant = access.accounts.audiences_of(spec.token) if user is not None else [ISSUER]
        if user is None:  # not a JWT: this hub's own tokens are for this hub
            if audiences and ISSUER not in audiences:
                raise Unauthorized("this token is for the hub itself")
            user = access.authenticator.of_token(spec.token)
    except Unauthorized as e:
        return {"authenticated": False, "error": str(e)}
    agreed = [a for a in meant if a in (audiences or (ISSUER,))]
    return {"authenticated": True, "user": user.info(), "audiences": agreed}


# ---------------------------------------------------------------- serviceaccounts/{name}/token


def token(context: Context, access: Access, call: Call) -> Answer:
    target = call.target
    account = context.store.get("ServiceAccount", target.namespace, target.name)
    if not isinstance(account, ServiceAccount):
        raise not_found(target.resource, target.name)
    asked = parsed_review(call, TOKEN_REQUEST)
    assert isinstance(asked, reviews.TokenRequest)
    bound = _bound(context, asked.spec.bound_object_ref, target.namespace)
    meta = asked.metadata
    for field, said, is_ in (("name", meta.name, account.metadata.name), ("uid", meta.uid, account.metadata.uid)):
        if said and said != is_:
            raise bad_request(f"metadata.{field} of the TokenRequest must be the ServiceAccount's, or be left out")
    made, end = access.accounts.token(account, asked.spec.audiences, asked.spec.expiration_seconds, bound)
    document = dump(asked)
    document["spec"]["audiences"] = list(asked.spec.audiences) or [ISSUER]
    document["metadata"] |= {"name": target.name, "creationTimestamp": timestamp(access.now())}
    return answer(document | {"status": {"token": made, "expirationTimestamp": timestamp(end)}}, 201)


def _bound(context: Context, ref: reviews.BoundObjectReference | None, namespace: str) -> tuple[str, str, str] | None:
    """The object that the token is to end with, as it is now."""
    if ref is None:
        return None
    resource = by_kind("v1", ref.kind) if ref.kind in BOUND_TO and ref.api_version in ("", "v1") else None
    if resource is None:
        raise bad_request(f"cannot bind token to object of type {ref.api_version} {ref.kind}: use v1 {BOUND_TO}")
    there = context.store.get(ref.kind, namespace if resource.namespaced else None, ref.name)
    if there is None:
        raise not_found(resource, ref.name)
    if ref.uid and ref.uid != there.metadata.uid:
        why = f"the UID in the bound object reference ({ref.uid}) does not match the UID in record"
        raise conflict(resource, ref.name, why)
    return ref.kind, ref.name, there.metadata.uid
