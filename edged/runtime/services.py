"""Services on the node: a stable address forwarded to the pods that are ready, and a name for it.

run_dir/services/applied          the rules last applied (JSON), so that the next daemon knows what is there
run_dir/services/hosts            the names
run_dir/services/dnsmasq.pid      who answers for them
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
from edged.model import ServiceRules
from edged.runtime import nftables
from edged.runtime.nameserver import NameServer
from edged.runtime.nftables import removal_script
from edged.runtime.service_rules import check, forwarding_script, hosts_file, stale_flows
from edged.runtime.wiring import ForgetFlows, PodRange, Worker

log = logging.getLogger(__name__)


class Services:
    """Forwarding and names of all Services of one node. Methods are called from one loop."""

    def __init__(self, config: NetworkConfig, run_dir: Path) -> None:
        self._config = config
        self._table = f"{config.nft_table}_services"
        self._folder = run_dir / "services"
        self._names = NameServer(PodRange.parse(config.pod_cidr).gateway, config.cluster_domain, self._folder)
        self._worker = Worker(self._folder)
        self._watch = nftables.TableWatch(self._table, self._table_lost)
        self._lock = asyncio.Lock()
        self._applied: tuple[ServiceRules, ...] = ()
        self._script = ""  # that the kernel has; "" means that its state is unknown
        self._hosts: str | None = None
        self._no_forwarding = ""
        self._problems: tuple[str, ...] = ()
        self._mend: asyncio.Task[None] | None = None

    @property
    def nameserver(self) -> str:
        """The address that pods should ask for names; "" while no Service exists or dnsmasq can't be had."""
        return self._names.address

    @property
    def applied(self) -> tuple[ServiceRules, ...]:
        """The rules that forwarding and names say now, also those that an earlier daemon applied."""
        return self._applied

    @property
    def degraded(self) -> tuple[str, ...]:
        """Sentences for what this machine can't do fully, and for what can't be served as written."""
        return tuple(s for s in (self._no_forwarding, self._names.problem, *self._problems) if s)

    async def open(self) -> None:
        """Take over what an earlier daemon left, and apply it anew: somebody may have flushed it meanwhile."""
        try:
            earlier = msgspec.json.decode((self._folder / "applied").read_bytes(), type=tuple[ServiceRules, ...])
        except FileNotFoundError:
            earlier = ()  # still applied: the folder may have been emptied while its table and its dnsmasq live on
        except (OSError, msgspec.DecodeError) as e:
            log.warning("%s can't be read, so Services begin anew: %s", self._folder / "applied", e)
            earlier = ()
        async with self._lock:
            try:
                await self._apply(earlier)
            except EdgedError as e:
                log.warning("services of the last run can't be applied: %s", e)

    async def sync(self, rules: Sequence[ServiceRules]) -> None:
        """Make forwarding and names say exactly this. Nothing is done where they do already.

        What a machine can't do (no nft, no dnsmasq) is told in `degraded` instead of raised.

        :raises RetryError: nft refused; the rules from before are still in force.
        """
        async with self._lock:
            if tuple(rules) != self._applied or not self._script:
                await self._apply(tuple(rules))

    async def close(self) -> None:
        """Let go, touching nothing."""
        await self._stop_watching()
        await self._names.close()
        await self._worker.close()

    async def teardown(self) -> None:
        """Remove the table, dnsmasq and the files, also those that another daemon of this run_dir left."""
        await self._stop_watching()
        await self._worker.close()
        async with self._lock:
            await self._names.stop()
            with contextlib.suppress(PermanentError):  # no nft, so no table
                await nftables.apply(removal_script(self._table))
            self._applied, self._script, self._hosts = (), "", None
            shutil.rmtree(self._folder, ignore_errors=True)

    # ------------------------------------------------------------ inside

    async def _apply(self, rules: tuple[ServiceRules, ...]) -> None:
        checked = check(rules)
        self._problems = checked.problems
        await self._apply_names(hosts_file(self._config.cluster_domain, checked.rules))
        await self._apply_forwarding(forwarding_script(self._table, self._config.bridge, checked.rules))
        await self._forget_flows(check(self._applied).rules, checked.rules)
        self._remember(rules)

    async def _apply_names(self, hosts: str) -> None:
        if not hosts:
            await self._names.stop()
        elif hosts != self._hosts or not self._names.pid:
            await self._names.serve(hosts)
        self._hosts = hosts

    async def _apply_forwarding(self, script: str) -> None:
        if script == self._script:
            return
        self._watch.open()
        try:
            await nftables.apply(script)
        except PermanentError as e:
            self._no_forwarding = f"Services can't be forwarded: {e}"
        else:
            self._no_forwarding = ""
        self._script = script

    async def _forget_flows(self, before: Sequence[ServiceRules], after: Sequence[ServiceRules]) -> None:
        requests = [ForgetFlows(ip, addresses) for ip, addresses in stale_flows(before, after)]
        for failed in await asyncio.gather(*map(self._worker.call, requests), return_exceptions=True):
            if isinstance(failed, EdgedError):
                log.warning("some UDP flows go on to where they went before, until they pause: %s", failed)
            elif isinstance(failed, BaseException):
                raise failed

    def _remember(self, rules: tuple[ServiceRules, ...]) -> None:
        self._applied = rules
        if not rules and not self._folder.exists():
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        new = self._folder / "applied.new"
        new.write_bytes(msgspec.json.encode(rules))
        new.rename(self._folder / "applied")

    def _table_lost(self) -> None:
        if self._script and self._script != removal_script(self._table):
            log.warning("somebody removed the nftables table %s; putting it back", self._table)
            self._mend = asyncio.get_running_loop().create_task(self._put_back(), name="services-put-back")

    async def _put_back(self) -> None:
        async with self._lock:
            script, self._script = self._script, ""
            try:
                await self._apply_forwarding(script)
            except EdgedError as e:
                log.warning("the table can't be put back, the next change of Services tries again: %s", e)

    async def _stop_watching(self) -> None:
        self._watch.close()
        if self._mend is not None:
            self._mend.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._mend
            self._mend = None
