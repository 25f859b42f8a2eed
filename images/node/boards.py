"""The boards that images are built for, and the partitions that every image has. Values only."""

from __future__ import annotations

from typing import NamedTuple

RELEASES = ("bookworm", "trixie")

# Labels are what everything else goes by: fstab, the kernel's command line, the first boot.
BOOT_LABEL = "EDGED-BOOT"  # FAT, so that any computer with a card reader can write the join file
ROOT_LABEL = "edged-root"
DATA_LABEL = "edged-data"
BOOT_MOUNT = "boot/firmware"
STATE = "var/lib/edged"

# What a node is made of, whatever the board: see README.md for the reason of each that isn't plain.
PACKAGES = (
    *("systemd", "systemd-sysv", "udev", "dbus", "systemd-resolved", "systemd-timesyncd", "systemd-zram-generator"),
    *("openssh-server", "procps", "kmod", "initramfs-tools", "zstd", "util-linux", "e2fsprogs", "dosfstools", "fdisk"),
    *("iproute2", "iputils-ping", "wpasupplicant", "wireless-regdb", "cloud-guest-utils", "ca-certificates", "tzdata"),
    *("less", "nano"),
    *("python3", "crun", "conmon", "nftables", "dnsmasq-base"),
)


class Board(NamedTuple):
    """:ivar arch: Debian's word. :ivar partition_type: of the boot partition in the MBR, as sfdisk writes it.

    :ivar consoles: of the kernel; the last one is systemd's, too.
    :ivar loader: who starts the kernel: "raspi-firmware" (Debian's hook fills the boot partition) or the name of
        systemd-boot's program, which UEFI firmware starts.
    """

    name: str
    arch: str
    packages: tuple[str, ...]
    components: tuple[str, ...]
    partition_type: str
    consoles: tuple[str, ...]
    loader: str
    arguments: tuple[str, ...] = ()

    @property
    def raspberry(self) -> bool:
        return self.loader == "raspi-firmware"


BOARDS = {
    board.name: board
    for board in (
        Board(
            "rpi",
            "arm64",
            ("linux-image-arm64", "raspi-firmware", "firmware-brcm80211"),
            ("main", "non-free-firmware"),
            "c",  # FAT32 with LBA: what the boot ROM of every model looks for
            ("tty0", "ttyS1,115200"),
            "raspi-firmware",
            # Debian's kernel has the memory cgroup on; the Foundation's needs the word, should somebody put it in.
            ("cgroup_enable=memory",),
        ),
        Board(
            "qemu-arm64",
            "arm64",
            ("linux-image-cloud-arm64", "systemd-boot-efi"),
            ("main",),
            "ef",
            ("ttyAMA0",),
            "systemd-bootaa64.efi",
        ),
        Board(
            "qemu-amd64",
            "amd64",
            ("linux-image-cloud-amd64", "systemd-boot-efi"),
            ("main",),
            "ef",
            ("ttyS0",),
            "systemd-bootx64.efi",
            # The guest measures its timer while the machine around it may be busy, and panics.
            ("no_timer_check",),
        ),
    )
}


def packages(board: Board) -> tuple[str, ...]:
    """All that is installed, sorted; what they depend on comes with them."""
    return tuple(sorted({*PACKAGES, *board.packages}))
