#!/usr/bin/env python3
"""Gathers all that a node (or a hub) needs to be installed without internet: one folder of wheels.

    python tools/wheelhouse.py --output DIR --arch amd64|arm64|armhf --python 3.11|3.13 [--extra hub ...]

    DIR/*.whl              the project's own wheel, its dependencies for that architecture and Python, and pip
    DIR/requirements.txt   each of them with its version and hash, for `pip install --no-index --require-hashes`;
                           not pip, which only does the installing: a stock board has none
    DIR.tar                with --tar: all of it in one file, for one transfer
    DIR/VERSION            <project version>-<first 12 hex digits of a hash over the files above>

The dependencies' versions and hashes come from requirements.lock, and only what the wanted extras need is taken.
The same checkout gives the same bytes and so the same VERSION, whenever and wherever it is built: the project's wheel
is made from a copy with fixed times and modes (SOURCE_DATE_EPOCH, reproducible-builds.org), the others are pinned.

Prints VERSION. Does nothing where DIR is already what it would make. Runs in the checkout's .venv (`make setup`).
Wheels come from pip's index, and are kept below .cache/wheels; for armhf, where the index lacks five of them, they are
built once from the pinned sources in an emulated Debian (foreign_wheels.py).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from email.parser import Parser
from pathlib import Path
from typing import NamedTuple

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "wheels"
EXTRAS = ("dashboard", "hub", "postgresql")
PYTHONS = ("3.11", "3.13")  # Debian 12's and 13's
SOURCES = ("edged", "cloudlink")
FILES = ("pyproject.toml", "README.md")
EPOCH = 315532800  # 1980-01-01, the first day that a zip file can name
GLIBC = 36  # Debian 12 has 2.36, and later ones run what it runs
BUILT_FOR_ARMHF = ("cffi", "msgspec", "psutil", "pynacl", "zstandard")  # no wheels of them on the index
HELPERS = ("packaging", "pycparser", "setuptools")  # what builds those


class WheelhouseError(Exception):
    """A sentence that says what is wrong and what to do."""


class Target(NamedTuple):
    """What a wheel must run on; `arch` in Debian's words."""

    arch: str
    python: str

    @property
    def machine(self) -> str:
        return {"amd64": "x86_64", "arm64": "aarch64", "armhf": "armv7l"}[self.arch]

    def platforms(self) -> list[str]:
        """pip's tags, the best first (PEP 600; before that manylinux2014 and manylinux1)."""
        new = [f"manylinux_2_{minor}_{self.machine}" for minor in range(GLIBC, 4, -1)]
        return [*new, f"manylinux2014_{self.machine}", f"manylinux1_{self.machine}", f"linux_{self.machine}"]

    def environment(self) -> dict[str, str]:
        """The values of PEP 508's markers on the target, and no extra."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.2",
            "python_version": self.python,
            "sys_platform": "linux",
            "extra": "",
        }


class Pin(NamedTuple):
    """One entry of requirements.lock; `hashes` as pip writes them, "sha256:..."."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]

    def line(self) -> str:
        return f"{self.name}=={self.version} {' '.join(f'--hash={h}' for h in self.hashes)}"


# ---------------------------------------------------------------- decisions


def read_lock(text: str) -> list[Pin]:
    """The entries of a lock file as uv and pip-tools write them."""
    pins = []
    for entry in re.split(r"\n(?=\S)", text.strip()):
        head, *rest = entry.replace("\\\n", " ").split("--hash=")
        requirement, _, marker = head.partition(";")
        name, equals, version = requirement.strip().partition("==")
        if not equals:
            raise WheelhouseError(
                f"requirements.lock: {requirement.strip()!r} is not pinned by ==; see tools/README.md"
            )
        pins.append(Pin(canonicalize_name(name), version, marker.strip(), tuple(h.strip() for h in rest)))
    return pins


def pins_for(pins: Iterable[Pin], target: Target) -> dict[str, Pin]:
    """The entries that hold on the target, by name."""
    return {p.name: p for p in pins if not p.marker or Marker(p.marker).evaluate(target.environment())}


def needed(requirements: Iterable[str], extras: Iterable[str], target: Target) -> set[tuple[str, frozenset[str]]]:
    """Names and extras that a package with these Requires-Dist lines wants on the target."""
    found: set[tuple[str, frozenset[str]]] = set()
    for text in requirements:
        requirement = Requirement(text)
        for extra in (*extras, ""):
            marker = requirement.marker
            if marker is None or marker.evaluate({**target.environment(), "extra": extra}):
                found.add((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return found


def version_of(project_version: str, files: Mapping[str, str]) -> str:
    """`<project version>-<12 hex>` from SHA-256 (hex) by file name: of the wheels and requirements.txt.

    The hash is over what `sha256sum *.whl requirements.txt` prints, sorted by name in the C locale.
    """
    text = "".join(f"{files[name]}  {name}\n" for name in sorted(files))
    return f"{project_version}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def requirements_text(wheels: Mapping[str, str]) -> str:
    """requirements.txt from SHA-256 (hex) by wheel's file name; pip is left out."""
    lines = []
    for file in sorted(wheels):
        name, version = file.split("-")[:2]
        if name != "pip":
            lines.append(f"{canonicalize_name(name)}=={version} \\\n    --hash=sha256:{wheels[file]}\n")
    return "".join(lines)


# ---------------------------------------------------------------- the project's own wheel


def project() -> tuple[str, dict[str, list[str]]]:
    """The project's version, and its requirements: by extra, "" for those that everybody has."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table["version"], {"": table["dependencies"], **table["optional-dependencies"]}


def sources() -> list[Path]:
    """The files that the project's wheel is made of, sorted."""
    found = [ROOT / name for name in FILES]
    for top in SOURCES:
        found += [p for p in (ROOT / top).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return sorted(found)


def build_own(folder: Path) -> Path:
    """The project's wheel in `folder`: from a copy, so that neither old build folders nor umask and times show."""
    with tempfile.TemporaryDirectory(prefix="edged-wheel-") as name:
        copy = Path(name)
        for source in sources():
            target = copy / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
            target.chmod(0o644)
        for path in copy.rglob("*"):
            os.utime(path, (EPOCH, EPOCH))
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONOPTIMIZE")}
        environment |= {"SOURCE_DATE_EPOCH": str(EPOCH), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
        build = f"import setuptools.build_meta as backend; backend.build_wheel({os.fspath(folder)!r})"
        run([sys.executable, "-c", build], copy, environment, "making the project's wheel")
    return next(folder.glob("edged-*.whl"))


# ---------------------------------------------------------------- the others


def requires(wheel: Path) -> list[str]:
    """The Requires-Dist lines of a wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
        return Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []


def gather(target: Target, extras: Sequence[str], pins: Mapping[str, Pin], folder: Path) -> list[Path]:
    """The wheels of the project's dependencies, and theirs, and pip: fetched in rounds until nothing is missing."""
    _, direct = project()
    wanted = {("pip", frozenset[str]())}.union(*(needed(direct[extra], (), target) for extra in ("", *extras)))
    if target.arch == "armhf":
        build_foreign(target, pins, folder)
    have: dict[str, Path] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    while fresh := wanted - seen:
        names = sorted({name for name, _ in fresh} - set(have))
        for name in names:
            if name not in pins:
                raise WheelhouseError(
                    f"requirements.lock has no {name} for Python {target.python}; see tools/README.md"
                )
        if names:
            have |= fetch(target, [pins[n] for n in names], folder)
        seen |= fresh
        for name, chosen in fresh:
            wanted |= needed(requires(have[name]), sorted(chosen), target)
    return sorted(have.values())


def fetch(target: Target, pins: Sequence[Pin], folder: Path) -> dict[str, Path]:
    """Wheels of these pins, by name; those that are in the folder already are taken as they are."""
    there = wheels_in(folder)
    download(target, [p for p in pins if p.name not in there], folder)
    there = wheels_in(folder)
    return {p.name: there[p.name] for p in pins}


def wheels_in(folder: Path) -> dict[str, Path]:
    return {canonicalize_name(w.name.split("-")[0]): w for w in folder.glob("*.whl")}


def build_foreign(target: Target, pins: Mapping[str, Pin], folder: Path) -> None:
    """The wheels that the index lacks for 32-bit ARM, in `folder`: by a program of its own, as it needs root."""
    words = [word for name in HELPERS for word in ("--helper", pins[name].line())]
    words += [pins[name].line() for name in BUILT_FOR_ARMHF]
    program = os.fspath(ROOT / "tools" / "foreign_wheels.py")
    argv = [sys.executable, program, "--python", target.python, "--output", os.fspath(folder), *words]
    run(argv, folder, None, "building wheels for 32-bit ARM")


def download(target: Target, pins: Sequence[Pin], folder: Path) -> None:
    if not pins:
        return
    listed = folder / "wanted.txt"
    listed.write_text("".join(f"{p.line()}\n" for p in pins))
    pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
    pip += ["--only-binary=:all:", "--require-hashes", "--implementation=cp", f"--python-version={target.python}"]
    pip += [word for platform in target.platforms() for word in ("--platform", platform)]
    names = ", ".join(p.name for p in pins)
    try:
        run([*pip, "-r", os.fspath(listed), "-d", os.fspath(folder)], folder, None, f"fetching wheels ({names})")
    finally:
        listed.unlink()


def cached(target: Target, extras: Sequence[str], pins: Mapping[str, Pin]) -> Path:
    """The folder of the dependencies' wheels, from the cache if the lock and the wish are the same as before."""
    _, direct = project()
    wish = [*target, *extras, *target.platforms(), *(r for e in ("", *extras) for r in direct[e])]
    lock = sorted(p.line() for p in pins.values())
    key = hashlib.sha256("\0".join([*wish, *lock]).encode()).hexdigest()[:16]
    kept = CACHE / f"{target.arch}-{target.python}-{key}"
    if not kept.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="fetching-", dir=CACHE) as name:
            folder = Path(name) / "wheels"
            folder.mkdir()
            gather(target, extras, pins, folder)
            try:
                folder.rename(kept)
            except OSError:
                if not kept.is_dir():  # else somebody else was faster
                    raise
    return kept


# ---------------------------------------------------------------- all together


def make(output: Path, target: Target, extras: Sequence[str]) -> tuple[str, bool]:
    """The wheelhouse in `output`; its VERSION and whether anything had to be changed for it.

    It is replaced as a whole: an interrupted run leaves the old one or none.
    """
    version, _ = project()
    pins = pins_for(read_lock((ROOT / "requirements.lock").read_text()), target)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as name:
        folder = Path(name) / "wheelhouse"
        folder.mkdir(mode=0o755)
        build_own(folder)
        for wheel in cached(target, extras, pins).glob("*.whl"):
            shutil.copyfile(wheel, folder / wheel.name)
        (folder / "requirements.txt").write_text(requirements_text(digests(folder)))
        made = version_of(version, digests(folder))
        (folder / "VERSION").write_text(f"{made}\n")
        if digests(output) == digests(folder) and (output / "VERSION").is_file():
            return made, False
        if output.is_dir() and any(output.iterdir()) and not (output / "VERSION").is_file():
            raise WheelhouseError(f"{output} is not empty and no wheelhouse: name another --output, or empty it")
        shutil.rmtree(output, ignore_errors=True)
        folder.rename(output)
    return made, True


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) by name of all that VERSION is a hash over."""
    files = [p for p in folder.glob("*") if p.suffix == ".whl" or p.name == "requirements.txt"]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def archive(folder: Path) -> None:
    """DIR.tar: the same for the same files; not compressed, as wheels are."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.mtime, entry.mode, entry.uid, entry.gid, entry.uname, entry.gname = 0, 0o644, 0, 0, "", ""
        return entry

    new = folder.with_name(f".{folder.name}-{os.getpid()}.tar")
    with tarfile.open(new, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name, recursive=False, filter=plain)
    new.rename(folder.with_name(f"{folder.name}.tar"))


def run(argv: Sequence[str], folder: Path, environment: Mapping[str, str] | None, what: str) -> None:
    done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False, umask=0o022)
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()[-3000:]
        hint = "\nrun `make setup`, and use .venv/bin/python" if "No module named" in said else ""
        raise WheelhouseError(f"{what} failed:\n{said}{hint}")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Gather the wheels that a node or a hub is installed from.")
    parser.add_argument("--output", type=Path, required=True, help="folder to make or to replace")
    parser.add_argument("--arch", choices=["amd64", "arm64", "armhf"], required=True, help="as Debian calls it")
    parser.add_argument("--python", choices=PYTHONS, required=True, help="3.11 is Debian 12's, 3.13 is Debian 13's")
    parser.add_argument("--tar", action="store_true", help="make DIR.tar as well")
    parser.add_argument("--extra", choices=EXTRAS, action="append", default=[], help="hub for a hub; may be repeated")
    arguments = parser.parse_args(words)
    try:
        version, changed = make(
            arguments.output.resolve(), Target(arguments.arch, arguments.python), sorted(set(arguments.extra))
        )
    except WheelhouseError as e:
        print(f"wheelhouse: {e}", file=sys.stderr)
        return 1
    if arguments.tar:
        archive(arguments.output.resolve())
    print(version)
    if not changed:
        print("it was there already", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
