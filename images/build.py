#!/usr/bin/env python3
"""Build a small container image without Docker, without a base image and without the internet.

    python images/build.py probe --output probe.tar
    python images/build.py demo --output demo.tar --arch all          # amd64, arm64 and arm/v7 in one archive

An image is a folder beside this file: `image.toml` says what it is (see Spec below), `rootfs/` is copied as it is
(executable files as 0755, others as 0644, all owned by root). The result is an OCI image layout in a tar archive
(OCI image specification 1.1); with several architectures, an index from which each machine takes its own. The same
inputs give the same bytes: entries are sorted, times are SOURCE_DATE_EPOCH (or 0), owners and modes don't depend on who
builds.

Needs the standard library only, and the Debian package busybox-static (or --busybox); other architectures' is fetched
by apt (foreign.py).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import struct
import subprocess
import sys
import tarfile
import tomllib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # run as a script: the checkout, not this folder

from images import foreign  # noqa: E402

# OCI architecture and variant -> (machine as uname says it, e_machine of ELF, bits)
ARCHITECTURES = {
    "amd64": ("x86_64", 62, 64),
    "arm64": ("aarch64", 183, 64),
    "arm/v7": ("armv7l", 40, 32),
    "arm/v6": ("armv6l", 40, 32),
    "riscv64": ("riscv64", 243, 64),
}

ALL = ("amd64", "arm64", "arm/v7")  # what boards and the machines beside them are

# What every image has, so that image.toml speaks only of what is special.
DIRECTORIES = {"bin": 0o755, "dev": 0o755, "etc": 0o755, "proc": 0o755, "run": 0o755, "sys": 0o755, "tmp": 0o1777}
FILES = {
    "etc/group": "root:x:0:\nuser:x:1000:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",  # glibc, also a static one, asks here how to resolve names
    "etc/passwd": "root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000:user:/:/bin/sh\n",
}


class BuildError(Exception):
    """The message is a sentence for a person."""


@dataclass(frozen=True)
class Spec:
    """image.toml. Only `reference` is required; unknown keys are errors."""

    reference: str  # the name the image gets, "localhost/demo:1"
    applets: list[str] = field(default_factory=lambda: ["sh"])  # busybox programs, as links in /bin
    directories: dict[str, str] = field(default_factory=dict)  # path -> mode in octal, "1777"
    links: dict[str, str] = field(default_factory=dict)  # path -> target of the symbolic link
    entrypoint: list[str] = field(default_factory=list)
    cmd: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    ports: list[int] = field(default_factory=list)
    user: str = "1000:1000"
    working_dir: str = "/"
    labels: dict[str, str] = field(default_factory=dict)


def load_spec(folder: Path) -> Spec:
    file = folder / "image.toml"
    try:
        return Spec(**tomllib.loads(file.read_text()))
    except FileNotFoundError:
        known = ", ".join(sorted(f.parent.name for f in HERE.glob("*/image.toml")))
        raise BuildError(f"{file} does not exist; images that do: {known}") from None
    except (tomllib.TOMLDecodeError, TypeError) as e:
        raise BuildError(f"{file}: {e}") from e


def source_date_epoch() -> int:
    """Seconds since 1970 that every file is dated with (reproducible-builds.org/specs/source-date-epoch)."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "0")
    if not text.isdigit():
        raise BuildError(f"SOURCE_DATE_EPOCH is {text!r}, not a number of seconds since 1970")
    return int(text)


def this_architecture() -> str:
    machine = platform.machine()
    for name, (uname, _, _) in ARCHITECTURES.items():
        if uname == machine:
            return name
    raise BuildError(f"this machine is {machine!r}, which is not known here; choose with --arch")


def find_busybox(arch: str, release_only: bool = False) -> Path:
    """The static busybox of the Debian package, wherever that release keeps it (/bin or /usr/bin)."""
    if arch != this_architecture():
        return foreign.busybox(arch, release_only)
    if shutil.which("dpkg"):
        listed = subprocess.run(["dpkg", "-L", "busybox-static"], capture_output=True, text=True, check=False).stdout
        for line in listed.splitlines():
            if line.endswith("bin/busybox") and Path(line).is_file():
                return Path(line)
    raise BuildError("no static busybox found; apt install busybox-static, or name a binary with --busybox")


def read_busybox(path: Path, arch: str) -> bytes:
    """The binary, after making sure that it runs on `arch` and needs no library."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise BuildError(f"{path}: {e.strerror}") from e
    if data[:4] != b"\x7fELF":
        raise BuildError(f"{path} is not an ELF program")
    bits = 64 if data[4] == 2 else 32
    (machine,) = struct.unpack_from("<H", data, 18)
    _, wanted_machine, wanted_bits = ARCHITECTURES[arch]
    if (machine, bits) != (wanted_machine, wanted_bits):
        raise BuildError(
            f"{path} is not for {arch} (ELF machine {machine}, {bits} bit); without --busybox that architecture's is "
            "fetched from Debian"
        )
    if _has_interpreter(data, bits):
        raise BuildError(f"{path} is dynamically linked; the static one is in the package busybox-static")
    return data


def _has_interpreter(data: bytes, bits: int) -> bool:
    """A PT_INTERP program header names the dynamic loader."""
    if bits == 64:
        (offset,), (size, count) = struct.unpack_from("<Q", data, 32), struct.unpack_from("<HH", data, 54)
    else:
        (offset,), (size, count) = struct.unpack_from("<I", data, 28), struct.unpack_from("<HH", data, 42)
    return any(struct.unpack_from("<I", data, offset + i * size)[0] == 3 for i in range(count))


def layer(spec: Spec, rootfs: Path, busybox: bytes, epoch: int) -> bytes:
    """The one layer as an uncompressed tar."""
    entries: dict[str, tuple[int, bytes, int, bytes | str]] = {}  # path -> (mode, type, device, content or target)

    def put(path: str, mode: int, kind: bytes, content: bytes | str = b"") -> None:
        path = path.strip("/")
        for parent in reversed(Path(path).parents):
            if str(parent) != "." and str(parent) not in entries:
                entries[str(parent)] = (0o755, tarfile.DIRTYPE, 0, b"")
        entries[path] = (mode, kind, 0, content)

    for path, mode in DIRECTORIES.items():
        put(path, mode, tarfile.DIRTYPE)
    for path, octal in spec.directories.items():
        put(path, int(octal, 8), tarfile.DIRTYPE)
    for path, text in FILES.items():
        put(path, 0o644, tarfile.REGTYPE, text.encode())
    put("bin/busybox", 0o755, tarfile.REGTYPE, busybox)
    for applet in spec.applets:
        put(f"bin/{applet}", 0o777, tarfile.SYMTYPE, "busybox")
    for file in sorted(rootfs.rglob("*")):
        path = str(file.relative_to(rootfs))
        if file.is_symlink():
            put(path, 0o777, tarfile.SYMTYPE, str(file.readlink()))
        elif file.is_file():
            put(path, 0o755 if file.stat().st_mode & 0o100 else 0o644, tarfile.REGTYPE, file.read_bytes())
        elif path not in entries:
            put(path, 0o755, tarfile.DIRTYPE)
    for path, target in spec.links.items():
        put(path, 0o777, tarfile.SYMTYPE, target)

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, ".", 0o755, tarfile.DIRTYPE, b"", epoch)
        for path, (mode, kind, _, content) in sorted(entries.items()):
            _add(tar, path, mode, kind, content, epoch)
    return out.getvalue()


def _add(tar: tarfile.TarFile, path: str, mode: int, kind: bytes, content: bytes | str, epoch: int) -> None:
    info = tarfile.TarInfo(path)
    info.mode, info.type, info.mtime = mode, kind, epoch
    if isinstance(content, str):
        info.linkname = content
        tar.addfile(info)
    else:
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


def image(spec: Spec, layer_tar: bytes, arch: str, epoch: int) -> tuple[dict[str, Any], tuple[bytes, ...]]:
    """The descriptor of an image's manifest, and all its blobs."""
    packed = gzip.compress(layer_tar, compresslevel=9, mtime=0)
    architecture, _, variant = arch.partition("/")
    target = {"architecture": architecture, "os": "linux"} | ({"variant": variant} if variant else {})
    run: dict[str, Any] = {
        "User": spec.user,
        "Env": [f"{k}={v}" for k, v in ({"PATH": "/bin"} | spec.env).items()],
        "WorkingDir": spec.working_dir,
        "Entrypoint": spec.entrypoint or None,
        "Cmd": spec.cmd or None,
        "ExposedPorts": {f"{port}/tcp": {} for port in spec.ports} or None,
        "Labels": spec.labels or None,
    }
    created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = _json(
        target
        | {
            "created": created,
            "config": {k: v for k, v in run.items() if v is not None},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer_tar)]},
            "history": [{"created": created, "created_by": "images/build.py"}],
        }
    )
    oci = "application/vnd.oci.image"
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{oci}.manifest.v1+json",
            "config": _descriptor(f"{oci}.config.v1+json", config),
            "layers": [_descriptor(f"{oci}.layer.v1.tar+gzip", packed)],
        }
    )
    return _descriptor(f"{oci}.manifest.v1+json", manifest) | {"platform": target}, (packed, config, manifest)


def archive(reference: str, images: list[tuple[dict[str, Any], tuple[bytes, ...]]], epoch: int) -> bytes:
    """An OCI image layout with one image, as a tar; for several platforms under one name an index lies in between."""
    blobs = [blob for _, some in images for blob in some]
    named, _ = images[0]
    if len(images) > 1:
        blobs.append(_index([descriptor for descriptor, _ in images]))
        named = _descriptor("application/vnd.oci.image.index.v1+json", blobs[-1])
    index = _index([named | {"annotations": {"org.opencontainers.image.ref.name": reference}}])
    files = {f"blobs/sha256/{_digest(blob)[7:]}": blob for blob in blobs}
    files |= {"index.json": index, "oci-layout": _json({"imageLayoutVersion": "1.0.0"})}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for directory in ("blobs", "blobs/sha256"):
            _add(tar, directory, 0o755, tarfile.DIRTYPE, b"", epoch)
        for path, blob in sorted(files.items()):
            _add(tar, path, 0o644, tarfile.REGTYPE, blob, epoch)
    return out.getvalue()


def _index(manifests: list[dict[str, Any]]) -> bytes:
    media_type = "application/vnd.oci.image.index.v1+json"
    return _json({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests})


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}


def build(
    folder: Path, architectures: tuple[str, ...], busybox: Path | None, epoch: int, release_only: bool = False
) -> tuple[Spec, bytes]:
    """The archive of the image described in `folder`; raises BuildError.

    :param busybox: instead of Debian's; for one architecture only, since one binary runs on one.
    :param release_only: other architectures' busybox without Debian's updates (foreign.busybox).
    """
    spec = load_spec(folder)
    if busybox and len(architectures) > 1:
        raise BuildError("--busybox names one binary, which is for one architecture; build each with its own --arch")
    images = []
    for arch in architectures:
        try:
            binary = read_busybox(busybox or find_busybox(arch, release_only), arch)
            images.append(image(spec, layer(spec, folder / "rootfs", binary, epoch), arch, epoch))
        except (ValueError, OSError, foreign.FetchError) as e:
            raise BuildError(f"{folder.name} for {arch}: {e}") from e
    return spec, archive(spec.reference, images, epoch)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="images/build.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("image", help="a folder beside this script (demo, probe), or the path of one of yours")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.tar")
    parser.add_argument(
        *("--arch", "-a"),
        action="append",
        choices=["all", *sorted(ARCHITECTURES)],
        help=f"may be given several times; all: {', '.join(ALL)}; default: this machine's",
    )
    parser.add_argument("--busybox", type=Path, help="default: the Debian package's of each architecture")
    parser.add_argument(
        "--release-only",
        action="store_true",
        help="other architectures' busybox without Debian's updates, where those lists are broken on the mirror",
    )
    args = parser.parse_args(argv)
    folder = HERE / args.image if (HERE / args.image).is_dir() else Path(args.image)
    try:
        epoch = source_date_epoch()
        wanted = args.arch or [this_architecture()]
        architectures = ALL if "all" in wanted else tuple(dict.fromkeys(wanted))
        spec, data = build(folder, architectures, args.busybox, epoch, args.release_only)
        scratch = args.output.with_name(f".{args.output.name}.{os.getpid()}")
        scratch.write_bytes(data)
        scratch.replace(args.output)
    except (BuildError, OSError) as e:
        print(f"build.py: {e}", file=sys.stderr)
        return 1
    print(f"{args.output}: {spec.reference} for {', '.join(architectures)}, {len(data)} bytes, {_digest(data)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
