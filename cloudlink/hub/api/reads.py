"""GET of one object, and what every reader needs: forms (object, metadata, table) and selectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cloudlink.hub.api.answers import Answer, ApiError, answer, bad_request, not_found
from cloudlink.hub.api.calls import Call, Context
from cloudlink.hub.api.custom import columns_for, viewed
from cloudlink.hub.api.selectors import Predicate, SelectorError, selection
from cloudlink.hub.api.table import head, row
from cloudlink.kube.errors import Cause
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.parse import dump

INCLUDE = ("None", "Metadata", "Object")


def get_one(context: Context, call: Call) -> Answer:
    check_revision(context, call)
    obj = existing(context, call)
    return shown(context, call, obj)


def existing(context: Context, call: Call) -> KubeObject:
    """The object that the path names, or 404."""
    target = call.target
    obj = there(context, call)
    if obj is None:
        raise not_found(target.resource, target.name)
    return obj


def there(context: Context, call: Call) -> KubeObject | None:
    """Likewise, or None."""
    target = call.target
    obj = context.store.get(target.resource.key, target.namespace, target.name)
    return viewed(obj, target.resource) if obj is not None else None


def shown(context: Context, call: Call, obj: KubeObject, code: int = 200) -> Answer:
    """One object in the form that the client asked for."""
    obj = viewed(obj, call.target.resource)
    match call.form:
        case "table":
            meta = {"resourceVersion": obj.metadata.resource_version}
            return answer(as_table(context, call, [obj], meta), code)
        case "metadata":
            return answer(partial(obj), code)
        case _:
            return Answer(code, context.store.raw(obj))


def partial(obj: KubeObject) -> dict[str, Any]:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": dump(obj.metadata)}


def as_table(context: Context, call: Call, objects: Sequence[KubeObject], metadata: dict[str, Any]) -> dict[str, Any]:
    include = include_of(call)
    columns, cells = columns_for(call.target.resource)
    return head(columns, metadata) | {"rows": [row(cells(o, context.now()), o, include) for o in objects]}


def include_of(call: Call) -> str:
    include = call.query.get("includeObject", "Metadata")
    if include not in INCLUDE:
        raise bad_request(f"the query parameter includeObject must be one of {', '.join(INCLUDE)}")
    return include


def predicate(call: Call) -> Predicate | None:
    """The request's selectors; 400 where they can't be understood. A name in the path of a watch selects too."""
    fields = call.query.get("fieldSelector", "")
    if call.target.name:
        fields = f"metadata.name={call.target.name}" + (f",{fields}" if fields else "")
    try:
        resource = call.target.resource
        more = resource.shape.fields if resource.shape is not None else ()
        return selection(resource.key, call.query.get("labelSelector", ""), fields, more)
    except SelectorError as e:
        raise bad_request(str(e)) from None


def check_revision(context: Context, call: Call) -> None:
    """To be not older than a revision that doesn't exist yet is refused."""
    wanted = call.number("resourceVersion")
    if wanted is not None and wanted > context.store.revision:
        raise too_large(wanted, context.store.revision)


def too_large(wanted: int, current: int) -> ApiError:
    """storage.NewTooLargeResourceVersionError; client-go knows it by its cause."""
    cause = Cause("", "ResourceVersionTooLarge", "Too large resource version")
    message = f"Too large resource version: {wanted}, current: {current}"
    return ApiError(504, "Timeout", message, causes=[cause], retry_after=1)
