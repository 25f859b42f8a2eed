"""From a reference to what has to be on the disk: index, manifest, config, and each layer with its diff_id."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from edged.errors import PermanentError
from edged.images import oci, platforms
from edged.images.fetch import Fetcher
from edged.images.importer import DEEPEST_INDEX, MOST_LAYERS
from edged.images.reference import Reference
from edged.images.registry import Document
from edged.model import Value


class Layer(Value, frozen=True):
    """A layer of the wanted image: where it is in the registry, and what it unpacks to."""

    descriptor: oci.Descriptor
    diff_id: str


class Wanted(Value, frozen=True):
    """:ivar head: digest that the reference points to: of an index, or of the manifest itself."""

    head: str
    manifest: bytes
    config: bytes
    layers: tuple[Layer, ...]

    @property
    def diff_ids(self) -> tuple[str, ...]:
        return tuple(layer.diff_id for layer in self.layers)


def find(fetcher: Fetcher, reference: Reference, machine: oci.Platform, largest_layer: int) -> Wanted:
    """Everything about the image but its layers' content; every digest on the way is verified.

    :param largest_layer: bytes that a compressed layer may claim to have.
    :raises PermanentError: there is nothing for this machine, or it contradicts itself.
    """
    what = f"image {reference}"
    head = fetcher.ask(what, lambda e: e.manifest(reference.digest or reference.tag))
    document = _manifest(fetcher, head, machine, what)
    manifest = oci.decode(document.raw, oci.Manifest, f"{what}: manifest")
    raw_config = fetcher.document(manifest.config, f"{what}: config {manifest.config.digest[:100]}")
    config = oci.decode(raw_config, oci.ImageConfig, f"{what}: config {manifest.config.digest}")
    layers, diff_ids = manifest.layers or (), config.rootfs.diff_ids or ()
    if len(diff_ids) != len(layers) or len(layers) > MOST_LAYERS:
        raise PermanentError(
            f"{what}: the config describes {len(diff_ids)} layers, the manifest {len(layers)}; they must agree and be "
            f"{MOST_LAYERS} at most"
        )
    if platforms.rank(config.platform, machine) is None:
        raise PermanentError(f"{what} is for {config.platform}, this machine is {machine}; get the image for {machine}")
    for layer, diff_id in zip(layers, diff_ids, strict=True):
        oci.hex_of(layer.digest, f"{what}: a layer")
        oci.hex_of(diff_id, f"{what}: a diff_id")
        if not 0 < layer.size <= largest_layer:
            raise PermanentError(f"{what}: layer {layer.digest} claims to have {layer.size} bytes")
    return Wanted(head.digest, document.raw, raw_config, tuple(map(Layer, layers, diff_ids)))


def _manifest(fetcher: Fetcher, document: Document, machine: oci.Platform, what: str) -> Document:
    """Follow indexes down to the manifest for this machine."""
    for _ in range(DEEPEST_INDEX + 1):
        if document.media_type in oci.MANIFESTS:
            return document
        index = oci.decode(document.raw, oci.Index, f"{what}: index {document.digest}")
        digest = platforms.choose(index.manifests, machine, what).digest
        oci.hex_of(digest, what)
        document = fetcher.ask(what, lambda e, digest=digest: e.manifest(digest))  # type: ignore[misc]
    raise PermanentError(f"{what}: has more than {DEEPEST_INDEX} indexes within each other")


class _Head(Value, frozen=True):
    head: str
    manifest: str
    platform: str


class Heads:
    """What references pointed to when they were pulled, in <root>/heads.json.

    An image with an index has two digests, and the store keeps only its manifest's. Knowing the index's too, a HEAD
    tells that nothing has changed; a GET would count against a registry's limits. A lost file costs one GET.
    """

    def __init__(self, root: Path) -> None:
        self._file = root / "heads.json"

    def get(self, name: str, manifest: str, machine: oci.Platform) -> str:
        """The digest `name` pointed to when it was pulled as `manifest` for `machine`; "" if that isn't known."""
        known = self._read().get(name)
        if known is not None and (known.manifest, known.platform) == (manifest, str(machine)):
            return known.head
        return ""

    def put(self, name: str, manifest: str, machine: oci.Platform, head: str, keep: frozenset[str]) -> None:
        """:param keep: the names that the store knows; what was noted of others is forgotten."""
        heads = self._read()
        new = {n: noted for n, noted in heads.items() if n in keep} | {name: _Head(head, manifest, str(machine))}
        if new == heads:
            return
        scratch = self._file.with_suffix(".new")
        with contextlib.suppress(OSError):  # it only ever spares a request
            scratch.write_bytes(msgspec.json.encode(new))
            scratch.rename(self._file)

    def _read(self) -> dict[str, _Head]:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, _Head])
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return {}
