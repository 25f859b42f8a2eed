#!/usr/bin/env python3
"""Gathers the .debs that boards without internet need: chosen packages and whatever those depend on.

    python tools/debs.py --output DIR --arch amd64|arm64|armhf --release bookworm|trixie PACKAGE ...

    DIR/*.deb        the packages and their dependencies, without what each Debian has: the packages of priority
                     required and theirs
    DIR/SHA256SUMS   names and hashes, in the C locale's order
    DIR.tar          all of it in one file, for one transfer

apt does the work, in a private root: its lists and its caches are its own, this machine's packages are not looked at
and nothing is installed. Signatures are checked with this machine's Debian keyring, and packages come from wherever
this machine's own apt sources point. Prints how many files there are. Does nothing where DIR has been made for the same
packages; remove DIR to gather newer ones.
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
from collections.abc import Sequence
from pathlib import Path

SOURCES = ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class DebsError(Exception):
    """A sentence that says what is wrong and what to do."""


def mirrors_of(sources: str) -> tuple[str, str]:
    """The first address in apt's sources, in either of its two formats, and that of the security updates or ""."""
    found = re.findall(r"^\s*(?:URIs:\s*|deb\s+(?:\[[^\]]*\]\s+)?)(\S+)", sources, re.MULTILINE)
    if not found:
        raise DebsError("this machine's apt sources name no mirror; debs.py takes Debian's packages from there")
    security = next((address for address in found if "security" in address), "")
    return found[0].rstrip("/"), security.rstrip("/")


def base_packages(lists: str) -> list[str]:
    """The paragraphs of the packages that every Debian has, and of those that they depend on, from Packages files.

    Of several versions of a package the last one counts; of alternatives the first one that there is.
    """
    paragraphs: dict[str, str] = {}
    provided: dict[str, str] = {}
    wanted = set()
    for paragraph in filter(None, (text.strip() for text in lists.split("\n\n"))):
        name = field("Package", paragraph)
        paragraphs[name] = paragraph
        provided |= dict.fromkeys(names_in(field("Provides", paragraph)), name)
        if field("Priority", paragraph) == "required" or field("Essential", paragraph) == "yes":
            wanted.add(name)
    base: set[str] = set()
    while wanted:
        name = wanted.pop()
        base.add(name)
        for kind in ("Pre-Depends", "Depends"):
            for clause in filter(None, field(kind, paragraphs[name]).split(",")):
                words = names_in(clause, "|")
                choices = [word if word in paragraphs else provided.get(word, "") for word in words]
                found = next((c for c in choices if c in paragraphs), None)
                if found is not None and not base & set(choices):
                    wanted.add(found)
    return [paragraphs[name] for name in sorted(base)]


def field(name: str, paragraph: str) -> str:
    found = re.search(rf"^{name}: *(.*)$", paragraph, re.MULTILINE)
    return found[1] if found else ""


def names_in(text: str, separator: str = ",") -> list[str]:
    """Package names in a relationship field, without versions and architectures."""
    return [name for part in text.split(separator) if (name := re.split(r"[\s(:\[]", part.strip(), maxsplit=1)[0])]


def as_status(paragraph: str) -> str:
    """A paragraph of Packages as dpkg's status file would have it."""
    kept = re.sub(
        r"^(?:Filename|Size|MD5sum|SHA256|SHA1|Description-md5|Tag):.*(?:\n[ \t].*)*\n?",
        "",
        paragraph.strip() + "\n",
        flags=re.MULTILINE,
    )
    name, _, rest = kept.partition("\n")
    return f"{name}\nStatus: install ok installed\n{rest.rstrip()}\n"


class PrivateApt:
    """apt with a folder of its own for everything that it keeps."""

    def __init__(self, folder: Path, arch: str, release: str) -> None:
        self.folder = folder
        for name in ("lists/partial", "archives/partial", "etc", "parts"):
            (folder / name).mkdir(parents=True)
        sources = next((Path(s).read_text() for s in SOURCES if Path(s).exists()), "")
        mirror, security = mirrors_of(sources)
        places = [(mirror, release), (mirror, f"{release}-updates")]
        places += [(security, f"{release}-security")] if security else []
        lines = [f"deb [signed-by={KEYRING}] {place} {suite} main\n" for place, suite in places]
        (folder / "sources.list").write_text("".join(lines))
        (folder / "status").write_text("")
        acquire = [
            f"{text}\n"
            for text in run("apt-config", "dump", "Acquire").splitlines()
            if "IndexTargets" not in text and "Languages" not in text
        ]
        settings = {
            "APT::Architecture": arch,
            "APT::Install-Recommends": "false",
            "Dir::State": folder,
            "Dir::State::lists": folder / "lists",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder,
            "Dir::Cache::archives": folder / "archives",
            "Dir::Etc::sourcelist": folder / "sources.list",
            "Dir::Etc::sourceparts": folder / "parts",
            "Dir::Etc::preferencesparts": folder / "parts",
            "Dir::Etc::preferences": "/dev/null",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "APT::Sandbox::User": "root",
            "Debug::NoLocking": "true",
        }
        own = [f'{key} "{value}";\n' for key, value in settings.items()]
        own += [f'APT::Architectures {{ "{arch}"; }};\n']
        (folder / "apt.conf").write_text("".join([*acquire, "#clear APT::Architectures;\n", *own]))

    def get(self, *words: str) -> str:
        return run("apt-get", "-q", *words, config=self.folder / "apt.conf")

    def packages(self) -> str:
        return run("apt-cache", "dumpavail", config=self.folder / "apt.conf")


def gather(output: Path, arch: str, release: str, packages: Sequence[str]) -> int:
    wish = f"# {arch} {release} {' '.join(sorted(packages))}\n"
    sums = output / "SHA256SUMS"
    if sums.exists() and sums.read_text().startswith(wish):
        return len(list(output.glob("*.deb")))
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as name:
        apt = PrivateApt(Path(name) / "apt", arch, release)
        apt.get("update", "-o", "APT::Get::List-Cleanup=0")
        base = base_packages(apt.packages())
        (apt.folder / "status").write_text("\n".join(as_status(paragraph) for paragraph in base))
        apt.get("install", "--download-only", "--yes", "--no-install-recommends", *packages)
        new = Path(name) / "debs"
        new.mkdir(mode=0o755)
        for deb in (apt.folder / "archives").glob("*.deb"):
            deb.rename(new / deb.name.replace("%3a", ":"))
        lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in sorted(new.glob("*.deb"))]
        (new / "SHA256SUMS").write_text(wish + "".join(lines))
        archive(new, Path(name) / "debs.tar")
        shutil.rmtree(output, ignore_errors=True)
        (Path(name) / "debs.tar").rename(f"{output}.tar")
        new.rename(output)
    return len(lines)


def archive(folder: Path, target: Path) -> None:
    """A .tar that is the same for the same files; not compressed, as what is in it is."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.mtime, entry.mode, entry.uid, entry.gid, entry.uname, entry.gname = 0, 0o644, 0, 0, "", ""
        return entry

    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name, recursive=False, filter=plain)


def run(*argv: str, config: Path | None = None) -> str:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    environment |= {"APT_CONFIG": os.fspath(config)} if config else {}
    try:
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError as e:
        raise DebsError(
            f"there is no {argv[0]} here: gather the packages on a Debian, or give the boards a network"
        ) from e
    if done.returncode != 0:
        raise DebsError(f"`{' '.join(argv)}` failed:\n{(done.stdout + done.stderr).strip()[-3000:]}")
    return done.stdout


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Gather Debian packages for boards without internet.")
    parser.add_argument("--output", type=Path, required=True, help="folder to make or to replace")
    parser.add_argument("--arch", choices=["amd64", "arm64", "armhf"], required=True)
    parser.add_argument("--release", choices=["bookworm", "trixie"], required=True)
    parser.add_argument("packages", nargs="+", metavar="PACKAGE")
    arguments = parser.parse_args(words)
    try:
        count = gather(arguments.output.resolve(), arguments.arch, arguments.release, arguments.packages)
    except DebsError as e:
        print(f"debs: {e}", file=sys.stderr)
        return 1
    print(f"{count} packages in {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
