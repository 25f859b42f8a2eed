"""The one door to other programs: mmdebstrap, chroot, and those that make file systems."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

# program -> Debian package
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "mkfs.vfat": "dosfstools",
    "mcopy": "mtools",
    "sfdisk": "fdisk",
    "unshare": "util-linux",
    "tar": "tar",
}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Everything that is mounted is gone with the command, also when it is killed: it has a mount namespace of its own.
IN_CHROOT = """
set -e
tree="$1"; shift
mount --make-rprivate /
mount --rbind /proc "$tree/proc"
mount --rbind /sys "$tree/sys"
mount --rbind /dev "$tree/dev"
mount -t tmpfs run "$tree/run"
mount -t tmpfs tmp "$tree/tmp"
if [ -n "$GIVEN" ]; then
    mkdir "$tree/tmp/given"
    mount --bind "$GIVEN" "$tree/tmp/given"
fi
exec chroot "$tree" "$@"
"""


class BuildError(Exception):
    """A sentence for a person: what failed and what to do."""


def missing(arch: str, machine: str) -> list[str]:
    """Debian packages that the build needs and that are not here. :param machine: as uname says it."""
    path = f"{os.environ.get('PATH', '')}:{PATH}"
    absent = {package for tool, package in TOOLS.items() if shutil.which(tool, path=path) is None}
    foreign = {"arm64": "aarch64", "amd64": "x86_64"}[arch] != machine
    if foreign and shutil.which("arch-test", path=path) is None:
        absent |= {"arch-test", "qemu-user-static"}
    return sorted(absent)


def run(
    *argv: str,
    given: str | None = None,
    epoch: int | None = None,
    cwd: Path | None = None,
    fine: tuple[int, ...] = (0,),
) -> str:
    """What it says on stdout; BuildError with the command as one can paste it otherwise.

    :param given: its stdin. :param epoch: for tools that know SOURCE_DATE_EPOCH, and e2fsprogs' own words for it.
    :param fine: exit codes that are no failure.
    """
    environment = _environment() | _times(epoch)
    done = subprocess.run(argv, input=given, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in fine:
        said = f"{done.stdout[-2000:]}{done.stderr[-4000:]}".strip()
        raise BuildError(f"{shlex.join(argv)}\n{_end(done.returncode)}: {said}")
    return done.stdout


def chroot(tree: Path, *argv: str, given: Path | None = None, epoch: int = 0, **environment: str) -> str:
    """Run a program of the tree, emulated if it is another architecture's. :param given: a folder that it sees as
    /tmp/given."""
    passed = {"GIVEN": os.fspath(given) if given else "", "HOME": "/root", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    command = ["unshare", "--mount", "sh", "-c", IN_CHROOT, "sh", os.fspath(tree), *argv]
    done = subprocess.run(
        command,
        env={"PATH": PATH} | passed | _times(epoch) | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(
            f"in the image's tree: {shlex.join(argv)}\n{_end(done.returncode)}: "
            f"{(done.stdout[-2000:] + done.stderr[-4000:]).strip()}"
        )
    return done.stdout


def _environment() -> dict[str, str]:
    """Nothing of the caller's language and time zone gets into an image."""
    kept: Mapping[str, str] = {k: v for k, v in os.environ.items() if not k.startswith("LC_") and k != "LANGUAGE"}
    return dict(kept) | {"PATH": f"{os.environ.get('PATH', '')}:{PATH}", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def _times(epoch: int | None) -> dict[str, str]:
    names = ("SOURCE_DATE_EPOCH", "E2FSPROGS_FAKE_TIME", "E2FSCK_TIME")
    return {} if epoch is None else dict.fromkeys(names, str(epoch))


def _end(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
