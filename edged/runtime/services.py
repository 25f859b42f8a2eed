"""Services on the node: a stable address forwarded to the pods that are ready, and a name for it.

run_dir/services/applied          the rules last applied (JSON), so that the next daemon knows what is there
run_dir/services/hosts            the names
run_dir/services/dnsmasq.pid      who answers for them

Every Service's address has a route to the bridge: without a default route (a greenhouse, a vehicle) the machine would
refuse its own programs before forwarding sees their packets.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edged.config import NetworkConfig
from edged.errors import EdgedError, PermanentError
from edged.model import HostPort, ServiceRules
from edged.runtime import rtnetlink
from edged.runtime.host_ports import check_ports, stale_port_flows, wants_loopback
from edged.runtime.kept_table import KeptTable
from edged.runtime.nameserver import NameServer
from edged.runtime.service_names import hosts_file, settings_file
from edged.runtime.service_rules import Bridge, check, cluster_ips, forwarding_script, stale_flows
from edged.runtime.wiring import ForgetFlows, PodRange, Worker

log = logging.getLogger(__name__)


class Applied(msgspec.Struct, frozen=True):
    """What the machine forwards and answers for."""

    services: tuple[ServiceRules, ...] = ()
    host_ports: tuple[HostPort, ...] = ()


class Services:
    """Forwarding and names of all Services of one node. Methods are called from one loop."""

    def __init__(self, config: NetworkConfig, run_dir: Path) -> None:
        self._config = config
        self._table = f"{config.nft_table}_services"
        self._folder = run_dir / "services"
        self._bridge = Bridge(config.bridge, PodRange.parse(config.pod_cidr).gateway)
        self._names = NameServer(self._bridge.address, config.cluster_domain, self._folder)
        self._worker = Worker(self._folder)
        self._kept = KeptTable(self._table)
        self._lock = asyncio.Lock()
        self._applied = Applied()
        self._script = ""  # that the kernel has; "" means that its state is unknown
        self._named: tuple[str, str] | None = None  # hosts and settings of dnsmasq
        self._no_forwarding = ""
        self._no_route = ""
        self._problems: tuple[str, ...] = ()

    @property
    def nameserver(self) -> str:
        """The address that pods should ask for names; "" while no Service exists or dnsmasq can't be had."""
        return self._names.address

    @property
    def applied(self) -> tuple[ServiceRules, ...]:
        """The rules that forwarding and names say now, also those that an earlier daemon applied."""
        return self._applied.services

    @property
    def degraded(self) -> tuple[str, ...]:
        """Sentences for what this machine can't do fully, and for what can't be served as written."""
        return tuple(s for s in (self._no_forwarding, self._no_route, self._names.problem, *self._problems) if s)

    async def open(self) -> None:
        """Take over what an earlier daemon left, and apply it anew: somebody may have flushed it meanwhile."""
        earlier = self._earlier()
        async with self._lock:
            try:
                await self._apply(earlier)
            except EdgedError as e:
                log.warning("services of the last run can't be applied: %s", e)

    def _earlier(self) -> Applied:
        try:
            told = (self._folder / "applied").read_bytes()
            # The second form was written by a daemon that knew no host ports.
            known = msgspec.json.decode(told, type=Applied | tuple[ServiceRules, ...])
        except FileNotFoundError:
            return Applied()  # still applied: the folder may have been emptied while its table and its dnsmasq live on
        except (OSError, msgspec.DecodeError) as e:
            log.warning("%s can't be read, so Services begin anew: %s", self._folder / "applied", e)
            return Applied()
        return known if isinstance(known, Applied) else Applied(known)

    async def sync(self, rules: Sequence[ServiceRules], host_ports: Sequence[HostPort] = ()) -> None:
        """Make forwarding and names say exactly this. Nothing is done where they do already.

        What a machine can't do (no nft, no dnsmasq) is told in `degraded` instead of raised.

        :raises RetryError: nft refused; the rules from before are still in force.
        """
        wanted = Applied(tuple(rules), tuple(host_ports))
        async with self._lock:
            if wanted != self._applied or not self._script:
                await self._apply(wanted)

    async def network_changed(self) -> None:
        """The machine's interfaces or name servers are others now: put back what went with an interface, and let
        names be asked of whom the machine asks now."""
        async with self._lock:
            self._lead_to_bridge(self._applied)
            await self._names.recheck()

    async def close(self) -> None:
        """Let go, touching nothing."""
        await self._kept.close()
        await self._names.close()
        await self._worker.close()

    async def teardown(self) -> None:
        """Remove the table, dnsmasq and the files, also those that another daemon of this run_dir left."""
        await self._kept.close()
        await self._worker.close()
        async with self._lock:
            await self._names.stop()
            await self._kept.remove()
            with contextlib.suppress(OSError):  # the bridge is gone, and its routes with it
                rtnetlink.route_hosts(self._bridge.name, ())
            self._applied, self._script, self._named = Applied(), "", None
            shutil.rmtree(self._folder, ignore_errors=True)

    # ------------------------------------------------------------ inside

    async def _apply(self, wanted: Applied) -> None:
        checked, ports = check(wanted.services), check_ports(wanted.host_ports)
        before, before_ports = check(self._applied.services).rules, check_ports(self._applied.host_ports)[0]
        self._problems = (*checked.problems, *ports[1])
        domain = self._config.cluster_domain
        await self._apply_names(hosts_file(domain, checked.rules), settings_file(domain, checked.rules))
        if not wants_loopback(ports[0]):
            self._open_loopback(False)
        await self._apply_forwarding(forwarding_script(self._table, self._bridge, checked.rules, ports[0]))
        self._lead_to_bridge(wanted)
        await self._forget_flows(
            [ForgetFlows(ip, keep) for ip, keep in stale_flows(before, checked.rules)]
            + [ForgetFlows(ip, keep, port) for ip, port, keep in stale_port_flows(before_ports, ports[0])]
        )
        self._remember(wanted)

    def _lead_to_bridge(self, wanted: Applied) -> None:
        """Routes for the Services' addresses, and for the machine's own 127.0.0.1 where a host port is asked there."""
        addresses, self._no_route = cluster_ips(check(wanted.services).rules), ""
        try:
            rtnetlink.route_hosts(self._bridge.name, addresses)
        except OSError as e:
            if addresses:
                self._no_route = f"without a default route this machine can't reach its Services, pods can: {e}"
        if self._script and wants_loopback(check_ports(wanted.host_ports)[0]) and not self._no_forwarding:
            self._open_loopback(True)

    def _open_loopback(self, wanted: bool) -> None:
        """Only while the table that keeps pods away from the machine's loopback is there."""
        with contextlib.suppress(OSError):
            setting = Path("/proc/sys/net/ipv4/conf", self._bridge.name, "route_localnet")
            if setting.read_text().strip() != str(int(wanted)):
                setting.write_text(str(int(wanted)))

    async def _apply_names(self, hosts: str, settings: str) -> None:
        if not hosts:
            await self._names.stop()
        elif (hosts, settings) != self._named or not self._names.pid:
            await self._names.serve(hosts, settings)
        self._named = (hosts, settings)

    async def _apply_forwarding(self, script: str) -> None:
        if script == self._script:
            return
        try:
            await self._kept.apply(script)
        except PermanentError as e:
            self._no_forwarding = f"Services can't be forwarded: {e}"
        else:
            self._no_forwarding = ""
        self._script = script

    async def _forget_flows(self, requests: Sequence[ForgetFlows]) -> None:
        for failed in await asyncio.gather(*map(self._worker.call, requests), return_exceptions=True):
            if isinstance(failed, EdgedError):
                log.warning("some UDP flows go on to where they went before, until they pause: %s", failed)
            elif isinstance(failed, BaseException):
                raise failed

    def _remember(self, applied: Applied) -> None:
        self._applied = applied
        if applied == Applied() and not self._folder.exists():
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        new = self._folder / "applied.new"
        new.write_bytes(msgspec.json.encode(applied))
        new.rename(self._folder / "applied")
