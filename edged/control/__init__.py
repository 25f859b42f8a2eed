"""The local API: newline-delimited JSON on a unix socket, for edgectl and the dashboard.

Resident in the daemon, so it loads nothing but msgspec and what asyncio has loaded anyway. It reads and asks;
it decides nothing and changes nothing on the machine. It may import `edged.model` and `edged.errors` only.
"""

from edged.control.client import ControlClient
from edged.control.facts import machine_facts
from edged.control.logs import LogLine
from edged.control.protocol import Budget, DaemonFacts, Machine, Snapshot
from edged.control.server import ControlServer, ControlSource
from edged.model import HubLink, LinkState

__all__ = [
    "Budget",
    "ControlClient",
    "ControlServer",
    "ControlSource",
    "DaemonFacts",
    "HubLink",
    "LinkState",
    "LogLine",
    "Machine",
    "Snapshot",
    "machine_facts",
]
