"""Errors as Kubernetes tells them: metav1.Status, with the reason words and codes that clients act on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from cloudlink.hub.errors import AlreadyExists, Conflict, Gone, NotFound, StoreError, Terminating
from cloudlink.kube.errors import Cause, Invalid
from cloudlink.kube.registry import RESOURCES, Resource
from edged.errors import EdgedError, PermanentError, RetryError

encode = msgspec.json.Encoder().encode

_RESOURCE = {r.kind: r for r in RESOURCES}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler returns: a status code and the JSON body, already encoded."""

    code: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


def answer(document: object, code: int = 200) -> Answer:
    return Answer(code, encode(document))


class ApiError(Exception):
    """An answer that is not a success; becomes a Status.

    :ivar code: HTTP status.
    :ivar reason: metav1.StatusReason.
    :ivar hang_up: the connection ends with it, because the rest of the request is not waited for.
    :ivar proceed: a continue token, with which a list may go on in spite of it.
    """

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        resource: Resource | None = None,
        name: str = "",
        causes: Sequence[Cause] = (),
        retry_after: int = 0,
        proceed: str = "",
        hang_up: bool = False,
    ) -> None:
        super().__init__(message)
        self.proceed, self.hang_up = proceed, hang_up
        self.code, self.reason, self.message = code, reason, message
        self.resource, self.name, self.causes, self.retry_after = resource, name, causes, retry_after

    def answer(self) -> Answer:
        details: dict[str, Any] = {}
        if self.name:
            details["name"] = self.name
        if self.resource is not None:
            if self.resource.group:
                details["group"] = self.resource.group
            # Invalid names the kind, everything else the plural: as Kubernetes does, and kubectl prints it.
            details["kind"] = self.resource.kind if self.reason == "Invalid" else self.resource.plural
        if self.causes:
            details["causes"] = [{"reason": c.reason, "message": c.message, "field": c.field} for c in self.causes]
        if self.retry_after:
            details["retryAfterSeconds"] = self.retry_after
        headers = (("retry-after", str(self.retry_after)),) if self.retry_after else ()
        headers = (*headers, ("connection", "close")) if self.hang_up else headers
        status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {"continue": self.proceed} if self.proceed else {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": details,
            "code": self.code,
        }
        return Answer(self.code, encode(status), headers)


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def no_such_path(path: str) -> ApiError:
    return ApiError(404, "NotFound", f"the server could not find the requested resource: {path}")


def absent(method: str, path: str) -> ApiError:
    """404 for a path that nothing is at; 501 with the reason for what people make in every other cluster."""
    if method == "POST" and path.endswith("/horizontalpodautoscalers") and path.startswith("/apis/autoscaling/"):
        why = "there is no autoscaler here: boards have fixed sizes, so say how many pods you want with kubectl scale"
        return ApiError(501, "NotImplemented", why)
    return no_such_path(path)


def not_found(resource: Resource, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{qualified(resource)} "{name}" not found', resource, name)


def conflict(resource: Resource, name: str, why: str) -> ApiError:
    message = f'Operation cannot be fulfilled on {qualified(resource)} "{name}": {why}'
    return ApiError(409, "Conflict", message, resource, name)


def forbidden(resource: Resource, name: str, why: str) -> ApiError:
    return ApiError(403, "Forbidden", f'{qualified(resource)} "{name}" is forbidden: {why}', resource, name)


def invalid(resource: Resource, name: str, causes: Sequence[Cause]) -> ApiError:
    """422 with every cause; kubectl prints one line for each."""
    told = [str(c) for c in causes]
    listed = told[0] if len(told) == 1 else f"[{', '.join(told)}]"
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    message = f'{kind} "{name}" is invalid: {listed}'
    return ApiError(422, "Invalid", message, resource, name, causes)


def invalid_options(kind: str, causes: Sequence[Cause]) -> ApiError:
    """422 about what came along with a request (metav1's ListOptions, DeleteOptions)."""
    listed = str(causes[0]) if len(causes) == 1 else f"[{', '.join(map(str, causes))}]"
    return ApiError(422, "Invalid", f'{kind}.meta.k8s.io "" is invalid: {listed}', causes=causes)


def qualified(resource: Resource) -> str:
    return f"{resource.plural}.{resource.group}" if resource.group else resource.plural


def from_error(error: EdgedError, resource: Resource | None, name: str) -> ApiError:
    """What the rooms below say, in HTTP's and Kubernetes' words."""
    if isinstance(error, Invalid):
        if resource is None:
            return ApiError(422, "Invalid", str(error), None, name, error.causes)
        return invalid(resource, error.name or name, error.causes)
    if isinstance(error, StoreError) and not isinstance(error, Gone):
        about = _RESOURCE.get(error.kind, resource)
        if about is None:
            return ApiError(400, "BadRequest", str(error))
        match error:
            case NotFound():
                return not_found(about, error.name)
            case AlreadyExists():
                message = f'{qualified(about)} "{error.name}" already exists'
                return ApiError(409, "AlreadyExists", message, about, error.name)
            case Terminating():
                return forbidden(about, error.name, f"namespace {error.namespace} is being terminated")
            case Conflict():
                return conflict(about, error.name, str(error))
            case _:
                pass
    match error:
        case Gone():
            return ApiError(410, "Expired", str(error))
        case RetryError():
            return ApiError(503, "ServiceUnavailable", str(error), retry_after=max(1, round(error.after)))
        case PermanentError():
            return ApiError(500, "InternalError", str(error))
        case _:
            return bad_request(str(error))
