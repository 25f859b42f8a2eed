"""One virtual machine: its emulator as a child process, and what can be said to it over ssh.

Killing the emulator is the power cut: what the guest had not flushed is lost, as on a board.

    python -m tests.vm.machine [--stock] [--release trixie] [--memory 512]

boots one to look around in, and prints how to get in. Ctrl-C is its power cut; nothing is left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cloudlink.cli.house import free_port
from tests.vm.hardware import ARCHITECTURES, Hardware, command
from tests.vm.image import Image, build

BOOT_PATIENCE = 900.0  # seconds until ssh must answer; 15 to 20 are usual, more beside other emulators
PROBE_PATIENCE = 20.0
OPTIONS = (
    *("-F/dev/null", "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-oLogLevel=ERROR"),
    *("-oBatchMode=yes", "-oConnectTimeout=20", "-oServerAliveInterval=15"),
)


class Machine:
    """:ivar folder: holds the disk, console.log (of all boots) and emulator.log; kept by the caller.

    The disk is a copy-on-write layer over the image: made in no time, and a cut loses what was not flushed.
    """

    def __init__(self, image: Image, folder: Path, hardware: Hardware | None = None) -> None:
        self.folder = folder
        self.hardware = hardware or Hardware()
        self.image = image
        self.disk = folder / "disk.qcow2"
        over = ("-f", "qcow2", "-F", "raw", "-b", os.fspath(image.disk.resolve()), os.fspath(self.disk))
        size = (self.hardware.disk_size,) if self.hardware.disk_size else ()
        subprocess.run(["qemu-img", "create", "-q", *over, *size], check=True)
        self._emulator: subprocess.Popen[bytes] | None = None
        self._line: subprocess.Popen[bytes] | None = None  # one ssh connection that the others share
        self._ports: dict[int, int] = {}
        self._console_from = 0
        self.accelerator = accelerator(self.hardware, image)

    # ------------------------------------------------------------ power

    def boot(self) -> None:
        """Switch on, and wait until ssh answers."""
        self.power_on()
        self.until_ssh()

    def power_on(self) -> None:
        """Start the emulator; returns at once."""
        assert self._emulator is None, "it runs already"
        if not self._ports:  # the same at each boot, so that an inventory stays true
            self._ports = {guest: free_port() for guest in (22, *self.hardware.forwards)}
        self._console_from = len(self._whole_console())
        (self.folder / "monitor").unlink(missing_ok=True)
        with (self.folder / "emulator.log").open("ab") as log:
            self._emulator = subprocess.Popen(self._words(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if not self.hardware.link:
            while not (self.folder / "monitor").exists():
                self._check_emulator()
                time.sleep(0.05)
            self.link(False)
            self.monitor("cont")

    def until_ssh(self, patience: float = BOOT_PATIENCE) -> None:
        """Wait until a command can be run."""
        deadline, wait = time.monotonic() + patience, 2.0
        while not (self._greets(wait) and self._share_a_line()):
            # A question that is given up leaves work behind in a slow guest, and sshd turns away who asks too often.
            wait = min(2 * wait, 60.0)
            self._check_emulator()
            assert time.monotonic() < deadline, f"no ssh after {patience:g} s: {self.console()[-2000:]}"
            time.sleep(0.2)

    def until_console(self, text: str, patience: float = BOOT_PATIENCE) -> None:
        """Wait until the guest has said that on its serial console since it was switched on."""
        deadline = time.monotonic() + patience
        while text not in self.console():
            self._check_emulator()
            assert time.monotonic() < deadline, f"not said within {patience:g} s: {text!r}\n{self.console()[-4000:]}"
            time.sleep(0.2)

    def until_off(self, patience: float = BOOT_PATIENCE) -> None:
        """Wait for an end that the guest brings about itself: poweroff, or a reboot where it may not."""
        assert self._emulator is not None
        self._emulator.wait(patience)
        self._emulator = None
        self._hang_up()

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
        started = time.monotonic()
        self.try_run("systemctl poweroff")
        self.until_off(patience)
        return time.monotonic() - started

    @property
    def is_on(self) -> bool:
        return self._emulator is not None and self._emulator.poll() is None

    # ------------------------------------------------------------ from outside

    def monitor(self, order: str) -> str:
        """What the emulator answers to a command of its own (qemu's human monitor): plugging things in and out."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(60.0)
            line.connect(os.fspath(self.folder / "monitor"))
            _until_prompt(line)
            line.sendall(f"{order}\n".encode())
            return _until_prompt(line).decode(errors="replace")

    def link(self, up: bool) -> None:
        """Plug the network's line in or out while it runs; ssh goes with it unless the hardware has `management`."""
        said = self.monitor(f"set_link netcard {'on' if up else 'off'}")
        assert "not found" not in said, said

    def console(self) -> str:
        """What the guest has said since it was switched on; console.log has it all."""
        return self._whole_console()[self._console_from :]

    def port(self, guest: int) -> int:
        """Where on the host's loopback a port of the guest is (22, or one of `hardware.forwards`)."""
        return self._ports[guest]

    # ------------------------------------------------------------ talking

    def run(self, line: str, *, stdin: bytes | None = None, timeout: float = 120.0) -> str:
        """What a shell command in the guest says on stdout; AssertionError with all it said where it fails."""
        done = self.try_run(line, stdin=stdin, timeout=timeout)
        said = done.stdout.decode(errors="replace")
        assert done.returncode == 0, f"{line}\nended with {done.returncode}: {said[-30000:]}{done.stderr.decode()}"
        return said

    def try_run(
        self,
        line: str,
        *,
        stdin: bytes | None = None,
        timeout: float = 120.0,
        fresh: bool = False,
        connect: float = 20.0,
        silence: float = 45.0,
    ) -> subprocess.CompletedProcess[bytes]:
        """:param fresh: by a connection of its own, so that sshd is asked and not only a session that is there.
        :param connect: seconds for sshd's first word. :param silence: until a guest that says nothing is given up."""
        patience = (f"-oConnectTimeout={connect:.0f}", f"-oServerAliveCountMax={silence / 15:.0f}")
        shared = (*patience, *(() if fresh else (f"-oControlPath={self._control}",)))
        given: Any = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        return subprocess.run([*self.ssh(*shared), line], capture_output=True, timeout=timeout, **given)

    def python(self, source: str, *arguments: str, timeout: float = 120.0) -> Any:
        """Run a script with the node's interpreter and packages; its stdout is JSON."""
        words = shlex.join(["/opt/edged/current/bin/python", "-", *arguments])
        return json.loads(self.run(words, stdin=source.encode(), timeout=timeout))

    def read(self, *paths: str) -> list[str]:
        """Small files of the guest, each stripped; "" where one is missing."""
        script = 'for f in "$@"; do cat "$f" 2>/dev/null; printf "\\1"; done'
        return [t.strip() for t in self.run(f"sh -c {shlex.quote(script)} - {shlex.join(paths)}").split("\1")[:-1]]

    def write(self, path: str, content: bytes | str, mode: str = "644") -> None:
        data = content.encode() if isinstance(content, str) else content
        where = shlex.quote(path)
        self.run(f"mkdir -p $(dirname {where}) && cat > {where} && chmod {mode} {where}", stdin=data, timeout=600.0)

    def send_tree(self, root: Path, names: Sequence[str], target: str) -> None:
        """Put files and folders of ours below a folder of the guest, in place of what is there."""
        pack = ["tar", "-C", os.fspath(root), "--exclude=__pycache__", "--exclude=node_modules", "-cz", *names]
        packed = subprocess.run(pack, check=True, capture_output=True).stdout
        where = shlex.quote(target)
        self.run(f"rm -rf {where} && mkdir -p {where} && tar -C {where} -xz --no-same-owner", stdin=packed, timeout=600)

    def ssh(self, *options: str, user: str = "root") -> list[str]:
        """The words that open a shell in there; a command may follow them. Of two -o the first counts: `options`."""
        return ["ssh", "-i", os.fspath(self.image.key), *options, *OPTIONS, f"-p{self.port(22)}", f"{user}@127.0.0.1"]

    # ------------------------------------------------------------ our own

    def _words(self) -> list[str]:
        """The emulator's command line."""
        return command(self.hardware, self.image, self.folder, self.accelerator, self._ports)

    @property
    def _control(self) -> Path:
        return self.folder / "ssh"

    def _greets(self, patience: float) -> bool:
        """Whether sshd is there; cheaper than an exchange of keys with one that isn't."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port(22)), patience) as peer:
            return peer.recv(4) == b"SSH-"
        return False

    def _share_a_line(self) -> bool:
        """An exchange of keys takes a second or two in there; without the line ssh falls back to one each time.

        :returns: whether a command can be run by it.
        """
        self._hang_up()
        words = self.ssh("-M", "-N", f"-S{self._control}", "-oConnectTimeout=60")
        with (self.folder / "emulator.log").open("ab") as log:
            self._line = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 120.0
        while not self._control.exists() and self._line.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        try:
            return self._control.exists() and self.try_run("true").returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line.kill()
            self._line.wait()
            self._line = None
        self._control.unlink(missing_ok=True)

    def _check_emulator(self) -> None:
        if self._emulator is None or self._emulator.poll() is not None:
            said = (self.folder / "emulator.log").read_text(errors="replace")
            raise AssertionError(f"the emulator ended: {said[-2000:]}{self.console()[-2000:]}")

    def _whole_console(self) -> str:
        try:
            return (self.folder / "console.log").read_text(errors="replace")
        except OSError:
            return ""


def accelerator(hardware: Hardware, image: Image) -> tuple[str, ...]:
    """KVM where the machine has one that can run this kernel, else TCG.

    Tried rather than asked for: a /dev/kvm that opens may still be one that stops at the first odd instruction.
    Without a disk the kernel panics soon, and `panic=-1` with -no-reboot then ends the emulator by itself.
    """
    like = ARCHITECTURES[hardware.architecture]
    emulated = ("-accel", "tcg,thread=multi", "-cpu", hardware.cpu or like.cpu)
    native = hardware.architecture == "amd64" and os.uname().machine == "x86_64" and image.kernel is not None
    if not native or os.environ.get("EDGED_VM_ACCEL") == "tcg" or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return emulated
    argv = [
        *(like.emulator, "-accel", "kvm", "-cpu", "host", "-smp", "2", "-m", "512", "-no-reboot"),
        *("-kernel", os.fspath(image.kernel or ""), "-append", "console=ttyS0 panic=-1", "-nodefaults"),
        *("-display", "none", "-serial", "stdio"),
    ]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_PATIENCE)
    except subprocess.TimeoutExpired:
        return emulated
    usable = done.returncode == 0 and b"Kernel panic" in done.stdout
    return ("-accel", "kvm", "-cpu", "host") if usable else emulated


def _until_prompt(line: socket.socket) -> bytes:
    said = b""
    while not said.endswith(b"(qemu) "):
        piece = line.recv(4096)
        assert piece, f"the emulator hung up: {said!r}"
        said += piece
    return said


def look_around() -> None:
    """`python -m tests.vm.machine`: see above."""
    parser = argparse.ArgumentParser(prog="python -m tests.vm.machine", description="Boot a virtual machine by hand.")
    parser.add_argument("--stock", action="store_true", help="Debian with nothing of ours in it")
    parser.add_argument("--release", default="", help="bookworm or trixie; default: this machine's")
    parser.add_argument("--memory", type=int, default=1024, metavar="MB")
    parser.add_argument("--network", choices=("user", "restricted"), default="user")
    given = parser.parse_args()
    base = build("stock" if given.stock else "node", given.release)
    with tempfile.TemporaryDirectory(prefix="edged-vm-") as folder:
        machine = Machine(base, Path(folder), Hardware(memory=given.memory, network=given.network, reboots=True))
        try:
            machine.boot()
            print(f"{shlex.join(machine.ssh())}\nconsole: {folder}/console.log\nCtrl-C cuts its power.", flush=True)
            while machine.is_on:
                time.sleep(1.0)
        except KeyboardInterrupt:
            pass
        finally:
            machine.cut_power()


if __name__ == "__main__":
    look_around()
