"""A machine as a board: its card forgets what was not flushed, its network can be unplugged, and we have a line of our
own to it (a second network card that reaches nobody but us), so that it can be asked questions while it is cut off.

    disk.img    what the emulator writes to          card.img    what is certainly on the card
    writes.log  every write and flush since power on
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.vm.image import Image
from tests.vm.machine import Machine
from tests.vm.machine import _free_port as free_port
from tests.vm.powercut import blocklog

LINE = "10.0.9"  # of our own line; the board's network is the emulator's usual 10.0.2
ALONE = "systemd.mask=e2scrub_reap.service systemd.mask=systemd-update-utmp.service systemd.mask=getty@tty1.service"
BOOT_PATIENCE = 600.0


class Board(Machine):
    """:ivar booted_at: CLOCK_MONOTONIC of this machine when the power was switched on.

    :param rtc: the clock it boots with, as qemu's -rtc base=...; "" = this machine's.
    :param network: qemu's further options of the board's network, ",net=..." for instance.
    """

    def __init__(self, image: Image, folder: Path, cores: int = 2, memory: int = 1024) -> None:
        super().__init__(image, folder, memory)
        self._cores = cores
        self._card = folder / "card.img"
        self._log = folder / "writes.log"
        self.rtc = ""
        self.network = ""
        self.has_network = True
        self.booted_at = 0.0
        _sparse_copy(self._disk, self._card)

    # ------------------------------------------------------------ power

    def boot(self, plugged: bool = True) -> None:
        """:param plugged: is the network cable in?"""
        assert self._emulator is None, "it runs already"
        self._port = free_port()
        self._log.unlink(missing_ok=True)
        self._log.touch()
        with (self.folder / "emulator.log").open("ab") as log:
            self._emulator = subprocess.Popen(self._argv(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._wait_for(lambda: (self.folder / "monitor").is_socket(), "its monitor", 0.02)
        if self.has_network and not plugged:
            self.plug(False)
        self.booted_at = time.monotonic()
        self.monitor("cont")
        self._wait_for(self._answers, "ssh", 0.2)

    def plug(self, there: bool) -> None:
        """The network cable, not our own line."""
        self.monitor(f"set_link net {'on' if there else 'off'}")

    def cut_power(self) -> None:
        """The kind cut: whatever the guest has issued is there."""
        super().cut_power()
        if self._log.exists():
            entries = blocklog.read(self._log)
            blocklog.restore(entries, self._disk, self._card) if entries else _sparse_copy(self._disk, self._card)
            self._log.unlink()

    def lose_power(self, dice: random.Random, share: float) -> blocklog.Loss:
        """The cut as a card knows it: of what was not flushed, `share` is lost."""
        super().cut_power()
        entries = blocklog.read(self._log)
        if not entries:  # killed between two of its writes to the log: nothing is known about the end
            _sparse_copy(self._disk, self._card)
            return blocklog.Loss(0, 0, 0)
        pieces, loss = blocklog.after_the_cut(entries, dice, share)
        blocklog.lay(self._log, self._card, pieces)
        blocklog.restore(entries, self._card, self._disk)
        self._log.unlink()
        return loss

    def shut_down(self, patience: float = 300.0) -> float:
        took = super().shut_down(patience)
        self.cut_power()
        _sparse_copy(self._disk, self._card)
        self._log.unlink(missing_ok=True)
        return took

    def keep_disk(self, name: str) -> Path:
        """A copy of what is on the card; the machine is off."""
        _sparse_copy(self._card, self.folder / name)
        return self.folder / name

    # ------------------------------------------------------------ inside

    def _argv(self) -> list[str]:
        (self.folder / "monitor").unlink(missing_ok=True)
        line = f"user,id=line,net={LINE}.0/24,restrict=on,hostfwd=tcp:127.0.0.1:{self._port}-{LINE}.15:22"
        # Names go by the order on the bus: the board's own is eth0, and where it has none, ours is.
        ours = "eth1" if self.has_network else "eth0"
        words = f"root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet systemd.show_status=no no_timer_check {ALONE}"
        argv = [
            *("nice", "-n", "19", "qemu-system-x86_64", *self.accelerator, "-smp", str(self._cores), "-S"),
            *("-m", str(self._memory), "-nodefaults", "-display", "none", "-no-reboot", "-device", "virtio-rng-pci"),
            *("-kernel", os.fspath(self._image.kernel), "-initrd", os.fspath(self._image.initrd)),
            *("-append", f"{words} ip={LINE}.15:::255.255.255.0::{ours}:off"),
            *("-blockdev", f"driver=file,node-name=file,filename={self._disk}"),
            *("-blockdev", f"driver=file,node-name=log,filename={self._log}"),
            *("-blockdev", "driver=blklogwrites,node-name=disk,file=file,log=log"),
            *("-device", "virtio-blk-pci,drive=disk"),
        ]
        if self.has_network:
            argv += ["-netdev", f"user,id=net{self.network}", "-device", "virtio-net-pci,netdev=net,romfile="]
        if self.rtc:
            argv += ["-rtc", f"base={self.rtc}"]
        return argv + [
            *("-netdev", line, "-device", "virtio-net-pci,netdev=line,romfile="),
            *("-monitor", f"unix:{self.folder}/monitor,server=on,wait=off"),
            *("-serial", f"file:{self.folder}/console.log"),
        ]

    def _wait_for(self, true: Callable[[], bool], what: str, pause: float) -> None:
        deadline = time.monotonic() + BOOT_PATIENCE
        while not true():
            assert self._emulator is not None
            said = (self.folder / "emulator.log").read_text()
            assert self._emulator.poll() is None, f"the emulator ended: {said[-2000:]}"
            assert time.monotonic() < deadline, f"no {what} after {BOOT_PATIENCE:g} s: {self.console()[-2000:]}"
            time.sleep(pause)


def _sparse_copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", source, target], check=True)
