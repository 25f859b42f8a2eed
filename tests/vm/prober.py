"""Asks a board whether it is still there, as a person would: a new ssh connection, and in it the daemon.

What is counted is answers that didn't come within a patience that no person would have. How long the others took is
noted, not judged: the board is emulated, on a machine that has other things to do.
"""

from __future__ import annotations

import subprocess
import threading
import time
from types import TracebackType
from typing import NamedTuple

from tests.vm.machine import Machine
from tests.vm.node import PARENT

PATIENCE = 120.0  # seconds for an answer
PAUSE = 1.0
# One process, so that the question itself costs as little as it can; its answer is a line for each number.
QUESTION = f"""exec /usr/bin/python3 -IS -c '
import socket
def words(file): return [line.split() for line in open(file)]
def average(file, which): return next(w[1][6:] for w in words(file) if w[0] == which)
pods = "/sys/fs/cgroup{PARENT}/"
ours = "/sys/fs/cgroup/system.slice/edged.service/"
print("available", int(dict(w[:2] for w in words("/proc/meminfo"))["MemAvailable:"]) >> 10)
print("pods", int(words(pods + "memory.current")[0][0]) >> 20)
print("high", dict(words(pods + "memory.events"))["high"])
print("some", average("/proc/pressure/memory", "some"))
print("full", average(pods + "memory.pressure", "full"))
print("cpu", average(ours + "cpu.pressure", "some"))
print("pages", average(ours + "memory.pressure", "some"))
print("pids", words(pods + "pids.current")[0][0], flush=True)
peer = socket.socket(socket.AF_UNIX); peer.settimeout(80.0)
peer.connect("/run/edged/control.sock"); peer.sendall(b"{{\\"op\\":\\"ping\\"}}\\n")
print("daemon", int(b"ok" in peer.recv(100)))
'"""
COLUMNS = ("available", "pods", "high", "some", "full", "cpu", "pages", "pids")


class Answer(NamedTuple):
    """:ivar at: seconds since the first question. :ivar took: until it was whole, or was given up.
    :ivar numbers: COLUMNS: MB available, MB of all pods, times that they met memory.high, the board's PSI (some, avg10,
    percent) and that of the pods (full), how much the daemon waited for a processor and for memory (PSI, some, avg10),
    processes in pods."""

    at: float
    took: float
    ssh: bool
    daemon: bool
    numbers: dict[str, float]


class Prober:
    """A context: asks from its beginning to its end. :ivar answers: the oldest first."""

    def __init__(self, machine: Machine) -> None:
        self.answers: list[Answer] = []
        self._machine = machine
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._ask_on, name="prober")

    def __enter__(self) -> Prober:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def missed(self) -> tuple[int, int, int]:
        """Questions; of these, without an answer from sshd, and without one from the daemon."""
        found = self.answers
        return len(found), sum(not a.ssh for a in found), sum(not a.daemon for a in found)

    def table(self, rows: int = 24) -> list[str]:
        """Evenly chosen, the first and the last among them, and the one that took longest."""
        asked, ssh, daemon = self.missed()
        if not self.answers:
            return ["nobody was asked"]
        every = max(1, -(-asked // rows))
        slowest = max(self.answers, key=lambda a: a.took)
        shown = [a for n, a in enumerate(self.answers) if n % every == 0 or a in (slowest, self.answers[-1])]
        head = (
            "   s | took s | available MB | pods MB | high hits | PSI some | pods full | daemon: cpu, memory |"
            " pids | ssh, daemon"
        )
        return [
            f"asked {asked} times over new ssh connections: {ssh} without ssh, {daemon} without the daemon; "
            f"slowest {slowest.took:.1f} s",
            head,
            *(_row(a) for a in shown),
        ]

    def _ask_on(self) -> None:
        began = time.monotonic()
        while not self._end.is_set():
            self.answers.append(self._ask(began))
            self._end.wait(PAUSE)

    def _ask(self, began: float) -> Answer:
        asked = time.monotonic()
        try:
            done = self._machine.try_run(QUESTION, timeout=PATIENCE, fresh=True, connect=PATIENCE, silence=PATIENCE)
            words = [line.split() for line in done.stdout.decode(errors="replace").splitlines()]
        except subprocess.TimeoutExpired:
            words = []
        told = {w[0]: float(w[1]) for w in words if len(w) == 2}
        daemon = told.pop("daemon", 0.0) == 1.0
        return Answer(asked - began, time.monotonic() - asked, bool(told), daemon, told)


def _row(answer: Answer) -> str:
    n = {name: answer.numbers.get(name, float("nan")) for name in COLUMNS}
    return (
        f"{answer.at:4.0f} | {answer.took:6.1f} | {n['available']:12.0f} | {n['pods']:7.0f} | {n['high']:9.0f} |"
        f" {n['some']:8.2f} | {n['full']:9.2f} | {n['cpu']:11.2f}, {n['pages']:6.2f} | {n['pids']:4.0f} |"
        f" {'yes' if answer.ssh else 'NO'}, {'yes' if answer.daemon else 'NO'}"
    )
