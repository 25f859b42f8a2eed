"""A pull that ends for good at any of its file operations leaves the old image or the new; the next one finishes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.images.platforms import parse_platform
from edged.images.pull import pull
from tests.fakes.oci_layout import layer, member
from tests.fakes.registries import ScriptedRegistry

pytestmark = pytest.mark.root
AMD64 = parse_platform("linux/amd64")

CRASH_EVERYWHERE = """
    import os, shutil, sys
    from pathlib import Path
    from edged.images.platforms import parse_platform
    from edged.images.pull import pull
    from edged.images.registry import PullConfig
    from edged.images.store import ImageStore

    base, work, reference = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    machine, config = parse_platform("linux/amd64"), PullConfig(parallel=1, attempts=1)
    CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.chown", "os.utime",
               "os.truncate", "os.setxattr", "os.scandir", "ctypes.dlsym", "shutil.rmtree", "fcntl.flock"}

    def attempt(root, stop_at):
        seen = 0
        def hook(event, arguments):
            nonlocal seen
            if event in CHANGES and not str(arguments[0]).startswith("/proc"):
                seen += 1
                if seen == stop_at:
                    os._exit(77)
        sys.addaudithook(hook)
        pull(root, reference, config, machine=machine)
        os._exit(0)

    def said(image):
        return {Path(f, f"part{n}").read_text()[0] for n, f in enumerate(image.layers)}

    pull(work / "warm", reference, config, machine=machine)  # so that imports don't count as steps
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
        image = ImageStore(root).resolve(reference)
        assert image is not None
        assert len(said(image)) == 1, (step, said(image))
        assert said(pull(root, reference, config, machine=machine)) == {"n"}, step
        assert not list((root / "tmp").iterdir()), step
        assert len(list((root / "layers").iterdir())) == 2, step
        assert [f.name for f in (root / "partial").iterdir()] == ["pulls"], step
    print(step)
"""


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder whose fsync costs nothing: the order of operations is what counts, and there are hundreds of runs."""
    with tempfile.TemporaryDirectory(prefix="edged-pull-", dir="/dev/shm") as folder:
        yield Path(folder)


def test_a_pull_cut_at_every_single_file_operation_leaves_the_old_image_or_the_new(in_memory: Path) -> None:
    with ScriptedRegistry() as registry:
        reference = f"{registry.address}/a:1"
        for version in ("old", "new"):
            parts = [layer(member(f"part{n}", (version * 10).encode()), member(f"d{n}/x", b"")) for n in range(2)]
            registry.tag("1", registry.layout.image(parts))
            if version == "old":
                pull(in_memory / "base", reference, machine=AMD64)
        (in_memory / "work").mkdir()
        driver = [sys.executable, "-c", textwrap.dedent(CRASH_EVERYWHERE), in_memory / "base", in_memory / "work"]
        done = subprocess.run([*map(str, driver), reference], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60, "the hook no longer sees the operations"
