"""The store under kills, concurrency, damage and use: what resolves is whole, what is used stays."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.errors import PermanentError
from edged.images.importer import import_file
from edged.images.platforms import parse_platform
from edged.images.store import ImageStore
from edged.images.writer import remove
from edged.model import Image
from tests.fakes.oci_layout import digest, layer, member, one_image

pytestmark = pytest.mark.root
AMD64 = parse_platform("linux/amd64")
NAME = "localhost/a:1"


def versioned(version: str, path: Path, name: str = NAME, size: int = 10) -> Path:
    """An image of three layers; every layer's files say which version they belong to."""
    parts = [layer(member(f"part{n}", (version * size).encode()), member(f"d{n}/x", b"")) for n in range(3)]
    return one_image(name, *parts).archive(path)


def version_of(image: Image) -> str:
    """The version that the image's files agree on; anything else is a broken image."""
    said = {Path(folder, f"part{n}").read_text()[0] for n, folder in enumerate(image.layers)}
    assert len(said) == 1
    return said.pop()


def import_command(root: Path, file: Path) -> list[str]:
    return [sys.executable, "-m", "edged.images", "import", "--root", str(root), "--platform", "linux/amd64", str(file)]


# Runs an import again and again, each time in a child that is gone for good at the next file operation.
CRASH_EVERYWHERE = """
    import os, shutil, sys
    from pathlib import Path
    from edged.images.importer import import_file
    from edged.images.platforms import parse_platform
    from edged.images.store import ImageStore

    base, new, work = map(Path, sys.argv[1:])
    machine = parse_platform("linux/amd64")
    CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.chown", "os.utime",
               "os.setxattr", "os.scandir", "ctypes.dlsym", "shutil.rmtree", "fcntl.flock"}

    def attempt(root, stop_at):
        seen = 0
        def hook(event, arguments):
            nonlocal seen
            if event in CHANGES and not str(arguments[0]).startswith("/proc"):
                seen += 1
                if seen == stop_at:
                    os._exit(77)
        sys.addaudithook(hook)
        import_file(root, new, machine=machine)
        os._exit(0)

    import_file(work / "warm", new, machine=machine)  # so that imports don't count as steps
    step = 0
    while True:
        step += 1
        root = work / "root"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(base, root, symlinks=True)
        child = os.fork()
        if not child:
            attempt(root, step)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            break
        assert code == 77, code
        image = ImageStore(root).resolve("localhost/a:1")
        assert image is not None
        first = {Path(f, f"part{n}").read_text()[0] for n, f in enumerate(image.layers)}
        assert len(first) == 1, (step, first)
        [again] = import_file(root, new, machine=machine)
        second = {Path(f, f"part{n}").read_text()[0] for n, f in enumerate(again.layers)}
        assert second == {"n"}, (step, second)
        assert not list((root / "tmp").iterdir())
        assert len(list((root / "layers").iterdir())) == 3
    print(step)
"""


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder whose fsync costs nothing: the order of operations is what counts, and there are hundreds of runs."""
    with tempfile.TemporaryDirectory(prefix="edged-images-", dir="/dev/shm") as folder:
        yield Path(folder)


def test_an_import_cut_at_every_single_file_operation_leaves_the_old_image_or_the_new(in_memory: Path) -> None:
    import_file(in_memory / "base", versioned("o", in_memory / "old.tar"), machine=AMD64)
    new = versioned("n", in_memory / "new.tar")
    (in_memory / "work").mkdir()
    driver = [sys.executable, "-c", textwrap.dedent(CRASH_EVERYWHERE), in_memory / "base", new, in_memory / "work"]
    done = subprocess.run(list(map(str, driver)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60, "the hook no longer sees the operations"


def test_an_import_killed_at_random_moments_never_shows_a_broken_image_and_can_be_repeated(tmp_path: Path) -> None:
    root = tmp_path / "s"
    files = {v: versioned(v, tmp_path / f"{v}.tar", size=2 << 20) for v in "xy"}
    store = ImageStore(root)
    dice = random.Random(11)
    for _ in range(8):
        version = dice.choice("xy")
        child = subprocess.Popen(import_command(root, files[version]), stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + dice.uniform(0.05, 0.4)
        while child.poll() is None and time.monotonic() < deadline:
            image = store.resolve(NAME)
            try:
                assert image is None or version_of(image) in "xy"
            except FileNotFoundError:  # replaced and removed since it was resolved; while it is resolved it is whole
                assert store.resolve(NAME) != image
        child.kill()
        child.wait()
        image = store.resolve(NAME)
        assert image is None or version_of(image) in "xy"
    for version in "xy":
        subprocess.run(import_command(root, files[version]), check=True, stdout=subprocess.DEVNULL)
        image = store.resolve(NAME)
        assert image is not None
        assert version_of(image) == version
    assert len(list((root / "layers").iterdir())) == 3
    assert not list((root / "tmp").iterdir())


def test_importers_at_the_same_time_wait_for_each_other(tmp_path: Path) -> None:
    root = tmp_path / "s"
    files = [versioned(v, tmp_path / f"{v}.tar", f"localhost/{v}:1", size=1 << 20) for v in "abcd"]
    children = [
        subprocess.Popen(import_command(root, f), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for f in files
    ]
    assert [child.wait() for child in children] == [0] * 4
    assert [version_of(image) for image in ImageStore(root).list()] == list("abcd")


def test_a_running_reader_sees_what_another_process_imports_and_removes(tmp_path: Path) -> None:
    root = tmp_path / "s"
    store = ImageStore(root)
    assert store.resolve(NAME) is None
    subprocess.run(import_command(root, versioned("x", tmp_path / "x.tar")), check=True, stdout=subprocess.DEVNULL)
    image = store.resolve(NAME)
    assert image is not None
    assert store.resolve(NAME) is image, "nothing changed, so nothing is read again"
    assert store.references() == {NAME}
    subprocess.run(import_command(root, versioned("y", tmp_path / "y.tar")), check=True, stdout=subprocess.DEVNULL)
    newer = store.resolve(NAME)
    assert newer is not None
    assert version_of(newer) == "y"
    assert not Path(image.layers[0]).exists(), "layers of the replaced image are gone"
    remove(root, NAME)
    assert store.resolve(NAME) is None


def test_a_layer_that_two_images_share_goes_with_the_last_of_them(tmp_path: Path) -> None:
    root = tmp_path / "s"
    shared, own = layer(member("shared", b"s" * 100)), layer(member("own", b"o" * 10))
    import_file(root, one_image("localhost/a:1", shared).archive(tmp_path / "a.tar"), machine=AMD64)
    import_file(root, one_image("localhost/b:1", shared, own).archive(tmp_path / "b.tar"), machine=AMD64)
    store = ImageStore(root)
    assert [image.size for image in store.list()] == [100, 110]
    assert store.disk_usage() == 110
    remove(root, "localhost/b:1")
    assert [p.name for p in (root / "layers").iterdir()] == [digest(shared)[7:39]]
    assert store.resolve("localhost/a:1") is not None
    remove(root, "localhost/a:1")
    assert not list((root / "layers").iterdir())
    assert not list((root / "blobs/sha256").iterdir())


def test_a_layer_that_a_container_still_has_mounted_stays_until_it_is_free(tmp_path: Path) -> None:
    root = tmp_path / "s"
    store = ImageStore(root)
    import_file(root, versioned("x", tmp_path / "x.tar"), machine=AMD64)
    image = store.resolve(NAME)
    assert image is not None
    (tmp_path / "m").mkdir()
    # mount(8) of Debian 13 would use fsconfig(2), which takes at most 255 characters for all the layers.
    mount = f"LIBMOUNT_FORCE_MOUNT2=always mount -t overlay -o lowerdir={':'.join(image.layers)} o {tmp_path}/m"
    command = ["unshare", "-m", "sh", "-c", f"{mount} && echo up && read _; cat {tmp_path}/m/part2"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as container:
        assert container.stdout is not None
        assert container.stdout.readline() == "up\n"
        with pytest.raises(PermanentError, match="in use: a container on this node runs from it"):
            remove(root, NAME)
        remove(root, NAME, force=True)
        assert store.resolve(NAME) is None
        import_file(root, versioned("y", tmp_path / "y.tar"), machine=AMD64)
        assert all(Path(folder).is_dir() for folder in image.layers)
        out, _ = container.communicate("\n")
        assert out == "x" * 10
    remove(root, NAME)
    assert not list((root / "layers").iterdir())


@pytest.mark.parametrize("what", ["manifest", "config", "layer", "index", "index gone"])
def test_damage_on_the_disk_makes_an_image_absent_until_it_is_imported_again(tmp_path: Path, what: str) -> None:
    root, source = tmp_path / "s", versioned("x", tmp_path / "x.tar")
    import_file(root, source, machine=AMD64)
    blobs = list((root / "blobs/sha256").iterdir())
    [manifest] = [b for b in blobs if b'"layers"' in b.read_bytes() and b'"schemaVersion"' in b.read_bytes()]
    [settings] = [b for b in blobs if b != manifest]
    store = ImageStore(root)
    assert store.resolve(NAME) is not None
    if what == "layer":
        next((root / "layers").iterdir()).rename(tmp_path / "lost")
    elif what == "index gone":
        (root / "index.json").unlink()
    else:
        file = {"manifest": manifest, "config": settings, "index": root / "index.json"}[what]
        file.write_bytes(file.read_bytes()[:-20])
        store = ImageStore(root)  # as after a restart of the daemon; blobs are not read for nothing
    assert store.resolve(NAME) is None
    if what in ("manifest", "config", "index"):
        assert "import" in " ".join(store.damage)
    if what == "index":
        with pytest.raises(PermanentError, match=r"index\.json is damaged .* import the images again"):
            import_file(root, source, machine=AMD64)
        (root / "index.json").rename(tmp_path / "moved-away")
    import_file(root, source, machine=AMD64)
    image = store.resolve(NAME)
    assert image is not None
    assert version_of(image) == "x"


def test_a_malformed_reference_is_absent_and_no_error(tmp_path: Path) -> None:
    assert ImageStore(tmp_path).resolve("NOT A REFERENCE") is None


def test_nobody_but_root_can_look_into_layers(tmp_path: Path) -> None:
    import_file(tmp_path / "s", versioned("x", tmp_path / "x.tar"), machine=AMD64)
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700
