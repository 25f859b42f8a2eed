"""What files a volume made of configs, secrets and the pod's own fields has (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from edged.errors import PermanentError
from edged.model import (
    ConfigFiles,
    DownwardFiles,
    DownwardItem,
    KeyToPath,
    Material,
    Pod,
    Projected,
    SecretFiles,
    Value,
    Volume,
)
from edged.runtime import downward
from edged.runtime.environment import look_up, missing_key

FILES_LIMIT = 8 << 20  # bytes of one volume; Kubernetes allows 1 MiB for each object
NAME_LIMIT = 255  # bytes of one name in a path (NAME_MAX)

FileSource = ConfigFiles | SecretFiles | DownwardFiles | Projected


class File(Value, frozen=True):
    """:ivar mode: permission bits."""

    content: bytes
    mode: int


def files_of(pod: Pod, volume: Volume, source: FileSource, material: Material) -> dict[str, File]:
    """Relative path -> file. Of two sources of a projected volume that give the same path, the later one wins.

    :raises RetryError: a config, secret or key that is not optional is missing.
    :raises PermanentError: a path that leads out of the volume, or too much of everything.
    """
    sources = source.sources if isinstance(source, Projected) else (source,)
    files: dict[str, File] = {}
    for one in sources:
        mode = source.mode if isinstance(source, Projected) else one.mode
        if isinstance(one, DownwardFiles):
            found = {item.path: File(_told(pod, volume, item, material), _mode(item.mode, mode)) for item in one.items}
        else:
            found = _picked(pod, volume, one, material, mode)
        files |= {_inside(pod, volume, path): file for path, file in found.items()}
    for path in files:
        above = {"/".join(path.split("/")[:depth]) for depth in range(1, path.count("/") + 1)}
        if clash := above & files.keys():
            raise PermanentError(f"{name_of(pod, volume)}: {min(clash)!r} is a file and the folder of {path!r} as well")
    if sum(len(f.content) for f in files.values()) > FILES_LIMIT:
        raise PermanentError(f"{name_of(pod, volume)} has more than {FILES_LIMIT >> 20} MiB; use a hostPath or a claim")
    return files


def name_of(pod: Pod, volume: Volume) -> str:
    return f"volume '{volume.name}' of pod {pod.title}"


def _picked(
    pod: Pod, volume: Volume, source: ConfigFiles | SecretFiles, material: Material, mode: int
) -> dict[str, File]:
    kind, name = ("secret", source.secret) if isinstance(source, SecretFiles) else ("config map", source.config)
    used_by = f"volume '{volume.name}'"
    content: Mapping[str, bytes] = look_up(kind, name, pod, used_by, material, source.optional) or {}
    files: dict[str, File] = {}
    for item in source.items or tuple(KeyToPath(key, key) for key in sorted(content)):
        if item.key in content:
            files[item.path] = File(content[item.key], _mode(item.mode, mode))
        elif not source.optional:
            raise missing_key(kind, name, item.key, pod, used_by)
    return files


def _told(pod: Pod, volume: Volume, item: DownwardItem, material: Material) -> bytes:
    """A field or number of the pod. It has no address yet when its volumes are made, so none can be asked for here."""
    if item.resource is None:
        return downward.field_value(pod, item.field, "", material.node).encode()
    name = item.resource.container
    container = next((c for c in pod.all_containers if c.name == name), None)
    if container is None:
        raise PermanentError(
            f"{name_of(pod, volume)}: {item.path!r} shows {item.resource.resource} of container '{name}', which the"
            " pod doesn't have"
        )
    return downward.resource_value(pod, container, item.resource, material.node).encode()


def _inside(pod: Pod, volume: Volume, path: str) -> str:
    """The path in its shortest form."""
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts or parts[0].startswith("..") or "\0" in path:
        raise PermanentError(f"{name_of(pod, volume)}: path {path!r} leads out of it")
    if any(len(part.encode()) > NAME_LIMIT for part in parts):
        raise PermanentError(f"{name_of(pod, volume)}: a name in path {path!r} is longer than {NAME_LIMIT} bytes")
    return "/".join(parts)


def _mode(own: int | None, default: int) -> int:
    return (default if own is None else own) & 0o777
