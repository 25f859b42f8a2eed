"""A machine as a board: its card forgets what was not flushed, and its network can be unplugged while we still have a
line of our own to ask it questions.

    card.img    what is on the card for certain, at power on
    disk.qcow2  a layer over it that takes the writes of one boot, and goes with it
    writes.log  every write and every flush of that boot, in order (blocklog)
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from dataclasses import replace
from pathlib import Path

from tests.vm.hardware import Hardware
from tests.vm.image import Image
from tests.vm.machine import Machine
from tests.vm.powercut import blocklog
from tests.vm.powercut.blocklog import Loss

BYTES, WRITES = 10_000_000, 500  # a second: what a card of application class A1 has to take (SD specification 5.1)
CLOSED = '{"iops-write":1}'  # the fewest that qemu knows
CLOSING = 2.0  # seconds at most


class Board(Machine):
    """:ivar card: its file. :ivar booted_in: seconds of this machine from power on until ssh answered."""

    def __init__(self, image: Image, folder: Path, hardware: Hardware | None = None) -> None:
        super().__init__(image, folder, replace(hardware or Hardware(), management=True))
        self.booted_in = 0.0
        self.card = folder / "card.img"
        self._log = folder / "writes.log"
        _copy(image.disk, self.card)

    # ------------------------------------------------------------ power

    def switch_on(self, plugged: bool = True) -> None:
        """:param plugged: is the network's line in?"""
        self.hardware = replace(self.hardware, link=plugged)
        over = ("-f", "qcow2", "-F", "raw", "-b", os.fspath(self.card), os.fspath(self.disk))
        subprocess.run(["qemu-img", "create", "-q", *over], check=True)
        self._log.write_bytes(b"")
        began = time.monotonic()
        self.boot()
        self.booted_in = time.monotonic() - began

    def await_unflushed(self, writes: int, patience: float) -> None:
        """Until so many writes are in the card's cache. It makes do with less and less, and after these seconds with
        none."""
        watch, began = blocklog.Watch(self._log), time.monotonic()
        while (left := 1.0 - (time.monotonic() - began) / patience) > 0.0:
            for _ in watch.further():
                pass
            if watch.unflushed >= max(1.0, writes * left):
                return
            time.sleep(0.005)

    def lose_power(self, dice: random.Random, share: float) -> Loss | None:
        """The cut as a card knows it: of what was not flushed, `share` is lost. 0: the emulator is killed, and all that
        the guest has issued is there. None: likewise, for it isn't known what was not flushed."""
        if self.is_on:
            self._close_the_card()
        self.cut_power()
        if not (entries := blocklog.read(self._log)):  # killed between two of its writes to the log: no end is known
            subprocess.run(["qemu-img", "commit", "-q", os.fspath(self.disk)], check=True)
            return None
        pieces, loss = blocklog.after_the_cut(entries, dice, share)
        blocklog.lay(self._log, self.card, pieces)
        return loss

    def _close_the_card(self) -> None:
        """It takes no more writes, and those under way are done: the log has no hole when the emulator is killed. What
        waits to be taken is lost."""
        self.monitor(f"qom-set -j /objects/card limits {CLOSED}")
        size, quiet, deadline = -1, 0, time.monotonic() + CLOSING
        while quiet < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
            now = self._log.stat().st_size
            size, quiet = now, quiet + 1 if now == size else 0

    def shut_down(self, patience: float = 600.0) -> float:
        took = super().shut_down(patience)
        self.lose_power(random.Random(0), 0.0)
        return took

    def keep_card(self, name: str) -> Path:
        """A copy of what is on it; the machine is off."""
        return _copy(self.card, self.folder / name)

    # ------------------------------------------------------------ inside

    def _words(self) -> list[str]:
        words = super()._words()
        at = words.index("-drive")
        return [
            *words[:at],
            *("-blockdev", f"driver=file,node-name=layer,filename={self.disk}"),
            *("-blockdev", "driver=qcow2,node-name=disk,file=layer"),
            *("-blockdev", f"driver=file,node-name=log,filename={self._log}"),
            *("-blockdev", "driver=blklogwrites,node-name=logged,file=disk,log=log"),
            *("-object", f"throttle-group,id=card,x-bps-write={BYTES},x-iops-write={WRITES}"),
            *("-blockdev", "driver=throttle,node-name=slow,throttle-group=card,file=logged"),
            *("-device", "virtio-blk-pci,drive=slow"),
            *words[at + 2 :],
        ]


def _copy(source: Path, target: Path) -> Path:
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", source, target], check=True)
    return target
