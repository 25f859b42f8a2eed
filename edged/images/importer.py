"""Import of images from files: OCI image layouts (folder or tar) and `docker save` archives.

Every digest on the way from the index to the files of a layer is verified before the image gets its name. What is in
the store already is not read again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from edged.errors import PermanentError
from edged.images import archive, oci, platforms
from edged.images.archive import Source
from edged.images.layerstream import LayerStream
from edged.images.reference import normalise, parse
from edged.images.store import ImageStore
from edged.images.unpack import Bounds, unpack_layer
from edged.images.writer import StoreWriter
from edged.model import Image, Value

DEEPEST_INDEX = 4  # indexes within indexes; real ones have two levels
MOST_LAYERS = 127  # Docker's limit; overlayfs with short names takes about as many
REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"  # Docker 25 and containerd put the full name here


class Found(Value, frozen=True):
    """An image in a source, before its layers are read. `names` are as the source writes them."""

    names: tuple[str, ...]
    manifest: bytes
    config: bytes
    layer_files: tuple[str, ...]


class DockerImage(Value, frozen=True, rename="pascal"):
    """One element of a docker save archive's manifest.json."""

    config: str
    layers: tuple[str, ...] | None = None
    repo_tags: tuple[str, ...] | None = None


def import_file(
    root: Path,
    path: Path,
    name: str | None = None,
    machine: oci.Platform | None = None,
    bounds: Bounds | None = None,
    waiting: Callable[[], None] = lambda: None,
) -> list[Image]:
    """Bring every image of `path` that this machine can run into the store at `root`.

    :param name: the reference to give; only where the source has one image. Default: the names it carries.
    :param machine: what to choose from a multi-platform image; default: this machine.
    :param waiting: called once if another import is under way.
    :raises PermanentError: nothing was imported from the image that the sentence names; those before it were.
    :raises RetryError: the disk is full or failing; layers that were complete are kept for the next try.
    """
    machine = machine or platforms.this_machine()
    bounds = bounds or Bounds()
    references: list[str] = []
    if name is not None and parse(name).digest:
        raise PermanentError(f"--name {name}: a name for an import has a tag, not a digest")
    with StoreWriter(root, waiting) as writer:
        source = archive.open_source(path, writer.scratch())
        try:
            images = _find_images(source, machine)
            if name is not None and len(images) > 1:
                every = ", ".join(n for found in images for n in found.names) or "no names"
                raise PermanentError(f"--name {name}: {source.name} has {len(images)} images ({every}), not one")
            for found in images:
                given = (normalise(name),) if name is not None else _full_names(found, source)
                references += _import_one(writer, source, found, given, machine, bounds)
        finally:
            source.close()
        writer.sweep()
    store = ImageStore(root)
    return [image for image in map(store.resolve, dict.fromkeys(references)) if image is not None]


def _find_images(source: Source, machine: oci.Platform) -> list[Found]:
    """Docker since version 25 writes both formats into one archive; its own one has the full names."""
    if source.has("manifest.json"):
        return _docker_images(source)
    if source.has("index.json"):
        return _layout_images(source, machine)
    if source.has("repositories"):
        raise PermanentError(f"{source.name} was saved by a Docker older than 1.10; save it again with a newer one")
    raise PermanentError(
        f"{source.name} is neither an OCI image layout (no index.json) nor a docker save archive (no manifest.json)"
    )


# ---------------------------------------------------------------- OCI image layout


def _layout_images(source: Source, machine: oci.Platform) -> list[Found]:
    raw = archive.read(source, "index.json", oci.LARGEST_DOCUMENT)
    index = oci.decode(raw, oci.Index, f"{source.name}: index.json")
    groups: dict[str, list[oci.Descriptor]] = {}
    for descriptor in index.manifests:
        annotations = descriptor.annotations or {}
        groups.setdefault(annotations.get(CONTAINERD_NAME) or annotations.get(REF_NAME, ""), []).append(descriptor)
    if not groups:
        raise PermanentError(f"{source.name}: index.json lists no image")
    images = []
    for name, descriptors in groups.items():
        what = f"{source.name}: image {name or 'without a name'}"
        raw_manifest = _manifest(source, platforms.choose(tuple(descriptors), machine, what), machine, what)
        manifest = oci.decode(raw_manifest, oci.Manifest, f"{what}: manifest")
        config = _verified_blob(source, manifest.config, what)
        files = tuple(_blob_path(layer.digest, what) for layer in manifest.layers or ())
        images.append(Found((name,) if name else (), raw_manifest, config, files))
    return images


def _manifest(source: Source, descriptor: oci.Descriptor, machine: oci.Platform, what: str, depth: int = 0) -> bytes:
    """Follow indexes down to the manifest for this machine."""
    raw = _verified_blob(source, descriptor, what)
    media_type = descriptor.media_type
    if media_type in oci.MANIFESTS:
        return raw
    if media_type not in oci.INDEXES:
        raise PermanentError(f"{what}: {descriptor.digest} is a {media_type[:100]!r}, not an image")
    if depth >= DEEPEST_INDEX:
        raise PermanentError(f"{what}: has more than {DEEPEST_INDEX} indexes within each other")
    index = oci.decode(raw, oci.Index, f"{what}: index {descriptor.digest}")
    return _manifest(source, platforms.choose(index.manifests, machine, what), machine, what, depth + 1)


def _verified_blob(source: Source, descriptor: oci.Descriptor, what: str) -> bytes:
    path = _blob_path(descriptor.digest, what)
    raw = archive.read(source, path, oci.LARGEST_DOCUMENT)
    actual = oci.digest_of(raw)
    if actual != descriptor.digest or len(raw) != descriptor.size:
        raise PermanentError(
            f"{what}: {path} has {len(raw)} bytes with digest {actual}, but {descriptor.size} bytes with "
            f"{descriptor.digest} were announced; the file is damaged, get it again"
        )
    return raw


def _blob_path(digest: str, what: str) -> str:
    return f"blobs/sha256/{oci.hex_of(digest, what)}"


# ---------------------------------------------------------------- docker save


def _docker_images(source: Source) -> list[Found]:
    raw = archive.read(source, "manifest.json", oci.LARGEST_DOCUMENT)
    listed = oci.decode(raw, tuple[DockerImage, ...], f"{source.name}: manifest.json")
    if not listed:
        raise PermanentError(f"{source.name}: manifest.json lists no image")
    return [_docker_image(source, image) for image in listed]


def _docker_image(source: Source, image: DockerImage) -> Found:
    """The format has no manifest; an equivalent one is made, whose layer digests are checked like any others."""
    what = f"{source.name}: image {', '.join(image.repo_tags or ()) or 'without a name'}"
    config = archive.read(source, image.config, oci.LARGEST_DOCUMENT)
    digest = oci.digest_of(config)
    announced = Path(image.config).name.removesuffix(".json")
    if len(announced) == 64 and f"sha256:{announced}" != digest:
        raise PermanentError(f"{what}: {image.config} has digest {digest} instead; it is damaged, get the file again")
    files = image.layers or ()
    diff_ids = oci.decode(config, oci.ImageConfig, f"{what}: {image.config}").rootfs.diff_ids or ()
    if len(files) != len(diff_ids):
        raise PermanentError(f"{what}: {image.config} describes {len(diff_ids)} layers, manifest.json {len(files)}")
    manifest = oci.Manifest(
        config=oci.Descriptor(digest, len(config), oci.CONFIG),
        layers=tuple(_layer_descriptor(source, file, d) for file, d in zip(files, diff_ids, strict=True)),
    )
    return Found(image.repo_tags or (), msgspec.json.encode(manifest), config, files)


def _layer_descriptor(source: Source, file: str, diff_id: str) -> oci.Descriptor:
    """Docker saves layers plain, and then the blob's digest is the diff id; others pack them."""
    with source.open(file) as f:
        head = f.read(4)
        if head[:2] != b"\x1f\x8b" and head != b"\x28\xb5\x2f\xfd":
            return oci.Descriptor(diff_id, source.size(file), oci.LAYER)
        hashed = hashlib.sha256(head)
        while data := f.read(archive.CHUNK):
            hashed.update(data)
    kind = "+gzip" if head[:2] == b"\x1f\x8b" else "+zstd"
    return oci.Descriptor("sha256:" + hashed.hexdigest(), source.size(file), oci.LAYER + kind)


# ---------------------------------------------------------------- both


def _full_names(found: Found, source: Source) -> tuple[str, ...]:
    """What the image shall be called; a tag alone ("latest"), as some tools write it, is no name."""
    if not found.names:
        raise PermanentError(f"{source.name}: the image in it carries no name; give one with --name")
    for name in found.names:
        if not any(mark in name for mark in "/:@"):
            raise PermanentError(
                f"{source.name}: the image in it is only called {name!r}, like a tag; give a full name with --name"
            )
        if parse(name).digest:
            raise PermanentError(f"{source.name}: the image in it is called {name!r}; give a name and tag with --name")
    return tuple(normalise(name) for name in found.names)


def _import_one(
    writer: StoreWriter,
    source: Source,
    found: Found,
    references: tuple[str, ...],
    machine: oci.Platform,
    bounds: Bounds,
) -> tuple[str, ...]:
    what = f"{source.name}: image {references[0]}"
    manifest = oci.decode(found.manifest, oci.Manifest, f"{what}: manifest")
    layers = manifest.layers or ()
    config = oci.decode(found.config, oci.ImageConfig, f"{what}: config {manifest.config.digest}")
    diff_ids = config.rootfs.diff_ids or ()
    if len(diff_ids) != len(layers) or len(layers) > MOST_LAYERS:
        raise PermanentError(
            f"{what}: the config describes {len(diff_ids)} layers, the manifest {len(layers)}; they must agree and be "
            f"{MOST_LAYERS} at most"
        )
    if platforms.rank(config.platform, machine) is None:
        raise PermanentError(f"{what} is for {config.platform}, this machine is {machine}; get the image for {machine}")
    for descriptor, diff_id, file in zip(layers, diff_ids, found.layer_files, strict=True):
        if writer.has_layer(diff_id):
            continue
        _add_layer(writer, source, file, descriptor, diff_id, bounds, what)
    for reference in references:
        writer.add_image(reference, found.manifest, found.config, diff_ids, imported=True)
    return references


def _add_layer(
    writer: StoreWriter, source: Source, file: str, descriptor: oci.Descriptor, diff_id: str, bounds: Bounds, what: str
) -> None:
    which = file if descriptor.digest.removeprefix("sha256:") in file else f"{file} ({descriptor.digest})"
    with source.open(file) as blob:
        stream = LayerStream(
            blob,
            digest=descriptor.digest,
            size=descriptor.size,
            diff_id=diff_id,
            limit=bounds.total_bytes,
            what=f"{what}: layer {which}",
        )
        writer.add_layer(diff_id, lambda folder: unpack_layer(stream, folder, bounds))
