"""Carries steps out, each on the disk before the next begins. The only part that changes a board."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import assert_never

from .steps import Grow, Link, MakeHostKey, Put, Remove, Scrub, SetHostname, Step, Tell, Wipe

BOOT = "/boot/firmware"
FILL = ".edged-fill"
CHUNK = 1 << 20  # bytes
LARGEST_FILL = 2 << 30  # bytes; our boot partitions have 256 MiB, and nothing grows without a bound
PATIENCE = 600.0  # seconds for a program; growing a file system on a slow card is the longest
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}

Run = Callable[..., "subprocess.CompletedProcess[str]"]


class FailedError(Exception):
    """A sentence: what could not be done to this board."""


def run(argv: Sequence[str], given: str = "") -> subprocess.CompletedProcess[str]:
    """A program of the system's, or of edged's; never raises for how it ended."""
    try:
        return subprocess.run(
            argv, input=given, env=ENVIRONMENT, cwd="/", capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        return subprocess.CompletedProcess(argv, 1, "", f"{argv[0]}: {e}")


def say(text: str) -> None:
    sys.stderr.write(text.replace("\r\n", "\n").rstrip() + "\n")
    sys.stderr.flush()


class Board:
    """The machine below `root`.

    :param device: what the boot partition is mounted from; None where it isn't there.
    :param moment: called between any two changes; tests cut the power in it.
    :ivar failures: what went wrong and didn't stop the rest.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        device: Path | None = None,
        run: Run = run,
        set_hostname: Callable[[str], None] = socket.sethostname,
        moment: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = say,
        largest_fill: int = LARGEST_FILL,
    ) -> None:
        self._root = root
        self._device = device
        self._run = run
        self._set_hostname = set_hostname
        self._moment = moment
        self.say = say
        self._largest_fill = largest_fill
        self._remounted = False
        self.failures: list[str] = []

    def at(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def boot(self, name: str) -> Path:
        return self.at(BOOT) / name

    def carry_out(self, steps: Iterable[Step]) -> None:
        """:raises FailedError: with the sentence; the steps before it are done and stay so."""
        try:
            for step in steps:
                if not isinstance(step, Tell):
                    self.say(f"first boot: {step.describe()}")
                try:
                    self._do(step)
                except OSError as e:
                    raise FailedError(f"{step.describe()}: {e}") from e
            if self.failures:
                self._tell("edged-error.txt", "".join(f"{failure}\r\n" for failure in self.failures))
        finally:
            self._protect_boot()

    def _do(self, step: Step) -> None:
        match step:
            case Put(path, content, mode):
                self._put(self.at(path), content, mode)
            case Link(path, target):
                self._link(self.at(path), target)
            case Remove(path):
                self._moment()
                self.at(path).unlink(missing_ok=True)
                sync_folder(self.at(path).parent)
            case MakeHostKey(path):
                self._host_key(self.at(path))
            case Grow():
                self._grow(step)
            case SetHostname(name):
                self._set_hostname(name)
            case Wipe(name):
                self._wipe(name)
            case Scrub(secrets):
                self._scrub(secrets)
            case Tell():
                self._tell(step.file, step.text)
            case _:
                assert_never(step)

    # ------------------------------------------------------------ files

    def _put(self, path: Path, content: bytes, mode: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.new")
        self._moment()
        part.unlink(missing_ok=True)
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)
            self._moment()
            file.write(content)
            file.flush()
            os.fsync(fd)
        self._moment()
        part.rename(path)
        # Again: where a FAT's file begins is in its name's entry, which after a rename has that only when synced anew.
        sync_file(path)
        sync_folder(path.parent)

    def _link(self, path: Path, target: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.new")
        self._moment()
        part.unlink(missing_ok=True)
        part.symlink_to(target)
        self._moment()
        part.rename(path)
        sync_folder(path.parent)

    def _host_key(self, path: Path) -> None:
        """Ed25519 alone: every ssh of the last ten years knows it, and an RSA key takes a small board a minute."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.new")
        for old in (part, part.with_name(f"{part.name}.pub")):
            old.unlink(missing_ok=True)
        self._moment()
        done = self._run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "edged", "-f", os.fspath(part)])
        if done.returncode:
            raise FailedError(f"ssh-keygen: {done.stderr.strip()}")
        for made, wanted in ((part.with_name(f"{part.name}.pub"), path.with_name(f"{path.name}.pub")), (part, path)):
            sync_file(made)
            self._moment()
            made.rename(wanted)  # the key last: it is the one that is looked for
        sync_folder(path.parent)

    def _grow(self, step: Grow) -> None:
        """growpart changes one sector (of an MBR), the kernel then grows the file system under its journal: the power
        may go at any moment. A board that can't be grown is a board all the same."""
        self._moment()
        done = self._run(["growpart", step.disk, str(step.number)])
        if done.returncode and "NOCHANGE" not in done.stdout:
            self.failures.append(f"The data partition could not be grown: {(done.stderr or done.stdout).strip()}")
            return
        self._moment()
        done = self._run(["/lib/systemd/systemd-growfs", step.mount])
        if done.returncode:
            self.failures.append(f"The data partition's file system could not be grown: {done.stderr.strip()}")

    # ------------------------------------------------------------ the boot partition

    def _open_boot(self) -> None:
        """Mounted read-only except while something is written: a FAT has no journal."""
        if self._device is None or self._remounted or not os.statvfs(self.at(BOOT)).f_flag & os.ST_RDONLY:
            return
        done = self._run(["mount", "-o", "remount,rw", BOOT])
        if done.returncode:
            raise FailedError(f"the boot partition can't be written: {done.stderr.strip()}")
        self._remounted = True

    def _protect_boot(self) -> None:
        if self._remounted:
            self._run(["mount", "-o", "remount,ro", BOOT])
            self._remounted = False

    def _tell(self, name: str, text: str) -> None:
        if text:
            self.say(f"{name}: {text}")
        path = self.boot(name)
        if self._device is None or not (text or path.exists()):
            return
        if path.exists() and path.read_bytes() == text.encode():
            return  # a board that is started with the same mistake every day wears out no card
        self._open_boot()
        if text:
            self._put(path, text.encode(), 0o644)
        else:
            self._moment()
            path.unlink()
            sync_folder(path.parent)

    def _wipe(self, name: str) -> None:
        path = self.boot(name)
        self._open_boot()
        with path.open("r+b", buffering=0) as file:
            cluster = os.statvfs(path).f_bsize
            left = -(-max(os.fstat(file.fileno()).st_size, 1) // cluster) * cluster
            while left > 0:
                self._moment()
                left -= file.write(bytes(min(left, cluster)))
                os.fsync(file.fileno())
        self._moment()
        path.unlink()
        sync_folder(path.parent)

    def _scrub(self, secrets: tuple[str, ...]) -> None:
        if self._device is None:
            return
        wanted = patterns(secrets)
        if wanted and not holds(self._device, wanted):
            return
        self._open_boot()
        self._fill()
        if wanted and holds(self._device, wanted):
            self.failures.append(
                "edged.toml was wiped, but what was secret in it is still on this partition, in another file: a copy "
                "that an editor or you made. Remove it, and change the Wi-Fi's password if others had the card."
            )

    def _fill(self) -> None:
        """Every free cluster is written once, through the file system: nothing else can be hit."""
        path = self.boot(FILL)
        zeros = bytes(CHUNK)
        with path.open("wb", buffering=0) as file:
            try:
                for _ in range(0, self._largest_fill, CHUNK):
                    self._moment()
                    file.write(zeros)
            except OSError as e:
                if e.errno not in (errno.ENOSPC, errno.EFBIG):
                    raise
            os.fsync(file.fileno())
        self._moment()
        path.unlink()
        sync_folder(path.parent)


def patterns(secrets: Iterable[str]) -> tuple[bytes, ...]:
    """As editors write them."""
    return tuple(secret.encode(code) for secret in secrets for code in ("utf-8", "utf-16-le", "utf-16-be"))


def holds(device: Path, wanted: Sequence[bytes]) -> bool:
    """Whether any of them is on the device, in a file or not; read from the card itself, not from memory."""
    os.sync()
    longest = max(map(len, wanted))
    with device.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        before = b""
        while piece := file.read(CHUNK):
            part = before + piece
            if any(word in part for word in wanted):
                return True
            before = part[-longest:]
    return False


def sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(path: Path) -> None:
    """A name that was made, moved or removed is durable only with this."""
    sync_file(path)
