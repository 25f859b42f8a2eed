"""The node's decision: (desired, observed, budget, now) -> Plan.

Invariants, checked after every plan in the property tests:
- never two live attempts of one container; a new one is only started when the last has ended;
- nothing that should run is stopped: a stop has one of the reasons named in this file;
- a pod is started only while admitted, and requests of admitted pods fit the budget;
- a plan may be cut after any step: observing and planning again converges to the same end;
- pods with steps under way (`busy`) are left alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from edged.decide import budget as budgets
from edged.decide import health as healths
from edged.decide import restart
from edged.decide.steps import (
    KillContainer,
    Plan,
    PrepareSandbox,
    RemoveContainer,
    RemoveSandbox,
    StartContainer,
    Step,
    StopContainer,
    SyncServices,
)
from edged.model import (
    Container,
    ContainerPhase,
    ContainerState,
    Desired,
    Observed,
    Pod,
    SandboxState,
    ServiceRules,
    container_identity,
)

NEVER = float("inf")
ENDED = (ContainerPhase.EXITED, ContainerPhase.UNKNOWN)
Found = Iterator[Step | float]  # steps to take now, and times at which to look again

GONE = "its pod is not wanted here any more"
CHANGED = "its spec has changed"
LOST_NETWORK = "the pod's network namespace is gone"
HALF_MADE = "it was left half made"


def plan(desired: Desired | None, observed: Observed, budget: budgets.Budget, now: float) -> Plan:
    """What to do now. `desired` None means that nothing was ever accepted: then nothing is touched."""
    if desired is None:
        return Plan()
    containers = by_pod(observed.containers)
    sandboxes = {s.pod_uid: s for s in observed.sandboxes}
    present = set(sandboxes) | set(containers)
    wanted = {p.uid: p for p in desired.pods}
    admission = budgets.admission(desired, observed, budget)
    steps: list[Step] = []
    wake_at = NEVER
    stuck = {uid: s.retry_at for uid, s in observed.setbacks.items() if s.clearing and s.retry_at > now}
    found: list[Found] = [iter(stuck.values())]
    found += [
        wind_down(uid, sandboxes.get(uid), containers.get(uid, []), now)
        for uid in sorted(present - set(wanted) - observed.busy - set(stuck))
    ]
    found += [
        keep(pod, sandboxes.get(pod.uid), containers.get(pod.uid, []), observed, now)
        for pod in desired.pods
        if pod.uid not in observed.busy and pod.uid not in admission.refused and pod.uid not in stuck
    ]
    if "" not in observed.busy and "" not in stuck:
        found.append(sync_services(desired, observed, sandboxes, containers))
    for part in found:
        for item in part:
            if isinstance(item, float):
                wake_at = min(wake_at, item)
            else:
                steps.append(item)
    return Plan(tuple(steps), wake_at)


def together(planned: Plan, further: Sequence[Plan], observed: Observed, now: float) -> Plan:
    """One plan of the document's and those of other sources (edged.sources), the document's steps first. What is owned
    by somebody busy, or by somebody whose clean-up failed and waits, is left out."""
    steps, wake_at = list(planned.steps), planned.wake_at
    for one in further:
        wake_at = min(wake_at, one.wake_at)
        for step in one.steps:
            setback = observed.setbacks.get(step.owner)
            if setback is not None and setback.clearing and setback.retry_at > now:
                wake_at = min(wake_at, setback.retry_at)
            elif step.owner not in observed.busy:
                steps.append(step)
    return Plan(tuple(steps), wake_at)


def by_pod(containers: Sequence[ContainerState]) -> dict[str, list[ContainerState]]:
    """Pod uid -> its attempts, oldest first."""
    groups: dict[str, list[ContainerState]] = defaultdict(list)
    for state in sorted(containers, key=lambda c: c.attempt):
        groups[state.pod_uid].append(state)
    return groups


def end(state: ContainerState, grace: float, reason: str, now: float) -> Found:
    """Stop a live container: ask, wait for the grace period, then kill."""
    if state.phase is ContainerPhase.STARTING:
        yield KillContainer(state, HALF_MADE)
    elif not state.stop_requested_at:
        yield StopContainer(state, reason)
        yield now + grace
    elif now >= state.stop_requested_at + grace:
        yield KillContainer(state, f"it did not end within {grace:g} s: {state.stop_reason or reason}")
        yield now + 1.0  # a kill that didn't take is repeated
    else:
        yield state.stop_requested_at + grace


def wind_down(uid: str, sandbox: SandboxState | None, attempts: list[ContainerState], now: float) -> Found:
    """Take a pod away that is not wanted: end its containers, then remove all that is left of it."""
    live = [c for c in attempts if c.phase not in ENDED]
    grace = sandbox.termination_grace if sandbox else 0.0
    for state in live:
        yield from end(state, grace, GONE, now)
    if live:
        return
    for state in attempts:
        yield RemoveContainer(state, GONE)
    yield RemoveSandbox(uid, sandbox.pod if sandbox else uid, GONE)


def keep(
    pod: Pod, sandbox: SandboxState | None, attempts: list[ContainerState], observed: Observed, now: float
) -> Found:
    """Bring a wanted pod nearer to running as it should."""
    live = [c for c in attempts if c.phase not in ENDED]
    ready_to_start = sandbox is not None and sandbox.ready
    if sandbox is not None and not sandbox.ready and live:
        for state in live:
            yield from end(state, 0.0, LOST_NETWORK, now)
        return
    setback = observed.setbacks.get(pod.uid)
    held = setback is not None and setback.retry_at > now
    if held and setback is not None:
        yield setback.retry_at
    elif not ready_to_start and wants_sandbox(pod, attempts):
        yield PrepareSandbox(pod, "it is wanted here" if sandbox is None else LOST_NETWORK)
        ready_to_start = True
    known = {c.name for c in pod.containers}
    for state in attempts:
        if state.name not in known:
            yield from drop(state, pod.termination_grace, now)
    for container in pod.containers:
        mine = [c for c in attempts if c.name == container.name]
        yield from keep_container(pod, container, mine, ready_to_start and not held, observed, now)


def wants_sandbox(pod: Pod, attempts: list[ContainerState]) -> bool:
    """A pod whose containers have all ended for good needs no namespace made again."""
    newest = {c.name: c for c in attempts}
    return any(
        c.name not in newest
        or newest[c.name].phase not in ENDED
        or restart.decide(pod.restart_policy, newest[c.name]).restart
        for c in pod.containers
    )


def drop(state: ContainerState, grace: float, now: float) -> Found:
    """A container that the pod does not have (any more)."""
    if state.phase in ENDED:
        yield RemoveContainer(state, CHANGED)
    else:
        yield from end(state, grace, CHANGED, now)


def keep_container(
    pod: Pod, container: Container, attempts: list[ContainerState], may_start: bool, observed: Observed, now: float
) -> Found:
    """One container of a wanted pod: start, restart, end, tidy up."""
    for old in attempts[:-2]:  # the newest and the one before it stay: "why did it restart", logs --previous
        if old.phase in ENDED:
            yield RemoveContainer(old, "it is older than the previous attempt")
        else:
            yield from end(old, 0.0, "a newer attempt exists", now)
    newest = attempts[-1] if attempts else None
    can_start = may_start and container.image in observed.images
    if newest is None:
        if can_start:
            yield StartContainer(pod, container, 0, 0, "it is wanted here")
        return
    identity = container_identity(pod, container)
    if newest.phase not in ENDED:
        health = observed.health.get(newest.id)
        if newest.phase is ContainerPhase.STARTING:
            yield from end(newest, 0.0, HALF_MADE, now)
        elif newest.identity != identity:
            yield from end(newest, pod.termination_grace, CHANGED, now)
        elif newest.stop_requested_at or (health is not None and not health.live):
            reason = health.reason if health is not None else newest.stop_reason
            yield from end(newest, pod.termination_grace, reason, now)
        return
    if not can_start:
        return
    if newest.identity != identity:
        yield StartContainer(pod, container, newest.attempt + 1, 0, CHANGED)
        return
    decision = restart.decide(pod.restart_policy, newest)
    if not decision.restart:
        return
    if decision.at > now:
        yield decision.at
        return
    yield StartContainer(pod, container, newest.attempt + 1, decision.crashes, decision.reason)


def resolve_services(
    desired: Desired,
    observed: Observed,
    sandboxes: Mapping[str, SandboxState],
    containers: Mapping[str, list[ContainerState]],
) -> tuple[ServiceRules, ...]:
    """Every Service with the addresses that should get its traffic now: local ready pods and remote ones."""
    pods = {p.uid: p for p in desired.pods}

    def ready(uid: str) -> bool:
        pod, sandbox = pods.get(uid), sandboxes.get(uid)
        return pod is not None and sandbox is not None and sandbox.ready and pod_ready(pod, containers, observed)

    return tuple(
        ServiceRules(
            namespace=s.namespace,
            name=s.name,
            cluster_ip=s.cluster_ip,
            ports=s.ports,
            addresses=(*(sandboxes[uid].ip for uid in s.pods if ready(uid)), *s.remote),
        )
        for s in sorted(desired.services, key=lambda s: (s.namespace, s.name))
    )


def pod_ready(pod: Pod, containers: Mapping[str, list[ContainerState]], observed: Observed) -> bool:
    newest = {c.name: c for c in containers.get(pod.uid, [])}
    for container in pod.containers:
        state = newest.get(container.name)
        health = observed.health.get(state.id) if state else None
        if not healths.of(container, state, health).ready:
            return False
    return True


def sync_services(
    desired: Desired,
    observed: Observed,
    sandboxes: Mapping[str, SandboxState],
    containers: Mapping[str, list[ContainerState]],
) -> Found:
    rules = resolve_services(desired, observed, sandboxes, containers)
    if rules != observed.services:
        yield SyncServices(rules, "services or their ready pods have changed")
