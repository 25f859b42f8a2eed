"""From Debian's tree to a node's: our files, the daemon, its units and images; then everything out that belongs to the
machine that built it, or that each board must make for itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from images.node import settings
from images.node.boards import BOOT_MOUNT, STATE, Board
from images.node.programs import BuildError, chroot, run
from images.node.tree import EPOCH_OF_INITRD

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
UNITS = ("edged.service", "edged-pods.service", "edged-dashboard.socket", "edged-dashboard.service")
# Each board's own, made at its first boot; and what only says how the image was built.
UNWANTED = (
    *("etc/ssh/ssh_host_*", "etc/.pwd.lock", "etc/*-", "etc/apt/apt.conf.d/99mmdebstrap"),
    *("var/lib/systemd/random-seed", "var/lib/systemd/credential.secret", "var/lib/dbus/machine-id"),
    *("var/lib/apt/lists/*", "var/lib/dpkg/*-old", "var/lib/dpkg/lock*", "var/lib/dpkg/triggers/Lock"),
    *("var/cache/apt/*", "var/cache/debconf/*-old", "var/cache/ldconfig/*", "var/log/*", "var/tmp/*", "var/backups/*"),
    *("root/.cache", "root/.bash_history", "tmp/*", "run/*"),
)
UNWANTED_DATA = ("systemd/random-seed", "systemd/credential.secret", "edged/byte-code")


class Parts(NamedTuple):
    """The folders of the three partitions."""

    boot: Path
    root: Path
    data: Path


class Wanted(NamedTuple):
    """What goes in besides Debian. :ivar wheels: of tools/wheelhouse.py. :ivar archives: of workload images.

    :ivar rootfs: folders that are copied over the tree, the later ones over the earlier ones.
    """

    board: Board
    release: str
    read_only_root: bool
    wheels: Path
    archives: tuple[Path, ...]
    rootfs: tuple[Path, ...]
    epoch: int


def furnish(tree: Path, wanted: Wanted, work: Path) -> Parts:
    """In the order of firstboot/README.md: first what the daemon has, then the script that parts the tree."""
    version = (wanted.wheels / "VERSION").read_text().strip()
    _install_daemon(tree, wanted.wheels, version, wanted.epoch)
    _import_images(tree, wanted.archives, wanted.epoch)
    mode = "ro" if wanted.read_only_root else "rw"
    run("sh", os.fspath(HERE / "lay-out.sh"), os.fspath(tree), os.fspath(work / "data"), mode)
    for folder in wanted.rootfs:
        copy_rootfs(folder, tree)
    _write(tree, _settings(wanted, version))
    for hook in settings.KERNEL_HOOKS if not wanted.board.raspberry else ():
        _write(tree, {hook: settings.KERNEL_HOOK}, 0o755)
    if wanted.read_only_root:  # a script of rootfs/ goes into the initrd, and does nothing where the root is written to
        chroot(tree, "update-initramfs", "-u", epoch=EPOCH_OF_INITRD)
    _fill_boot(tree, wanted)
    parts = Parts(work / "boot", tree, work / "data")
    clean(parts)
    (tree / BOOT_MOUNT).rename(parts.boot)
    (tree / BOOT_MOUNT).mkdir(mode=0o755)
    return parts


def copy_rootfs(source: Path, tree: Path) -> None:
    """Files as root's, 0755 where they are executable and 0644 otherwise; symbolic links as they are."""
    for path in sorted(source.rglob("*")):
        target = tree / path.relative_to(source)
        if path.name in ("__pycache__", ".gitkeep") or "__pycache__" in path.parts:
            continue
        if path.is_symlink():
            target.unlink(missing_ok=True)
            target.symlink_to(path.readlink())
        elif path.is_dir():
            target.mkdir(mode=0o755, exist_ok=True)
        else:
            target.unlink(missing_ok=True)
            shutil.copyfile(path, target)
            target.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def _settings(wanted: Wanted, version: str) -> dict[str, str]:
    board, read_only = wanted.board, wanted.read_only_root
    own = settings.raspi_firmware if board.raspberry else settings.uefi
    return {
        "usr/lib/edged/image.json": settings.about(board, wanted.release, read_only, wanted.epoch, version),
        **own(board, read_only),
    }


def _write(tree: Path, files: dict[str, str], mode: int = 0o644) -> None:
    for name, text in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)


def _install_daemon(tree: Path, wheels: Path, version: str, epoch: int) -> None:
    """As on any node, by edged-version; its trial is over, since there is nothing to go back to."""
    script = tree / "opt/edged/bin/edged-version"
    script.parent.mkdir(parents=True)
    shutil.copyfile(PROJECT / "systemd" / "edged_version.py", script)
    script.chmod(0o755)
    command = "/opt/edged/bin/edged-version"
    chroot(tree, command, "install", "/tmp/given", given=wheels, epoch=epoch)
    chroot(tree, command, "switch", version, epoch=epoch)
    chroot(tree, command, "confirm", epoch=epoch)
    for unit in UNITS:
        shutil.copyfile(PROJECT / "systemd" / unit, tree / "etc/systemd/system" / unit)
        (tree / "etc/systemd/system" / unit).chmod(0o644)


def _import_images(tree: Path, archives: Sequence[Path], epoch: int) -> None:
    """With the node's own importer and for its architecture: what is preloaded is what a person would have imported."""
    (tree / STATE).mkdir(mode=0o700, parents=True, exist_ok=True)
    for archive in archives:
        python = ("/opt/edged/current/bin/python", "-m", "edged.images", "import")
        name = f"/tmp/given/{archive.name}"
        chroot(tree, *python, name, given=archive.resolve().parent, epoch=epoch, PYTHONDONTWRITEBYTECODE="1")


def _fill_boot(tree: Path, wanted: Wanted) -> None:
    """By the hooks that an upgrade runs on the board."""
    boot = tree / BOOT_MOUNT
    boot.mkdir(parents=True, exist_ok=True)
    if wanted.board.raspberry:
        for file in sorted((tree / "usr/lib/raspi-firmware").iterdir()):
            shutil.copyfile(file, boot / file.name)
        hook = "/etc/kernel/postinst.d/z50-raspi-firmware"
        chroot(tree, hook, DEB_MAINT_PARAMS="configure")
        if not any(boot.glob("vmlinuz-*")):
            raise BuildError(f"{hook} put no kernel on the boot partition; look into it in the tree")
        return
    chroot(tree, f"/{settings.KERNEL_HOOKS[0]}")
    # UEFI starts a removable disk by this name (UEFI specification, 3.5.1.1).
    program = tree / "usr/lib/systemd/boot/efi" / wanted.board.loader
    target = boot / "EFI/BOOT" / wanted.board.loader.replace("systemd-boot", "BOOT").upper()
    target.parent.mkdir(parents=True)
    shutil.copyfile(program, target)
    if not (boot / "vmlinuz").exists():
        raise BuildError("the boot partition got no kernel; look at the hooks in /etc/kernel/postinst.d of the tree")


def clean(parts: Parts) -> None:
    """Of both: some of what Debian keeps below /var lies on the data partition by now."""
    for folder, patterns in ((parts.root, UNWANTED), (parts.data, UNWANTED_DATA)):
        for pattern in patterns:
            for path in folder.glob(pattern):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
