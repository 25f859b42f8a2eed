"""The image builder: the same bytes twice, valid to other tools, and clear about what it can't build."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

IMAGES = Path(__file__).resolve().parents[2] / "images"


def build(image: str | Path, output: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(IMAGES / "build.py"), str(image), "--output", str(output), *options]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


@pytest.mark.parametrize("name", ["demo", "probe"])
def test_the_same_files_give_the_same_bytes_whoever_builds_them(tmp_path: Path, name: str) -> None:
    assert build(name, tmp_path / "1.tar").returncode == 0
    copy = tmp_path / name
    old = os.umask(0o077)
    try:
        shutil.copytree(IMAGES / name, copy, symlinks=True, copy_function=shutil.copy)  # other times, same content
        assert build(copy, tmp_path / "2.tar").returncode == 0
    finally:
        os.umask(old)
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()


def test_the_date_comes_from_source_date_epoch(tmp_path: Path) -> None:
    assert build("probe", tmp_path / "1.tar", SOURCE_DATE_EPOCH="86400").returncode == 0
    subprocess.run(["tar", "-xf", "1.tar"], cwd=tmp_path, check=True)
    index = json.loads((tmp_path / "index.json").read_text())
    manifest = json.loads((tmp_path / "blobs/sha256" / index["manifests"][0]["digest"][7:]).read_text())
    config = json.loads((tmp_path / "blobs/sha256" / manifest["config"]["digest"][7:]).read_text())
    assert config["created"] == "1970-01-02T00:00:00Z"
    assert "SOURCE_DATE_EPOCH" in build("probe", tmp_path / "2.tar", SOURCE_DATE_EPOCH="today").stderr


def test_another_tool_reads_what_was_built(tmp_path: Path) -> None:
    if not shutil.which("skopeo"):
        pytest.skip("needs skopeo (Debian package skopeo)")
    assert build("demo", tmp_path / "demo.tar").returncode == 0
    command = ["skopeo", "inspect", "--config", f"oci-archive:{tmp_path}/demo.tar"]
    config = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["config"]
    assert config["User"] == "1000:1000"
    assert config["Cmd"] == ["/bin/sensor"]
    assert config["ExposedPorts"] == {"8080/tcp": {}}


def test_the_demo_manifest_runs_the_image_that_is_built(tmp_path: Path) -> None:
    said = build("demo", tmp_path / "demo.tar").stdout
    documents = list(yaml.safe_load_all((IMAGES / "demo/demo.yaml").read_text()))
    pods = [d["spec"]["template"]["spec"] for d in documents if d["kind"] == "Deployment"]
    containers = [c for pod in pods for c in pod["containers"]]
    assert len(containers) == 2
    for container in containers:
        assert f": {container['image']} for " in said
        assert (IMAGES / "demo/rootfs" / container["command"][0].lstrip("/")).stat().st_mode & 0o100


def test_a_program_for_another_machine_is_refused_with_the_way_to_get_the_right_one(tmp_path: Path) -> None:
    other = "arm64" if os.uname().machine == "x86_64" else "amd64"
    binary = next(p for p in (Path("/bin/busybox"), Path("/usr/bin/busybox")) if p.exists())
    done = build("probe", tmp_path / "x.tar", "--arch", other, "--busybox", str(binary))
    assert done.returncode == 1
    assert f"is not for {other}" in done.stderr
    assert "without --busybox that architecture's is fetched" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("binary", "complaint"),
    [("/bin/ls", "dynamically linked"), ("/etc/passwd", "not an ELF"), ("/nowhere", "No such file")],
)
def test_what_is_no_static_program_is_refused(tmp_path: Path, binary: str, complaint: str) -> None:
    done = build("probe", tmp_path / "x.tar", "--busybox", binary)
    assert (done.returncode, complaint in done.stderr) == (1, True), done.stderr


def test_a_wrong_description_is_refused_with_its_file(tmp_path: Path) -> None:
    assert "images that do: demo, probe" in build("nothing", tmp_path / "x.tar").stderr
    for text, complaint in (("x", "Expected '='"), ('reference = "a"\nports_ = 1', "ports_"), ("", "reference")):
        (tmp_path / "image.toml").write_text(text)
        done = build(tmp_path, tmp_path / "x.tar")
        assert done.returncode == 1
        assert complaint in done.stderr
        assert str(tmp_path / "image.toml") in done.stderr
