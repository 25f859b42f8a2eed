"""Layouts and archives become images in the store, whole or not at all; digests, names and platforms are checked."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from edged.errors import PermanentError
from edged.images import filelist, oci
from edged.images.__main__ import main
from edged.images.importer import import_file
from edged.images.platforms import parse_platform
from edged.images.pull import pull
from edged.images.store import ImageStore
from edged.images.unpack import Bounds
from edged.images.writer import remove
from tests.fakes import registries
from tests.fakes.oci_layout import Layout, blob_path, config, descriptor, digest, layer, link, member, one_image

pytestmark = pytest.mark.root
AMD64 = parse_platform("linux/amd64")
NAME = "localhost/a:1"
BASE = layer(member("./", None), member("etc", None), member("etc/os", b"base"), member("etc/motd", b"hello"))
TOP = layer(member("etc", None), member("etc/.wh.motd", b""), member("app", b"#!/bin/sh", mode=0o755))


def take(root: Path, file: Path, name: str | None = None, machine: oci.Platform = AMD64) -> list[str]:
    return [image.reference for image in import_file(root, file, name, machine)]


def left_over(root: Path) -> list[str]:
    return sorted(p.name for p in (root / "tmp").iterdir())


def refused(root: Path, file: Path, name: str | None = None) -> str:
    """The sentence; and nothing may be left of the try."""
    with pytest.raises(PermanentError) as e:
        take(root, file, name)
    assert ImageStore(root).references() == frozenset()
    assert left_over(root) == []
    assert list((root / "layers").iterdir()) == []
    return str(e.value)


# ---------------------------------------------------------------- formats and names


@pytest.mark.parametrize("form", ["folder", "tar", "tar.gz"])
def test_a_layout_is_imported_with_the_name_it_carries(tmp_path: Path, form: str) -> None:
    layout = Layout()
    settings = config([BASE, TOP], Entrypoint=["/app"], Cmd=["x"], Env=["A=b"], User="1000", WorkingDir="/w")
    layout.name("demo", layout.image([BASE, TOP], settings=settings))
    layout.manifests[0]["annotations"] = {"org.opencontainers.image.ref.name": "grafana/demo"}
    source = layout.folder(tmp_path / "in") if form == "folder" else layout.archive(tmp_path / "in.tar")
    if form == "tar.gz":
        (tmp_path / "in.tar.gz").write_bytes(gzip.compress(source.read_bytes()))
        source = tmp_path / "in.tar.gz"
    assert take(tmp_path / "s", source) == ["docker.io/grafana/demo:latest"]
    image = ImageStore(tmp_path / "s").resolve("grafana/demo")
    assert image is not None
    assert (image.entrypoint, image.cmd, image.env) == (("/app",), ("x",), ("A=b",))
    assert (image.user, image.working_dir, image.id) == ("1000", "/w", digest(settings))
    assert image.size == len(b"base" + b"hello" + b"#!/bin/sh")
    assert [Path(p, "etc/os").exists() for p in image.layers] == [True, False]
    assert left_over(tmp_path / "s") == []


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_docker_save_archive_is_imported_with_all_its_tags(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    settings = config([BASE, TOP, BASE])
    listed = [
        {
            "Config": f"{digest(settings)[7:]}.json",
            "RepoTags": ["a:1", "localhost/b:2"],
            "Layers": ["0/layer.tar", "1/layer.tar", "2/layer.tar"],
        }
    ]
    archive = tmp_path / "save.tar"
    archive.write_bytes(
        layer(
            member("0/layer.tar", pack(BASE)),
            member("1/layer.tar", pack(TOP)),
            link("2/layer.tar", "../0/layer.tar"),  # how docker save writes a layer that comes twice
            member(f"{digest(settings)[7:]}.json", settings),
            member("manifest.json", json.dumps(listed).encode()),
        )
    )
    assert take(tmp_path / "s", archive) == ["docker.io/library/a:1", "localhost/b:2"]
    image = ImageStore(tmp_path / "s").resolve("a:1")
    assert image is not None
    names = [Path(p).name for p in image.layers]
    assert names == [digest(TOP)[7:39], digest(BASE)[7:39]], "a repeated layer is stacked once, where it is highest"


def test_a_name_given_at_import_replaces_the_one_in_the_file(tmp_path: Path) -> None:
    source = one_image(NAME, BASE).archive(tmp_path / "i.tar")
    assert take(tmp_path / "s", source, "localhost:5000/x/y:z") == ["localhost:5000/x/y:z"]
    assert ImageStore(tmp_path / "s").resolve(NAME) is None


def test_an_image_can_be_asked_for_by_the_digest_of_its_manifest(tmp_path: Path) -> None:
    layout = one_image(NAME, BASE)
    take(tmp_path / "s", layout.folder(tmp_path / "in"))
    manifest = layout.manifests[0]["digest"]
    store = ImageStore(tmp_path / "s")
    assert store.resolve(f"localhost/a@{manifest}") == store.resolve(NAME)
    assert store.resolve(f"localhost/other@{manifest}") is None


def test_a_layout_without_a_full_name_wants_one(tmp_path: Path) -> None:
    tag_only = one_image("latest", BASE).folder(tmp_path / "in")
    assert "--name" in refused(tmp_path / "s", tag_only)
    assert take(tmp_path / "s", tag_only, "localhost/a:2") == ["localhost/a:2"]


def test_one_name_for_several_images_is_refused(tmp_path: Path) -> None:
    layout = one_image("localhost/a:1", BASE)
    layout.name("localhost/b:1", layout.image([TOP]))
    source = layout.folder(tmp_path / "in")
    assert "2 images (localhost/a:1, localhost/b:1)" in refused(tmp_path / "s", source, "localhost/c:1")
    assert take(tmp_path / "s", source) == ["localhost/a:1", "localhost/b:1"]


def test_a_name_with_a_digest_is_refused(tmp_path: Path) -> None:
    source = one_image(NAME, BASE).folder(tmp_path / "in")
    with pytest.raises(PermanentError, match="not a digest"):
        take(tmp_path / "s", source, f"localhost/a@{digest(BASE)}")


# ---------------------------------------------------------------- platforms


def test_of_several_platforms_the_right_one_is_taken(tmp_path: Path) -> None:
    layout = Layout()
    entries = []
    for architecture, content in (("arm64", BASE), ("amd64", TOP)):
        entry = layout.image([content], settings=config([content], architecture))
        entries.append(entry | {"platform": {"os": "linux", "architecture": architecture}})
    index = layout.put(json.dumps({"schemaVersion": 2, "manifests": entries}).encode())
    layout.name(NAME, descriptor(index, oci.INDEX))
    source = layout.folder(tmp_path / "in")
    for machine, content in (("arm64/v8", BASE), ("amd64", TOP)):
        root = tmp_path / machine.replace("/", "-")
        take(root, source, machine=parse_platform(machine))
        image = ImageStore(root).resolve(NAME)
        assert image is not None
        assert [Path(p).name for p in image.layers] == [digest(content)[7:39]]
    with pytest.raises(PermanentError, match=r"no image for linux/riscv64, only for: linux/amd64, linux/arm64"):
        take(tmp_path / "s", source, machine=parse_platform("riscv64"))


def test_an_image_for_another_machine_is_refused_although_nothing_else_is_offered(tmp_path: Path) -> None:
    layout = Layout()
    layout.name(NAME, layout.image([BASE], settings=config([BASE], "arm64")))
    assert "is for linux/arm64, this machine is linux/amd64" in refused(tmp_path / "s", layout.folder(tmp_path / "in"))


def test_indexes_that_point_at_each_other_without_end_are_refused(tmp_path: Path) -> None:
    layout = Layout()
    entry = layout.image([BASE])
    for _ in range(8):
        entry = descriptor(layout.put(json.dumps({"manifests": [entry]}).encode()), oci.INDEX)
    layout.name(NAME, entry)
    assert "indexes within each other" in refused(tmp_path / "s", layout.folder(tmp_path / "in"))


# ---------------------------------------------------------------- what is damaged, false or hostile


def spoil(layout: Layout, blob: bytes, other: bytes | None) -> None:
    if other is None:
        del layout.files[blob_path(blob)]
    else:
        layout.files[blob_path(blob)] = other


@pytest.mark.parametrize("which", ["manifest", "config", "layer"])
@pytest.mark.parametrize("how", ["gone", "other", "longer"])
def test_every_blob_is_checked_against_its_digest(tmp_path: Path, which: str, how: str) -> None:
    layout = one_image(NAME, BASE)
    [manifest] = [b for b in layout.files.values() if b"layers" in b and b"schemaVersion" in b]
    blob = {"manifest": manifest, "config": config([BASE]), "layer": gzip.compress(BASE, mtime=0)}[which]
    other = gzip.compress(TOP, mtime=0) if which == "layer" else blob.replace(b'"', b" ", 1)
    spoil(layout, blob, {"gone": None, "other": other, "longer": blob + bytes(10)}[how])
    sentence = refused(tmp_path / "s", layout.folder(tmp_path / "in"))
    assert digest(blob)[7:] in sentence
    assert str(tmp_path / "in") in sentence


def test_a_config_that_lies_about_its_layers_is_refused(tmp_path: Path) -> None:
    for number, settings in enumerate((config([TOP]), config([BASE, TOP]), config([]))):
        layout = Layout()
        layout.name(NAME, layout.image([BASE], settings=settings))
        assert re.search(
            r"diff_id|layers, the manifest", refused(tmp_path / "s", layout.folder(tmp_path / str(number)))
        )


def test_a_hostile_layer_leaves_the_image_that_had_the_name_before(tmp_path: Path) -> None:
    root = tmp_path / "s"
    take(root, one_image(NAME, BASE).folder(tmp_path / "good"))
    before = ImageStore(root).resolve(NAME)
    bad = one_image(NAME, BASE, layer(link("d", "/"), member("d/evil", b"x"))).folder(tmp_path / "bad")
    with pytest.raises(PermanentError, match=r"image localhost/a:1: layer blobs/sha256/.*refused the entry 'd/evil'"):
        take(root, bad)
    assert ImageStore(root).resolve(NAME) == before
    assert len(list((root / "layers").iterdir())) == 1


def test_limits_hold_for_each_layer(tmp_path: Path) -> None:
    source = one_image(NAME, BASE).folder(tmp_path / "in")
    with pytest.raises(PermanentError, match="more than 2 entries"):
        import_file(tmp_path / "s", source, machine=AMD64, bounds=Bounds(entries=2))
    with pytest.raises(PermanentError, match="more than 1000 bytes"):
        import_file(tmp_path / "s", source, machine=AMD64, bounds=Bounds(total_bytes=1000))


@pytest.mark.parametrize("packed", [False, True])
def test_an_archive_cut_short_anywhere_is_refused(tmp_path: Path, packed: bool) -> None:
    layout = one_image(NAME, BASE, TOP)
    del layout.files["oci-layout"]  # nobody needs it, so a cut before it may pass
    whole = layout.archive(tmp_path / "i.tar").read_bytes().rstrip(b"\0")
    data = gzip.compress(whole) if packed else whole
    for cut in range(0, len(data), max(1, len(data) // 40)):
        (tmp_path / "cut").write_bytes(data[:cut])
        assert str(tmp_path / "cut") in refused(tmp_path / "s", tmp_path / "cut")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("index.json", b"{", "index.json is not a valid Index document"),
        ("index.json", b'{"manifests": "x"}', r"Expected `array`, got `str` - at `\$.manifests`"),
        ("index.json", b'{"manifests": []}', "lists no image"),
        ("index.json", b'{"manifests": [{"digest": "sha256:../../x", "size": 1}]}', "not a sha256 digest"),
        ("index.json", b'{"manifests": [{"digest": "md5:00", "size": 1}]}', "not a sha256 digest"),
        ("manifest.json", b"[]", "lists no image"),
        ("manifest.json", b'[{"Config": "../../../etc/passwd"}]', "leads outside"),
        ("manifest.json", b'[{"Config": "/etc/passwd"}]', "leads outside"),
        ("manifest.json", b'[{"Config": "index.json"}]', "not a valid ImageConfig"),
        ("repositories", b"{}", "older than 1.10"),
        ("readme", b"hello", "neither an OCI image layout"),
    ],
)
def test_documents_that_are_wrong_are_refused_with_their_name(
    tmp_path: Path, name: str, content: bytes, complaint: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "index.json").write_bytes(b"[]")
    if name not in ("index.json", "manifest.json"):
        (tmp_path / "in" / "index.json").unlink()
    (tmp_path / "in" / name).write_bytes(content)
    assert re.search(complaint, refused(tmp_path / "s", tmp_path / "in"))


@pytest.mark.parametrize("content", [b"", b"no tar at all", bytes(2000), b"\x1f\x8bno gzip"])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    assert str(tmp_path / "f") in refused(tmp_path / "s", tmp_path / "f")
    assert "cannot read" in refused(tmp_path / "s", tmp_path / "nothing here")


# ---------------------------------------------------------------- real tools

UMOCI, SKOPEO = shutil.which("umoci"), shutil.which("skopeo")


def run(*command: str | Path, **more: object) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **more)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return str(done.stdout)


# Prints a tree as lines that two trees can be compared by. Mount points' own times and link counts are left out.
LIST_TREE = """
import hashlib, os, sys
def walk(path, name):
    s = os.lstat(path)
    kind = s.st_mode >> 12
    what = os.readlink(path) if kind == 10 else ""
    what = hashlib.sha256(open(path, "rb").read()).hexdigest() if kind == 8 else what
    names = sorted(x for x in os.listxattr(path, follow_symlinks=False) if not x.startswith(("trusted.", "user.")))
    attributes = [(x, os.getxattr(path, x, follow_symlinks=False)) for x in names]
    time = int(s.st_mtime) if name and kind != 4 else 0
    print(name, oct(s.st_mode), s.st_uid, s.st_gid, s.st_rdev if kind in (2, 6) else 0, time, what, attributes)
    if kind == 4:
        for child in sorted(os.listdir(path)):
            walk(os.path.join(path, child), name + "/" + child)
walk(sys.argv[1], "")
"""


@pytest.fixture
def umoci_layout(tmp_path: Path) -> Path:
    """Three layers by umoci: files of every kind, then removals and replacements, then an opaque folder."""
    if not UMOCI:
        pytest.skip("needs umoci (Debian package umoci)")
    layout, bundle = tmp_path / "layout", tmp_path / "bundle"
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:t")
    run("umoci", "unpack", "--image", f"{layout}:t", bundle)
    root = bundle / "rootfs"
    script = """
        mkdir -p etc usr/lib var/cache home/u && chmod 1777 var && chown 1000:1000 home/u && chmod 700 home/u
        echo base > etc/os && echo hello > etc/motd && ln -s usr/lib lib && ln etc/os etc/os2 && ln -s /etc/os abs
        cp /bin/true usr/su && chmod 4755 usr/su && mkfifo var/pipe && mknod var/null c 1 3 && touch -d @1000 etc/motd
        for i in $(seq 50); do echo $i > var/cache/$i; done; printf 'x' > 'usr/lib/sp ace"\\n'; mkdir usr/lib/keep
    """
    run("sh", "-ec", script, cwd=root)
    if shutil.which("setcap"):
        run("setcap", "cap_net_bind_service=ep", root / "usr/su")
    run("umoci", "repack", "--refresh-bundle", "--image", f"{layout}:t", bundle)
    run(
        "sh",
        "-ec",
        "rm etc/motd && rm -r var/cache && echo file > var/cache && rm lib && mkdir lib && echo 1 > lib/x",
        cwd=root,
    )
    run("umoci", "repack", "--refresh-bundle", "--image", f"{layout}:t", bundle)
    run("sh", "-ec", "rm -r usr/lib && mkdir usr/lib && echo new > usr/lib/new && chmod 750 etc", cwd=root)
    run("umoci", "repack", "--refresh-bundle", "--image", f"{layout}:t", bundle)
    return layout


def stacked_tree(layers: tuple[str, ...], mount: Path) -> str:
    """What a container would see: our layers under a real overlayfs, in a mount namespace of their own."""
    mount.mkdir()
    lower = ":".join(reversed(layers))
    # mount(8) of Debian 13 would use fsconfig(2), which takes at most 255 characters for all the layers.
    overlay = f'mount -t overlay -o "lowerdir={mount.parent / "empty"}:{lower}" o {mount}'
    mounting = f'LIBMOUNT_FORCE_MOUNT2=always {overlay} && exec "$@"'
    (mount.parent / "empty").mkdir()
    return run("unshare", "-m", "sh", "-ec", mounting, "sh", sys.executable, "-c", LIST_TREE, mount)


def test_stacked_layers_look_exactly_as_another_tool_unpacks_them(tmp_path: Path, umoci_layout: Path) -> None:
    take(tmp_path / "s", umoci_layout, "localhost/t:1")
    image = ImageStore(tmp_path / "s").resolve("localhost/t:1")
    assert image is not None
    assert len(image.layers) == 3
    run("umoci", "unpack", "--image", f"{umoci_layout}:t", tmp_path / "theirs")
    theirs = run(sys.executable, "-c", LIST_TREE, tmp_path / "theirs" / "rootfs")
    # The lowest entry of the test's stack is an empty folder above all layers; the root's own attributes are its.
    assert stacked_tree(image.layers, tmp_path / "ours").splitlines()[1:] == theirs.splitlines()[1:]


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("oci-archive:{}:localhost/t:1", ()),
        ("oci-archive:{}:localhost/t:1", ("--dest-compress-format", "zstd")),
        ("oci:{}:localhost/t:1", ()),
        ("docker-archive:{}:localhost/t:1", ()),
        ("docker-archive:{}:localhost/t:1", ("--additional-tag", "localhost/t:2")),
    ],
)
def test_what_skopeo_writes_is_imported_as_the_same_layers(
    tmp_path: Path, umoci_layout: Path, form: str, options: tuple[str, ...]
) -> None:
    if not SKOPEO:
        pytest.skip("needs skopeo (Debian package skopeo)")
    take(tmp_path / "s", umoci_layout, "localhost/t:0")
    file = tmp_path / "skopeo.out"
    run("skopeo", "copy", "--insecure-policy", *options, f"oci:{umoci_layout}:t", form.format(file))
    names = take(tmp_path / "s2", file)
    assert names[0] == "localhost/t:1"
    first, second = ImageStore(tmp_path / "s").resolve("localhost/t:0"), ImageStore(tmp_path / "s2").resolve(names[-1])
    assert first is not None
    assert second is not None
    assert [Path(p).name for p in first.layers] == [Path(p).name for p in second.layers]


@registries.needs_registry
@pytest.mark.parametrize("options", [(), ("--dest-compress-format", "zstd")], ids=["gzip", "zstd"])
def test_what_umoci_built_and_skopeo_pushed_comes_from_the_registry_exactly_as_umoci_unpacks_it(
    tmp_path: Path, umoci_layout: Path, options: tuple[str, ...]
) -> None:
    run("umoci", "unpack", "--image", f"{umoci_layout}:t", tmp_path / "theirs")
    theirs = run(sys.executable, "-c", LIST_TREE, tmp_path / "theirs" / "rootfs")
    with registries.docker_registry(tmp_path / "registry") as address:
        registries.push(umoci_layout, "t", f"{address}/t:1", *options)
        image = pull(tmp_path / "s", f"{address}/t:1")
    assert stacked_tree(image.layers, tmp_path / "ours").splitlines()[1:] == theirs.splitlines()[1:]
    for folder in image.layers:
        assert filelist.compare(Path(folder), tmp_path / "s" / "lists" / Path(folder).name) == ""


# ---------------------------------------------------------------- the command and its costs


def test_the_command_imports_lists_and_removes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, source = str(tmp_path / "s"), str(one_image(NAME, BASE, TOP).archive(tmp_path / "i.tar"))
    assert main(["import", "--root", root, source, "--platform", "linux/amd64"]) == 0
    assert re.fullmatch(r"imported localhost/a:1  [0-9a-f]{12}  2 layers, 18 B\n", capsys.readouterr().out)
    assert main(["list", "--root", root]) == 0
    assert re.search(r"localhost/a:1 +[0-9a-f]{12} +2 +18 B\non disk: 18 B\n$", capsys.readouterr().out)
    assert main(["remove", "--root", root, "localhost/a:1"]) == 0
    assert capsys.readouterr().out == "removed localhost/a:1, 18 B freed\n"
    assert main(["remove", "--root", root, "localhost/a:1"]) == 1
    assert "there is no image localhost/a:1" in capsys.readouterr().err
    assert main(["import", "--root", root, str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err == f"edged image: cannot read {tmp_path / 'none'}: No such file or directory\n"


# Not ru_maxrss: that starts with what the process had before exec, which is pytest's.
IMPORT_AND_TELL_MEMORY = """
import sys
from edged.images.__main__ import main
assert main(sys.argv[1:]) == 0
print(open("/proc/self/status").read())
"""


def test_an_image_of_any_size_is_imported_in_the_memory_of_a_puller(tmp_path: Path) -> None:
    file = tmp_path / "i.tar"
    plain = layer(member("zeros", bytes(150 << 20)))
    for packed in (gzip.compress(plain, 1), zstandard.compress(plain, 1)):
        layout = Layout()
        layout.name(NAME, layout.image([plain], [packed], config([plain], os.uname().machine)))
        layout.archive(file)
        arguments = ["import", "--root", tmp_path / "s", "--platform", f"linux/{os.uname().machine}", file]
        said = run(sys.executable, "-c", IMPORT_AND_TELL_MEMORY, *arguments)
        peak = re.search(r"VmHWM:\s+(\d+) kB", said)
        assert peak is not None
        assert int(peak[1]) < 64 << 10, "the hard limit of a puller's cgroup"
        remove(tmp_path / "s", NAME)


def test_a_full_disk_is_said_and_leaves_nothing_broken(tmp_path: Path) -> None:
    source = one_image(NAME, layer(member("big", os.urandom(3 << 20)))).archive(tmp_path / "i.tar")
    (tmp_path / "disk").mkdir()
    command = f"{sys.executable} -m edged.images import --root {tmp_path}/disk/s --platform linux/amd64 {source}"
    script = f"mount -t tmpfs -o size=2m t {tmp_path}/disk && {command}; echo code $?; ls {tmp_path}/disk/s/*"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True)
    assert "code 1" in done.stdout
    assert "no space left: needs more than the " in done.stderr
    assert re.search(r"layers:\n\n", done.stdout)
    assert re.search(r"tmp:\n$", done.stdout)


def test_the_resident_side_does_not_load_what_only_importing_needs() -> None:
    code = "import sys, edged.images.store; print(*sorted(sys.modules))"
    loaded = set(run(sys.executable, "-c", code).split())
    assert not loaded & {"tarfile", "zstandard", "gzip", "shutil", "ctypes", "lzma", "bz2", "argparse", "subprocess"}
