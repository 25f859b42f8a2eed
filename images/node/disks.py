"""From folders to one disk image: partition table and file systems, written in place without mounts or loop devices.

Every byte is a function of the folders, the layout and the names: see README.md, "The same bytes".
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from images.node.boards import BOOT_LABEL, DATA_LABEL, ROOT_LABEL
from images.node.layout import SECTOR, Layout, Names, Partition
from images.node.programs import run

BLOCK = 4096  # bytes: one page; mke2fs would take 1024 for a small data partition, and keep it when that has grown
FIRST_INODE = 11  # lost+found; those before it are ext4's own and have the time of the making


def content_bytes(folder: Path) -> int:
    """What the files of a folder need on ext4, whose blocks are whole; a hard link counts once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for base, folders, files in os.walk(folder):
        for name in (*folders, *files):
            status = Path(base, name).lstat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            blocks = -(-status.st_size // BLOCK) if stat.S_ISREG(status.st_mode) else 1
            total += blocks * BLOCK + 256  # and its inode
    return total


def clamp_times(folder: Path, epoch: int) -> None:
    """No file is newer than `epoch`."""
    for base, folders, files in os.walk(folder, topdown=False):
        for name in (*folders, *files, "."):
            path = Path(base, name)
            mtime = min(int(path.lstat().st_mtime), epoch)
            os.utime(path, (mtime, mtime), follow_symlinks=False)


def make_disk(image: Path, plan: Layout, names: Names, boot: Path, root: Path, data: Path, epoch: int) -> None:
    with image.open("wb") as file:
        file.truncate(plan.size)
    run("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", os.fspath(image), given=plan.script())
    _make_fat(image, plan.boot, names.boot, boot, epoch)
    _make_ext4(image, plan.root, names.root, ROOT_LABEL, root, epoch)
    # Limits for volumes (docs/storage.md) can't be switched on while a file system is mounted.
    _make_ext4(image, plan.data, names.data, DATA_LABEL, data, epoch, "has_journal,quota,project", "quotatype=prjquota")


def _make_fat(image: Path, where: Partition, volume_id: str, folder: Path, epoch: int) -> None:
    """In the order of names: FAT keeps the order in which files came."""
    run(
        *("mkfs.vfat", "--invariant", "-F", "32", "-s", "4", "-S", str(SECTOR), "-n", BOOT_LABEL, "-i", volume_id),
        *("-h", str(where.start // SECTOR), "--offset", str(where.start // SECTOR)),
        *(os.fspath(image), str(where.size // 1024)),
        epoch=epoch,
    )
    drive = f"{image}@@{where.start}"
    for path in sorted(folder.rglob("*")):
        name = f"::{path.relative_to(folder)}"
        if path.is_dir():
            run("mmd", "-i", drive, name, epoch=epoch)
        else:
            run("mcopy", "-m", "-i", drive, os.fspath(path), name, epoch=epoch)


def _make_ext4(
    image: Path,
    where: Partition,
    uuid: str,
    label: str,
    folder: Path,
    epoch: int,
    features: str = "has_journal",
    *extended: str,
) -> None:
    extended = (
        *(f"offset={where.start}", f"hash_seed={uuid}", "root_owner=0:0"),
        *("lazy_itable_init=0", "lazy_journal_init=0", *extended),
    )
    run(
        *("mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK), "-I", "256", "-i", "16384", "-m", "1"),
        *("-L", label, "-U", uuid, "-O", features, "-E", ",".join(extended), "-d", os.fspath(folder)),
        *(os.fspath(image), f"{where.size // 1024}k"),
        epoch=epoch,
    )
    # mke2fs counts for the quotas before it copies. 1: something was mended.
    run("e2fsck", "-fy", f"{image}?offset={where.start}", epoch=epoch, fine=(0, 1))
    _set_times_of_build(image, where, epoch)


def _set_times_of_build(image: Path, where: Partition, epoch: int) -> None:
    """mke2fs takes over ctime, which no program can set on a file, and atime, which its own reading of a symbolic link
    changes: both are times of the build. Set in the image."""
    device = f"{image}?offset={where.start}"
    counts = run("debugfs", "-R", "stats -h", device, epoch=epoch)
    found = {k: int(v) for k, v in re.findall(r"^(Inode count|Free inodes):\s+(\d+)$", counts, re.MULTILINE)}
    last = found["Inode count"] - found["Free inodes"]
    inodes = (2, *range(FIRST_INODE, last + 1))
    lines = [f"sif <{inode}> {field} @{epoch}\n" for inode in inodes for field in ("ctime", "atime")]
    run("debugfs", "-w", "-f", "-", device, given="".join(lines), epoch=epoch)
