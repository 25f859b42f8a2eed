"""The node's one loop: observe -> plan -> apply -> report; the only TaskGroup and the only clock.

    inbox (newest desired) ---+
    container exits (pidfd) --+--> wake --> cycle --> steps, one task per pod --> outcomes --> wake
    probe stories, wake_at ---+               +-----> status, only when it changed --> uplink, control socket

A pod with a task under way is `busy` and left alone by the planner; every other pod is planned in every cycle.
Nothing is polled: an idle node sleeps.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any

from edged import __version__, host
from edged.apply import Executor, Images, Outcome, Puller, reason_of
from edged.config import NodeConfig
from edged.decide import budget as budgets
from edged.decide import happenings, summary
from edged.decide import health as healths
from edged.decide import plan as planning
from edged.decide.steps import Plan, PrepareSandbox, StartContainer, Step, StopContainer, SyncServices
from edged.errors import EdgedError
from edged.model import (
    ContainerPhase,
    Desired,
    Event,
    Material,
    NodeStatus,
    Observed,
    Pod,
    PodStatus,
    Refusal,
    ServiceRules,
    Setback,
    references,
)
from edged.prober import Patient, Prober
from edged.runtime.api import Runtime
from edged.sources import StepSource, WorkingSets, unknown_working_sets
from edged.store import Saved, StateStore
from edged.uplink import Inbox, Uplink

log = logging.getLogger("edged")

MAX_EVENTS = 64  # in the status; older ones are the hub's to keep
PARALLEL_PODS = 8  # pods worked on at once; more only makes each of them slower on a small board
FIRST_RETRY, LAST_RETRY = 1.0, 60.0  # seconds between tries of a failing step
SAVE_AGAIN = 60.0  # seconds until a full or failing disk is tried again
LETTING_GO = 5.0  # seconds that steps under way get to finish when the daemon is asked to stop


def boottime() -> float:
    """Seconds since boot, sleep included; no wrong or jumping clock can move it (clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Daemon:
    """Owns the state between two cycles. Everything it knows can be lost at any moment without harm."""

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
    ) -> None:
        self.config = config
        self.uplink = uplink
        self.capacity = host.capacity(config)
        self.budget = budgets.of(self.capacity)
        self._seen: Observed | None = None
        self.started = boottime()
        self._runtime = runtime
        self._images = images
        self._store = store
        self._executor = Executor(runtime, images, puller, self._material, self._logins)
        self._desired: Desired | None = None
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._changed = asyncio.Condition()
        self._inbox = Inbox(self._wake.set)
        self._busy: set[str] = set()
        self._slots = asyncio.Semaphore(PARALLEL_PODS)
        self._setbacks: dict[str, Setback] = {}
        self._services: tuple[ServiceRules, ...] | None = None  # a daemon before us may have left some
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._numbers = itertools.count(1)
        self._told: NodeStatus | None = None
        self._degraded: list[str] = []
        self._refusal: Refusal | None = None
        self._refusals = 0  # that were told
        self._unsaved: Saved | None = None  # accepted, but the disk would not take it
        self._not_saved = ""  # why; "" while what is wanted is on the disk
        self._save_at = planning.NEVER
        self._epoch = f"{time.time_ns():x}"
        self._boot_id = host.boot_id()
        self._extra = extra
        self._working_sets = working_sets
        self._prober: Prober

    # ------------------------------------------------------------ life

    async def run(self, services: Iterable[Coroutine[Any, Any, None]] = ()) -> None:
        """Until `stop()`. `services` are further coroutines to run beside the loop (the control socket)."""
        waiting = list(services)
        try:
            self._load()
            await self._runtime.open(self._on_exit)
        except BaseException:
            for service in waiting:  # never begun, so nobody else would end them
                service.close()
            raise
        try:
            async with asyncio.TaskGroup() as tasks:
                self._prober = Prober(self._runtime, tasks, self._wake.set, boottime)
                around = [
                    tasks.create_task(self.uplink.run(self._inbox), name="uplink"),
                    tasks.create_task(self._feed_watchdog(), name="watchdog"),
                    *(tasks.create_task(service, name=f"service {n}") for n, service in enumerate(waiting)),
                    *(tasks.create_task(s.run(self._wake.set), name=f"source {type(s).__name__}") for s in self._extra),
                ]
                await self._cycles(tasks)
                for task in around:
                    task.cancel()
                self._prober.sync({})
        finally:
            await self._runtime.close()

    def stop(self) -> None:
        """Let go of everything; the containers run on."""
        self._stop.set()
        self._wake.set()

    async def refresh(self) -> None:
        """Something outside changed (an image was brought in): forget setbacks and look again."""
        self._setbacks.clear()
        self._wake.set()

    def _load(self) -> None:
        saved = self._store.load()
        for sentence in self._store.damaged:
            log.warning("stored state: %s", sentence)
            self._event("Warning", "StateDamaged", sentence)
        if saved is not None and (saved.desired.fleet, saved.desired.node) != (self.config.fleet, self.config.name):
            # Generations of two fleets can't be compared; what runs is left alone until the new hub has spoken.
            log.warning("the stored state is of node %s in fleet %s", saved.desired.node, saved.desired.fleet)
            saved = None
        if saved is not None:
            self._desired = saved.desired
            self._inbox = Inbox(self._wake.set, saved.desired.generation, saved.digest)

    def _on_exit(self, container_id: str) -> None:
        self._wake.set()

    async def _feed_watchdog(self) -> None:
        interval = host.watchdog_interval()
        while interval:
            host.notify_systemd("WATCHDOG=1")
            await asyncio.sleep(interval)

    # ------------------------------------------------------------ the loop

    async def _cycles(self, tasks: asyncio.TaskGroup) -> None:
        first = True
        while not self._stop.is_set():
            self._wake.clear()
            wake_at = self._cycle(tasks)
            await self._notify_watchers()
            if first:
                host.notify_systemd("READY=1")
                first = False
            pause = None if wake_at == planning.NEVER else max(wake_at - boottime(), 0.0)
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                pass
        host.notify_systemd("STOPPING=1")
        deadline = boottime() + LETTING_GO
        while self._busy and boottime() < deadline:
            self._wake.clear()
            try:
                async with asyncio.timeout(0.5):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _cycle(self, tasks: asyncio.TaskGroup) -> float:
        """One round; returns when to look again if nothing happens."""
        self._accept()
        before, self._seen = self._seen, self._observe()
        if before is not None:  # what the first look finds was there before us and is no news
            for item in happenings.between(before, self.observed):
                self._event(item.kind, item.reason, item.message, item.pod, item.container)
        self._prober.sync(self._patients())
        planned = self._plan()
        for uid, steps in _by_owner(planned.steps).items():
            self._busy.add(uid)
            tasks.create_task(self._carry_out(uid, steps), name=f"pod {uid}")
        if planned.steps:
            log.info("generation %d: %s", self.generation, "; ".join(s.describe() for s in planned.steps))
        self._report()
        return min(planned.wake_at, self._save_at)

    def _plan(self) -> Plan:
        now = boottime()
        planned = planning.plan(self._desired, self.observed, self.budget, now)
        further = [source.steps(self._desired, self.observed, now) for source in self._extra]
        return planning.together(planned, further, self.observed, now) if further else planned

    def _accept(self) -> None:
        """Take the newest document, save it, then act on it: in this order, so a power cut can't undo it."""
        refused = self._inbox.refusals != self._refusals
        if refused:
            self._refusals = self._inbox.refusals
            self._refusal = Refusal(self._inbox.refusals, self._inbox.last_refusal, time.time())
            self._event("Warning", "DesiredRefused", self._inbox.last_refusal)
        desired = self._inbox.take()
        if desired is not None:
            self._unsaved = Saved(desired, self._inbox.digest)
            self._desired = desired
            self._refusal = self._refusal if refused else None  # what came before is over
            self._setbacks.clear()
        if self._unsaved is not None and (desired is not None or boottime() >= self._save_at):
            self._save(self._unsaved)

    def _save(self, wanted: Saved) -> None:
        """A disk that won't take it doesn't stop the pods; it is said, and tried again until it works."""
        try:
            self._store.save(wanted)
        except EdgedError as e:
            if self._not_saved != str(e):
                log.error("%s", e)
                self._event("Warning", "StateNotSaved", str(e))
            self._not_saved, self._save_at = str(e), boottime() + SAVE_AGAIN
            return
        self._unsaved, self._not_saved, self._save_at = None, "", planning.NEVER

    def _observe(self) -> Observed:
        sandboxes, containers = self._runtime.observe()
        wanted = {c.image for p in self._desired.pods for c in p.containers} if self._desired else set()
        return Observed(
            containers=tuple(containers),
            sandboxes=tuple(sandboxes),
            images=frozenset(name for name in wanted if self._images.resolve(name) is not None),
            services=self._services,
            health=dict(self._prober.health),
            setbacks=dict(self._setbacks),
            busy=frozenset(self._busy),
        )

    def _patients(self) -> dict[str, Patient]:
        """The running containers that have probes, with the newest spec of each."""
        pods = {p.uid: p for p in self._desired.pods} if self._desired else {}
        ips = {s.pod_uid: s.ip for s in self.observed.sandboxes}
        patients = {}
        for state in self.observed.containers:
            pod = pods.get(state.pod_uid)
            if pod is None or state.phase is not ContainerPhase.RUNNING:
                continue
            container = next((c for c in pod.containers if c.name == state.name), None)
            if container is not None and healths.probes_of(container):
                patients[state.id] = Patient(state, container, ips.get(state.pod_uid, ""))
        return patients

    # ------------------------------------------------------------ deeds

    async def _carry_out(self, uid: str, steps: list[Step]) -> None:
        """The steps of one pod, in order, up to the first that fails; the next cycle sees what became of them."""
        try:
            async with self._slots:
                for step in steps:
                    if isinstance(step, StopContainer):
                        told = step.container
                        self._event("Normal", "Killing", f"stopping {told.name}: {step.reason}", uid, told.name)
                    outcome = await self._executor.execute(step)
                    self._remember(uid, outcome)
                    for source in self._extra:
                        source.remember(outcome)
                    if outcome.error:
                        break
        except Exception:  # a bug in a step must not take the other pods' daemon down
            log.exception("bug while working on pod %s", uid)
            self._set_back(uid, "InternalError", "a bug in edged; its log has the details", FIRST_RETRY)
        finally:
            self._busy.discard(uid)
            self._wake.set()

    def _remember(self, uid: str, outcome: Outcome) -> None:
        step = outcome.step
        if outcome.error:
            log.warning("%s: %s", step.describe(), outcome.error)
            clearing = not isinstance(step, PrepareSandbox | StartContainer)
            self._set_back(uid, reason_of(step), outcome.error, outcome.retry_after, clearing)
            return
        if isinstance(step, SyncServices):
            self._services = step.services
        if not isinstance(step, PrepareSandbox):  # a sandbox alone doesn't prove that the start works
            self._setbacks.pop(uid, None)

    def _set_back(self, uid: str, reason: str, message: str, after: float, clearing: bool = False) -> None:
        """A permanent failure of a start waits for a new document; taking things away is never given up."""
        count = self._setbacks[uid].count + 1 if uid in self._setbacks else 1
        if clearing:
            after = min(after, LAST_RETRY)
        pause = min(max(after, FIRST_RETRY * 2 ** min(count - 1, 10)), max(LAST_RETRY, after))
        self._setbacks[uid] = Setback(reason, message, count, boottime() + pause, clearing)

    def _material(self, pod: Pod) -> Material:
        """The configs and secrets that the pod refers to, secrets opened; those that are missing are left out."""
        desired = self._desired
        if desired is None:
            return Material()
        configs, secrets = references(pod)
        opened: dict[str, Mapping[str, bytes]] = {}
        for name in secrets:
            sealed = desired.secrets.get(f"{pod.namespace}/{name}")
            if sealed is not None:
                opened[name] = self.uplink.unseal(f"{pod.namespace}/{name}", sealed)
        found = {name: desired.configs.get(f"{pod.namespace}/{name}") for name in configs}
        return Material({name: content for name, content in found.items() if content is not None}, opened)

    def _logins(self, pod: Pod) -> list[Mapping[str, bytes]]:
        """The contents of the pod's registry secrets, as far as they are here."""
        sealed = self._desired.secrets if self._desired is not None else {}
        names = (f"{pod.namespace}/{name}" for name in pod.pull_secrets)
        return [self.uplink.unseal(name, sealed[name]) for name in names if name in sealed]

    # ------------------------------------------------------------ telling

    def _event(self, kind: str, reason: str, message: str, pod: str = "", container: str = "") -> None:
        title = ""
        if pod and self._desired is not None:
            title = next((p.title for p in self._desired.pods if p.uid == pod), "")
        if pod and not title:
            title = next((s.pod for s in self.observed.sandboxes if s.pod_uid == pod), "")
        if pod and not title and self._events:  # it may be gone by now: an earlier event knew it
            title = next((e.title for e in reversed(self._events) if e.pod == pod), "")
        self._events.append(Event(next(self._numbers), time.time(), kind, reason, message, pod, title, container))

    def _report(self) -> None:
        before = self._told.pods if self._told is not None else ()
        pods = self._pods()
        for item in happenings.told_anew(before, pods):
            self._event(item.kind, item.reason, item.message, item.pod, item.container)
        status = self._status(pods)
        if status != self._told:
            self._told = status
            self.uplink.report(status)

    def status(self) -> NodeStatus:
        return self._status(self._pods())

    def _status(self, pods: tuple[PodStatus, ...]) -> NodeStatus:
        return NodeStatus(
            node=self.config.name,
            generation=self.generation,
            epoch=self._epoch,
            capacity=self.capacity,
            pods=pods,
            events=tuple(self._events),
            degraded=(
                *self._runtime.degraded,
                *(sentence for source in self._extra for sentence in source.degraded),
                *([self._not_saved] if self._not_saved else ()),
            ),
            refused=self._refusal,
            boot_id=self._boot_id,
            version=__version__,
            address=host.own_address(),
            conditions=tuple(condition for source in self._extra for condition in source.conditions),
            labels=self.config.labels,
        )

    def _pods(self) -> tuple[PodStatus, ...]:
        return summary.summarise(self._desired, self.observed, self.budget, boottime())

    async def _notify_watchers(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # ------------------------------------------------------------ what control.py asks for

    async def changed(self) -> None:
        async with self._changed:
            await self._changed.wait()

    @property
    def observed(self) -> Observed:
        return self._seen or Observed()

    @property
    def generation(self) -> int:
        return self._desired.generation if self._desired else 0

    @property
    def runtime(self) -> Runtime:
        return self._runtime

    def requested(self) -> int:
        """Bytes that admitted pods have set aside."""
        return budgets.admission(self._desired, self.observed, self.budget).requested if self._desired else 0

    def plan_text(self) -> str:
        return self._plan().describe()


def _by_owner(steps: Iterable[Step]) -> dict[str, list[Step]]:
    groups: dict[str, list[Step]] = {}
    for step in steps:
        groups.setdefault(step.owner, []).append(step)
    return groups
