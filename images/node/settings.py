"""The files of an image that depend on the board and on options. Pure: what is the same everywhere lies in rootfs/."""

from __future__ import annotations

import json

from images.node.boards import BOOT_MOUNT, ROOT_LABEL, Board


def kernel_arguments(board: Board, read_only_root: bool) -> str:
    """net.ifnames=0: the only Ethernet is eth0 on every board. panic=10: a board that nobody sees starts again."""
    return " ".join(
        (
            *(f"console={console}" for console in board.consoles),
            f"root=LABEL={ROOT_LABEL}",
            *("rootwait", "fsck.repair=yes", "net.ifnames=0"),
            *_own(board, read_only_root),
        )
    )


def _own(board: Board, read_only_root: bool) -> tuple[str, ...]:
    """What Debian's hook for the Raspberry Pi doesn't write by itself; of its "rw" and our "ro" the last one counts."""
    return ("ro" if read_only_root else "rw", "panic=10", *board.arguments)


def raspi_firmware(board: Board, read_only_root: bool) -> dict[str, str]:
    """What Debian's hook reads whenever kernel or initrd change, so that an upgrade writes what the build wrote.

    CMA=0: the hook's own choice of 64 MB for graphics keeps a Pi 4 from starting, and a node draws nothing.
    """
    return {
        "etc/default/raspi-firmware": (
            "# Written by images/node/build.py; read by /etc/kernel/postinst.d/z50-raspi-firmware\n"
            f'CMA=0\nROOTPART="LABEL={ROOT_LABEL}"\nCONSOLES="{" ".join(board.consoles)}"\n'
        ),
        "etc/default/raspi-extra-cmdline": " ".join(_own(board, read_only_root)) + "\n",
    }


def uefi(board: Board, read_only_root: bool) -> dict[str, str]:
    """What systemd-boot reads, on the boot partition (uapi-group.org, Boot Loader Specification, type 1)."""
    return {
        f"{BOOT_MOUNT}/loader/loader.conf": "default edged.conf\ntimeout 0\neditor no\n",
        f"{BOOT_MOUNT}/loader/entries/edged.conf": (
            f"title edged node\nlinux /vmlinuz\ninitrd /initrd.img\noptions {kernel_arguments(board, read_only_root)}\n"
        ),
    }


# Debian has no hook that brings kernels to a boot partition without a loader's own package; the Pi's firmware has one.
KERNEL_HOOK = """#!/bin/sh
# Copies the newest kernel and its initrd to the boot partition, each complete before it gets its name.
# Run by dpkg after a kernel, by update-initramfs after an initrd, and by images/node/build.py.
set -e
boot=/boot/firmware
if ! ischroot && ! mountpoint -q "$boot"; then
    echo "edged-boot: $boot is not mounted; mount it, then run dpkg --configure -a" >&2
    exit 1
fi
kernel="$(ls /boot/vmlinuz-* | sort -V | tail -1)"
initrd="/boot/initrd.img-${kernel#/boot/vmlinuz-}"
[ -e "$initrd" ] || exit 0 # it comes in a moment, and this script is called again
cp "$kernel" "$boot/vmlinuz.new"
cp "$initrd" "$boot/initrd.new"
sync -f "$boot"
mv "$boot/vmlinuz.new" "$boot/vmlinuz"
mv "$boot/initrd.new" "$boot/initrd.img"
sync -f "$boot"
"""
KERNEL_HOOKS = ("etc/kernel/postinst.d/zz-edged-boot", "etc/initramfs/post-update.d/zz-edged-boot")


def about(board: Board, release: str, read_only_root: bool, epoch: int, version: str) -> str:
    """/usr/lib/edged/image.json: what the first boot and a support bundle want to know. `epoch`: seconds since 1970."""
    facts = {
        "board": board.name,
        "architecture": board.arch,
        "release": release,
        "read_only_root": read_only_root,
        "epoch": epoch,
        "edged": version,
    }
    return json.dumps(facts, indent=2, sort_keys=True) + "\n"
