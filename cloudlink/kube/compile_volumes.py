"""Volumes and mounts, from the user's language to the node's. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cloudlink.kube import core, quantity
from cloudlink.kube.volumes import DownwardAPIVolumeFile, PersistentVolumeClaimVolume
from edged import model


def mount(it: core.VolumeMount) -> model.Mount:
    return model.Mount(
        it.name,
        it.mount_path,
        it.read_only,
        it.sub_path_expr or it.sub_path,
        expand=bool(it.sub_path_expr),
        propagation=model.Propagation(it.mount_propagation or "None"),
    )


def volume_source(
    volume: core.Volume, namespace: str, claims: Mapping[str, core.PersistentVolumeClaim]
) -> model.VolumeSource:
    """:param claims: by "namespace/name"."""
    if volume.host_path is not None:
        return model.HostPath(volume.host_path.path, volume.host_path.type)
    if volume.config_map is not None:
        files = volume.config_map
        return model.ConfigFiles(files.name, _items(files.items), files.default_mode, files.optional)
    if volume.secret is not None:
        secret = volume.secret
        return model.SecretFiles(secret.secret_name, _items(secret.items), secret.default_mode, secret.optional)
    if volume.downward_api is not None:
        return model.DownwardFiles(_downward(volume.downward_api.items), volume.downward_api.default_mode)
    if volume.projected is not None:
        sources = tuple(s for p in volume.projected.sources if (s := _projection(p)) is not None)
        return model.Projected(sources, volume.projected.default_mode)
    if volume.persistent_volume_claim is not None:
        return _claim(volume.persistent_volume_claim, namespace, claims)
    if volume.nfs is not None:
        return model.NfsMount(volume.nfs.server, volume.nfs.path, volume.nfs.read_only)
    scratch = volume.empty_dir or core.EmptyDirVolume()
    size = quantity.to_int(scratch.size_limit) if scratch.size_limit is not None else 0
    return model.EmptyDir(scratch.medium == "Memory", size or None)


def _items(items: Sequence[core.KeyToPath]) -> tuple[model.KeyToPath, ...]:
    return tuple(model.KeyToPath(i.key, i.path, i.mode) for i in items)


def _downward(items: Sequence[DownwardAPIVolumeFile]) -> tuple[model.DownwardItem, ...]:
    return tuple(
        model.DownwardItem(
            i.path,
            field=i.field_ref.field_path if i.field_ref is not None else "",
            resource=resource_reference(i.resource_field_ref) if i.resource_field_ref is not None else None,
            mode=i.mode,
        )
        for i in items
    )


def _projection(
    source: core.VolumeProjection,
) -> model.ConfigFiles | model.SecretFiles | model.DownwardFiles | None:
    if source.config_map is not None:
        config = source.config_map
        return model.ConfigFiles(config.name, _items(config.items), optional=config.optional)
    if source.secret is not None:
        secret = source.secret
        return model.SecretFiles(secret.name, _items(secret.items), optional=secret.optional)
    return model.DownwardFiles(_downward(source.downward_api.items)) if source.downward_api is not None else None


def _claim(
    volume: PersistentVolumeClaimVolume, namespace: str, claims: Mapping[str, core.PersistentVolumeClaim]
) -> model.ClaimFiles:
    """A claim that isn't there has no uid: no volume of the node has that one, and the node says so."""
    claim = claims.get(f"{namespace}/{volume.claim_name}")
    if claim is None:
        return model.ClaimFiles(volume.claim_name, "", 0, volume.read_only)
    return model.ClaimFiles(volume.claim_name, claim.metadata.uid, quantity.to_int(claim.storage), volume.read_only)


def resource_reference(ref: core.ResourceFieldSelector) -> model.ResourceRef:
    """No divisor, or 0, stands for 1."""
    return model.ResourceRef(ref.resource, ref.container_name, quantity.to_milli(ref.divisor) or 1000)
