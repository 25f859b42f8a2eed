"""Stable names of boards' devices: where each leads in a /sys and a /dev made for the occasion."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest

from edged.config import DevicesConfig
from edged.runtime import devices as room
from edged.runtime.bundle import DeviceRule
from edged.runtime.device_nodes import Inside, character_majors, files_inside, majors_of
from edged.runtime.devices import Devices, Node
from edged.runtime.uevents import matters

FTDI = "usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0"


class Board:
    """A Raspberry Pi in two folders. Device files need root to make, so they are links to the machine's own here."""

    def __init__(self, folder: Path) -> None:
        self.sys, self.dev = folder / "sys", folder / "dev"
        self.dev.mkdir(parents=True)

    def plug(self, path: str, *, link: str = "") -> None:
        target = self.dev / path
        target.parent.mkdir(parents=True, exist_ok=True)
        os.mknod(target, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        if link:
            (self.dev / link).parent.mkdir(parents=True, exist_ok=True)
            (self.dev / link).symlink_to(os.path.relpath(target, (self.dev / link).parent))

    def attribute(self, path: str, text: str) -> None:
        file = self.sys / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")

    def usb(self, port: str, vendor: str, product: str, number: int, serial: str = "", kind: str = "00") -> None:
        for name, text in (
            ("idVendor", vendor),
            ("idProduct", product),
            ("busnum", "1"),
            ("devnum", str(number)),
            ("bDeviceClass", kind),
        ):
            self.attribute(f"bus/usb/devices/{port}/{name}", text)
        if serial:
            self.attribute(f"bus/usb/devices/{port}/serial", serial)
        self.plug(f"bus/usb/001/{number:03}")

    def devices(self, **settings: dict[str, object]) -> Devices:
        labels = {"gpiochip0": "pinctrl-bcm2711", "gpiochip1": "raspberrypi-exp-gpio"}
        config = msgspec.convert(settings, DevicesConfig)
        return Devices(config, self.sys, self.dev, lambda path: labels.get(path.name, ""))


@pytest.fixture
def board(tmp_path: Path) -> Board:
    made = Board(tmp_path)
    if os.geteuid() != 0:
        pytest.skip("device files are made by root only")
    return made


def test_the_boards_own_devices_go_by_the_kernels_names(board: Board) -> None:
    for path in ("i2c-1", "spidev0.0", "gpiochip0", "rtc0", "ttyAMA0"):
        board.plug(path)
    (board.dev / "serial0").symlink_to("ttyAMA0")
    found = board.devices().resolve(["i2c-1", "spidev0.0", "gpiochip0", "serial0", "rtc0", "i2c-7"])
    assert found == {
        "i2c-1": "/dev/i2c-1 1:3",
        "spidev0.0": "/dev/spidev0.0 1:3",
        "gpiochip0": "/dev/gpiochip0 1:3",
        "serial0": "/dev/ttyAMA0 1:3",
        "rtc0": "/dev/rtc0 1:3",
    }


def test_a_serial_adapter_is_found_by_id_whatever_number_it_got(board: Board) -> None:
    board.plug("ttyUSB4", link=f"serial/by-id/{FTDI}")
    assert board.devices().resolve([f"serial/by-id/{FTDI}"]) == {f"serial/by-id/{FTDI}": "/dev/ttyUSB4 1:3"}


def test_a_gpio_chip_is_found_by_its_drivers_label(board: Board) -> None:
    board.plug("gpiochip0")
    board.plug("gpiochip1")
    assert board.devices().resolve(["gpio/raspberrypi-exp-gpio"]) == {"gpio/raspberrypi-exp-gpio": "/dev/gpiochip1 1:3"}


def test_a_usb_device_is_found_by_vendor_product_and_serial(board: Board) -> None:
    board.usb("1-1", "1a86", "7523", 4)
    board.usb("1-2", "0403", "6001", 5, "FIRST")
    board.usb("1-3", "0403", "6001", 6, "SECOND, really")
    board.usb("usb1", "1d6b", "0002", 1, kind="09")
    found = board.devices().resolve(["usb/1a86:7523", "usb/0403:6001", "usb/0403:6001:SECOND__really", "usb/1d6b:0002"])
    assert found == {
        "usb/1a86:7523": "/dev/bus/usb/001/004 1:3",
        "usb/0403:6001": "/dev/bus/usb/001/005 1:3",
        "usb/0403:6001:SECOND__really": "/dev/bus/usb/001/006 1:3",
    }


def test_a_camera_is_all_that_libcamera_needs_of_the_boards_own(board: Board) -> None:
    assert board.devices().resolve(["camera"]) == {}
    board.attribute("bus/media/devices/media0/model", "rp1-cfe")
    for path in ("media0", "video0", "v4l-subdev0", "dma_heap/linux,cma"):
        board.plug(path)
    assert board.devices().resolve(["camera"])["camera"].split(", ") == [
        "/dev/media0 1:3",
        "/dev/video0 1:3",
        "/dev/v4l-subdev0 1:3",
        "/dev/dma_heap/linux,cma 1:3",
    ]


def test_an_alias_stands_for_a_name_or_a_path_and_is_there_while_nothing_is_plugged_in(board: Board) -> None:
    devices = board.devices(aliases={"modbus": f"serial/by-id/{FTDI}", "plc": "/dev/ttyUSB9"})
    assert devices.resolve(["modbus", "plc"]) == {}
    assert devices.names() == {"modbus": 1, "plc": 1}
    board.plug("ttyUSB0", link=f"serial/by-id/{FTDI}")
    board.plug("ttyUSB9")
    assert devices.resolve(["modbus", "plc"]) == {"modbus": "/dev/ttyUSB0 1:3", "plc": "/dev/ttyUSB9 1:3"}


def test_buses_are_for_many_containers_and_ports_for_one_unless_the_settings_say_otherwise(board: Board) -> None:
    for path in ("i2c-1", "gpiochip0", "ttyAMA0", "spidev0.0", "spidev0.1"):
        board.plug(path)
    assert board.devices(share={"spidev0.1": 3, "i2c-1": 2}).names() == {
        "gpio/pinctrl-bcm2711": 100,
        "gpiochip0": 100,
        "i2c-1": 2,
        "spidev0.0": 1,
        "spidev0.1": 3,
        "ttyAMA0": 1,
    }


def test_a_serial_port_without_a_chip_behind_it_is_not_offered(board: Board) -> None:
    board.plug("ttyS0")
    board.plug("ttyS1")
    board.attribute("class/tty/ttyS0/type", "4")
    board.attribute("class/tty/ttyS1/type", "0")
    assert board.devices().names() == {"ttyS0": 1}


@pytest.mark.parametrize(
    "name",
    [
        *("watchdog", "watchdog0", "mem", "kmsg", "sda", "../etc", "/dev/null", "serial/by-id/../../null", "usb/x:y"),
        *("serial/by-id/..", "serial/by-id/", "", "ttyUSB0", "gpio/", "media/", "i2c-1\n", "disk/by-id/x"),
    ],
)
def test_what_is_not_on_the_list_can_not_be_claimed(board: Board, name: str) -> None:
    for path in ("watchdog", "watchdog0", "mem", "kmsg", "null", "ttyUSB0", "i2c-1", "disk/by-id/x"):
        board.plug(path)
    board.plug("sub/x", link="serial/by-id/good")
    assert board.devices().resolve([name]) == {}


def test_a_link_that_leads_out_of_dev_or_to_something_else_is_no_device(board: Board, tmp_path: Path) -> None:
    (board.dev / "serial/by-id").mkdir(parents=True)
    os.mknod(tmp_path / "outside", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    (board.dev / "serial/by-id/out").symlink_to(tmp_path / "outside")
    (board.dev / "plain").write_text("no device")
    (board.dev / "serial/by-id/file").symlink_to("../../plain")
    assert board.devices().resolve(["serial/by-id/out", "serial/by-id/file"]) == {}


def test_settings_with_an_alias_that_would_hide_a_containers_own_files_are_refused() -> None:
    for settings, said in (
        ({"aliases": {"null": "ttyAMA0"}}, '"null" can\'t name a device'),
        ({"aliases": {"a/b": "ttyAMA0"}}, "can't name a device"),
        ({"aliases": {"disk": "/etc/passwd"}}, "neither a name nor a path below /dev"),
        ({"aliases": {"disk": "/dev/../etc/passwd"}}, "neither a name nor a path below /dev"),
        ({"share": {"i2c-1": 0}}, "share of i2c-1 must be 1 or more"),
    ):
        with pytest.raises(msgspec.ValidationError, match=said):
            msgspec.convert(settings, DevicesConfig)


def test_a_container_finds_a_device_under_its_stable_name() -> None:
    serial, usb = Node("/dev/ttyUSB4", 188, 4), Node("/dev/bus/usb/001/005", 189, 4)
    assert files_inside(f"serial/by-id/{FTDI}", f"serial/by-id/{FTDI}", [serial]) == (
        Inside(f"/dev/serial/by-id/{FTDI}", 188, 4),
    )
    assert files_inside("modbus", f"serial/by-id/{FTDI}", [serial]) == (Inside("/dev/modbus", 188, 4),)
    assert files_inside("usb/0403:6001", "usb/0403:6001", [usb]) == (
        Inside("/dev/bus/usb/001/005", 189, 4),
        Inside("/dev/usb/0403:6001", 189, 4),
    )
    both = [Node("/dev/media0", 240, 0), Node("/dev/video0", 81, 0)]
    assert files_inside("camera", "camera", both) == (Inside("/dev/media0", 240, 0), Inside("/dev/video0", 81, 0))


def test_what_was_given_is_read_back_from_the_record() -> None:
    given = room.record({"camera": "/dev/media0 240:0, /dev/video0 81:0", "i2c-1": "/dev/i2c-1 89:1"})
    assert given == ("camera=/dev/media0 240:0, /dev/video0 81:0", "i2c-1=/dev/i2c-1 89:1")
    assert room.parse((*given, "broken", "b=/dev/x")) == {
        "camera": (Node("/dev/media0", 240, 0), Node("/dev/video0", 81, 0)),
        "i2c-1": (Node("/dev/i2c-1", 89, 1),),
    }


def test_what_comes_back_under_another_number_is_of_a_kind_that_may_be_opened() -> None:
    drivers = character_majors("Character devices:\n  1 mem\n254 gpiochip\n236 media\n\nBlock devices:\n  7 loop\n")
    assert drivers == {"mem": 1, "gpiochip": 254, "media": 236}
    assert majors_of([f"serial/by-id/{FTDI}", "gpiochip0"], drivers) == {188, 166, 204, 254}
    assert majors_of(["i2c-1", "usb/0403:6001"], drivers) == {189}
    assert DeviceRule(188) != DeviceRule(188, 0)


def test_only_messages_about_claimable_devices_that_come_or_leave_matter() -> None:
    kernel = b"add@/devices/x/tty/ttyUSB0\0ACTION=add\0DEVPATH=/devices/x\0SUBSYSTEM=tty\0DEVNAME=ttyUSB0\0"
    udev = b"libudev\0\xfe\xed\xca\xfe(\0\0\0(\0\0\0ACTION=remove\0SUBSYSTEM=usb\0"
    assert matters(kernel)
    assert matters(udev)
    assert not matters(kernel.replace(b"=tty", b"=net"))
    assert not matters(kernel.replace(b"ACTION=add", b"ACTION=bind"))
    assert not matters(b"")
