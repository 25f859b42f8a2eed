"""One virtual machine: its emulator as a child process, and what can be said to it over ssh.

Killing the emulator is the power cut: what the guest had not flushed is lost, as on a board.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.vm.image import Image

MEMORY = 1024  # MB: a Pi's
CORES = 2
BOOT_PATIENCE = 600.0  # seconds until ssh must answer; 18 are usual, more beside other emulators
PROBE_PATIENCE = 20.0


class Machine:
    """:ivar folder: holds the disk and console.log; kept by the caller. :param memory: MB."""

    def __init__(self, image: Image, folder: Path, memory: int = MEMORY) -> None:
        self.folder = folder
        self._memory = memory
        self._image = image
        self._disk = folder / "disk.img"
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", image.disk, self._disk], check=True)
        self._emulator: subprocess.Popen[bytes] | None = None
        self._port = 0
        self.accelerator = accelerator(image)

    # ------------------------------------------------------------ power

    def boot(self) -> None:
        """Start the emulator and wait until ssh answers."""
        assert self._emulator is None, "it runs already"
        self._port = _free_port()
        argv = [
            *("nice", "-n", "19", "qemu-system-x86_64", *self.accelerator, "-smp", str(CORES), "-m", str(self._memory)),
            *("-kernel", os.fspath(self._image.kernel), "-initrd", os.fspath(self._image.initrd)),
            # no_timer_check: the guest measures its timer while the machine around it may be busy, and panics
            *("-append", "root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet systemd.show_status=no no_timer_check"),
            *("-drive", f"file={self._disk},if=virtio,format=raw", "-device", "virtio-rng-pci"),
            *("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{self._port}-:22"),
            *("-device", "virtio-net-pci,netdev=net,romfile="),
            *("-monitor", f"unix:{self.folder}/monitor,server=on,wait=off"),
            *("-display", "none", "-serial", f"file:{self.folder}/console.log", "-no-reboot"),
        ]
        with (self.folder / "emulator.log").open("ab") as log:
            self._emulator = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + BOOT_PATIENCE
        while not self._answers():
            said = (self.folder / "emulator.log").read_text()
            assert self._emulator.poll() is None, f"the emulator ended: {said[-2000:]}"
            assert time.monotonic() < deadline, f"no ssh after {BOOT_PATIENCE:g} s: {self.console()[-2000:]}"
            time.sleep(0.25)

    def cut_power(self) -> None:
        """Between two instructions, without a word to the guest."""
        if self._emulator is None:
            return
        self._emulator.send_signal(signal.SIGKILL)
        self._emulator.wait()
        self._emulator = None
        self._hang_up()

    def shut_down(self, patience: float = 120.0) -> float:
        """As an owner would; returns the seconds it took."""
        assert self._emulator is not None
        started = time.monotonic()
        self.try_run("systemctl poweroff")
        self._emulator.wait(patience)
        self._emulator = None
        self._hang_up()
        return time.monotonic() - started

    def monitor(self, command: str) -> str:
        """What the emulator answers to a command of its own (qemu's human monitor): plugging things in and out."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(60.0)
            line.connect(os.fspath(self.folder / "monitor"))
            _until_prompt(line)
            line.sendall(f"{command}\n".encode())
            return _until_prompt(line).decode(errors="replace")

    def console(self) -> str:
        try:
            return (self.folder / "console.log").read_text(errors="replace")
        except OSError:
            return ""

    # ------------------------------------------------------------ talking

    def run(self, command: str, *, stdin: bytes | None = None, timeout: float = 120.0) -> str:
        """What a shell command in the guest says on stdout; AssertionError with all it said where it fails."""
        done = self.try_run(command, stdin=stdin, timeout=timeout)
        said = done.stdout.decode(errors="replace")
        assert done.returncode == 0, f"{command}\nended with {done.returncode}: {said[-30000:]}{done.stderr.decode()}"
        return said

    def try_run(
        self, command: str, *, stdin: bytes | None = None, timeout: float = 120.0
    ) -> subprocess.CompletedProcess[bytes]:
        argv = [*self._ssh(), command]
        given: Any = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        return subprocess.run(argv, capture_output=True, timeout=timeout, **given)

    def python(self, source: str, *arguments: str, timeout: float = 120.0) -> Any:
        """Run a script with the node's interpreter and packages; its stdout is JSON."""
        words = shlex.join(["/opt/edged/current/bin/python", "-", *arguments])
        return json.loads(self.run(words, stdin=source.encode(), timeout=timeout))

    def read(self, *paths: str) -> list[str]:
        """Small files of the guest, each stripped; "" where one is missing."""
        script = 'for f in "$@"; do cat "$f" 2>/dev/null; printf "\\1"; done'
        return [t.strip() for t in self.run(f"sh -c {shlex.quote(script)} - {shlex.join(paths)}").split("\1")[:-1]]

    def send_tree(self, root: Path, names: Sequence[str], target: str) -> None:
        """Put files and folders of ours below a folder of the guest, in place of what is there."""
        pack = ["tar", "-C", os.fspath(root), "--exclude=__pycache__", "--exclude=node_modules", "-cz", *names]
        packed = subprocess.run(pack, check=True, capture_output=True).stdout
        where = shlex.quote(target)
        self.run(f"rm -rf {where} && mkdir -p {where} && tar -C {where} -xz --no-same-owner", stdin=packed)

    def _answers(self) -> bool:
        try:
            return self.try_run("true", timeout=30.0).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def _ssh(self) -> list[str]:
        options = (
            *("-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-oLogLevel=ERROR", "-oBatchMode=yes"),
            *("-oConnectTimeout=20", "-oServerAliveInterval=15"),
        )
        return ["ssh", "-F/dev/null", "-i", os.fspath(self._image.key), *options, f"-p{self._port}", "root@127.0.0.1"]

    def _hang_up(self) -> None:
        self._port = 0


def accelerator(image: Image) -> tuple[str, ...]:
    """KVM where the machine has one that can run this kernel, else TCG.

    Tried rather than asked for: a /dev/kvm that opens may still be one that stops at the first odd instruction.
    Without a disk the kernel panics soon, and `panic=-1` with -no-reboot then ends the emulator by itself.
    """
    if os.environ.get("EDGED_VM_ACCEL") != "tcg" and os.access("/dev/kvm", os.R_OK | os.W_OK):
        argv = [
            *("qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-smp", str(CORES), "-m", "512", "-no-reboot"),
            *("-kernel", os.fspath(image.kernel), "-append", "console=ttyS0 panic=-1", "-nodefaults"),
            *("-display", "none", "-serial", "stdio"),
        ]
        try:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_PATIENCE)
            if done.returncode == 0 and b"Kernel panic" in done.stdout:
                return ("-accel", "kvm", "-cpu", "host")
        except subprocess.TimeoutExpired:
            pass
    return ("-accel", "tcg,thread=multi", "-cpu", "max")


def _until_prompt(line: socket.socket) -> bytes:
    said = b""
    while not said.endswith(b"(qemu) "):
        piece = line.recv(4096)
        assert piece, f"the emulator hung up: {said!r}"
        said += piece
    return said


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
