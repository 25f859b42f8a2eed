"""One archive for several architectures: what images/build.py makes, and what each machine takes out of it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest

from edged.images.importer import import_file
from edged.images.platforms import parse_platform
from edged.images.store import ImageStore, layer_name
from images import build, foreign

DEMO = Path(build.__file__).parent / "demo"
EMULATORS = {"arm64": "qemu-aarch64-static", "arm/v7": "qemu-arm-static"}


def a_program(arch: str) -> bytes:
    """The head of a static ELF program of an architecture: enough to be taken for one."""
    _, machine, bits = build.ARCHITECTURES[arch]
    head = b"\x7fELF" + bytes([2 if bits == 64 else 1, 1, 1]) + bytes(9) + struct.pack("<HHI", 2, machine, 1)
    return head + bytes(64 - len(head)) + arch.encode()


def an_archive(path: Path, architectures: tuple[str, ...] = build.ALL) -> Path:
    """The demo with such programs."""
    spec = build.load_spec(DEMO)
    images = [
        build.image(spec, build.layer(spec, DEMO / "rootfs", a_program(arch), 0), arch, 0) for arch in architectures
    ]
    path.write_bytes(build.archive(spec.reference, images, 0))
    return path


@pytest.mark.root
@pytest.mark.parametrize("arch", build.ALL)
def test_each_machine_takes_its_own_image_out_of_an_archive_for_all(tmp_path: Path, arch: str) -> None:
    archive, root = an_archive(tmp_path / "all.tar"), tmp_path / "images"
    (image,) = import_file(root, archive, machine=parse_platform(arch))
    assert image.reference == "localhost/demo:1"
    (layer,) = ImageStore(root).layers_of(image.reference)
    programs = list((root / "layers" / layer_name(layer)).rglob("bin/busybox"))
    assert [p.read_bytes() for p in programs] == [a_program(arch)]


@pytest.mark.root
def test_a_machine_that_the_archive_is_not_for_is_told_for_whom_it_is(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="arm/v7"):
        import_file(tmp_path / "images", an_archive(tmp_path / "all.tar"), machine=parse_platform("riscv64"))


def test_an_archive_for_all_is_the_same_twice_and_lists_each_platform_under_one_name(tmp_path: Path) -> None:
    one, two = an_archive(tmp_path / "1.tar"), an_archive(tmp_path / "2.tar")
    assert one.read_bytes() == two.read_bytes()
    with tarfile.open(one) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar if m.isreg()}  # type: ignore[union-attr]
    for name, content in files.items():
        if name.startswith("blobs/"):
            assert name == f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"
    (named,) = json.loads(files["index.json"])["manifests"]
    assert named["annotations"] == {"org.opencontainers.image.ref.name": "localhost/demo:1"}
    inner = json.loads(files[f"blobs/sha256/{named['digest'][7:]}"])
    platforms = [m["platform"] for m in inner["manifests"]]
    assert platforms == [
        {"architecture": "amd64", "os": "linux"},
        {"architecture": "arm64", "os": "linux"},
        {"architecture": "arm", "os": "linux", "variant": "v7"},
    ]


def test_an_image_for_one_architecture_has_no_index_in_between(tmp_path: Path) -> None:
    with tarfile.open(an_archive(tmp_path / "one.tar", ("arm64",))) as tar:
        file = tar.extractfile("index.json")
        assert file is not None
        (named,) = json.load(file)["manifests"]
    assert named["mediaType"] == "application/vnd.oci.image.manifest.v1+json"


def test_one_binary_is_not_taken_for_several_architectures(tmp_path: Path) -> None:
    with pytest.raises(build.BuildError, match="each with its own --arch"):
        build.build(DEMO, build.ALL, tmp_path / "busybox", 0)


@pytest.mark.parametrize("arch", EMULATORS)
def test_debians_busybox_of_another_architecture_runs_and_is_static(tmp_path: Path, arch: str) -> None:
    """Fetched as a person's build does; on a machine that can't reach its Debian archive there is nothing to run."""
    emulator = shutil.which(EMULATORS[arch])
    if emulator is None or shutil.which("apt-get") is None:
        pytest.skip(
            f"needs apt-get and {EMULATORS[arch]}: apt-get install qemu-user-static (make test-vm-arm64 has it)"
        )
    try:
        program = foreign.busybox(arch, release_only=True)
    except foreign.FetchError as e:
        pytest.skip(f"the Debian archive can't be had from here: {e}")
    build.read_busybox(program, arch)  # raises where it is another's, or dynamic
    said = subprocess.run([emulator, os.fspath(program), "uname", "-m"], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == build.ARCHITECTURES[arch][0] != platform.machine()
