"""What is wrong with volumes, and with where containers mount them. Rules: see `validate`."""

from __future__ import annotations

import posixpath
import re

from cloudlink.kube import names
from cloudlink.kube.container import Container
from cloudlink.kube.env import ObjectFieldSelector, ResourceFieldSelector
from cloudlink.kube.findings import Findings
from cloudlink.kube.quantity import canonical
from cloudlink.kube.volumes import (
    DownwardAPIVolumeFile,
    KeyToPath,
    NFSVolume,
    Volume,
    VolumeMount,
    VolumeProjection,
)

VOLUME_FIELDS = ("metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid")
_COUNTED = ("cpu", "ephemeral-storage", "memory")
RESOURCES = tuple(f"{kind}.{name}" for kind in ("limits", "requests") for name in _COUNTED)
_SUBSCRIPTED = re.compile(r"([^\[\]]+)\['(.+)'\]", re.DOTALL)
_BYTES = ("1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei")


def volume(it: Volume, path: str, containers: set[str], found: Findings) -> None:
    """:param containers: names of the pod's, which a downward file may ask about."""
    if len(it.sources) > 1:
        found.forbidden(path, "may not specify more than 1 volume type")
    if it.empty_dir is not None and it.empty_dir.size_limit is not None:
        not_negative(f"{path}.emptyDir.sizeLimit", it.empty_dir.size_limit, found)
    if it.host_path is not None:
        _absolute(it.host_path.path, f"{path}.hostPath.path", found)
    if it.config_map is not None:
        found.text(f"{path}.configMap.name", it.config_map.name, names.dns_subdomain)
        _mode(f"{path}.configMap.defaultMode", it.config_map.default_mode, found)
        _items(it.config_map.items, f"{path}.configMap", found)
    if it.secret is not None:
        found.text(f"{path}.secret.secretName", it.secret.secret_name, names.dns_subdomain)
        _mode(f"{path}.secret.defaultMode", it.secret.default_mode, found)
        _items(it.secret.items, f"{path}.secret", found)
    if it.downward_api is not None:
        _mode(f"{path}.downwardAPI.defaultMode", it.downward_api.default_mode, found)
        _downward(it.downward_api.items, f"{path}.downwardAPI", containers, found)
    if it.projected is not None:
        _mode(f"{path}.projected.defaultMode", it.projected.default_mode, found)
        _projections(it.projected.sources, f"{path}.projected", containers, found)
    if it.persistent_volume_claim is not None:
        claim = it.persistent_volume_claim.claim_name
        found.text(f"{path}.persistentVolumeClaim.claimName", claim, names.dns_subdomain)
    if it.nfs is not None:
        _nfs(it.nfs, f"{path}.nfs", found)


def _nfs(nfs: NFSVolume, path: str, found: Findings) -> None:
    if not nfs.server:
        found.required(f"{path}.server")
    elif nfs.server.startswith("-") or not nfs.server.isprintable() or any(c in nfs.server for c in " /,\\"):
        found.invalid(f"{path}.server", nfs.server, "must be a host name or an IP address")  # it becomes an argument
    _absolute(nfs.path, f"{path}.path", found)


def _absolute(value: str, path: str, found: Findings) -> None:
    if not value:
        found.required(path)
    elif ".." in value.split("/"):
        found.invalid(path, value, "must not contain '..'")
    elif not posixpath.isabs(value) or "\0" in value:  # stricter than Kubernetes, where the runtime would refuse it
        found.invalid(path, value, "must be an absolute path")


def _items(items: tuple[KeyToPath, ...], path: str, found: Findings) -> None:
    for i, item in enumerate(items):
        here = f"{path}.items[{i}]"
        found.text(f"{here}.key", item.key, names.config_key)
        _file(item.path, f"{here}.path", found)
        if item.mode is not None:
            _mode(f"{here}.mode", item.mode, found)


def _mode(path: str, mode: int, found: Findings) -> None:
    if not 0 <= mode <= 0o777:
        found.invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive")


def _file(value: str, path: str, found: Findings) -> None:
    """A file's place inside a volume whose files are ours (validateLocalNonReservedPath)."""
    if not value:
        found.required(path)
    elif value.startswith(".."):
        found.invalid(path, value, "must not start with '..'")  # our own links and folders do
    else:
        local_descending_path(path, value, found)


def local_descending_path(path: str, value: str, found: Findings) -> None:
    """Relative, and nowhere up."""
    if value.startswith("/") or "\0" in value:
        found.invalid(path, value, "must be a relative path")
    elif ".." in value.split("/"):
        found.invalid(path, value, "must not contain '..'")


# ---------------------------------------------------------------- projected, downward


def _projections(sources: tuple[VolumeProjection, ...], path: str, containers: set[str], found: Findings) -> None:
    places: set[object] = set()
    for i, source in enumerate(sources):
        here = f"{path}.sources[{i}]"
        given = [s for s in (source.config_map, source.secret, source.downward_api) if s is not None]
        if not given:
            found.required(here, "must specify one of: `configMap`, `secret` or `downwardAPI`")
        elif len(given) > 1:
            found.forbidden(here, "may not specify more than 1 volume type")
        items: tuple[KeyToPath, ...] = ()
        for field, named in (("configMap", source.config_map), ("secret", source.secret)):
            if named is not None:
                found.text(f"{here}.{field}.name", named.name, names.dns_subdomain)
                _items(named.items, f"{here}.{field}", found)
                items += named.items
        paths = [item.path for item in items]
        if source.downward_api is not None:
            _downward(source.downward_api.items, f"{here}.downwardAPI", containers, found)
            paths += [item.path for item in source.downward_api.items]
        for each in paths:
            if each in places:
                found.invalid(here, each, "conflicting duplicate paths")
            places.add(each)


def _downward(items: tuple[DownwardAPIVolumeFile, ...], path: str, containers: set[str], found: Findings) -> None:
    for i, item in enumerate(items):
        here = f"{path}.items[{i}]"
        _file(item.path, f"{here}.path", found)
        if item.mode is not None:
            _mode(f"{here}.mode", item.mode, found)
        if item.field_ref is not None and item.resource_field_ref is not None:
            found.hidden(here, "fieldRef and resourceFieldRef can not be specified simultaneously")
        elif item.field_ref is None and item.resource_field_ref is None:
            found.required(here, "one of fieldRef and resourceFieldRef is required")
        if item.field_ref is not None:
            field_reference(item.field_ref, VOLUME_FIELDS, f"{here}.fieldRef", found)
        if item.resource_field_ref is not None:
            if not item.resource_field_ref.container_name:
                found.required(f"{here}.resourceFieldRef.containerName")
            resource_reference(item.resource_field_ref, containers, f"{here}.resourceFieldRef", found)


def field_reference(ref: ObjectFieldSelector, fields: tuple[str, ...], path: str, found: Findings) -> None:
    """validateObjectFieldSelector; a single label or annotation may always be referred to."""
    if ref.api_version != "v1":
        found.unsupported(f"{path}.apiVersion", ref.api_version, ["v1"])
    here = f"{path}.fieldPath"
    if not ref.field_path:
        found.required(here)
    elif subscripted := _SUBSCRIPTED.fullmatch(ref.field_path):
        whole, key = subscripted.groups()
        if whole not in ("metadata.labels", "metadata.annotations"):
            found.invalid(here, whole, "does not support subscript")
        elif why := names.label_key(key.lower() if whole == "metadata.annotations" else key):
            found.invalid(here, key, why)
    elif ref.field_path not in fields:
        found.unsupported(here, ref.field_path, fields)


def resource_reference(ref: ResourceFieldSelector, containers: set[str], path: str, found: Findings) -> None:
    """validateContainerResourceFieldSelector. Stricter: the container must be there."""
    if ref.container_name and ref.container_name not in containers:
        found.not_found(f"{path}.containerName", ref.container_name, "no container of the pod has this name")
    if not ref.resource:
        found.required(f"{path}.resource")
    elif ref.resource not in RESOURCES:
        found.unsupported(f"{path}.resource", ref.resource, RESOURCES)
        return
    divisor = canonical(ref.divisor)
    allowed = ("1m", "1") if ref.resource.endswith(".cpu") else _BYTES
    if divisor != "0" and divisor not in allowed:
        found.unsupported(f"{path}.divisor", ref.divisor, allowed)


# ---------------------------------------------------------------- mounts


def mounts(container: Container, path: str, volumes: set[object], found: Findings) -> None:
    mounted: set[object] = set()
    for i, mount in enumerate(container.volume_mounts):
        _mount(mount, f"{path}.volumeMounts[{i}]", volumes, mounted, found)
        context = container.security_context
        if mount.mount_propagation == "Bidirectional" and not (context is not None and context.privileged):
            why = "Bidirectional mount propagation is available only to privileged containers"
            found.forbidden(f"{path}.volumeMounts[{i}].mountPropagation", why)


def _mount(mount: VolumeMount, path: str, volumes: set[object], mounted: set[object], found: Findings) -> None:
    if not mount.name:
        found.required(f"{path}.name")
    elif mount.name not in volumes:
        found.not_found(f"{path}.name", mount.name, "no volume of the pod has this name")
    if not mount.mount_path:
        found.required(f"{path}.mountPath")
    elif not posixpath.isabs(mount.mount_path) or posixpath.normpath(mount.mount_path) in ("/", "//"):
        found.invalid(f"{path}.mountPath", mount.mount_path, "must be an absolute path below '/'")
    elif ":" in mount.mount_path or "\0" in mount.mount_path or ".." in mount.mount_path.split("/"):
        found.invalid(f"{path}.mountPath", mount.mount_path, "must not contain ':' or '..'")
    else:
        where = posixpath.normpath(mount.mount_path)
        if where in mounted:
            found.invalid(f"{path}.mountPath", mount.mount_path, "must be unique")
        mounted.add(where)
    if mount.sub_path:
        local_descending_path(f"{path}.subPath", mount.sub_path, found)
    if mount.sub_path_expr:
        if mount.sub_path:
            why = "subPathExpr and subPath are mutually exclusive"
            found.invalid(f"{path}.subPathExpr", mount.sub_path_expr, why)
        local_descending_path(f"{path}.subPathExpr", mount.sub_path_expr, found)


def not_negative(path: str, value: str, found: Findings) -> None:
    if value.startswith("-"):
        found.invalid(path, value, "must be greater than or equal to 0")
