"""The OCI image format's documents, as far as a node reads them, and the names of their media types.

Follows the OCI image specification 1.1 (descriptor, image index, image manifest, image configuration) and Docker's
image manifest v2 schema 2, which has the same fields. Unknown fields are ignored, as both specifications demand.
"""

from __future__ import annotations

import hashlib
import re
from typing import TypeVar

import msgspec

from edged.errors import PermanentError
from edged.model import Value

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFESTS = frozenset({MANIFEST, "application/vnd.docker.distribution.manifest.v2+json"})
INDEXES = frozenset({INDEX, "application/vnd.docker.distribution.manifest.list.v2+json"})

LARGEST_DOCUMENT = 4 << 20  # bytes; what registries accept for a manifest, and far above any real config

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Platform(Value, frozen=True):
    """What an image was built for, in Go's words: linux, arm64, v8."""

    os: str = "linux"
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(Value, frozen=True, rename="camel"):
    """Points at a blob by digest; `size` is in bytes."""

    digest: str
    size: int
    media_type: str = ""
    annotations: dict[str, str] | None = None
    platform: Platform | None = None


class Index(Value, frozen=True, rename="camel"):
    manifests: tuple[Descriptor, ...]
    media_type: str = ""


class Manifest(Value, frozen=True, rename="camel"):
    config: Descriptor
    layers: tuple[Descriptor, ...] | None
    schema_version: int = 2
    media_type: str = MANIFEST


class RootFS(Value, frozen=True):
    diff_ids: tuple[str, ...] | None = None


class RunConfig(Value, frozen=True, rename="pascal"):
    """What to run. Go programs write null where they mean nothing, here and above, so every list may be None."""

    user: str | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    env: tuple[str, ...] | None = None
    working_dir: str | None = None
    stop_signal: str | None = None


class ImageConfig(Value, frozen=True):
    rootfs: RootFS
    config: RunConfig | None = None
    architecture: str = ""
    os: str = "linux"
    variant: str = ""

    @property
    def platform(self) -> Platform:
        return Platform(self.os, self.architecture, self.variant)


T = TypeVar("T")


def decode(raw: bytes, kind: type[T], what: str) -> T:
    """Read a JSON document; PermanentError says what it is and where it is wrong."""
    if len(raw) > LARGEST_DOCUMENT:
        raise PermanentError(f"{what} is {len(raw)} bytes long; at most {LARGEST_DOCUMENT} are read")
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise PermanentError(f"{what} is not a valid {kind.__name__} document: {e}") from e


def digest_of(raw: bytes) -> str:
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def hex_of(digest: str, what: str) -> str:
    """The 64 hex digits of a digest; PermanentError for anything else, so it is safe as a file name."""
    if not _DIGEST.fullmatch(digest):
        raise PermanentError(f"{what}: {digest[:100]!r} is not a sha256 digest, the only kind that is supported")
    return digest.removeprefix("sha256:")
