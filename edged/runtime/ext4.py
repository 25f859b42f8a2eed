"""What has to be known of ext4 to keep one in a file: how large, how made, and whether it wants a check.

The superblock's layout: Documentation/filesystems/ext4/super.rst of Linux.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NamedTuple

from edged.errors import RetryError

BLOCK = 4096
JOURNAL = 4  # MiB; the default would be 64 on a large volume, which a claim has better use for
SUPERBLOCK, MAGIC = 1024, 0xEF53
VALID, ERRORS = 1, 2  # s_state
# noatime: reading doesn't write. errors=remount-ro: a bad card is seen by the pod and nothing gets worse.
OPTIONS = "noatime,nosuid,nodev,errors=remount-ro"


class Superblock(NamedTuple):
    """:ivar size: bytes. :ivar needs_check: it was not left clean, or the kernel has found errors."""

    size: int
    needs_check: bool


def image_size(size: int) -> int:
    """Bytes of a file that holds `size` bytes of files: inode tables (1/64), the journal, descriptors of groups and
    room for more of them, and what ext4 keeps back for its own growth (2 %, at most 16 MiB); measured, and rounded up.
    """
    whole = size + size // 40 + min(size // 12, 20 << 20) + (6 << 20)
    return -(-whole // BLOCK) * BLOCK


def claim_size(image: int) -> int:
    """The largest size whose file is no larger than `image`."""
    low, high = 0, image
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if image_size(middle) <= image else (low, middle - 1)
    return low


def mkfs(file: Path) -> list[str]:
    """The file's blocks read as zeros, so nothing of it need be written but the few that aren't, and nothing later."""
    return [
        *("mkfs.ext4", "-q", "-F", "-b", str(BLOCK), "-m", "0", "-J", f"size={JOURNAL}"),
        *("-E", "nodiscard,assume_storage_prezeroed=1", os.fspath(file)),
    ]


def look(file: Path) -> Superblock:
    """:raises RetryError: there is no ext4 in the file."""
    with file.open("rb") as f:
        f.seek(SUPERBLOCK)
        block = f.read(1024)
    magic = struct.unpack_from("<H", block, 0x38)[0] if len(block) == 1024 else 0
    if magic != MAGIC:
        raise RetryError(f"{file} holds no ext4 any more; restore it from a backup, or run e2fsck -f {file}", 60.0)
    (low,), (high,) = struct.unpack_from("<I", block, 0x4), struct.unpack_from("<I", block, 0x150)
    (shift,), (state,) = struct.unpack_from("<I", block, 0x18), struct.unpack_from("<H", block, 0x3A)
    return Superblock((high << 32 | low) << (10 + shift), not state & VALID or bool(state & ERRORS))
