"""What a virtual machine is made of, and the emulator's command line for it: values only, nothing is started here."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from tests.vm.image import Image

# "user": the guest reaches the host's loopback as 10.0.2.2 and whatever the host reaches; "restricted": only our ssh
# comes in and nothing goes out; "none": no network card, so no ssh either: look at the console.
Network = Literal["user", "restricted", "none"]
SUBNET = "10.0.2.0/24"  # QEMU's own
# no_timer_check: the guest measures its timer while the machine around it may be busy, and panics. An emulated core has
# nothing to hide from another one: mitigations only cost.
APPEND = (
    "root={root} rw console={console} net.ifnames=0 quiet systemd.show_status=no no_timer_check mitigations=off audit=0"
)


class Architecture(NamedTuple):
    """:ivar board: for -M. :ivar console: the first serial port's device in the guest."""

    emulator: str
    board: str
    cpu: str
    console: str


ARCHITECTURES = {
    # "max" emulates five levels of page tables and AVX2, and boots at two thirds of the speed
    "amd64": Architecture("qemu-system-x86_64", "pc", "Nehalem", "ttyS0"),
    "arm64": Architecture("qemu-system-aarch64", "virt", "cortex-a72", "ttyAMA0"),
    "armhf": Architecture("qemu-system-arm", "virt", "cortex-a15", "ttyAMA0"),
}


@dataclass(frozen=True)
class Hardware:
    """May be another one at each boot: `machine.hardware = replace(machine.hardware, clock="1970-01-01T00:00:00")`.

    :ivar memory: MB.
    :ivar board: for -M, "" = the architecture's usual one. :ivar cpu: likewise.
    :ivar network: how the first card is connected. :ivar subnet: its network; the host is `.2`, the guest gets `.15`.
    :ivar address: another address for the guest in there, by DHCP; "" = `.15`.
    :ivar management: a card more, restricted, for our ssh alone: the first one's line can then be cut while we look.
    :ivar link: whether the first card's line is plugged in at power on; `Machine.link` changes it while it runs.
    :ivar forwards: ports of the guest, beside ssh's, that the host reaches at `Machine.port(n)`.
    :ivar clock: what the battery clock says at power on (UTC, "1970-01-01T00:00:00"); "" = the host's time.
    :ivar disk_size: bytes, or with a suffix as "8G": larger than the image's, "" = as the image. Counts at making.
    :ivar firmware: boots from the disk by this file (-bios), or with "" by the board's own; None = the image's kernel.
    :ivar drive: how the disk is attached; "sd" for boards that have a slot. :ivar card: the network card's device.
    :ivar reboots: a reboot starts the guest again, as on a board; else it ends the emulator.
    :ivar append: more words for the kernel. :ivar devices: more words for the emulator, such as a watchdog's.
    """

    memory: int = 1024  # a Pi's
    cores: int = 2
    architecture: str = "amd64"
    board: str = ""
    cpu: str = ""
    network: Network = "user"
    subnet: str = SUBNET
    address: str = ""
    management: bool = False
    link: bool = True
    forwards: tuple[int, ...] = ()
    clock: str = ""
    disk_size: str = ""
    firmware: str | None = None
    drive: str = "virtio"
    card: str = "virtio-net-pci"
    reboots: bool = False
    append: str = ""
    devices: tuple[str, ...] = field(default=())


def command(
    hardware: Hardware, image: Image, folder: Path, accelerator: tuple[str, ...], ports: Mapping[int, int]
) -> list[str]:
    """The emulator's words. :param ports: guest port -> port on the host's loopback, ssh's 22 among them."""
    like = ARCHITECTURES[hardware.architecture]
    console = folder / "console.log"
    return [
        *("nice", "-n", "19", like.emulator, *accelerator, "-M", hardware.board or like.board),
        *("-smp", str(hardware.cores), "-m", str(hardware.memory)),
        *_boots(hardware, image),
        *("-drive", f"file={folder / 'disk.qcow2'},if={hardware.drive},format=qcow2"),
        *(("-device", "virtio-rng-pci") if hardware.drive == "virtio" else ()),
        *_network(hardware, ports),
        *(("-rtc", f"base={hardware.clock}") if hardware.clock else ()),
        *("-monitor", f"unix:{folder}/monitor,server=on,wait=off"),
        *("-chardev", f"file,id=console,path={console},append=on", "-serial", "chardev:console"),
        *("-display", "none", *(() if hardware.reboots else ("-no-reboot",)), *(() if hardware.link else ("-S",))),
        *hardware.devices,
    ]


def _boots(hardware: Hardware, image: Image) -> tuple[str, ...]:
    if hardware.firmware is not None:
        return ("-bios", hardware.firmware) if hardware.firmware else ()
    assert image.kernel, "this image has no kernel beside it: boot it by its own firmware (firmware=)"
    words = APPEND.format(root=image.root, console=ARCHITECTURES[hardware.architecture].console)
    initrd = ("-initrd", str(image.initrd)) if image.initrd else ()
    return ("-kernel", str(image.kernel), *initrd, "-append", f"{words} {hardware.append}".strip())


def _network(hardware: Hardware, ports: Mapping[int, int]) -> tuple[str, ...]:
    """The first card is "net", ours "management"; ssh goes by the latter where there is one."""
    if hardware.network == "none" and not hardware.management:
        return ("-nic", "none")
    ours = [f"hostfwd=tcp:127.0.0.1:{ports[22]}-:22"]
    others = [f"hostfwd=tcp:127.0.0.1:{port}-:{guest}" for guest, port in ports.items() if guest != 22]
    words: list[str] = []
    if hardware.network != "none":
        net = ipaddress.IPv4Network(hardware.subnet)
        options = [f"user,id=net,net={net},host={net[2]},dhcpstart={hardware.address or net[15]}"]
        options += ["restrict=on"] if hardware.network == "restricted" else []
        options += others if hardware.management else ours + others
        words += ["-netdev", ",".join(options), "-device", _card(hardware.card, "net", "52:54:00:12:34:56")]
    if hardware.management:
        options = ["user,id=management,net=10.0.3.0/24", "restrict=on", *ours]
        words += ["-netdev", ",".join(options), "-device", _card(hardware.card, "management", "52:54:00:12:34:57")]
    return tuple(words)


def _card(device: str, name: str, mac: str) -> str:
    rom = ",romfile=" if device.endswith("-pci") else ""  # nobody boots from the network
    return f"{device},netdev={name},id={name}card,mac={mac}{rom}"
