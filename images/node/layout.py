"""Where the partitions lie, and the names that file systems get. Pure.

    | MBR | EDGED-BOOT, FAT32 | edged-root, ext4 | edged-data, ext4: last, so that the first boot can let it grow |

An MBR and no GPT: a Raspberry Pi older than the 4 starts from nothing else, UEFI takes both, and there is no second
table at the end of the card that would have to move when an image is written to a larger one.
"""

from __future__ import annotations

import hashlib
import uuid
from typing import NamedTuple

from images.node.boards import Board

MIB = 1 << 20
SECTOR = 512
ALIGNMENT = 4 * MIB  # the erase block of common SD cards; a partition across two wears both
BOOT_SIZE = 256 * MIB  # two kernels with their initrds (70 MB each) while one replaces the other, and firmware
ROOT_SIZE = 2048 * MIB  # the system and the version before it: the root does not grow, the data do
ROOT_FREE = 384 * MIB  # what the root must have left over: an upgrade of kernel and daemon
DATA_SIZE = 256 * MIB  # enough for the first boot; then it takes the rest of the card
DATA_FREE = 128 * MIB
LARGEST = 2048 * 1024 * MIB  # what an MBR can name: 2^32 sectors


class LayoutError(Exception):
    """A sentence that says what doesn't fit."""


class Partition(NamedTuple):
    """:ivar start: and size: bytes."""

    start: int
    size: int
    kind: str


class Layout(NamedTuple):
    boot: Partition
    root: Partition
    data: Partition
    size: int
    disk_id: str  # of the MBR, "0x" and eight digits

    def script(self) -> str:
        """What sfdisk reads."""
        lines = ["label: dos", f"label-id: {self.disk_id}", "unit: sectors", f"sector-size: {SECTOR}", ""]
        for partition in (self.boot, self.root, self.data):
            lines.append(
                f"start={partition.start // SECTOR}, size={partition.size // SECTOR}, type={partition.kind}"
                f"{', bootable' if partition is self.boot else ''}"
            )
        return "\n".join(lines) + "\n"


class Names(NamedTuple):
    """Identifiers that depend on nothing but the image's inputs: the same inputs, the same bytes."""

    disk: str
    boot: str  # FAT's volume id, eight digits
    root: str  # UUIDs
    data: str


def names(board: Board, release: str, edition: str) -> Names:
    """:param edition: what tells this image from others of the board: a version, options."""
    seed = "\0".join((board.name, release, edition))

    def digest(what: str) -> str:
        return hashlib.sha256(f"{seed}\0{what}".encode()).hexdigest()

    def an_id(what: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, digest(what)))

    return Names(f"0x{digest('disk')[:8]}", digest("boot")[:8], an_id("root"), an_id("data"))


def layout(board: Board, disk_id: str, root_bytes: int, data_bytes: int, size: int | None = None) -> Layout:
    """:param root_bytes: and data_bytes: what will be in them. :param size: of the whole image, if it must be a certain
        one; the data partition takes the difference.
    :raises LayoutError: it doesn't fit.
    """
    boot = Partition(ALIGNMENT, BOOT_SIZE, board.partition_type)
    root = Partition(boot.start + boot.size, max(ROOT_SIZE, _up(_with_metadata(root_bytes) + ROOT_FREE)), "83")
    start = root.start + root.size
    needed = max(DATA_SIZE, _up(_with_metadata(data_bytes) + DATA_FREE))
    if size is None:
        size = start + needed
    if size % SECTOR or size > LARGEST:
        raise LayoutError(f"--size {size} must be a multiple of {SECTOR} bytes and at most {LARGEST}")
    room = size - start
    if room < needed:
        raise LayoutError(f"--size {size} is too small: this image needs {start + needed} bytes")
    return Layout(boot, root, Partition(start, room, "83"), size, disk_id)


def parse_size(text: str) -> int:
    """Bytes of "4G", "3500M" or "4294967296"; binary units, as sfdisk and mke2fs have them."""
    units = {"K": 1 << 10, "M": MIB, "G": 1 << 30}
    number, factor = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    if not (number.isascii() and number.isdigit()) or not int(number):
        raise LayoutError(f"--size {text!r} is not a number of bytes, with K, M or G after it")
    return int(number) * factor


def _up(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _with_metadata(content: int) -> int:
    """What ext4 needs for so much content: inode tables, journal, and a hundredth that is root's."""
    return content + content // 16 + 48 * MIB
