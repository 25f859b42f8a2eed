"""The fake runtime: sandboxes and containers that are only values, and dice for what happens to them. Pure.

It keeps to the contract of edged.runtime.api where statuses depend on it: what the real one shows of a container's life
(attempts, ends, stop requests, addresses), this one shows, and edged's deciders can't tell the difference. Whatever
takes time is an entry of `Agenda`; nothing here reads a clock.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import math
from collections.abc import Callable

from msgspec.structs import replace

from cloudlink.simulate.boards import Dice, Habits
from edged.decide import health as healths
from edged.decide import working_sets
from edged.decide.health import ProbeKind
from edged.decide.working_sets import Learned
from edged.model import (
    ClaimFiles,
    Container,
    ContainerPhase,
    ContainerState,
    Health,
    Pod,
    Probe,
    SandboxState,
    container_identity,
)

OOM_EXIT, KILLED_EXIT, TERMINATED_EXIT = 137, 137, 143
PIDS = 4_000_000  # as large as Linux lets a pid become (PID_MAX_LIMIT)

Deed = Callable[[float], None]


class Agenda:
    """What is going to happen, in order of time. A deed is given the second that it was due at."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Deed]] = []
        self._numbers = itertools.count()

    @property
    def next_at(self) -> float:
        return self._entries[0][0] if self._entries else math.inf

    def at(self, when: float, deed: Deed) -> None:
        if when < math.inf:
            heapq.heappush(self._entries, (when, next(self._numbers), deed))

    def run(self, now: float) -> bool:
        """Let everything happen that is due; False if nothing was."""
        found = False
        while self._entries and self._entries[0][0] <= now:
            when, _, deed = heapq.heappop(self._entries)
            deed(when)
            found = True
        return found

    def clear(self) -> None:
        self._entries.clear()


class Runtime:
    """One board's containers. Methods are those of edged.runtime.api.Runtime without waiting; `at` is the boot-time
    second at which they are done.

    :param wall: added to boot time, it gives the wall clock.
    """

    def __init__(self, dice: Dice, habits: Habits, slowness: float, wall: float, agenda: Agenda) -> None:
        self._dice, self._habits, self._slowness, self._agenda = dice, habits, slowness, agenda
        self.wall = wall
        self.sandboxes: dict[str, SandboxState] = {}
        self.containers: dict[str, ContainerState] = {}
        self.health: dict[str, Health] = {}
        self.claims: dict[str, int] = {}  # uid -> bytes; the only thing that outlives a power cut, beside images
        self._memory: dict[str, float] = {}  # container id -> bytes that it uses
        self._learned: dict[str, Learned] = {}
        self._samples = 0
        self._addresses = itertools.count(2)

    def power_cut(self) -> None:
        self.sandboxes.clear()
        self.containers.clear()
        self.health.clear()
        self._memory.clear()

    # ------------------------------------------------------------ pods

    def prepare_sandbox(self, pod: Pod, digest: str, at: float) -> None:
        known = self.sandboxes.get(pod.uid)
        if known is not None and known.ready:
            self.sandboxes[pod.uid] = replace(known, material=digest)
            return
        for volume in pod.volumes:
            if isinstance(volume.source, ClaimFiles):
                self.claims.setdefault(volume.source.uid, volume.source.size)
        number = next(self._addresses) % 65000
        self.sandboxes[pod.uid] = SandboxState(
            pod.uid,
            pod.title,
            f"10.88.{number // 254}.{number % 254 + 1}",
            termination_grace=pod.termination_grace,
            memory_request=pod.memory_request,
            created_at=at,
            material=digest,
        )

    def refresh(self, pod_uid: str, digest: str) -> None:
        if pod_uid in self.sandboxes:
            self.sandboxes[pod_uid] = replace(self.sandboxes[pod_uid], material=digest)

    def end_pod(self, pod_uid: str, reason: str, message: str) -> None:
        if pod_uid in self.sandboxes:
            self.sandboxes[pod_uid] = replace(self.sandboxes[pod_uid], evicted=reason, evicted_message=message)

    def remove_sandbox(self, pod_uid: str) -> None:
        for container_id in [i for i, c in self.containers.items() if c.pod_uid == pod_uid]:
            self.remove(container_id)
        self.sandboxes.pop(pod_uid, None)

    # ------------------------------------------------------------ containers

    def start(self, pod: Pod, container: Container, attempt: int, crashes: int, at: float) -> None:
        container_id = f"{pod.uid}.{container.name}.{attempt}"
        if container_id in self.containers:
            return
        self.containers[container_id] = ContainerState(
            id=container_id,
            pod_uid=pod.uid,
            name=container.name,
            attempt=attempt,
            identity=container_identity(pod, container),
            phase=ContainerPhase.RUNNING,
            crashes=crashes,
            pid=1000 + int(self._dice.throw("pid") * (PIDS - 1000)),
            started_at=at,
            started_wall=self.wall + at,
            image_id=image_id(container.image),
            post_started=container.post_start is None,
            pre_stop=container.pre_stop,
            sidecar=pod.sidecars.get(container.name, 0),
        )
        limit, dice, habits = container.limits.memory_limit, self._dice, self._habits
        self._memory[container_id] = (
            limit * dice.between("memory", habits.memory) if limit else dice.between("memory", habits.without)
        )
        self._fate(pod, container, container_id, at)

    def _fate(self, pod: Pod, container: Container, container_id: str, at: float) -> None:
        """What becomes of a container that has just been started."""
        dice, habits = self._dice, self._habits
        if container in pod.init and not container.sidecar:  # does its work, and is through
            self._agenda.at(at + dice.between("init", habits.warm_up), self._ending(container_id, 0))
            return
        crash = at + dice.after("crash", habits.crashes)
        oom = dice.throw("killed") < habits.killed and container.limits.memory_limit is not None
        self._agenda.at(crash, self._ending(container_id, OOM_EXIT if oom else 1, oom=oom))
        if healths.probes_of(container):
            self.health[container_id] = healths.initial(container)
            content = at + dice.between("warm-up", habits.warm_up)
            self._probes_say_yes(container, container_id, at, content)
            self._probes_say_no(container, container_id, at + dice.after("hang", habits.hangs))

    def _ending(self, container_id: str, code: int, *, oom: bool = False) -> Deed:
        return lambda at: self.ended(container_id, code, at, oom=oom)

    def ended(self, container_id: str, code: int, at: float, *, oom: bool = False) -> None:
        """Its first process has ended, unless it had before."""
        state = self.containers.get(container_id)
        if state is None or state.phase is not ContainerPhase.RUNNING:
            return
        self.containers[container_id] = replace(
            state,
            phase=ContainerPhase.EXITED,
            pid=0,
            exit_code=code,
            oom_killed=oom,
            finished_at=at,
            finished_wall=self.wall + at,
        )
        self.health.pop(container_id, None)
        self._memory.pop(container_id, None)

    def stop(self, container_id: str, reason: str, at: float) -> None:
        state = self._marked(container_id, reason, at)
        if state is not None and state.pre_stop is None:
            self.signal(container_id, at)

    def signal(self, container_id: str, at: float) -> None:
        """SIGTERM: it ends a little later, with the code that a shell would tell."""
        state = self.containers.get(container_id)
        if state is not None and state.phase is ContainerPhase.RUNNING:
            self.containers[container_id] = replace(state, signalled=True)
            took = self._slowness * self._dice.between("stop", self._habits.stop)
            self._agenda.at(at + took, self._ending(container_id, TERMINATED_EXIT))

    def kill(self, container_id: str, reason: str, at: float) -> None:
        if self._marked(container_id, reason, at) is not None:
            self.ended(container_id, KILLED_EXIT, at)

    def _marked(self, container_id: str, reason: str, at: float) -> ContainerState | None:
        state = self.containers.get(container_id)
        if state is None or state.phase is not ContainerPhase.RUNNING:
            return None
        if not state.stop_requested_at:
            state = self.containers[container_id] = replace(state, stop_requested_at=at, stop_reason=reason)
        return state

    def post_started(self, container_id: str) -> None:
        if container_id in self.containers:
            self.containers[container_id] = replace(self.containers[container_id], post_started=True)

    def remove(self, container_id: str) -> None:
        self.containers.pop(container_id, None)
        self.health.pop(container_id, None)
        self._memory.pop(container_id, None)

    # ------------------------------------------------------------ probes

    def _probes_say_yes(self, container: Container, container_id: str, at: float, content: float) -> None:
        """Each probe as often as it takes, from when the container is up to it. Startup comes before the others."""
        for kind, probe in healths.probes_of(container):
            first = max(at + probe.initial_delay, content)
            if kind is not ProbeKind.STARTUP and container.startup is not None:
                first = max(first, content + container.startup.period)
            times = range(probe.success_threshold)
            for n in times:
                self._agenda.at(first + n * probe.period, self._probe(container, container_id, kind, probe, True))

    def _probes_say_no(self, container: Container, container_id: str, at: float) -> None:
        for kind, probe in healths.probes_of(container):
            if kind is not ProbeKind.STARTUP:
                for n in range(probe.failure_threshold):
                    self._agenda.at(at + n * probe.period, self._probe(container, container_id, kind, probe, False))

    def _probe(self, container: Container, container_id: str, kind: ProbeKind, probe: Probe, good: bool) -> Deed:
        def answer(at: float) -> None:
            known = self.health.get(container_id)
            if known is not None and healths.wanted(kind, known):
                said = "" if good else f"no answer within {probe.timeout:g} s"
                self.health[container_id] = healths.fold(known, kind, probe, good, said, container)

        return answer

    # ------------------------------------------------------------ memory

    def sample(self, pods: dict[str, Pod]) -> None:
        """One number a minute for every running container, as edged.learning has it: a little up and down."""
        self._samples += 1
        for state in self.containers.values():
            used, pod = self._memory.get(state.id), pods.get(state.pod_uid)
            container = next((c for c in pod.all_containers if c.name == state.name), None) if pod else None
            if used is None or pod is None or container is None:
                continue
            breath = int(used * self._dice.between("breath", (0.92, 1.0)))
            kind = working_sets.kind_of(pod, container)
            known = self._learned.get(kind, Learned())
            self._learned[kind] = working_sets.learn(known, breath, int(used), self._samples)
        if len(self._learned) > working_sets.KINDS:
            self._learned = working_sets.bounded(self._learned)

    def working_sets(self, pod: Pod, container: Container) -> tuple[int, int]:
        """For edged.decide.summary."""
        return working_sets.told(self._learned.get(working_sets.kind_of(pod, container)))


def image_id(reference: str) -> str:
    """The same for the same name, and no two alike."""
    return "sha256:" + hashlib.sha256(reference.encode()).hexdigest()
