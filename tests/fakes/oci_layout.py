"""Makes images for tests by hand: layers from lists of members, layouts and docker save archives from layers."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

REF_NAME = "org.opencontainers.image.ref.name"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def member(name: str, content: bytes | None = None, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """One tar member: a file if it has content, else a directory unless `type` says otherwise."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
    info.mode = 0o755 if content is None else 0o644
    info.size = len(content or b"")
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content or b""


def link(name: str, target: str, hard: bool = False) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, b"", type=tarfile.LNKTYPE if hard else tarfile.SYMTYPE, linkname=target)


def layer(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """An uncompressed layer."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def blob_path(data: bytes) -> str:
    return f"blobs/sha256/{digest(data)[7:]}"


def descriptor(data: bytes, media_type: str = "", **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data)} | more


def config(layers: list[bytes], architecture: str = "amd64", **run: Any) -> bytes:
    rootfs = {"type": "layers", "diff_ids": [digest(plain) for plain in layers]}
    return json.dumps({"architecture": architecture, "os": "linux", "config": run, "rootfs": rootfs}).encode()


class Layout:
    """Files of an OCI image layout, to be spoiled at will before they are written out."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
        self.manifests: list[dict[str, Any]] = []

    def put(self, blob: bytes) -> bytes:
        self.files[blob_path(blob)] = blob
        return blob

    def image(
        self, layers: list[bytes], packed: list[bytes] | None = None, settings: bytes | None = None
    ) -> dict[str, Any]:
        """Add an image's blobs; returns the descriptor of its manifest. `packed` are the blobs, gzip by default."""
        packed = [gzip.compress(plain, mtime=0) for plain in layers] if packed is None else packed
        settings = config(layers) if settings is None else settings
        document = {
            "schemaVersion": 2,
            "config": descriptor(self.put(settings), "application/vnd.oci.image.config.v1+json"),
            "layers": [descriptor(self.put(b), "application/vnd.oci.image.layer.v1.tar+gzip") for b in packed],
        }
        return descriptor(self.put(json.dumps(document).encode()), MANIFEST)

    def name(self, reference: str, entry: dict[str, Any]) -> None:
        self.manifests.append(entry | {"annotations": {REF_NAME: reference}})

    def _all(self) -> dict[str, bytes]:
        index = {"schemaVersion": 2, "manifests": self.manifests}
        return {"index.json": json.dumps(index).encode()} | self.files

    def folder(self, path: Path) -> Path:
        for name, data in self._all().items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path

    def archive(self, path: Path) -> Path:
        path.write_bytes(layer(*(member(name, data) for name, data in sorted(self._all().items()))))
        return path


def one_image(reference: str, *layers: bytes) -> Layout:
    layout = Layout()
    layout.name(reference, layout.image(list(layers)))
    return layout
