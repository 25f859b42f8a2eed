"""The node's one loop: observe -> plan -> apply -> report; the only TaskGroup and the only clock.

    inbox (newest desired) ---+
    container exits (pidfd) --+--> wake --> cycle --> steps, one task per owner --> outcomes --> wake
    probe stories, wake_at ---+               +-----> status, only when it changed --> uplink, control socket
    other sources of steps ---+

An owner with a task under way is `busy` and left alone by the planner; everything else is planned in every cycle.
Nothing is polled: an idle node sleeps. What is wanted is kept by `keeping`, what is done by `deeds`, what is said by
`telling`; here they meet.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from edged import __version__
from edged.apply import Executor, Images, Puller
from edged.config import NodeConfig
from edged.decide import budget as budgets
from edged.decide import happenings, summary
from edged.decide import health as healths
from edged.decide import plan as planning
from edged.decide.admission import admission
from edged.decide.attempts import NEVER
from edged.decide.steps import Plan, PrepareSandbox, SyncServices
from edged.deeds import Deeds
from edged.endings import Endings
from edged.first_word import FirstWord
from edged.keeping import Keeper
from edged.machine import Machine
from edged.materials import Materials
from edged.model import Capacity, ContainerPhase, Desired, LinkState, NodeStatus, Observed, PodStatus, RestartPolicy
from edged.prober import Patient, Prober
from edged.runtime.api import Runtime
from edged.sources import StepSource, WorkingSets, unknown_working_sets
from edged.store import StateStore
from edged.systemd import Watchdog
from edged.telling import Teller
from edged.uplink import Asked, Silent, Uplink

ADOPTION = 5.0  # seconds at most, after the start, for running containers to say that they are ready, as they were


def epoch(boot_id: str, started: float) -> str:
    """NodeStatus.epoch: of one life of a daemon, never to come again. Not from the wall clock: a board without one of
    its own begins every boot at the same time, and a hub takes what an earlier epoch says for late post."""
    return hashlib.blake2b(f"{boot_id} {started!r}".encode(), digest_size=8).hexdigest()


class Daemon:
    """Owns the state between two cycles. Everything it knows can be lost at any moment without harm.

    :param extra: who else has steps for the node.
    :param working_sets: what has been learned of containers' memory, for the status.
    :param machine: None: the one that we are on.
    """

    def __init__(
        self,
        config: NodeConfig,
        runtime: Runtime,
        images: Images,
        puller: Puller,
        store: StateStore,
        uplink: Uplink,
        extra: Sequence[StepSource] = (),
        working_sets: WorkingSets = unknown_working_sets,
        machine: Machine | None = None,
    ) -> None:
        machine = machine or Machine()
        self._machine = machine
        self._boottime = boottime = machine.boottime
        self._watchdog = Watchdog(machine.watchdog(), machine.tell)
        self.config = config
        self.uplink = uplink
        self.capacity = machine.capacity(config)
        self.budget = budgets.of(self.capacity)
        self.started = boottime()
        self._runtime = runtime
        self._images = images
        self._extra = extra
        self._working_sets = working_sets
        self._seen: Observed | None = None
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._changed = asyncio.Condition()
        self._teller = Teller(uplink.report, self._title_of, machine.wall)
        self._keeper = Keeper(config, store, self._teller.event, self._wake.set, boottime, machine.wall)
        alone = uplink.state.state is LinkState.LOCAL
        self._first_word = FirstWord(self.started, 0.0 if alone else config.hub_wait, machine.line)
        self._endings = Endings(config.state)
        materials = Materials(self._keeper, self.capacity, config.name, uplink.unseal, machine.address)
        executor = Executor(runtime, images, puller, materials.of, materials.logins)
        self._deeds = Deeds(executor, images, extra, self._teller.happened, self._wake.set, boottime)
        self._boot_id = machine.boot_id()
        self._epoch = epoch(self._boot_id, self.started)
        self._adopting = True
        self._prober: Prober

    # ------------------------------------------------------------ life

    async def run(self, services: Iterable[Coroutine[Any, Any, None]] = (), asked: Asked | None = None) -> None:
        """Until `stop()`. `services` are further coroutines to run beside the loop (the control socket); `asked` is
        handed to the uplink."""
        waiting = list(services)
        try:
            self._keeper.load()
            self._endings.load()
            self._deeds.asked = {pod.uid for pod in self._keeper.pods}  # were asked for when they were new
            await self._runtime.open(self._on_exit)
        except BaseException:
            for service in waiting:  # never begun, so nobody else would end them
                service.close()
            raise
        stop_watching = self._machine.watch_clock(self._wake.set)
        try:
            async with asyncio.TaskGroup() as tasks:
                self._prober = Prober(self._runtime, tasks, self._wake.set, self._boottime)
                around = [
                    tasks.create_task(self.uplink.run(self._keeper.inbox, asked or Silent()), name="uplink"),
                    *(tasks.create_task(service, name=f"service {n}") for n, service in enumerate(waiting)),
                    *(tasks.create_task(s.run(self._wake.set), name=f"source {type(s).__name__}") for s in self._extra),
                ]
                await self._cycles(tasks)
                for task in around:
                    task.cancel()
                self._prober.sync({})
        finally:
            stop_watching()
            await self._runtime.close()

    def stop(self) -> None:
        """Let go of everything; the containers run on."""
        self._stop.set()
        self._wake.set()

    def look_again(self) -> None:
        """Something may have changed outside (an image came, one is half there): take another look."""
        self._wake.set()

    async def refresh(self) -> None:
        """Somebody changed something outside (an image was brought in): forget setbacks and look again."""
        self._deeds.begin_anew()
        self._wake.set()

    def _on_exit(self, container_id: str) -> None:
        self._wake.set()

    # ------------------------------------------------------------ the loop

    async def _cycles(self, tasks: asyncio.TaskGroup) -> None:
        first = True
        while not self._stop.is_set():
            self._wake.clear()
            wake_at = self._cycle(tasks)
            await self._notify_watchers()
            if first:
                self._machine.tell("READY=1")
                first = False
            await self._wait(wake_at)
        self._machine.tell("STOPPING=1")
        await self._deeds.let_go()

    async def _wait(self, wake_at: float) -> None:
        """Until something happens or its time has come. The watchdog is fed here and nowhere else: after a cycle that
        came to its end, and while there is rightly nothing to do. A task of its own would also speak for a loop that
        awaits something for ever."""
        over = False
        while not over:
            now = self._boottime()
            self._watchdog.feed(now)
            left = max(wake_at - now, 0.0)
            pause = self._watchdog.pause(left)
            over = pause == left
            try:
                async with asyncio.timeout(None if pause == NEVER else pause):
                    await self._wake.wait()
                return
            except TimeoutError:
                continue

    def _cycle(self, tasks: asyncio.TaskGroup) -> float:
        """One round; returns when to look again if nothing happens."""
        if self._keeper.accept():
            self._deeds.begin_anew()
        before, self._seen = self._seen, self._observe()
        if before is not None:  # what the first look finds was there before us and is no news
            self._teller.happened(happenings.between(before, self._seen))
        else:
            there = {s.pod_uid for s in self._seen.sandboxes} | {c.pod_uid for c in self._seen.containers}
            self._endings.look_for(self._keeper.pods, there)
            self._seen = replace(self._seen, ended=self._endings.known)
        self._deeds.prune(self.desired, self._seen)
        self._prober.sync(self._patients())
        planned = self._plan()
        self._endings.begin(s.pod for s in planned.steps if isinstance(s, PrepareSandbox))
        if self._adopts():  # traffic stays where it is, and nobody is told that all pods are down
            rest = tuple(s for s in planned.steps if not isinstance(s, SyncServices))
            self._deeds.begin(rest, tasks, self.generation)
            return min(planned.wake_at, self.started + ADOPTION, self._first_word.next_look(self._boottime()))
        self._deeds.begin(planned.steps, tasks, self.generation)
        self._endings.note(self._final(), self._keeper.pods)
        self._teller.report(self.status)
        return min(planned.wake_at, self._keeper.save_at, self._first_word.next_look(self._boottime()))

    def _adopts(self) -> bool:
        """Is it still to be found out how those are that ran before this daemon did?"""
        overdue = self._boottime() >= self.started + ADOPTION
        self._adopting = self._adopting and not overdue and not self._prober.is_settled()
        return self._adopting

    def _plan(self) -> Plan:
        now = self._boottime()
        planned = planning.plan(self.desired, self.observed, self.budget, now, self._keeper.digests)
        further = [source.steps(self.desired, self.observed, now) for source in self._extra]
        return planning.together(planned, further, self.observed, now) if further else planned

    def _observe(self) -> Observed:
        sandboxes, containers = self._runtime.observe()
        deeds, desired = self._deeds, self.desired
        wanted = planning.wanted_images(desired) if desired is not None else ()
        claimed = planning.claimed_devices(self._keeper.pods)
        return Observed(
            containers=tuple(containers),
            sandboxes=tuple(sandboxes),
            images=frozenset(name for name in wanted if self._images.resolve(name) is not None),
            services=deeds.services,
            health=dict(self._prober.health),
            setbacks=dict(deeds.setbacks),
            busy=frozenset(deeds.busy),
            host_ports=deeds.host_ports,
            asked=frozenset(deeds.asked),
            devices=self._runtime.devices(claimed) if claimed else {},
            claims=self._runtime.claims(),
            claim_sizes=dict(deeds.claim_sizes),
            killed=dict(deeds.killed),
            wall=self._wall(),
            unheard=self._first_word.is_awaited(self._keeper.inbox.heard, self._boottime()),
            ended=self._endings.known,
        )

    def _patients(self) -> dict[str, Patient]:
        """The running containers that have probes, with the newest spec of each. One whose postStart hook isn't done
        is not asked yet, one that was asked to end no more, and one that is frozen can't answer."""
        pods = {p.uid: p for p in self._keeper.pods}
        ips = {s.pod_uid: s.ip for s in self.observed.sandboxes}
        frozen = {s.pod_uid for s in self.observed.sandboxes if s.frozen}
        patients = {}
        for state in self.observed.containers:
            pod = pods.get(state.pod_uid)
            if pod is None or state.phase is not ContainerPhase.RUNNING or state.pod_uid in frozen:
                continue
            if state.stop_requested_at or not state.post_started:
                continue
            container = next((c for c in pod.all_containers if c.name == state.name), None)
            if container is not None and healths.probes_of(container):
                patients[state.id] = Patient(state, container, ips.get(state.pod_uid, ""))
        return patients

    # ------------------------------------------------------------ telling

    def _title_of(self, pod: str) -> str:
        known = next((p.title for p in self._keeper.pods if p.uid == pod), "")
        return known or next((s.pod for s in self.observed.sandboxes if s.pod_uid == pod), "")

    def status(self) -> NodeStatus:
        return NodeStatus(
            node=self.config.name,
            generation=self.generation,
            epoch=self._epoch,
            capacity=self._capacity(),
            pods=self._pods(),
            events=self._teller.events,
            degraded=(
                *self._runtime.degraded,
                *(sentence for source in self._extra for sentence in source.degraded),
                *([self._keeper.not_saved] if self._keeper.not_saved else ()),
            ),
            refused=self._keeper.refusal,
            boot_id=self._boot_id,
            version=__version__,
            address=self._machine.address(),
            conditions=tuple(condition for source in self._extra for condition in source.conditions),
            labels=self.config.labels,
            images=summary.images(self._images.list()),
        )

    def _capacity(self) -> Capacity:
        devices = dict(self._runtime.device_names())
        return replace(self.capacity, devices=devices) if devices else self.capacity

    def _pods(self) -> tuple[PodStatus, ...]:
        return summary.summarise(self.desired, self.observed, self.budget, self._boottime(), self._working_sets)

    def _final(self) -> tuple[PodStatus, ...]:
        """What is told of pods that may end for good; of none where all are of the lasting kind, as they mostly are."""
        lasting = all(
            p.restart_policy is RestartPolicy.ALWAYS or p.uid in self._endings.known for p in self._keeper.pods
        )
        return () if lasting else self._pods()

    def _wall(self) -> float | None:
        """The time, where this board can know it."""
        wall = self._machine.wall()
        return wall if wall >= self._keeper.inbox.past else None

    async def _notify_watchers(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # ------------------------------------------------------------ what control.py asks for

    async def changed(self) -> None:
        async with self._changed:
            await self._changed.wait()

    @property
    def desired(self) -> Desired | None:
        return self._keeper.desired

    @property
    def observed(self) -> Observed:
        return self._seen or Observed()

    @property
    def generation(self) -> int:
        return self._keeper.generation

    @property
    def runtime(self) -> Runtime:
        return self._runtime

    def requested(self) -> int:
        """Bytes that admitted pods have set aside."""
        return admission(self.desired, self.observed, self.budget).requested if self.desired else 0

    def plan_text(self) -> str:
        return self._plan().describe()
