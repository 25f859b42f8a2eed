"""Pod networking: a namespace per pod, joined to the node's bridge, with an address of its own.

    run_dir/netns/10.88.0.5           the namespace, pinned by a bind mount; its name is its address
    run_dir/netns/pods/<pod uid>      whose it is (a `Netns` as JSON)
    run_dir/netns/spares/10.88.0.6    made ahead, nobody's yet: taking it is one rename

A namespace exists for us once its record does: whatever has none was half made when somebody was killed, and is
swept at `open`. One path for each address means that no address is ever given out twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import socket
import weakref
from collections.abc import Coroutine, Sequence
from pathlib import Path

import msgspec

from edged.addresses import forwards, is_up_with
from edged.config import NetworkConfig
from edged.errors import EdgedError, PermanentError, RetryError
from edged.runtime import nftables
from edged.runtime.follower import Healed
from edged.runtime.kept_table import KeptTable
from edged.runtime.netns import UID, Netns, records, write
from edged.runtime.wiring import (
    EnsureBridge,
    PodRange,
    RemoveBridge,
    Tune,
    Unwire,
    Wire,
    Worker,
    veth_name,
    veth_prefix,
)

log = logging.getLogger(__name__)

REFILL_DELAY = 1.0  # seconds: a spare is made when the pod that took the last one has had its start


def masquerade_script(table: str, bridge: str, cidr: str, egress: bool) -> str:
    """For `nft -f -`: the table replaced in one transaction, or removed where pods may not go out."""
    if not egress:
        return nftables.removal_script(table)
    return nftables.removal_script(table) + (
        f"table ip {table} {{\n"
        f"  chain postrouting {{\n"
        f"    type nat hook postrouting priority srcnat; policy accept;\n"
        f'    ip saddr {cidr} oifname != "{bridge}" masquerade\n'
        f"  }}\n"
        f"}}\n"
    )


def _firewall(bridge: str) -> str:
    """A sentence where somebody else's rules are in the pods' way."""
    if not nftables.forward_policy_drops():
        return ""
    return (
        "the machine's firewall (iptables chain FORWARD, policy DROP; Docker sets it) may drop what pods send and get;"
        f" let them through: iptables -I FORWARD -i {bridge} -j ACCEPT; iptables -I FORWARD -o {bridge} -j ACCEPT"
    )


class Network:
    """Namespaces for pods. One instance for a run_dir at a time; methods are called from one loop.

    :ivar degraded: sentences, one for each thing this machine can't do fully; complete after `open`.
    """

    def __init__(self, config: NetworkConfig, run_dir: Path) -> None:
        """:raises PermanentError: the settings make no sense."""
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", config.bridge):
            raise PermanentError(f"network.bridge {config.bridge!r} must be 1 to 15 letters, digits, '_', '.' or '-'")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", config.nft_table):
            raise PermanentError(f"network.nft_table {config.nft_table!r} must be a word of letters, digits and '_'")
        self.degraded: Sequence[str] = ()
        self._config = config
        self._range = PodRange.parse(config.pod_cidr)
        self._folder = run_dir / "netns"
        self._pods_folder = self._folder / "pods"
        self._spares_folder = self._folder / "spares"
        self._worker = Worker(self._folder)
        self._pods: dict[str, Netns] = {}
        self._spares: dict[int, Netns] = {}
        self._taken: set[int] = set()  # every index in use or being made or removed
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()  # a refill and some discards; all end by themselves
        self._refill_due: asyncio.TimerHandle | None = None
        self._refilling = False
        self._closing = False
        self._may_forward = True
        self._table = KeptTable(config.nft_table)

    # ------------------------------------------------------------ life

    async def open(self) -> None:
        """Bridge and masquerade; what is alive is taken over, what is half made swept; spares follow by themselves.

        :raises PermanentError: pod_cidr or the bridge's name is used by something else on this machine.
        :raises RetryError: the kernel refused for now.
        """
        for folder in (self._pods_folder, self._spares_folder):
            folder.mkdir(parents=True, exist_ok=True)
        known = (*records(self._pods_folder), *records(self._spares_folder))
        veths = tuple(netns.host_veth for _, netns in known if self._usable(netns))
        bridge, masquerade = await asyncio.gather(
            self._worker.call(EnsureBridge(self._config.bridge, self._range, veths)), self._apply_masquerade()
        )
        self.degraded = tuple(s for s in (bridge.degraded, masquerade, _firewall(self._config.bridge)) if s)
        self._may_forward = not bridge.degraded
        await self._take_over()
        self._refill_soon(0.0)

    async def close(self) -> None:
        """Let go, touching nothing."""
        await self._stop_tasks()
        await self._worker.close()

    async def teardown(self) -> None:
        """Remove every namespace, veth, the bridge and the table, also those left by others of this run_dir.

        Works without `open`. What can't be removed is reported once everything else has gone.
        """
        await self._stop_tasks()
        results: list[object] = []
        results += await asyncio.gather(*map(self._worker.call, self._traces(keep=())), return_exceptions=True)
        results += await asyncio.gather(
            self._worker.call(RemoveBridge(self._config.bridge)),
            self._table.remove(),
            return_exceptions=True,
        )
        await self._worker.close()
        self._pods, self._spares, self._taken = {}, {}, set()
        failed = [e for e in results if isinstance(e, BaseException)]
        if failed:
            raise RetryError(f"the network is not wholly removed: {'; '.join(map(str, failed))}") from failed[0]
        shutil.rmtree(self._folder, ignore_errors=True)

    # ------------------------------------------------------------ pods

    async def attach(self, pod_uid: str, sysctls: Sequence[tuple[str, str]] = ()) -> Netns:
        """The pod's namespace, made if there is none that lives. Quick where a spare is ready.

        :param sysctls: net.* parameters that it gets.
        :raises PermanentError: the kernel does not take a parameter.
        :raises RetryError: no address is free, or the kernel refused for now.
        """
        record = self._record(pod_uid)
        async with self._lock(pod_uid):
            known = self._pods.get(pod_uid)
            if known is not None:
                if self._alive(known):
                    if sysctls:  # whoever was killed in between may have left them out
                        await self._worker.call(Tune(known.path, tuple(sysctls)))
                    return known
                await self._remove(pod_uid, known)
            netns = self._take_spare(record)
            if netns is None:
                netns = await self._make()
                write(record, netns)
            self._pods[pod_uid] = netns
            if sysctls:
                await self._worker.call(Tune(netns.path, tuple(sysctls)))
            return netns

    async def detach(self, pod_uid: str) -> None:
        """No namespace for the pod; its address is free again. Nothing happens if there is none."""
        self._record(pod_uid)
        async with self._lock(pod_uid):
            known = self._pods.get(pod_uid)
            if known is not None:
                await self._remove(pod_uid, known)

    def observe(self) -> dict[str, Netns]:
        """Pod uid -> namespace, only those that are really there, read afresh."""
        return {name: netns for name, netns in records(self._pods_folder) if self._usable(netns)}

    def find(self, pod_uid: str) -> Netns | None:
        """One pod's, as `observe` has it; a start needn't look at all the others."""
        try:
            netns = msgspec.json.decode(self._record(pod_uid).read_bytes(), type=Netns)
        except (OSError, msgspec.DecodeError):
            return None
        return netns if self._usable(netns) else None

    # ------------------------------------------------------------ following the machine

    def concerned(self, links: set[str]) -> bool:
        """The bridge or a pod's cable is among them."""
        pods = {netns.host_veth for netns in self._pods.values()}
        return self._config.bridge in links or not pods.isdisjoint(links)

    async def heal(self) -> Healed:
        """Put back the bridge, its address and the cables in it, where somebody took them away; a network manager,
        say.

        :raises PermanentError: somebody has put something else in its place.
        :raises RetryError: the kernel refused for now.
        """
        whole = is_up_with(self._config.bridge, self._range.gateway) and (forwards() or not self._may_forward)
        if not whole:
            log.warning("bridge %s or ip_forward was changed by somebody; putting it back", self._config.bridge)
            veths = tuple(netns.host_veth for netns in (*self._pods.values(), *self._spares.values()))
            await self._worker.call(EnsureBridge(self._config.bridge, self._range, veths))
        return Healed(mended=not whole, lost=not all(map(self._alive, self._pods.values())))

    # ------------------------------------------------------------ inside

    def _lock(self, pod_uid: str) -> asyncio.Lock:
        return self._locks.setdefault(pod_uid, asyncio.Lock())

    def _record(self, pod_uid: str) -> Path:
        if not UID.fullmatch(pod_uid):
            raise PermanentError(f"pod uid {pod_uid!r} can't name a file; use letters, digits, '.', '_' and '-'")
        return self._pods_folder / pod_uid

    def _alive(self, netns: Netns) -> bool:
        """Its mount is there (a file on another file system than its folder) and so is its cable."""
        try:
            socket.if_nametoindex(netns.host_veth)
            return os.stat(netns.path).st_dev != os.stat(self._folder).st_dev  # noqa: PTH116 (a hot path)
        except OSError:
            return False

    def _netns(self, index: int) -> Netns:
        ip = self._range.pod_address(index)
        return Netns(
            path=os.fspath(self._folder / ip),
            ip=ip,
            gateway=self._range.gateway,
            host_veth=veth_name(self._config.bridge, index),
        )

    async def _make(self) -> Netns:
        """Wire a namespace with the lowest free address."""
        index = next((i for i in range(self._range.capacity) if i not in self._taken), None)
        if index is None:
            raise RetryError(
                f"all {self._range.capacity} addresses of network.pod_cidr {self._config.pod_cidr} are in use;"
                " remove pods or set a larger one",
                after=10.0,
            )
        netns = self._netns(index)
        self._taken.add(index)
        try:
            await self._worker.call(
                Wire(netns.path, netns.ip, netns.gateway, veth=netns.host_veth, bridge=self._config.bridge)
            )
        except EdgedError:
            self._taken.discard(index)  # the worker has rolled back, or the next to use this address will
            raise
        except asyncio.CancelledError:
            if not self._closing:
                self._own(self._discard(index), f"network-discard-{netns.ip}")
            raise
        return netns

    async def _discard(self, index: int) -> None:
        """A request whose caller gave up may still be carried out; this removal queues behind it."""
        netns = self._netns(index)
        with contextlib.suppress(EdgedError):
            await self._worker.call(Unwire(netns.path, netns.host_veth))
            self._taken.discard(index)

    async def _remove(self, pod_uid: str, netns: Netns) -> None:
        await self._worker.call(Unwire(netns.path, netns.host_veth))
        self._record(pod_uid).unlink(missing_ok=True)
        self._pods.pop(pod_uid, None)
        index = self._range.index(netns.ip)
        if index is not None:
            self._taken.discard(index)

    def _take_spare(self, record: Path) -> Netns | None:
        while self._spares:
            index = min(self._spares)
            netns = self._spares.pop(index)
            self._refill_soon(REFILL_DELAY)
            if self._alive(netns):
                (self._spares_folder / netns.ip).rename(record)
                return netns
            (self._spares_folder / netns.ip).unlink(missing_ok=True)
            self._taken.discard(index)  # what is left of it is removed when the address is used again
        return None

    # ------------------------------------------------------------ spares

    def _refill_soon(self, delay: float) -> None:
        if self._refill_due is None and not self._closing:
            self._refill_due = asyncio.get_running_loop().call_later(delay, self._start_refill)

    def _start_refill(self) -> None:
        self._refill_due = None
        if not self._refilling and len(self._spares) < self._config.spares:
            self._refilling = True
            self._own(self._make_spares(), "network-spares")

    async def _make_spares(self) -> None:
        try:
            while (missing := self._config.spares - len(self._spares)) > 0:
                await asyncio.gather(*(self._make_spare() for _ in range(missing)))
        except EdgedError as e:
            log.warning("no spare network namespace for now, pods will start a little later: %s", e)
        finally:
            self._refilling = False

    async def _make_spare(self) -> None:
        netns = await self._make()
        write(self._spares_folder / netns.ip, netns)
        index = self._range.index(netns.ip)
        assert index is not None
        self._spares[index] = netns

    def _own(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stop_tasks(self) -> None:
        self._closing = True
        await self._table.close()
        if self._refill_due is not None:
            self._refill_due.cancel()
            self._refill_due = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ------------------------------------------------------------ what is there already

    async def _take_over(self) -> None:
        """Believe the records that are true, and remove every trace of anything else."""
        self._closing = False
        self._pods = {uid: netns for uid, netns in records(self._pods_folder) if self._usable(netns)}
        spares = [netns for _, netns in records(self._spares_folder) if self._usable(netns)]
        self._spares = {index: n for n in spares if (index := self._range.index(n.ip)) is not None}
        kept = [*self._pods.values(), *spares]
        self._taken = {index for netns in kept if (index := self._range.index(netns.ip)) is not None}
        traces = self._traces(kept)
        for unwire, failure in zip(
            traces, await asyncio.gather(*map(self._worker.call, traces), return_exceptions=True), strict=True
        ):
            if isinstance(failure, BaseException):
                log.warning("left over from before, and staying: %s", failure)
                index = self._range.index(Path(unwire.path).name)
                if index is not None:
                    self._taken.add(index)
        for folder, names in ((self._pods_folder, set(self._pods)), (self._spares_folder, {n.ip for n in spares})):
            for record in folder.iterdir():
                if record.name not in names:
                    record.unlink(missing_ok=True)

    def _usable(self, netns: Netns) -> bool:
        """Alive, and what today's settings would make."""
        index = self._range.index(netns.ip)
        return index is not None and netns == self._netns(index) and self._alive(netns)

    def _traces(self, keep: Sequence[Netns]) -> list[Unwire]:
        """What there is of ours beside `keep`: pinned files and cables. Records are not asked, for they may lie."""
        paths, veths = {n.path for n in keep}, {n.host_veth for n in keep}
        found: dict[str, str] = {}  # path -> veth
        with contextlib.suppress(FileNotFoundError):
            for file in os.scandir(self._folder):
                if not file.name.startswith(".") and file.is_file(follow_symlinks=False) and file.path not in paths:
                    index = self._range.index(file.name)
                    found[file.path] = "" if index is None else veth_name(self._config.bridge, index)
        prefix = veth_prefix(self._config.bridge)
        loose = {name for _, name in socket.if_nameindex() if name.startswith(prefix)} - veths - set(found.values())
        return [Unwire(path, veth) for path, veth in found.items()] + [Unwire("", veth) for veth in sorted(loose)]

    async def _apply_masquerade(self) -> str:
        """Returns a sentence if it can't be had."""
        config = self._config
        try:
            await self._table.apply(masquerade_script(config.nft_table, config.bridge, config.pod_cidr, config.egress))
        except EdgedError as e:
            return f"pods can't reach beyond this machine, for masquerading was refused: {e}" if config.egress else ""
        return ""
