"""The board's hardware watchdog: a kernel or a systemd that hangs is reset, as nobody is there to pull the plug.

systemd feeds it (RuntimeWatchdogSec=, systemd-system.conf(5)): it supervises the daemon (WatchdogSec=), and the
hardware supervises systemd and the kernel under it. `edged watchdog apply` arms it by the policy of node.toml:

    required     as automatic; without one that is armed, the node's status says so. Pods are started all the same: a
                 node that refused would be of less use than one without a watchdog
    automatic    armed where the board has one
    off          left as it is
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from edged.apply import Outcome
from edged.config import NodeConfig
from edged.decide.attempts import NEVER
from edged.decide.steps import Plan
from edged.errors import PermanentError
from edged.model import Desired, NodeCondition, Observed, Value

DROP_IN = Path("/etc/systemd/system.conf.d/50-edged-watchdog.conf")
DEVICES = Path("/sys/class/watchdog")
# Seconds. A Raspberry Pi's can't be set to more than 15; systemd feeds it at half of this.
TIMEOUT = 14
TEXT = f"""# By `edged watchdog apply`, after hardware_watchdog in node.toml.
[Manager]
# A kernel or a systemd that hangs is reset by the board itself. 15 s are the most that a Raspberry Pi's can.
RuntimeWatchdogSec={TIMEOUT}s
"""


class Found(Value, frozen=True):
    """A watchdog as /sys/class/watchdog shows it. :ivar armed: somebody has opened it, and must feed it."""

    name: str
    identity: str
    armed: bool


def look(folder: Path = DEVICES) -> tuple[Found, ...]:
    found = []
    for device in sorted(folder.glob("watchdog*")):
        facts = [_text(device / name) for name in ("identity", "state")]
        found.append(Found(device.name, facts[0] or "unknown", facts[1] == "active"))
    return tuple(found)


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def complaint(policy: str, found: Sequence[Found]) -> str:
    """A sentence for the node's status; "" where all is as it should be."""
    if policy != "required" or any(one.armed for one in found):
        return ""
    if not found:
        return (
            "hardware_watchdog is required, and this board shows none: a kernel that hangs stays hung; load its driver"
        )
    return f"hardware_watchdog is required, and {found[0].name} isn't armed: run `edged watchdog apply` and reboot"


def told(policy: str, found: Sequence[Found]) -> str:
    there = ", ".join(f"{one.name} ({one.identity}) {'armed' if one.armed else 'not armed'}" for one in found)
    return f"hardware watchdog: {there or 'none on this board'}; policy {policy}"


def wanted(policy: str, found: Sequence[Found]) -> str | None:
    """Of the drop-in: its text, or None where it isn't to be there. "off" takes back what we did, and no more."""
    return None if policy == "off" or not found else TEXT


def apply(policy: str, drop_in: Path = DROP_IN, devices: Path = DEVICES, dry_run: bool = False) -> bool:
    """Arm it, or take our arming back. Says whether anything has changed, or would without `dry_run`."""
    text = wanted(policy, look(devices))
    try:
        if (drop_in.read_text() if drop_in.exists() else None) == text:
            return False
        if dry_run:
            return True
        if text is None:
            drop_in.unlink()
        else:
            drop_in.parent.mkdir(parents=True, exist_ok=True)
            drop_in.write_text(text)
    except OSError as e:
        raise PermanentError(f"{drop_in} can't be written: {e.strerror}; `edged watchdog apply` needs root") from e
    return True


def reload_systemd() -> None:
    """It reads its own settings anew, and opens the watchdog or lets go of it."""
    try:
        done = subprocess.run(["systemctl", "daemon-reload"], capture_output=True, text=True, check=False)
    except OSError as e:
        raise PermanentError(f"systemctl can't be run: {e.strerror}; the watchdog is armed by the next boot") from e
    if done.returncode:
        raise PermanentError(f"systemctl daemon-reload: {done.stderr.strip()}; the watchdog is armed by the next boot")


class BoardWatchdog:
    """Says in the node's status what the policy misses. Implements edged.sources.StepSource, without any step."""

    def __init__(self, config: NodeConfig, devices: Path = DEVICES) -> None:
        self._policy = config.hardware_watchdog
        self._devices = devices
        self.conditions: Sequence[NodeCondition] = ()

    def steps(self, desired: Desired | None, observed: Observed, now: float) -> Plan:
        return Plan((), NEVER)

    @property
    def degraded(self) -> Sequence[str]:
        said = complaint(self._policy, look(self._devices)) if self._policy == "required" else ""
        return (said,) if said else ()

    def remember(self, outcome: Outcome) -> None:
        pass

    async def run(self, wake: Callable[[], None]) -> None:
        pass
