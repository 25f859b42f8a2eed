"""What this API offers, as clients ask for it: /api, /apis, their resource lists, and the aggregated form. Pure."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from cloudlink.hub.api.answers import Answer, answer, encode
from cloudlink.kube.catalogue import BUILT_IN, Catalogue
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.registry import Resource

SUB_VERBS = ("get", "patch", "update")

# Subresources that are read and written as another kind than their resource's: group, version, kind; verbs.
_OTHER: Mapping[str, tuple[tuple[str, str, str], tuple[str, ...]]] = {
    "scale": (("autoscaling", "v1", "Scale"), SUB_VERBS),
    "token": (("authentication.k8s.io", "v1", "TokenRequest"), ("create",)),
    "eviction": (("policy", "v1", "Eviction"), ("create",)),
    "binding": (("", "v1", "Binding"), ("create",)),
    "finalize": (("", "v1", "Namespace"), ("update",)),
    "log": (("", "v1", "Pod"), ("get",)),
    "exec": (("", "v1", "PodExecOptions"), ("create", "get")),
    "attach": (("", "v1", "PodAttachOptions"), ("create", "get")),
    "portforward": (("", "v1", "PodPortForwardOptions"), ("create", "get")),
}

# Stored nowhere, the nodes are asked (usage). After all others: `kubectl get nodes` means the nodes themselves.
_METRICS = (
    Resource("metrics.k8s.io", "v1beta1", "NodeMetrics", "nodes", "", (), False, (), KubeObject, verbs=("get", "list")),
    Resource("metrics.k8s.io", "v1beta1", "PodMetrics", "pods", "", (), True, (), KubeObject, verbs=("get", "list")),
)


def subresource_of(resource: Resource, sub: str) -> tuple[tuple[str, str, str], tuple[str, ...]]:
    """Which kind a subresource is read and written as (group, version, kind), and its verbs."""
    return _OTHER.get(sub, ((resource.group, resource.version, resource.kind), SUB_VERBS))


# We speak the API of that version, as far as we speak it; kubectl warns where it is more than one apart.
VERSION: Mapping[str, str] = {
    "major": "1",
    "minor": "32",
    "gitVersion": "v1.32.0+edged",
    "gitCommit": "",
    "gitTreeState": "",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "",
    "platform": "linux/any",
}


def _groups(catalogue: Catalogue) -> dict[str, list[Resource]]:
    groups: dict[str, list[Resource]] = {}
    for resource in (*catalogue.resources, *_METRICS):
        groups.setdefault(resource.group, []).append(resource)
    return groups


def _group(name: str, resources: Sequence[Resource]) -> dict[str, Any]:
    versions = [{"groupVersion": v, "version": v.rpartition("/")[2]} for v in _versions(resources)]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]}


def _versions(resources: Sequence[Resource]) -> list[str]:
    return list(dict.fromkeys(r.api_version for r in resources))


def _resource_list(catalogue: Catalogue, api_version: str) -> dict[str, Any] | None:
    entries: list[dict[str, Any]] = []
    for resource in (*catalogue.resources, *_METRICS):
        if resource.api_version != api_version:
            continue
        entry: dict[str, Any] = {
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": resource.verbs,
        }
        if resource.short_names:
            entry["shortNames"] = resource.short_names
        if resource.categories:
            entry["categories"] = resource.categories
        if "watch" in resource.verbs:
            entry["storageVersionHash"] = _storage_hash(resource)
        entries.append(entry)
        for sub in resource.subresources:
            own = (resource.group, resource.version, resource.kind)
            kind, verbs = subresource_of(resource, sub)
            common = {"singularName": "", "namespaced": resource.namespaced, "kind": resource.kind, "verbs": verbs}
            entries.append(
                {"name": f"{resource.plural}/{sub}", **common, **(_response_kind(*kind) if kind != own else {})}
            )
    if not entries:
        return None
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": entries}


def _storage_hash(resource: Resource) -> str:
    """Changes when the version does in which objects are stored (discovery.StorageVersionHash)."""
    stored = resource.shape.stored if resource.shape is not None else resource.api_version
    digest = hashlib.sha256(f"{resource.group}/{stored.rpartition('/')[2]}/{resource.kind}".encode()).digest()
    return base64.b64encode(digest[:8]).decode()


# ---------------------------------------------------------------- aggregated (apidiscovery.k8s.io)


def _response_kind(group: str, version: str, kind: str) -> dict[str, str]:
    return {"group": group, "version": version, "kind": kind}


def _aggregated_resource(resource: Resource) -> dict[str, Any]:
    subs = [
        {"subresource": sub, "responseKind": _response_kind(*kind), "verbs": verbs}
        for sub in resource.subresources
        for kind, verbs in (subresource_of(resource, sub),)
    ]
    return {
        "resource": resource.plural,
        "responseKind": _response_kind(resource.group, resource.version, resource.kind),
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": resource.verbs,
        "shortNames": resource.short_names,
        "categories": resource.categories,
        "subresources": subs,
    }


def _aggregated(catalogue: Catalogue, core: bool, version: str) -> dict[str, Any]:
    items = []
    for group, resources in _groups(catalogue).items():
        if (group == "") is not core:
            continue
        versions = [
            {
                "version": v,
                "resources": [_aggregated_resource(r) for r in resources if r.version == v],
                "freshness": "Current",
            }
            for v in dict.fromkeys(r.version for r in resources)
        ]
        items.append({"metadata": {"name": group, "creationTimestamp": None}, "versions": versions})
    api = f"apidiscovery.k8s.io/{version}"
    return {"kind": "APIGroupDiscoveryList", "apiVersion": api, "metadata": {}, "items": items}


@lru_cache(maxsize=8)
def _aggregated_body(catalogue: Catalogue, core: bool, version: str) -> tuple[bytes, str]:
    body = encode(_aggregated(catalogue, core, version))
    return body, f'"{hashlib.sha256(body).hexdigest().upper()}"'


def _wanted_aggregate(accept: str) -> str:
    """The version of apidiscovery.k8s.io that the client asks for, "" for the plain form."""
    for offer in accept.split(","):
        words = {w.strip() for w in offer.split(";")}
        if {"application/json", "as=APIGroupDiscoveryList", "g=apidiscovery.k8s.io"} <= words:
            for version in ("v2", "v2beta1"):
                if f"v={version}" in words:
                    return version
    return ""


def discover(path: str, accept: str, catalogue: Catalogue = BUILT_IN) -> Answer | None:
    """The answer for /api, /apis and the paths of groups and versions; None for every other path."""
    parts = path.strip("/").split("/")
    version = _wanted_aggregate(accept)
    match parts:
        case ["api" | "apis"] if version:
            body, tag = _aggregated_body(catalogue, parts[0] == "api", version)
            kind = f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
            return Answer(200, body, (("content-type", kind), ("etag", tag), ("vary", "Accept")))
        case ["api"]:
            versions = _versions(_groups(catalogue)[""])
            return answer({"kind": "APIVersions", "versions": versions, "serverAddressByClientCIDRs": []})
        case ["apis"]:
            groups = [_group(name, resources) for name, resources in _groups(catalogue).items() if name]
            return answer({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        case ["apis", group] if group and group in (groups_ := _groups(catalogue)):
            return answer({"kind": "APIGroup", "apiVersion": "v1", **_group(group, groups_[group])})
        case ["api", version]:
            listed = _resource_list(catalogue, version)
        case ["apis", group, version]:
            listed = _resource_list(catalogue, f"{group}/{version}")
        case _:
            return None
    return None if listed is None else answer(listed)
