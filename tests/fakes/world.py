"""A board as plain values: what the steps of a plan would do to it, and what may befall it. No I/O, virtual time."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from edged.decide import lifecycle, material
from edged.decide.attempts import ENDED, newest_of
from edged.decide.keep import DONE, GONE
from edged.decide.pulls import asked_key, backoff
from edged.decide.steps import (
    EndPod,
    GiveDevices,
    HookKind,
    KillContainer,
    PrepareSandbox,
    PullImage,
    RefreshVolumes,
    RemoveClaim,
    RemoveContainer,
    RemoveSandbox,
    ResizeClaim,
    RunHook,
    StartContainer,
    Step,
    StopContainer,
    SyncServices,
)
from edged.model import (
    ContainerPhase,
    ContainerState,
    Desired,
    Health,
    HostPort,
    Observed,
    SandboxState,
    ServiceRules,
    Setback,
    container_identity,
)

OVER = "over, says the test"  # of pods that a test evicts


class World:
    """What `Runtime` promises, in memory; `log` keeps what was done.

    :ivar registry: what can be pulled; None = everything.
    :ivar through: (pod uid, container name) of what ended with 0 in this sandbox, also where its trace is removed.
    :ivar tried: ids of containers whose preStop hook was run, or whose grace is no longer to be waited for.
    """

    def __init__(self, images: frozenset[str] = frozenset({"demo"}), registry: frozenset[str] | None = None) -> None:
        self.now = 1000.0
        self.containers: dict[str, ContainerState] = {}
        self.sandboxes: dict[str, SandboxState] = {}
        self.services: tuple[ServiceRules, ...] = ()
        self.host_ports: tuple[HostPort, ...] = ()
        self.health: dict[str, Health] = {}
        self.images = images
        self.registry = registry
        self.asked: set[str] = set()
        self.devices: Mapping[str, str] = {}
        self.claims: dict[str, int] = {}
        self.setbacks: dict[str, Setback] = {}
        self.busy: set[str] = set()
        self.tried: set[str] = set()
        self.through: set[tuple[str, str]] = set()
        self.deaf = False  # containers don't hear their stop signal
        self.log: list[Step] = []
        self.wanted: Desired | None = None  # whose files the sandboxes show

    def observe(self) -> Observed:
        return Observed(
            containers=tuple(self.containers.values()),
            sandboxes=tuple(self.sandboxes.values()),
            images=self.images,
            services=self.services,
            health={k: v for k, v in self.health.items() if k in self.containers},
            setbacks=dict(self.setbacks),
            busy=frozenset(self.busy),
            host_ports=self.host_ports,
            asked=frozenset(self.asked),
            devices=self.devices,
            claims=frozenset(self.claims),
            claim_sizes=dict(self.claims),
        )

    def apply(self, step: Step) -> None:
        self.log.append(step)
        match step:
            case PrepareSandbox(pod):
                before = self.sandboxes.get(pod.uid)
                self.sandboxes[pod.uid] = SandboxState(
                    pod.uid,
                    pod.title,
                    f"10.0.0.{len(self.sandboxes) + 2}",
                    True,
                    pod.termination_grace,
                    pod.memory_request,
                    created_at=before.created_at if before else self.now,
                    material=self._digest(pod.uid),
                )
            case RemoveSandbox(pod_uid):
                assert not any(c.pod_uid == pod_uid for c in self.containers.values())
                self.sandboxes.pop(pod_uid, None)
                self._forget(pod_uid)
            case EndPod(pod_uid, reason=reason, message=message):
                self.sandboxes[pod_uid] = replace(self.sandboxes[pod_uid], evicted=reason, evicted_message=message)
            case RefreshVolumes(pod):
                self.sandboxes[pod.uid] = replace(self.sandboxes[pod.uid], material=self._digest(pod.uid))
            case SyncServices(services, host_ports=ports):
                self.services, self.host_ports = services, ports
            case PullImage():
                self._pull(step)
            case RemoveClaim(uid):
                del self.claims[uid]
            case ResizeClaim(claim):
                self.claims[claim.uid] = claim.size
            case _:
                self._apply_to_container(step)

    def _apply_to_container(self, step: Step) -> None:
        match step:
            case StartContainer():
                self._start(step)
            case StopContainer(container, reason):
                self._check_sidecar(step)
                state = replace(container, stop_requested_at=self.now, stop_reason=reason)
                self.containers[container.id] = replace(state, signalled=state.pre_stop is None)
                if state.pre_stop is None:
                    self._signal(container.id)
            case KillContainer(container, reason):
                self._check_grace(self.containers[container.id], reason)
                self.exit(container.id, 137)
            case RunHook(container, kind):
                if kind is HookKind.POST_START:
                    self.containers[container.id] = replace(self.containers[container.id], post_started=True)
                else:
                    self.tried.add(container.id)
                    self._signal(container.id)
            case RemoveContainer(container):
                assert self.containers[container.id].phase in ENDED
                del self.containers[container.id]
            case GiveDevices(container, names):
                given = tuple(f"{name}={self.devices[name]}" for name in names)
                self.containers[container.id] = replace(self.containers[container.id], devices=given)
            case _:
                raise AssertionError(f"nobody told this world how to {step.describe()}")

    def _start(self, step: StartContainer) -> None:
        pod, container = step.pod, step.container
        assert self.sandboxes[pod.uid].ready, "a container was started without a sandbox"
        assert not self.sandboxes[pod.uid].evicted, "a pod that was ended for good was started again"
        self._check_order(step)
        state = ContainerState(
            id=f"{pod.uid}.{container.name}.{step.attempt}",
            pod_uid=pod.uid,
            name=container.name,
            attempt=step.attempt,
            identity=container_identity(pod, container),
            phase=ContainerPhase.RUNNING,
            crashes=step.crashes,
            started_at=self.now,
            started_wall=self.now,
            post_started=container.post_start is None,
            pre_stop=container.pre_stop,
            devices=tuple(f"{name}={self.devices[name]}" for name in container.devices),
            sidecar=pod.sidecars.get(container.name, 0),
        )
        assert state.id not in self.containers, "an attempt number was used twice"
        self.containers[state.id] = state

    def _check_order(self, step: StartContainer) -> None:
        """An init container starts when those before it are through; any other when all are."""
        pod, container = step.pod, step.container
        newest = self._newest(pod.uid)
        if any(name in newest and newest[name].phase not in ENDED for name in (c.name for c in pod.containers)):
            return  # it was initialized
        names = [c.name for c in pod.init]
        before = pod.init[: names.index(container.name)] if container.name in names else pod.init
        later = any(c.name in newest for c in pod.init[len(before) + 1 :])
        if container.name in names and (container.name in newest or (container.sidecar and later)):
            return  # it was its turn before
        for one in before:
            state = newest.get(one.name)
            health = self.health.get(state.id) if state else None
            known = (pod.uid, one.name) in self.through or (one.sidecar and state and one is not before[-1])
            assert known or lifecycle.through(one, state, health), (
                f"{container.name} was started before {one.name} was through"
            )

    def _check_sidecar(self, step: StopContainer) -> None:
        """When a pod ends, its sidecars end after the rest, the last one first."""
        mine = step.container
        if not mine.sidecar or step.reason not in (GONE, DONE, OVER):
            return
        others = [c for c in self.live() if c.pod_uid == mine.pod_uid and c.id != mine.id]
        assert all(0 < c.sidecar <= mine.sidecar for c in others), "a sidecar was ended before those it serves"

    def _check_grace(self, state: ContainerState, reason: str) -> None:
        """Nobody is killed without having been asked, nor before the grace is over that the reason speaks of."""
        if state.phase is ContainerPhase.STARTING:
            return
        assert state.stop_requested_at, "a container was killed that nobody had asked to end"
        grace = float(reason.partition("within ")[2].partition(" s")[0])
        assert self.now >= state.stop_requested_at + grace - 0.1, "killed before its grace was over"
        self.tried.add(state.id)

    def _newest(self, uid: str) -> dict[str, ContainerState]:
        mine = [c for c in self.containers.values() if c.pod_uid == uid]
        return newest_of(sorted(mine, key=lambda c: c.attempt))

    def _pull(self, step: PullImage) -> None:
        reference = step.reference
        if self.registry is None or reference in self.registry:
            self.images |= {reference}
            self.setbacks.pop(step.owner, None)
        elif reference not in self.images:
            before = self.setbacks.get(step.owner)
            count = before.count + 1 if before else 1
            retry_at = self.now + backoff(reference, count, 5.0)
            self.setbacks[step.owner] = Setback("ErrImagePull", "no route to host", count, retry_at)
            return
        self.asked |= {asked_key(pod.uid, reference) for pod in step.pods}

    def _digest(self, uid: str) -> str:
        return material.digests(self.wanted).get(uid, "") if self.wanted is not None else ""

    def _signal(self, container_id: str) -> None:
        state = self.containers[container_id]
        if state.phase is not ContainerPhase.RUNNING:
            return
        assert state.pre_stop is None or container_id in self.tried, "signalled before its preStop hook was tried"
        self.containers[container_id] = replace(state, signalled=True)
        if not self.deaf:
            self.exit(container_id, 143)

    def exit(self, container_id: str, code: int) -> None:
        state = self.containers[container_id]
        if state.phase in (ContainerPhase.RUNNING, ContainerPhase.STARTING):
            self.containers[container_id] = replace(
                state, phase=ContainerPhase.EXITED, exit_code=code, finished_at=self.now
            )

            if code == 0:
                self.through.add((state.pod_uid, state.name))

    def _forget(self, pod_uid: str) -> None:
        self.through = {(uid, name) for uid, name in self.through if uid != pod_uid}

    def lose_trace(self, container_id: str) -> None:
        """Process and monitor are gone and nobody saw it."""
        state = self.containers[container_id]
        if state.phase is ContainerPhase.RUNNING:
            self.containers[container_id] = replace(state, phase=ContainerPhase.UNKNOWN, exit_code=None)

    def lose_network(self, pod_uid: str) -> None:
        self.sandboxes[pod_uid] = replace(self.sandboxes[pod_uid], ready=False)
        self._forget(pod_uid)

    def power_cut(self) -> None:
        self.containers.clear()
        self.sandboxes.clear()
        self.services, self.host_ports = (), ()
        self.restart_daemon()
        self.tried.clear()
        self.through.clear()
        self.now = 5.0

    def restart_daemon(self) -> None:
        """What only the daemon knew is forgotten."""
        self.health.clear()
        self.setbacks.clear()
        self.busy.clear()

    def live(self) -> list[ContainerState]:
        return [c for c in self.containers.values() if c.phase not in ENDED]

    def check_invariants(self, desired: Desired | None, memory: int) -> None:
        """Never two live attempts of one container; admitted requests within the budget."""
        names = [(c.pod_uid, c.name) for c in self.live()]
        assert len(names) == len(set(names)), "two instances of one container are alive"
        if desired is not None:
            pods = {p.uid: p for p in desired.pods}
            running = {c.pod_uid for c in self.live()} & set(pods)
            assert sum(pods[uid].memory_request for uid in running) <= memory
