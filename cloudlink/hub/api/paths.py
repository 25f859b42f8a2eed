"""URL paths of the Kubernetes API taken apart (apiserver's RequestInfo). Pure."""

from __future__ import annotations

from dataclasses import dataclass

from cloudlink.kube.catalogue import BUILT_IN, Catalogue
from cloudlink.kube.registry import Resource


@dataclass(frozen=True, slots=True)
class Target:
    """What a path speaks of.

    :ivar namespace: "" for the whole cluster (or all namespaces).
    :ivar name: "" for a whole collection.
    :ivar subresource: "status", "scale", "log"…, "" for the object itself.
    """

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    watch: bool = False


def target_of(path: str, catalogue: Catalogue = BUILT_IN) -> Target | None:
    """None where no resource of ours has that path.

    /api/v1/{plural}[/{name}[/{sub}]], /api/v1/namespaces/{ns}/{plural}[/{name}[/{sub}]], the same below
    /apis/{group}/{version}, and the old /watch/ prefix.
    """
    parts = path.strip("/").split("/")
    if not all(parts):  # an empty name must not come to mean all of them
        return None
    if parts[:1] == ["api"]:
        group, version, rest = "", "".join(parts[1:2]), parts[2:]
    elif parts[:1] == ["apis"] and len(parts) >= 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    watch = rest[:1] == ["watch"]
    rest = rest[1:] if watch else rest
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) >= 3 and not (len(rest) == 3 and rest[2] in ("status", "finalize")):
        namespace, rest = rest[1], rest[2:]
    if not 1 <= len(rest) <= 3:
        return None
    resource = catalogue.by_plural(group, version, rest[0])
    if resource is None or (namespace and not resource.namespaced):
        return None
    name = rest[1] if len(rest) > 1 else ""
    if name and resource.namespaced and not namespace:
        return None
    return Target(resource, namespace, name, rest[2] if len(rest) > 2 else "", watch)
