"""How far a pod has come: which of its containers may be started now, and whether it is over.

The kubelet's order (pkg/kubelet/kuberuntime, computePodActions and computeInitContainerActions): init containers one
after the other, each to success; a sidecar among them lets the next one go on once it has started; the rest follow
when the last one is through. Sidecars are restarted whatever the pod's policy says, and end when the rest is over.
"""

from __future__ import annotations

from collections.abc import Mapping

from edged.decide import health as healths
from edged.decide import restart
from edged.decide.attempts import ENDED
from edged.model import (
    Container,
    ContainerState,
    Health,
    Pod,
    RestartPolicy,
    Value,
    container_identity,
)


class Course(Value, frozen=True):
    """:ivar initialized: the last init container is through, or was: a container runs that could only start then.
    :ivar failed_init: name of the init container that failed for good; "" = none has.
    :ivar over: nothing of the pod is started any more, and its sidecars should go.
    :ivar may_start: names of the containers whose turn it is, running or not.
    """

    initialized: bool
    failed_init: str
    over: bool
    may_start: frozenset[str]


def policy_of(pod: Pod, container: Container) -> RestartPolicy:
    """What holds for this one: a sidecar always comes back, an init container until it succeeds."""
    if container.sidecar:
        return RestartPolicy.ALWAYS
    if pod.restart_policy is RestartPolicy.ALWAYS and any(c.name == container.name for c in pod.init):
        return RestartPolicy.ON_FAILURE
    return pod.restart_policy


def finished(pod: Pod, container: Container, state: ContainerState | None) -> bool:
    """Has it ended for good, as it is wanted now?"""
    return (
        state is not None
        and state.phase in ENDED
        and not restart.decide(policy_of(pod, container), state).restart
        and state.identity == container_identity(pod, container)
    )


def through(container: Container, state: ContainerState | None, health: Health | None) -> bool:
    """May what comes after this init container begin?"""
    if state is None:
        return False
    if container.sidecar:
        return healths.of(container, state, health).started
    return state.phase in ENDED and state.exit_code == 0 and not state.oom_killed


def course(pod: Pod, newest: Mapping[str, ContainerState], health: Mapping[str, Health]) -> Course:
    """:param newest: container name -> its newest attempt. :param health: by container id."""
    main = frozenset(c.name for c in pod.containers)
    ended = all(finished(pod, c, newest.get(c.name)) for c in pod.containers)
    if not pod.init:
        return Course(True, "", ended, frozenset() if ended else main)
    reached = max((n for n, c in enumerate(pod.init) if c.name in newest), default=0)
    current = pod.init[reached]
    state = newest.get(current.name)
    done = through(current, state, health.get(state.id) if state is not None else None)
    begun = any(name in newest and newest[name].phase not in ENDED for name in main)
    initialized = begun or (done and reached == len(pod.init) - 1)
    failed = current.name if not initialized and not done and finished(pod, current, state) else ""
    if ended or failed:
        return Course(initialized, failed, True, frozenset())
    sidecars = frozenset(c.name for c in (pod.init if initialized else pod.init[: reached + 1]) if c.sidecar)
    if initialized:
        return Course(True, "", False, main | sidecars)
    return Course(False, "", False, sidecars | {pod.init[reached + 1].name if done else current.name})


def terminal(pod: Pod, newest: Mapping[str, ContainerState], evicted: str) -> bool:
    """Is the pod over, with nothing of it left alive? It has no part in the node's budget then (v1 PodPhase Succeeded
    and Failed)."""
    if any(state.phase not in ENDED for state in newest.values()):
        return False
    return bool(evicted) or course(pod, newest, {}).over
