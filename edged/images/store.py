"""The images that this node has, content-addressed on disk; this module is the resident daemon's side: it only reads.

    <root>/                     mode 0700: layers contain set-uid programs that the machine's own users must not reach
    ├── index.json              references -> manifest digests, and the layers that are complete, with their sizes
    ├── lock                    held (flock) by whoever writes
    ├── blobs/sha256/<64 hex>   manifests and configs, byte for byte; compressed layers are not kept
    ├── lists/<32 hex>          what the files of that layer should be (edged.images.filelist)
    ├── layers/<32 hex>/        one unpacked layer each, ready to be an overlay lowerdir; the name is the start of
    │                           its diff_id, because overlay's mount options must fit into one page
    └── tmp/<random>/           being unpacked or being deleted; the next writer empties it

`index.json` is the only file that ever changes; it is replaced by rename, after everything it speaks of has reached
the disk. So a power loss at any moment leaves the old state or the new one. Writing is edged.images.writer.

That holds for disks that do what they are told. Cards and drivers lie about flushes, so there is a second net: a layer
written in an earlier boot is `unsettled` until its files have been compared with its list once (edged.images.verify),
and an image with such a layer isn't there. Whoever wants it pulls, which compares first and asks nobody if all is well.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import msgspec

from edged.errors import PermanentError
from edged.images import oci
from edged.images.reference import normalise, parse
from edged.model import Image, Value

LAYER_NAME_DIGITS = 32  # 128 bits of the diff_id; the full one stands in index.json


class ImageEntry(Value, frozen=True):
    """:ivar manifest: digest of the image's manifest, which is in blobs/.
    :ivar imported: came from a file, so there may be nowhere to get it again: never collected by itself.
    """

    manifest: str
    imported: bool = False


class StoreIndex(Value, frozen=True):
    """The content of index.json.

    :ivar images: canonical reference -> entry.
    :ivar layers: diff_id -> size in bytes of the unpacked files. A layer folder that isn't listed isn't complete.
    :ivar unsettled: diff_id -> boot (its id) in which it was written, for layers not compared since. In that very boot
        they are as good as any: what the page cache has of them is what was written.
    :ivar pending: diff_id -> reference, for layers of a pull that isn't through: another image's coming or going must
        not cost a slow link what it has brought already.
    """

    images: dict[str, ImageEntry] = msgspec.field(default_factory=dict)
    layers: dict[str, int] = msgspec.field(default_factory=dict)
    unsettled: dict[str, str] = msgspec.field(default_factory=dict)
    pending: dict[str, str] = msgspec.field(default_factory=dict)

    def doubtful(self, boot: str) -> frozenset[str]:
        """Layers to be compared before use, in the boot of that id."""
        return frozenset(d for d, written in self.unsettled.items() if written != boot)


def layer_name(diff_id: str) -> str:
    return diff_id.removeprefix("sha256:")[:LAYER_NAME_DIGITS]


class Stored(Value, frozen=True):
    """What the store knows of an image beside the image itself.

    :ivar layers: (diff_id, bytes on the disk).
    :ivar since: when it came, in seconds of the wall clock of then.
    """

    image: Image
    layers: tuple[tuple[str, int], ...]
    imported: bool
    since: float


class ImageStore:
    """Images by reference. Cheap to ask: one stat() while nothing has changed."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.blobs = self.root / "blobs" / "sha256"
        self.layers = self.root / "layers"
        self.lists = self.root / "lists"
        self.index_file = self.root / "index.json"
        self.boot = boot_id()
        self._signature: tuple[int, ...] | None = None
        self._index = StoreIndex()
        self._images: dict[str, Image] = {}
        self._by_digest: dict[str, str] = {}
        self._layers: dict[str, tuple[str, ...]] = {}
        self._doubtful: frozenset[str] = frozenset()
        self.damage: tuple[str, ...] = ()

    def resolve(self, reference: str) -> Image | None:
        """The image of that name (in any form), complete and ready to be stacked, or None. Never raises.

        Of a malformed reference there can be no image; `reference.parse` says what is wrong with it.
        """
        self._refresh()
        try:
            wanted = normalise(reference)
        except PermanentError:
            return None
        image = self._images.get(self._by_digest.get(wanted, wanted))
        if image is None or not all(Path(layer).is_dir() for layer in image.layers):
            return None
        return None if self._doubtful and self.doubtful(reference) else image

    def doubtful(self, reference: str) -> frozenset[str]:
        """Layers (diff_ids) of that image which must be compared with their lists before it is used."""
        layers = self.layers_of(reference)  # reads the index anew where it has changed
        return self._doubtful.intersection(layers)

    def layers_of(self, reference: str) -> tuple[str, ...]:
        """diff_ids of that image, the lowest first; none if it isn't here."""
        self._refresh()
        try:
            wanted = normalise(reference)
        except PermanentError:
            return ()
        return self._layers.get(self._by_digest.get(wanted, wanted), ())

    @property
    def all_doubtful(self) -> frozenset[str]:
        self._refresh()
        return self._doubtful

    def references(self) -> frozenset[str]:
        """Canonical names of all images."""
        self._refresh()
        return frozenset(self._images)

    def list(self) -> tuple[Image, ...]:
        """All images, by name. Sizes count a layer for each image that shares it."""
        self._refresh()
        return tuple(image for _, image in sorted(self._images.items()))

    def stored(self) -> tuple[Stored, ...]:
        """All images with what collecting them would free."""
        self._refresh()
        found = []
        for reference, image in self._images.items():
            entry = self._index.images[reference]
            try:
                since = (self.blobs / entry.manifest.removeprefix("sha256:")).stat().st_mtime
            except OSError:
                since = 0.0
            layers = tuple((d, self._index.layers[d]) for d in dict.fromkeys(self._layers[reference]))
            found.append(Stored(image, layers, entry.imported, since))
        return tuple(found)

    def unwanted_pending(self, wanted: Collection[str]) -> int:
        """Bytes of the layers of pulls that aren't through, of images that are not `wanted`."""
        self._refresh()
        index = self._index
        return sum(index.layers.get(d, 0) for d, reference in index.pending.items() if reference not in wanted)

    def disk_usage(self) -> int:
        """Bytes of all unpacked layers, each counted once."""
        return sum(self.read_index().layers.values())

    def read_index(self) -> StoreIndex:
        """index.json as it is now; empty where there is none.

        :raises PermanentError: the file is damaged.
        """
        try:
            raw = self.index_file.read_bytes()
            return msgspec.json.decode(raw, type=StoreIndex)
        except FileNotFoundError:
            return StoreIndex()
        except (msgspec.DecodeError, UnicodeDecodeError) as e:
            raise PermanentError(
                f"{self.index_file} is damaged ({e}); move it away and import the images again: edged image import FILE"
            ) from e

    def read_blob(self, digest: str, what: str) -> bytes:
        """A manifest or config, checked against its digest."""
        file = self.blobs / oci.hex_of(digest, what)
        try:
            with file.open("rb") as f:
                raw = f.read(oci.LARGEST_DOCUMENT + 1)
        except OSError as e:
            raise PermanentError(f"{what}: cannot read {file}: {e.strerror}; import the image again") from e
        if oci.digest_of(raw) != digest:
            raise PermanentError(f"{what}: {file} no longer has the digest it is named by; import the image again")
        return raw

    def _refresh(self) -> None:
        try:
            s = self.index_file.stat()
            signature: tuple[int, ...] | None = (s.st_ino, s.st_mtime_ns, s.st_ctime_ns, s.st_size)
        except OSError:
            signature = None
        if signature == self._signature:
            return
        images, by_digest, damage = {}, {}, []
        self._layers = {}
        try:
            index = self.read_index()
        except PermanentError as e:
            index, damage = StoreIndex(), [str(e)]
        for reference, entry in index.images.items():
            try:
                images[reference] = self._load(reference, entry, index)
                by_digest[f"{parse(reference).name}@{entry.manifest}"] = reference
            except PermanentError as e:
                damage.append(str(e))
        self._images, self._by_digest, self.damage = images, by_digest, tuple(damage)
        self._index, self._doubtful = index, index.doubtful(self.boot)
        self._signature = signature

    def _load(self, reference: str, entry: ImageEntry, index: StoreIndex) -> Image:
        what = f"image {reference}"
        manifest = oci.decode(self.read_blob(entry.manifest, what), oci.Manifest, f"manifest of {what}")
        raw_config = self.read_blob(manifest.config.digest, what)
        config = oci.decode(raw_config, oci.ImageConfig, f"config of {what}")
        diff_ids = config.rootfs.diff_ids or ()
        for diff_id in diff_ids:
            oci.hex_of(diff_id, f"layer of {what}")
            if diff_id not in index.layers:
                raise PermanentError(f"{what}: layer {diff_id} is missing; pull or import the image again")
        self._layers[reference] = diff_ids
        run = config.config or oci.RunConfig()
        return Image(
            reference=reference,
            id=manifest.config.digest,
            layers=tuple(str(self.layers / layer_name(d)) for d in stacking_order(diff_ids)),
            entrypoint=run.entrypoint or (),
            cmd=run.cmd or (),
            env=run.env or (),
            working_dir=run.working_dir or "",
            user=run.user or "",
            size=sum(index.layers[d] for d in set(diff_ids)),
            stop_signal=run.stop_signal or "",
        )


def stacking_order(diff_ids: tuple[str, ...]) -> tuple[str, ...]:
    """Lowest first, each once: overlayfs refuses the same folder twice.

    Of a repeated layer the topmost occurrence stays; it covers all that the lower ones did.
    """
    return tuple(reversed(dict.fromkeys(reversed(diff_ids))))


def boot_id() -> str:
    """Which boot this is; random, and new with every one (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
