"""A hub and its broker on the host, as processes, for nodes in virtual machines: QEMU shows the host's loopback to them
as 10.0.2.2, which is therefore the address in tokens and certificates. People on the host use 127.0.0.1."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cloudlink.cli.house import House
from tests.houses import unique_names
from tests.kubectl_lab import Kubectl, oldest_and_newest, versions
from tests.vm.machine import Machine

SEEN_AT = "10.0.2.2"
PATIENCE = 600.0  # seconds; guests are twenty times slower than the machine that they run on
JOIN = """
set -eu
/opt/edged/current/bin/python -m cloudlink.cli join {token} --name {name} --config /etc/edged/node.toml \
    --state-dir /var/lib/edged --run-dir /run/edged {settings}
"""


class Fleet(House):
    """A house without a node of its own."""

    def prepare_hub(self, port: int = 0, broker_port: int = 0) -> None:
        super().prepare_hub(port, broker_port)
        text = self.hub_toml.read_text().replace('broker_host = "127.0.0.1"', 'broker_host = "0.0.0.0"')
        self.hub_toml.write_text(f'{text}advertise = "{SEEN_AT}"\n')

    def hub_answers(self) -> bool:
        """The kubeconfig names the address that guests use; from here it is another one."""
        if not self.kubeconfig.exists():
            made = self.python("-m", "cloudlink.hub", "kubeconfig", "--config", str(self.hub_toml), check=False)
            if made.returncode != 0:
                return False
            self.kubeconfig.touch(mode=0o600)
            self.kubeconfig.write_text(made.stdout.replace(SEEN_AT, "127.0.0.1"))
        return super().hub_answers()

    def token(self) -> str:
        """One that joins one board."""
        made = self.python("-m", "cloudlink.hub", "token", "create", "--config", str(self.hub_toml))
        return made.stdout.split()[-1]

    def join_machine(self, machine: Machine, name: str, settings: tuple[str, ...] = ()) -> None:
        """`edgectl join` in a guest that has a daemon installed but not started, as a person would over ssh."""
        every = " ".join(f"--set {setting}" for setting in settings)
        machine.run(JOIN.format(token=self.token(), name=name, settings=every), timeout=PATIENCE)

    def kubectl(self, namespace: str = "default", name: str = "") -> Kubectl:
        return Kubectl(oldest_and_newest()[-1], self.kubeconfig, namespace, name)

    def shown(self, *words: str) -> str:
        """For the notes: what kubectl says, where there is one."""
        return self.kubectl().run(*words)[1] if versions() else "(no kubectl here to show it)"

    def nodes(self) -> dict[str, dict[str, Any]]:
        return {n["metadata"]["name"]: n for n in self.client.call("GET", "/api/v1/nodes")["items"]}

    def node_is(self, name: str, kind: str = "Ready", status: str = "True") -> bool:
        """Whether the hub's Node has a condition with that status."""
        conditions = (self.nodes().get(name, {}).get("status") or {}).get("conditions") or []
        return any(c["type"] == kind and c["status"] == status for c in conditions)

    def until_ready(self, *names: str) -> None:
        self.wait(f"{', '.join(names)} to be Ready", lambda: all(self.node_is(n) for n in names), self._told)

    def _told(self) -> str:
        return str({n: (node.get("status") or {}).get("conditions") for n, node in self.nodes().items()})


@contextlib.contextmanager
def a_fleet(hub_settings: tuple[str, ...] = ()) -> Iterator[Fleet]:
    """A running hub without nodes; gone afterwards, whatever happened.

    :param hub_settings: further lines of hub.toml.
    """
    fleet = Fleet(Path(tempfile.mkdtemp(prefix="edged-fleet-")), unique_names(), PATIENCE)
    try:
        fleet.prepare_hub()
        with fleet.hub_toml.open("a") as file:
            file.writelines(f"{line}\n" for line in hub_settings)
        fleet.start_hub()
        yield fleet
    finally:
        fleet.down()
        left = {kind: items for kind, items in fleet.left().items() if items}
        assert not left, f"left behind: {left}"
