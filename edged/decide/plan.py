"""The node's decision: (desired, observed, budget, now) -> Plan.

Invariants, checked after every plan in the property tests:
- never two live attempts of one container; a new one is only started when the last has ended;
- nothing that should run is stopped: a stop has one of the reasons named in `keep`;
- a pod is started only while admitted, and requests of admitted pods fit the budget;
- an init container is started only when those before it are through, any other only when all are;
- a container with a preStop hook gets its stop signal only when the hook was tried, or when the grace is over;
- a pod with a time is begun only when it has come (`turns`), and one that has ended for good is never begun again;
- sidecars end after the rest of their pod; a pod that was ended for good is never started again;
- a plan may be cut after any step: observing and planning again converges to the same end;
- owners with steps under way (`busy`) are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edged.decide import budget as budgets
from edged.decide import claims, lifecycle, material, pulls, services, turns
from edged.decide.admission import admission
from edged.decide.attempts import NEVER, Found, Scene, by_pod
from edged.decide.keep import keep, wind_down
from edged.decide.steps import SERVICES, Plan, Step
from edged.model import Desired, Observed, Pod


def plan(
    desired: Desired | None,
    observed: Observed,
    budget: budgets.Budget,
    now: float,
    digests: Mapping[str, str] | None = None,
) -> Plan:
    """What to do now. `desired` None means that nothing was ever accepted: then nothing is touched.

    :param digests: material.digests(desired), which hold as long as the document does; None = find out.
    """
    if desired is None:
        return Plan()
    digests = material.digests(desired) if digests is None else digests
    attempts = by_pod(observed.containers)
    sandboxes = {s.pod_uid: s for s in observed.sandboxes}
    present = set(sandboxes) | set(attempts)
    wanted = {p.uid: p for p in desired.pods}
    refused = admission(desired, observed, budget, attempts).refused
    scenes = {
        uid: Scene(sandboxes.get(uid), attempts.get(uid, ()), observed, now) for uid in sorted(present | set(wanted))
    }
    courses = {uid: lifecycle.course(pod, scenes[uid].newest, observed.health) for uid, pod in wanted.items()}
    waits = turns.turns(desired, observed, attempts)
    over = {uid for uid in wanted if courses[uid].over or _evicted(scenes[uid])}
    over |= {uid for uid in observed.ended if uid in wanted and uid not in present}
    held = {uid for uid in wanted if turns.is_held(uid, waits, present)} | (over - present)
    stuck = {uid: s.retry_at for uid, s in observed.setbacks.items() if s.clearing and s.retry_at > now}
    out = observed.busy | set(stuck)
    found: list[Found] = [iter(retry_at for owner, retry_at in stuck.items() if owner in scenes or owner == SERVICES)]
    found.append(iter((now + waits.next_in,)))
    found += [
        wind_down(uid, scenes[uid], desired.leaving.get(uid)) for uid in scenes if uid not in wanted and uid not in out
    ]
    found += [
        keep(pod, scenes[pod.uid], courses[pod.uid], digests.get(pod.uid, ""), waits.replaced.get(pod.uid, ""))
        for pod in desired.pods
        if pod.uid not in out and pod.uid not in held and (pod.uid not in refused or _evicted(scenes[pod.uid]))
    ]
    fetched = turns.fetched(desired.pods, waits)
    found.append(pulls.pull([p for p in fetched if p.uid not in refused and p.uid not in over], observed, now))
    found.append(claims.settle(desired, observed, present, now))
    if SERVICES not in out:
        gone = over | held | {uid for uid in refused if not scenes[uid].live}
        found.append(services.sync(desired, scenes, gone, observed))
    return gather(found)


def _evicted(scene: Scene) -> bool:
    return scene.sandbox is not None and bool(scene.sandbox.evicted)


def gather(found: Sequence[Found]) -> Plan:
    steps: list[Step] = []
    wake_at = NEVER
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


def wanted_images(desired: Desired) -> frozenset[str]:
    """References of all containers, init containers included."""
    return frozenset(c.image for pod in desired.pods for c in pod.all_containers)


def claimed_devices(pods: Sequence[Pod]) -> frozenset[str]:
    return frozenset(name for pod in pods for c in pod.all_containers for name in c.devices)
