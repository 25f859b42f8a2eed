#!/usr/bin/python3 -IS
"""edged-version: the versions of edged on this machine, and the way back from one that doesn't get ready.

edged-version [--root /opt/edged] COMMAND

  install WHEELHOUSE    make versions/VERSION from a folder or a .tar of tools/wheelhouse.py; no network is needed
  switch VERSION        the next start is VERSION's, on trial; --again also where it has failed before
  rollback              back to the version before; it takes effect with the next start
  list [--json]         the versions, which one is in use, which have failed, why and when
  prune --keep N        remove all but the newest N; never one that is current, previous, on trial or running
  starting, confirm [--after SECONDS], ended     for units: ExecStartPre=, ExecStartPost=, ExecStopPost=

    ROOT/versions/VERSION/         a virtual environment; it counts once it has its mark, VERSION/.whole
    ROOT/current                   a link to one of them, replaced by rename(2): always one whole version or the other
    ROOT/versions.json             the trial, the versions that were good, those that have failed

A trial: `switch` writes it down, then moves the link. `starting` counts each start, `confirm` ends the trial once the
service is ready (and has lived for a while); where ATTEMPTS starts were not enough, `starting` moves the link back.
Whatever goes wrong, a crash, a hang, a watchdog, a power cut, it comes back to the next `starting`. So this needs no
network, nobody who watches, and nothing of the versions themselves: the system's Python and its standard library.
One file, longer than others are, because it is copied to ROOT/bin and has to work there alone.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

ATTEMPTS = 3  # starts: one may be lost to a power cut and one to a card that was busy
REMEMBERED = 16  # failures and good versions that are kept in mind
RECORD, MARK = "versions.json", ".whole"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")


class RefusedError(Exception):
    """With a sentence for whoever asked: what is wrong and what to do next."""


# ---------------------------------------------------------------- what is known


@dataclass(frozen=True, slots=True)
class Trial:
    """:ivar previous: where to go back to; None where there was nothing. :ivar attempts: starts so far.
    :ivar last: how the last start ended, as far as `ended` was told."""

    version: str
    previous: str | None
    attempts: int = 0
    last: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    why: str
    when: str  # by this board's clock, which may be wrong by decades


@dataclass(frozen=True, slots=True)
class Record:
    """versions.json. :ivar good: versions that were in use without a trial, the newest last."""

    trial: Trial | None = None
    good: tuple[str, ...] = ()
    failed: Mapping[str, Failure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seen:
    """What is on the disk. :ivar current: where the link leads, whole or not. :ivar whole: the newest last."""

    current: str | None = None
    whole: tuple[str, ...] = ()


# ---------------------------------------------------------------- what to do about it


@dataclass(frozen=True, slots=True)
class Write:
    record: Record


@dataclass(frozen=True, slots=True)
class Point:
    version: str


@dataclass(frozen=True, slots=True)
class Remove:
    version: str


@dataclass(frozen=True, slots=True)
class Say:
    text: str


Step = Write | Point | Remove | Say
# Each step is durable before the next one begins, and the power may go between any two: what `starting` then finds
# must tell it where we were. A switch writes the trial before it moves the link; a way back moves the link first. So a
# trial of another version than the current one is a switch that was cut off (no attempt) or a way back (attempts).


def switch(record: Record, seen: Seen, version: str, again: bool = False) -> tuple[Step, ...]:
    if version not in seen.whole:
        raise RefusedError(f"{version} isn't installed; there is {', '.join(seen.whole) or 'no version at all'}")
    if version in record.failed and not again:
        failure = record.failed[version]
        raise RefusedError(f"{version} failed at {failure.when}: {failure.why}; `switch --again` tries it once more")
    trial = record.trial
    if version == seen.current and (trial is None or trial.version == version):
        return (Say(f"{version} is current already"),)
    base = trial.previous if trial else seen.current
    base = base if base in seen.whole else None
    failed = {name: f for name, f in record.failed.items() if name != version}
    if version == base and trial:
        return Point(version), Write(Record(None, _with(record.good, version), failed)), Say(f"back to {version}")
    good = _with(record.good, base) if base else record.good
    told = f"else back to {base}" if base else "there is nothing to go back to"
    return (
        Write(Record(Trial(version, base), good, failed)),
        Point(version),
        Say(f"the next start is {version}'s, on trial: {ATTEMPTS} starts to get ready, {told}"),
    )


def starting(record: Record, seen: Seen, when: str) -> tuple[Step, ...]:
    """Before each start. Writes nothing where no trial is on: a crash loop must not wear out the card."""
    trial, back = record.trial, way_back(record, seen)
    if trial is None:
        if seen.current in seen.whole:
            return ()
        if back is None:
            return (Say("`current` leads to no whole version, and there is no other: run `edged-version install`"),)
        return Point(back), Say(f"`current` led to {seen.current or 'nothing'}, which isn't whole; now to {back}")
    if trial.version != seen.current:
        kept = back or (seen.current if seen.current in seen.whole else None)
        moves = (Point(kept),) if kept is not None and kept != seen.current else ()
        if trial.attempts == 0:
            word = Say(f"the switch to {trial.version} was cut off before its first start; staying with {kept}")
            return *moves, Write(replace(record, trial=None)), word
        return *moves, Write(_failed(record, trial.version, _why(trial), when)), Say(f"back to {kept}: {_why(trial)}")
    whole = trial.version in seen.whole
    if whole and trial.attempts < ATTEMPTS:
        counted = replace(trial, attempts=trial.attempts + 1)
        word = Say(f"{trial.version} is on trial: start {counted.attempts} of {ATTEMPTS}, else back to {back}")
        return Write(replace(record, trial=counted)), word
    why = _why(trial) if whole else f"{trial.version} isn't whole"
    if back is None:
        return (Say(f"{why}; there is no other version to go back to, so it is tried again"),)
    word = Say(f"back to {back}: {why}. `edged-version list` shows it; the log of {trial.version} is in the journal")
    return Point(back), Write(_failed(record, trial.version, why, when)), word


def confirm(record: Record, seen: Seen) -> tuple[Step, ...]:
    """The service is ready. That counts for the trial only if it was this trial's start (there was an attempt), not
    the last start of the version before; where there was none before, as in an image, there is nothing to mistake."""
    trial = record.trial
    if trial is None or trial.version != seen.current or (trial.attempts == 0 and trial.previous is not None):
        return ()
    return Write(Record(None, _with(record.good, trial.version), record.failed)), Say(f"{trial.version} is good")


def ended(record: Record, seen: Seen, how: str) -> tuple[Step, ...]:
    """:param how: the service ended this way, against its will; "" where somebody has asked for it."""
    trial = record.trial
    if not how or trial is None or trial.version != seen.current or trial.attempts == 0 or trial.last == how:
        return ()
    return (Write(replace(record, trial=replace(trial, last=how))),)


def rollback(record: Record, seen: Seen, when: str) -> tuple[Step, ...]:
    back = way_back(record, seen)
    if back is None or back == seen.current:
        raise RefusedError("there is no version to go back to; `edged-version install` brings one")
    left = record if seen.current is None else _failed(record, seen.current, "rolled back by hand", when)
    return Point(back), Write(replace(left, trial=None)), Say(f"the next start is {back}'s: restart the service")


def prune(record: Record, seen: Seen, keep: int, running: Iterable[str]) -> tuple[Step, ...]:
    trial = record.trial
    needed = {seen.current, way_back(record, seen), *running, *seen.whole[-keep:]}
    needed |= {trial.version, trial.previous} if trial else set()
    return tuple(Remove(name) for name in seen.whole if name not in needed)


def way_back(record: Record, seen: Seen) -> str | None:
    """The version to go back to: whole, and not one that has failed."""
    trial = record.trial
    leaving = {seen.current, trial.version} if trial else {seen.current}
    if trial and trial.previous in seen.whole:
        return trial.previous
    usable = (v for v in reversed(record.good) if v in seen.whole and v not in leaving and v not in record.failed)
    return next(usable, None)


def _why(trial: Trial) -> str:
    last = f"; the last one ended with {trial.last}" if trial.last else ""
    return f"{trial.version} was not ready after {trial.attempts} starts{last}"


def _with(good: tuple[str, ...], version: str) -> tuple[str, ...]:
    return (*(name for name in good if name != version), version)[-REMEMBERED:]


def _failed(record: Record, version: str, why: str, when: str) -> Record:
    failed = [(name, f) for name, f in record.failed.items() if name != version]
    good = tuple(name for name in record.good if name != version)
    return Record(None, good, dict([*failed, (version, Failure(why, when))][-REMEMBERED:]))


# ---------------------------------------------------------------- the disk


class Disk:
    """The only place with effects. Each method returns once what it did survives a power cut."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.versions = root / "versions"

    def lock(self, folder: Path, patiently: bool = True) -> int:
        """flock(2) on a folder: of the root for versions.json and the link, of versions/ while one is being made."""
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if patiently else fcntl.LOCK_NB))
        return descriptor

    def seen(self) -> Seen:
        try:
            current: str | None = (self.root / "current").readlink().name
        except OSError:
            current = None
        marks = []
        for name in self.folders():
            try:
                marks.append(((self.versions / name / MARK).stat().st_mtime_ns, name))
            except OSError:
                continue
        return Seen(current, tuple(name for _, name in sorted(marks)))

    def folders(self) -> list[str]:
        try:
            return sorted(folder.name for folder in self.versions.iterdir() if NAME.fullmatch(folder.name))
        except OSError:
            return []

    def record(self) -> Record:
        """Nothing where there is none; and where it can't be read, which no power cut can bring about."""
        try:
            said = json.loads((self.root / RECORD).read_text())
            trial = Trial(**said["trial"]) if said["trial"] else None
            return Record(trial, tuple(said["good"]), {v: Failure(**f) for v, f in said["failed"].items()})
        except FileNotFoundError:
            return Record()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            print(f"edged-version: {self.root / RECORD} can't be read ({e}); going on without it", file=sys.stderr)
            return Record()

    def do(self, steps: Iterable[Step]) -> None:
        for step in steps:
            match step:
                case Write(record):
                    self._replace(record)
                case Point(version):
                    self._point(version)
                case Remove(version):
                    self.remove(version)
                case Say(text):
                    print(text, flush=True)

    def _replace(self, record: Record) -> None:
        new = self.root / ".new-record"
        self.write(new, json.dumps(asdict(record), indent=1) + "\n")
        new.rename(self.root / RECORD)
        flush(self.root)

    def _point(self, version: str) -> None:
        new = self.root / ".new-current"
        new.unlink(missing_ok=True)
        new.symlink_to(f"versions/{version}")
        new.rename(self.root / "current")
        flush(self.root)

    def write(self, path: Path, text: str) -> None:
        with path.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def remove(self, version: str) -> None:
        """The mark first: what is left after a power cut counts as unfinished, and the next install or prune removes
        it."""
        import shutil

        folder = self.versions / version
        if folder.is_symlink():
            return  # an image's own, in its root: it takes no room here, and is the last way back
        (folder / MARK).unlink(missing_ok=True)
        flush(folder)
        shutil.rmtree(folder)
        flush(self.versions)

    def running(self) -> set[str]:
        """Versions that a process was started from, or has loaded a library of."""
        there = re.compile(re.escape(os.fsencode(self.versions.resolve())) + rb"/([^/\0\n]+)/")
        found: set[str] = set()
        for process in Path("/proc").glob("[0-9]*"):
            for file in ("cmdline", "maps"):
                try:
                    found |= {os.fsdecode(name) for name in there.findall((process / file).read_bytes())}
                except OSError:
                    continue
        return found


def flush(folder: Path) -> None:
    """fsync(2) of a folder: its names are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------- making a version

# What a version takes on the disk for each byte in its wheels: the file, its byte code, and what blocks round up.
GROWTH = 2
ROOM = 48 << 20  # bytes that must be left: what a node's state and the next update need
HASHED = re.compile(r"-[0-9a-f]{12}$")
KEPT = re.compile(r"[^/]+\.whl|requirements\.txt|VERSION")


def install(disk: Disk, wheelhouse: Path) -> str:
    """Make a version where it will stay, as a virtual environment can't be moved; it counts when it has its mark.

    :returns: its name. Refuses, and leaves nothing behind, where anything is missing or the disk is too full.
    """
    import shutil

    disk.versions.mkdir(0o755, parents=True, exist_ok=True)
    try:
        held = disk.lock(disk.versions, patiently=False)
    except BlockingIOError:
        raise RefusedError("another install is under way; wait for it") from None
    unpacked = disk.versions / ".unpacked"
    folder: Path | None = None
    try:
        shutil.rmtree(unpacked, ignore_errors=True)
        source = wheelhouse if wheelhouse.is_dir() else _unpack(wheelhouse, unpacked)
        version = _version_of(source)
        seen = disk.seen()
        for name in disk.folders():  # installs that were cut off: none is under way now, and they may fill the disk
            if name not in seen.whole and name != seen.current:
                disk.remove(name)
        if version in seen.whole:
            return version
        facts = os.statvfs(disk.versions)
        if why := too_full(disk.versions, needed_bytes(source), facts.f_bavail * facts.f_frsize):
            raise RefusedError(why)
        folder = disk.versions / version
        if folder.exists():
            disk.remove(version)  # an install that was cut off
        _build(source, folder)
        flush_all(folder)
        disk.write(folder / MARK, "")
        flush(folder)
        flush(disk.versions)
        return version
    except BaseException as e:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(e, OSError):
            raise RefusedError(f"{wheelhouse} can't be installed: {e}; nothing was left behind") from e
        raise
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
        os.close(held)


def _unpack(archive: Path, folder: Path) -> Path:
    """Only the files that a wheelhouse has, whatever their folder in the archive."""
    import shutil
    import tarfile

    folder.mkdir(0o700)
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = Path(member.name).name
                data = tar.extractfile(member) if member.isfile() and KEPT.fullmatch(name) else None
                if data is not None:
                    with (folder / name).open("wb") as file:
                        shutil.copyfileobj(data, file, 1 << 20)
    except tarfile.TarError as e:
        raise RefusedError(f"{archive} is neither a folder nor a whole .tar: {e}") from e
    return folder


def _version_of(source: Path) -> str:
    try:
        version = (source / "VERSION").read_text().strip()
    except (OSError, UnicodeDecodeError) as e:
        raise RefusedError(
            f"{source} is no wheelhouse: VERSION can't be read ({e}); tools/wheelhouse.py makes one"
        ) from e
    if not NAME.fullmatch(version):
        raise RefusedError(f"{source}/VERSION: {version!r} can't be a version's name")
    if HASHED.search(version) and not version.endswith(f"-{_hash_of(source)}"):
        raise RefusedError(f"{source} isn't whole: its files don't have the hash in {version}; copy it again")
    return version


def _hash_of(source: Path) -> str:
    """12 hex digits over what `sha256sum *.whl requirements.txt` prints, as tools/wheelhouse.py takes them."""
    import hashlib

    lines = []
    for path in sorted((*source.glob("*.whl"), source / "requirements.txt"), key=lambda p: p.name):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:12]


def needed_bytes(source: Path) -> int:
    import zipfile

    need = 0
    for path in source.glob("*.whl"):
        try:
            with zipfile.ZipFile(path) as wheel:
                need += sum(entry.file_size for entry in wheel.infolist())
        except zipfile.BadZipFile as e:
            raise RefusedError(f"{path} is damaged ({e}); copy the wheelhouse again") from e
    return need * GROWTH + ROOM


def too_full(folder: Path, need: int, free: int) -> str:
    """Why not, in bytes; "" where there is room."""
    if free >= need:
        return ""
    room = "`edged-version prune --keep 2` and `edged image prune` make room"
    return f"the disk of {folder} is too full: {need >> 20} MiB are needed, {free >> 20} are free; {room}"


def _build(source: Path, folder: Path) -> None:
    """A virtual environment with the wheels in it, and their byte code."""
    pip = next(source.glob("pip-*.whl"), None)
    if pip is None:
        raise RefusedError(f"{source} has no pip-*.whl; tools/wheelhouse.py puts one in")
    python = f"{folder}/bin/python"
    _run(folder, sys.executable, "-I", "-m", "venv", "--without-pip", f"{folder}")
    _run(
        folder,
        *(
            python,
            "-I",
            f"{pip}/pip",
            "--isolated",
            "--no-cache-dir",
            "--disable-pip-version-check",
            "install",
        ),
        *(
            "--no-index",
            "--find-links",
            f"{source}",
            "--require-hashes",
            "--no-deps",
            "--only-binary=:all:",
            "--no-compile",
        ),
        *("--quiet", "--no-warn-script-location", "--requirement", f"{source}/requirements.txt"),
    )
    # Unchecked: nobody edits a version, and a board's clock may have been anywhere. Not for -OO: no unit runs with it,
    # and it took as long again. A file that can't be compiled is compiled when it is used, so that is no failure.
    compiled = ("-q", "--invalidation-mode", "unchecked-hash", f"{folder}/lib")
    _run(folder, python, "-I", "-m", "compileall", *compiled, needed=False)


def _run(folder: Path, *argv: str, needed: bool = True) -> None:
    import subprocess

    temporary = folder / "tmp"  # /tmp may be in memory, and small
    temporary.mkdir(parents=True)
    environment = {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "LANG": "C.UTF-8"}
    environment["TMPDIR"] = str(temporary)
    done = subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    temporary.rmdir()
    if done.returncode and needed:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise RefusedError(f"{' '.join(argv[:5])} ... ended with {done.returncode}, nothing was left behind:\n{said}")


def flush_all(folder: Path) -> None:
    """syncfs(2), which tells of errors since Linux 5.8; Python has no name for it."""
    import ctypes

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            raise OSError(ctypes.get_errno(), "what was written could not be flushed to the disk")
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------- what it says


def listed(record: Record, seen: Seen, folders: Iterable[str], running: Iterable[str]) -> dict[str, object]:
    """`list --json`: {current, previous, trial: null | {version, previous, attempts, last}, versions: [{version, whole,
    current, running, failed: null | {why, when}}]}; those that have failed and are gone are among them."""
    running = set(running)
    names = [*seen.whole, *sorted((set(folders) | set(record.failed)) - set(seen.whole))]
    return {
        "current": seen.current,
        "previous": way_back(record, seen),
        "trial": asdict(record.trial) if record.trial else None,
        "versions": [
            {
                "version": name,
                "whole": name in seen.whole,
                "current": name == seen.current,
                "running": name in running,
                "failed": asdict(record.failed[name]) if name in record.failed else None,
            }
            for name in names
        ],
    }


def told(record: Record, seen: Seen, folders: Iterable[str], running: Iterable[str]) -> str:
    """`list`, for people."""
    trial, running, folders = record.trial, set(running), set(folders)
    back = way_back(record, seen)
    lines = []
    for name in [*seen.whole, *sorted((folders | set(record.failed)) - set(seen.whole))]:
        words = [word for word, holds in (("running", name in running), ("previous", name == back)) if holds]
        if trial and name == trial.version:
            words.append(
                f"on trial: {trial.attempts} of {ATTEMPTS} starts{trial.last and ', last ended with '}{trial.last}"
            )
        if name in record.failed:
            words.append(f"failed at {record.failed[name].when}: {record.failed[name].why}")
        if name not in seen.whole:
            words.append("unfinished" if name in folders else "removed")
        lines.append(f"{'*' if name == seen.current else ' '} {name}  {'; '.join(words)}".rstrip())
    return "\n".join(lines) or "no version is installed"


# ---------------------------------------------------------------- the command


def main(argv: list[str]) -> int:
    import argparse

    parser = argparse.ArgumentParser(prog="edged-version", description="The versions of edged on this machine.")
    parser.add_argument("--root", type=Path, default=Path("/opt/edged"), help="where they are (%(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install").add_argument("wheelhouse", type=Path)
    switching = commands.add_parser("switch")
    switching.add_argument("version")
    switching.add_argument("--again", action="store_true", help="also if it has failed before")
    commands.add_parser("list").add_argument("--json", action="store_true")
    commands.add_parser("prune").add_argument("--keep", type=int, required=True)
    commands.add_parser("confirm").add_argument("--after", type=float, default=0.0, help="seconds that it has to live")
    for name in ("rollback", "starting", "ended"):
        commands.add_parser(name)
    args = parser.parse_args(argv)
    disk = Disk(args.root)
    try:
        return _obey(disk, args)
    except (RefusedError, OSError) as e:
        print(f"edged-version: {e}", file=sys.stderr)
        return 1


def _obey(disk: Disk, args: argparse.Namespace) -> int:
    if args.command == "install":
        print(install(disk, args.wheelhouse))
        return 0
    if args.command == "list":
        facts = disk.record(), disk.seen(), disk.folders(), disk.running()
        print(json.dumps(listed(*facts), indent=1) if args.json else told(*facts))
        return 0
    if args.command == "confirm" and disk.record().trial and not lives(args.after):
        return 1
    disk.root.mkdir(0o755, parents=True, exist_ok=True)
    disk.lock(disk.root)  # until we end
    record, seen, when = disk.record(), disk.seen(), now()
    match args.command:
        case "switch":
            disk.do(switch(record, seen, args.version, args.again))
        case "rollback":
            disk.do(rollback(record, seen, when))
        case "prune":
            prune_all(disk, args.keep)
        case "starting":
            start(disk, record, seen, when)
        case "confirm":
            disk.do(confirm(record, seen))
        case "ended":
            disk.do(ended(record, seen, how_it_ended(os.environ)))
    return 0


def start(disk: Disk, record: Record, seen: Seen, when: str) -> None:
    """A disk that takes no more words can't count starts, so it gets no trials either; a link still fits."""
    try:
        disk.do(starting(record, seen, when))
    except OSError as e:
        print(f"edged-version: {disk.root / RECORD} can't be written: {e}", file=sys.stderr)
        back = way_back(record, seen)
        if record.trial and record.trial.version == seen.current and back:
            disk.do((Point(back), Say(f"back to {back}: no trial can be held on a disk that can't be written")))


def prune_all(disk: Disk, keep: int) -> None:
    if keep < 1:
        raise RefusedError("--keep must be 1 or more")
    try:
        held = disk.lock(disk.versions, patiently=False)
    except BlockingIOError:
        raise RefusedError("an install is under way; wait for it") from None
    seen = disk.seen()
    unfinished = tuple(Remove(name) for name in disk.folders() if name not in seen.whole and name != seen.current)
    disk.do((*prune(disk.record(), seen, keep, disk.running()), *unfinished))
    os.close(held)


def lives(seconds: float) -> bool:
    """Whether the unit's main process (systemd.exec(5), MAINPID) is there for so long."""
    import select

    pid = os.environ.get("MAINPID", "")
    if not seconds or not pid:
        return True
    try:
        process = os.pidfd_open(int(pid))
    except OSError:
        return False
    return not select.select([process], [], [], seconds)[0]


def how_it_ended(environment: Mapping[str, str]) -> str:
    """From what ExecStopPost= is given (systemd.exec(5)); "" where it ended as somebody wished."""
    result = environment.get("SERVICE_RESULT", "success")
    detail = " ".join(filter(None, (environment.get("EXIT_CODE"), environment.get("EXIT_STATUS"))))
    return "" if result == "success" else f"{result}{detail and f' ({detail})'}"


def now() -> str:
    import time

    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
