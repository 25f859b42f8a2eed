"""Devices of a board by names that stay the same: what pods may claim without being privileged (docs/devices.md).

A name says where the device is found, never which number it got by the order of plugging in:

    i2c-1, spidev0.0, gpiochip0, ttyAMA0, serial0, rtc0      the board's own, as the kernel numbers them
    serial/by-id/<...>, serial/by-path/<...>                 as udev links them below /dev
    video/by-id/<...>, video/by-path/<...>, input/by-id/<...>, input/by-path/<...>, dri/by-path/<...>
    gpio/<label>, media/<model>                              by what the driver calls them
    usb/<vendor>:<product>[:<serial>]                        the raw device, for libusb
    camera                                                   all that libcamera needs of the board's camera
    <alias>                                                  one of these, or a path below /dev, by the node's settings

Watchdogs, disks and memory are not on the list, so nobody can claim them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from edged.config import DevicesConfig

MANY = 100  # containers that may have a device whose users don't get into each other's way
PLAIN = re.compile(r"(gpiochip|i2c-|ttyAMA|ttyS|ttyTHS|ttymxc|ttySAC|serial|rtc|lirc)\d+|spidev\d+\.\d+")
SINGLE = {"tun": "net/tun", "hwrng": "hwrng", "kvm": "kvm", "fuse": "fuse"}  # name -> below /dev
LINKED = {  # kind -> folder below /dev whose links udev keeps
    "serial/by-id": "serial/by-id",
    "serial/by-path": "serial/by-path",
    "video/by-id": "v4l/by-id",
    "video/by-path": "v4l/by-path",
    "input/by-id": "input/by-id",
    "input/by-path": "input/by-path",
    "dri/by-path": "dri/by-path",
}
SHARED = ("gpiochip", "gpio/", "i2c-", "dri/", *SINGLE)  # beginnings of names that MANY may have
CAMERAS = ("unicam", "rp1-cfe", "bcm2835-camera", "bm2835 mmal", "rkisp1", "sun6i-csi")  # drivers of the board's own
CAMERA_NODES = ("media*", "video*", "v4l-subdev*", "dma_heap/*", "vchiq")
USB_ID = re.compile(r"([0-9a-f]{4}):([0-9a-f]{4})(?::(.+))?")
UNCLEAN = re.compile(r"[^A-Za-z0-9._:+#@-]")
USB_HUB = "09"  # bDeviceClass
GPIO_GET_CHIPINFO_IOCTL = 0x8044B401  # linux/gpio.h: name, label (32 bytes each), number of lines


class Node(NamedTuple):
    """A character device of the host; `path` is the kernel's own, below /dev, whatever link led to it."""

    path: str
    major: int
    minor: int

    @property
    def text(self) -> str:
        return f"{self.path} {self.major}:{self.minor}"


class Devices:
    """The claimable devices of this board, read afresh each time.

    :param system, dev: /sys and /dev, or what stands for them in a test.
    :param label: the label of a gpio chip, by its device file.
    """

    def __init__(
        self,
        config: DevicesConfig,
        system: Path = Path("/sys"),
        dev: Path = Path("/dev"),
        label: Callable[[Path], str] | None = None,
    ) -> None:
        self._config = config
        self._sys = system
        self._dev = dev
        self._label = label or gpio_label

    def resolve(self, names: Collection[str]) -> dict[str, str]:
        """Those that are plugged in: name -> "path major:minor", several of them joined by ", "."""
        found = {name: ", ".join(node.text for node in self.nodes(name)) for name in names}
        return {name: text for name, text in found.items() if text}

    def names(self) -> dict[str, int]:
        """Every name that can be claimed now, and how many containers may have it."""
        return self.shares(self.there())

    def there(self) -> dict[str, str]:
        """Everything that can be claimed and is plugged in, as `resolve` tells it."""
        return self.resolve({*self._known(), *self._config.aliases})

    def shares(self, there: Collection[str]) -> dict[str, int]:
        """How many containers may have each of those that are there, and of the aliases: these are offered even while
        what they stand for is not plugged in, for the owner of the board has promised them."""
        everything = {*there, *self._config.aliases}
        return {name: self._config.share.get(name, self._usual_share(name)) for name in sorted(everything)}

    def nodes(self, name: str) -> tuple[Node, ...]:
        """The device files behind a name; none if it is not plugged in or can't be claimed."""
        target = self._config.aliases.get(name)
        if target is not None and target.startswith("/dev/"):  # only the owner of the board may name a path
            paths = [self._dev / target.removeprefix("/dev/")]
        else:
            paths = self._paths(target or name)
        return tuple(node for node in map(self._node, paths) if node is not None)

    def target(self, name: str) -> str:
        """What an alias stands for; other names stand for themselves."""
        return self._config.aliases.get(name, name)

    def _usual_share(self, name: str) -> int:
        return MANY if self.target(name).startswith(SHARED) else 1

    # ------------------------------------------------------------ from names to paths

    def _paths(self, name: str) -> list[Path]:
        if PLAIN.fullmatch(name):
            return [self._dev / name]
        if name in SINGLE:
            return [self._dev / SINGLE[name]]
        if name == "camera":
            return self._camera()
        kind, _, rest = name.partition("/")
        if kind == "usb":
            return self._usb(rest)
        if kind == "gpio":
            return [p for p in sorted(self._dev.glob("gpiochip*")) if _clean(self._label(p)) == rest]
        if kind == "media":
            return [self._dev / p.name for p in self._media() if _clean(_text(p / "model")) == rest]
        way, _, link = rest.partition("/")
        if f"{kind}/{way}" in LINKED and link and "/" not in link and link not in (".", ".."):
            return [self._dev / LINKED[f"{kind}/{way}"] / link]
        return []

    def _node(self, path: Path) -> Node | None:
        try:
            real = path.resolve(strict=True)
            seen = real.stat()
            below = real.relative_to(self._dev.resolve())
        except (OSError, ValueError):
            return None
        if not stat.S_ISCHR(seen.st_mode):
            return None
        return Node(f"/dev/{below}", os.major(seen.st_rdev), os.minor(seen.st_rdev))

    def _usb(self, name: str) -> list[Path]:
        """The first in the order of ports, where several are alike."""
        wanted = USB_ID.fullmatch(name)
        if wanted is None:
            return []
        for device in self._usb_devices():
            if (_text(device / "idVendor"), _text(device / "idProduct")) == (wanted[1], wanted[2]):
                bus, number = _text(device / "busnum"), _text(device / "devnum")
                if wanted[3] in (None, _clean(_text(device / "serial"))) and bus.isdecimal() and number.isdecimal():
                    return [self._dev / f"bus/usb/{int(bus):03}/{int(number):03}"]
        return []

    def _usb_devices(self) -> list[Path]:
        found = sorted((self._sys / "bus/usb/devices").glob("*"))
        return [d for d in found if ":" not in d.name and _text(d / "bDeviceClass") not in ("", USB_HUB)]

    def _media(self) -> list[Path]:
        return sorted((self._sys / "bus/media/devices").glob("media*"))

    def _camera(self) -> list[Path]:
        if not any(_text(m / "model").startswith(CAMERAS) for m in self._media()):
            return []
        return [path for pattern in CAMERA_NODES for path in sorted(self._dev.glob(pattern))]

    # ------------------------------------------------------------ what there is

    def _known(self) -> Iterator[str]:
        for path in _entries(self._dev):
            if PLAIN.fullmatch(path.name) and not self._is_empty_port(path.name):
                yield path.name
        yield from SINGLE
        for kind, folder in LINKED.items():
            yield from (f"{kind}/{link.name}" for link in _entries(self._dev / folder))
        yield from (f"gpio/{label}" for p in self._dev.glob("gpiochip*") if (label := _clean(self._label(p))))
        yield from (f"media/{model}" for m in self._media() if (model := _clean(_text(m / "model"))))
        for device in self._usb_devices():
            name = f"usb/{_text(device / 'idVendor')}:{_text(device / 'idProduct')}"
            yield name
            if serial := _clean(_text(device / "serial")):
                yield f"{name}:{serial}"
        yield "camera"

    def _is_empty_port(self, name: str) -> bool:
        """The 8250 driver makes ttyS0 to ttyS3 whether or not there is a chip; type 0 means none (serial_core.h)."""
        return name.startswith("ttyS") and _text(self._sys / "class/tty" / name / "type") == "0"


def gpio_label(path: Path) -> str:
    """What the chip's driver calls it; "" where it can't be asked."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        info = fcntl.ioctl(fd, GPIO_GET_CHIPINFO_IOCTL, bytes(68))
    except OSError:
        return ""
    finally:
        os.close(fd)
    return info[32:64].split(b"\0", 1)[0].decode(errors="replace")


def parse(entries: Collection[str]) -> dict[str, tuple[Node, ...]]:
    """ContainerState.devices ("name=path major:minor, path major:minor") back to nodes; what is broken is left out."""
    found: dict[str, tuple[Node, ...]] = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        with contextlib.suppress(ValueError):
            if equals:
                found[name] = tuple(_parsed(part) for part in text.split(", "))
    return found


def _parsed(text: str) -> Node:
    path, _, number = text.rpartition(" ")
    major, _, minor = number.partition(":")
    return Node(path, int(major), int(minor))


def record(resolved: Mapping[str, str]) -> tuple[str, ...]:
    """As ContainerState.devices wants it."""
    return tuple(f"{name}={text}" for name, text in sorted(resolved.items()))


def _clean(text: str) -> str:
    """What drivers and makers call things, as udev writes it in its links: no spaces, commas or slashes."""
    return UNCLEAN.sub("_", text)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _text(file: Path) -> str:
    """An attribute in sysfs; "" where it isn't there, or the device has just left."""
    try:
        return file.read_text(errors="replace").strip()
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ENODEV, errno.ENOTDIR, errno.EIO, errno.EACCES):
            return ""
        raise
