#!/usr/bin/env python3
"""Builds wheels for 32-bit ARM from pinned sources, in an emulated Debian of the release whose Python it is.

    python tools/foreign_wheels.py --python 3.11 --output DIR "msgspec==0.22.0 --hash=sha256:..." ...

The index has no armv7l wheels of five of our dependencies, and a board must not compile: that takes a compiler, and a
Pi hours. Raspberry Pi's own index has them, but not by the hashes that the lock pins. Debian's python3-* packages were
the other road: bookworm has no msgspec at all.

The sources are fetched by this machine's pip and checked against the lock's hashes; then gcc runs in a tree that
mmdebstrap makes once (.cache/foreign/<release>-armhf.tar, 5 to 10 minutes), by qemu's user emulation. Needs root and
the Debian packages mmdebstrap, qemu-user-static and arch-test (tools/setup.sh vm). Wheels are tagged linux_armv7l: they
hold the libraries of that release and run on it and on later ones.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from debs import mirrors_of  # a script beside this one

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "foreign"
RELEASES = {"3.11": "bookworm", "3.13": "trixie"}
PACKAGES = ("python3-dev", "gcc", "libc6-dev", "libffi-dev", "make", "ca-certificates")
HELPERS = ("setuptools", "packaging")  # pure Python; what the sources' own build systems want, as the lock pins them
FIRST = ("pycparser", "cffi")  # the others are built with it
SOURCES = ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list")
BUILD = "import sys; from setuptools import build_meta as b; print(b.build_wheel(sys.argv[1]))"


class BuildError(Exception):
    """A sentence that says what is wrong and what to do."""


def name_of(line: str) -> str:
    """A line of requirements: its package."""
    return line.split("==")[0].strip()


def in_order(lines: Sequence[str]) -> list[str]:
    """What the others need first, then by name."""
    return sorted(lines, key=lambda line: (FIRST.index(name_of(line)) if name_of(line) in FIRST else 9, line))


def tree_archive(release: str) -> Path:
    """A Debian with a compiler, from the cache or made now."""
    archive = CACHE / f"{release}-armhf.tar"
    if archive.exists():
        return archive
    missing = [tool for tool in ("mmdebstrap", "arch-test") if shutil.which(tool) is None]
    if missing or subprocess.run(["arch-test", "armhf"], capture_output=True, check=False).returncode != 0:
        raise BuildError("this machine can't run 32-bit ARM: apt-get install mmdebstrap qemu-user-static arch-test")
    CACHE.mkdir(parents=True, exist_ok=True)
    new = archive.with_name(f".{archive.name}-{os.getpid()}.tar")
    mirror, _ = mirrors_of(next(Path(s).read_text() for s in SOURCES if Path(s).exists()))
    run(
        *("mmdebstrap", "--mode=root", "--variant=minbase", "--architectures=armhf", f"--include={','.join(PACKAGES)}"),
        *("--aptopt=APT::Install-Recommends false", "--dpkgopt=path-exclude=/usr/share/doc/*", "--skip=check/empty"),
        *(release, os.fspath(new), f"deb {mirror} {release} main"),
    )
    new.rename(archive)
    return archive


def build(python: str, lines: Sequence[str], helpers: Sequence[str], output: Path) -> None:
    """Wheels of these lines of requirements in `output`."""
    release = RELEASES[python]
    archive = tree_archive(release)
    with tempfile.TemporaryDirectory(prefix="edged-foreign-") as name:
        tree = Path(name) / "tree"
        tree.mkdir()
        run("tar", "-xf", os.fspath(archive), "-C", os.fspath(tree), "--exclude=./dev/*")
        (tree / "dev/null").touch()
        site = next(tree.glob("usr/local/lib/python3.*")) / "dist-packages"
        pip = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")
        for line in helpers:
            wanted = requirements(Path(name), line)
            platform = ("--platform", "linux_armv7l", "--python-version", python)
            run(
                *pip,
                "install",
                "--no-deps",
                "--only-binary=:all:",
                *platform,
                "--target",
                os.fspath(site),
                "-r",
                wanted,
            )
        for line in in_order(lines):
            work = tree / "build"
            work.mkdir()
            wanted = requirements(Path(name), line)
            fetch = ("download", "--no-deps", "--no-binary=:all:", "--require-hashes")
            run(*pip, *fetch, "-d", os.fspath(work), "-r", wanted)
            sources = next(work.glob("*.tar.gz"))
            run("tar", "-xf", os.fspath(sources), "-C", os.fspath(work), "--strip-components=1")
            name_the_version(work / "pyproject.toml", line)
            environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/build"}
            environment |= {"SOURCE_DATE_EPOCH": "315532800", "CFLAGS": "-O2 -g0", "MAKEFLAGS": "-j2"}
            words = ("chroot", os.fspath(tree), "sh", "-c", 'cd /build && exec python3 -c "$0" /build/out', BUILD)
            run(*words, environment=environment)
            wheel = next((work / "out").glob("*.whl"))
            shutil.copyfile(wheel, output / wheel.name)
            if name_of(line) in FIRST:
                run("unzip", "-q", "-o", os.fspath(wheel), "-d", os.fspath(site))
            shutil.rmtree(work)


def name_the_version(project: Path, line: str) -> None:
    """A source that asks setuptools-scm for its version gets the one that was pinned: there is no git here."""
    text = project.read_text() if project.exists() else ""
    if "setuptools_scm" in text or "setuptools-scm" in text:
        version = line.split("==")[1].split()[0]
        project.write_text(re.sub(r'dynamic = \[\s*"version",?\s*\]', f'version = "{version}"', text))


def requirements(folder: Path, line: str) -> str:
    file = folder / "requirements.txt"
    file.write_text(f"{line}\n")
    return os.fspath(file)


def run(*argv: str, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"`{' '.join(argv[:6])} ...` failed:\n{(done.stdout + done.stderr).strip()[-3000:]}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Build wheels for 32-bit ARM.")
    parser.add_argument("--python", choices=RELEASES, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--helper", action="append", default=[], help="a line of requirements that building needs")
    parser.add_argument("lines", nargs="+", metavar="REQUIREMENT")
    arguments = parser.parse_args()
    try:
        build(arguments.python, arguments.lines, arguments.helper, arguments.output)
    except BuildError as e:
        print(f"foreign_wheels: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
