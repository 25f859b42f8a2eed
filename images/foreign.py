"""Programs of other architectures from this machine's Debian archive, fetched by apt and checked by its signatures.

Nothing is installed and apt's own state is not touched: lists, status and downloads lie in a folder of ours. A list
that does not fit its signature ends it: apt would take an older package otherwise, and say so to nobody.
What was fetched is kept for a week:

    .cache/busybox/<Debian architecture>[-release]/busybox
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "busybox"
KEPT = 7 * 86400.0  # seconds: then the archive is asked for a newer one
PATIENCE = 600.0  # seconds for the lists and one package
SOURCES = ("sources.list.d/debian.sources", "sources.list")  # Debian's own files; third parties' stay out
ARCHITECTURES = {"amd64": "amd64", "arm64": "arm64", "arm/v7": "armhf", "arm/v6": "armel"}  # OCI's name -> Debian's


class FetchError(Exception):
    """The message is a sentence for a person."""


def busybox(arch: str, release_only: bool = False, cache: Path = CACHE, etc: Path = Path("/etc/apt")) -> Path:
    """The static busybox for an OCI architecture, from the cache or from Debian.

    :param release_only: without Debian's updates and its security archive: for mirrors on which those are broken.
    :param etc: where apt's settings and sources are.
    :raises FetchError: there is none, or it can't be had now.
    """
    if arch not in ARCHITECTURES:
        raise FetchError(f"Debian has no busybox-static for {arch}; name a binary with --busybox")
    debian = ARCHITECTURES[arch]
    kept = cache / (f"{debian}-release" if release_only else debian) / "busybox"
    if kept.exists() and time.time() - kept.stat().st_mtime < KEPT:
        return kept
    sources = next((etc / name for name in SOURCES if (etc / name).is_file() and (etc / name).stat().st_size), None)
    if sources is None:
        raise FetchError(f"neither {' nor '.join(SOURCES)} is in {etc}: on a machine that is no Debian use --busybox")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="apt-", dir=kept.parent) as name:
        folder = Path(name)
        package = _download("busybox-static", debian, sources, folder, release_only)
        program = folder / "busybox"
        program.write_bytes(_file_of(package, "busybox"))
        program.chmod(0o755)
        program.replace(kept)
    return kept


def options(arch: str, folder: Path) -> list[str]:
    """apt's words for a world of its own; only its proxies and keys are the machine's."""
    settings = {
        "APT::Architecture": arch,
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": os.fspath(folder / "sources"),
        "Dir::State": os.fspath(folder / "state"),
        "Dir::State::Status": os.fspath(folder / "status"),
        "Dir::Cache": os.fspath(folder / "cache"),
        "Acquire::Languages": "none",
        "Acquire::AllowInsecureRepositories": "false",
        "APT::Get::AllowUnauthenticated": "false",
        "APT::Update::Error-Mode": "any",  # an old list would bring an old package
        "APT::Sandbox::User": "root",  # the folder is ours alone
    }
    words = [f"-oAPT::Architectures::={arch}"]
    return ["-o#clear=APT::Architectures", *words, *(f"-o{key}={value}" for key, value in settings.items())]


def without_updates(text: str) -> str:
    """A .sources or .list file with the releases' own suites alone: "bookworm", not "bookworm-security"."""
    lines = []
    for line in text.splitlines():
        if line.startswith("Suites:"):
            line = " ".join(["Suites:", *(suite for suite in line.split()[1:] if "-" not in suite)])
        elif re.match(r"deb\b", line) and re.search(r"://\S+\s+\S+-\S+\s", line):
            continue
        lines.append(line)
    stanzas = "\n".join(lines).split("\n\n")
    return "\n\n".join(stanza for stanza in stanzas if not re.search(r"^Suites:\s*$", stanza, re.MULTILINE)) + "\n"


def _download(package: str, arch: str, sources: Path, folder: Path, release_only: bool) -> Path:
    for name in ("sources", "state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    text = sources.read_text()
    (folder / "sources" / sources.name).write_text(without_updates(text) if release_only else text)
    words = options(arch, folder)
    _apt(folder, *words, "update")
    _apt(folder, *words, "download", package)
    found = sorted(folder.glob("*.deb"))
    if not found:
        raise FetchError(f"apt-get download {package} for {arch} brought nothing")
    return found[0]


def _apt(folder: Path, *words: str) -> None:
    command = ["apt-get", "-qq", *words]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except FileNotFoundError as e:
        raise FetchError("there is no apt-get here; name a binary with --busybox") from e
    except subprocess.TimeoutExpired as e:
        raise FetchError(f"apt-get {words[-1]} took longer than {PATIENCE:g} s; is there a network?") from e
    if done.returncode:
        raise FetchError(
            f"apt-get {words[-1]} ended with {done.returncode}; if only an updates or security list is broken, "
            f"--release-only does without them: {done.stderr.strip()[-2000:]}"
        )


def _file_of(package: Path, name: str) -> bytes:
    """A program of a package, wherever that release keeps it (/bin or /usr/bin)."""
    done = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], capture_output=True, check=False)
    if done.returncode:
        raise FetchError(f"{package.name}: {done.stderr.decode(errors='replace').strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        for member in tar:
            if member.isreg() and member.name.endswith(f"bin/{name}"):
                file = tar.extractfile(member)
                assert file is not None
                return file.read()
    raise FetchError(f"{package.name} has no {name}")
