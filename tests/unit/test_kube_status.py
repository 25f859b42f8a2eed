"""What nodes report -> Kubernetes' words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlink.kube import core
from cloudlink.kube.compile import compile_pod
from cloudlink.kube.parse import dump, parse, revive
from cloudlink.kube.status import (
    away,
    lost_connection,
    node_status,
    pod_status,
    qos_class,
    rfc3339,
    silence,
    unreachable,
)
from edged import model

T0, T1 = "2024-05-01T10:00:00Z", "2024-05-01T11:00:00Z"
WALL = 1_714_557_600.0  # T0


def pod(resources: dict[str, Any] | None = None) -> core.Pod:
    container = {"name": "web", "image": "nginx", "resources": resources or {}}
    parsed = parse(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "web", "namespace": "garden", "uid": "u"},
            "spec": {"containers": [container]},
        }
    )
    assert isinstance(parsed, core.Pod)
    return parsed


def report(phase: model.Phase = model.Phase.RUNNING, ready: bool = True, **container: Any) -> model.PodStatus:
    values: dict[str, Any] = {"name": "web", "image": "nginx", "state": "running", "ready": ready, "started": True}
    values |= {"started_wall": WALL} | container
    return model.PodStatus(
        uid="u",
        namespace="garden",
        name="web",
        phase=phase,
        ready=ready,
        ip="10.88.0.2",
        started_wall=WALL,
        containers=(model.ContainerStatus(**values),),
    )


def conditions(status: core.PodStatus | core.NodeStatus) -> dict[str, tuple[str, str, str]]:
    return {c.type: (c.status, c.reason, c.last_transition_time) for c in status.conditions}


def with_status(old: core.Pod, status: core.PodStatus) -> core.Pod:
    return old.model_copy(update={"status": status})


def test_a_running_pod_is_told_in_kubernetes_words() -> None:
    status = pod_status(report(container_id="u.web.0", image_id="sha256:1"), pod(), T1, "192.168.1.5")
    assert dump(status) == {
        "phase": "Running",
        "conditions": [
            {"type": t, "status": "True", "lastTransitionTime": T1}
            for t in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        ],
        "hostIP": "192.168.1.5",
        "hostIPs": [{"ip": "192.168.1.5"}],
        "podIP": "10.88.0.2",
        "podIPs": [{"ip": "10.88.0.2"}],
        "startTime": T0,
        "containerStatuses": [
            {
                "name": "web",
                "state": {"running": {"startedAt": T0}},
                "lastState": {},
                "ready": True,
                "restartCount": 0,
                "image": "nginx",
                "imageID": "sha256:1",
                "containerID": "edged://u.web.0",
                "started": True,
            }
        ],
        "qosClass": "BestEffort",
    }


def test_a_condition_keeps_its_time_until_it_changes() -> None:
    old = with_status(pod(), pod_status(report(), pod(), T0))
    same = pod_status(report(), old, T1)
    assert same == old.status
    changed = pod_status(report(ready=False), old, T1)
    assert conditions(changed) == {
        "PodScheduled": ("True", "", T0),
        "Initialized": ("True", "", T0),
        "ContainersReady": ("False", "ContainersNotReady", T1),
        "Ready": ("False", "ContainersNotReady", T1),
    }
    assert changed.conditions[-1].message == "containers with unready status: [web]"


def test_conditions_of_others_stay() -> None:
    foreign = core.PodCondition(type="example.com/Gate", status="True", last_transition_time=T0)
    old = with_status(pod(), core.PodStatus(conditions=(foreign,)))
    assert pod_status(report(), old, T1).conditions[0] == foreign


def test_a_crash_shows_in_state_and_last_state() -> None:
    waiting = report(
        ready=False,
        state="waiting",
        reason="CrashLoopBackOff",
        message="back-off 20s",
        restarts=3,
        last_reason="OOMKilled",
        last_exit_code=137,
        last_started_wall=WALL,
        last_finished_wall=WALL + 5,
    )
    (container,) = pod_status(waiting, pod(), T1).container_statuses
    assert dump(container.state) == {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}}
    assert dump(container.last_state) == {
        "terminated": {
            "exitCode": 137,
            "reason": "OOMKilled",
            "startedAt": T0,
            "finishedAt": "2024-05-01T10:00:05Z",
        }
    }
    assert container.restart_count == 3


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [(0, "", (0, "Completed")), (2, "", (2, "Error")), (None, "", (137, "ContainerStatusUnknown")), (1, "X", (1, "X"))],
)
def test_an_end_has_a_code_and_a_reason(code: int | None, reason: str, expected: tuple[int, str]) -> None:
    ended = report(model.Phase.FAILED, ready=False, state="terminated", exit_code=code, reason=reason)
    terminated = pod_status(ended, pod(), T1).container_statuses[0].state.terminated
    assert terminated is not None
    assert (terminated.exit_code, terminated.reason) == expected


def test_a_pod_that_has_done_its_work_is_not_ready_because_it_is_completed() -> None:
    done = report(model.Phase.SUCCEEDED, ready=False, state="terminated", exit_code=0)
    assert conditions(pod_status(done, pod(), T1))["Ready"] == ("False", "PodCompleted", T1)


def test_a_container_that_the_node_has_not_got_to_yet_is_unready_by_name() -> None:
    early = model.PodStatus("u", "garden", "web", model.Phase.PENDING, reason="ImageMissing", message="import it")
    status = pod_status(early, pod(), T1)
    assert (status.phase, status.reason, status.message) == ("Pending", "ImageMissing", "import it")
    assert status.conditions[-1].message == "containers with unready status: [web]"
    assert status.start_time == T1


def test_a_pod_whose_node_is_gone_keeps_what_was_last_heard_but_not_its_readiness() -> None:
    old = with_status(pod(), pod_status(report(), pod(), T0))
    status = unreachable(old.status, old, T1)
    assert status.phase == "Running"
    assert status.container_statuses == old.status.container_statuses
    assert conditions(status)["Ready"] == ("Unknown", "NodeUnreachable", T1)
    assert conditions(status)["PodScheduled"] == ("True", "", T0)
    back = pod_status(report(), with_status(pod(), status), T1)
    assert conditions(back)["Ready"] == ("True", "", T1)


def test_a_clock_that_can_not_be_right_gives_no_time() -> None:
    assert rfc3339(WALL) == T0
    assert [rfc3339(w) for w in (0.0, 120.0, -1e30, 1e30, float("inf"), float("nan"))] == [""] * 6


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, "BestEffort"),
        ({"limits": {"memory": "1Mi", "cpu": 1}}, "Guaranteed"),
        ({"limits": {"memory": "1Mi"}}, "Burstable"),
        ({"requests": {"memory": "1Mi"}}, "Burstable"),
        ({"limits": {"memory": "2Mi", "cpu": 1}, "requests": {"memory": "1Mi"}}, "Burstable"),
    ],
)
def test_the_quality_of_service_follows_from_requests_and_limits(resources: dict[str, Any], expected: str) -> None:
    assert qos_class(pod(resources).spec) == expected


statuses = st.builds(
    model.PodStatus,
    uid=st.just("u"),
    namespace=st.just("garden"),
    name=st.just("web"),
    phase=st.sampled_from(model.Phase),
    containers=st.lists(
        st.builds(
            model.ContainerStatus,
            name=st.sampled_from(["web", "other"]),
            image=st.just("x"),
            state=st.sampled_from(["waiting", "running", "terminated", "nonsense"]),
            last_exit_code=st.none() | st.integers(),
        ),
        max_size=3,
    ).map(tuple),
)


@given(statuses)
def test_any_report_becomes_a_status_that_can_be_stored_and_does_not_change_when_repeated(
    told: model.PodStatus,
) -> None:
    status = pod_status(told, pod(), T0)
    stored = with_status(pod(), status)
    assert revive(dump(stored)) == stored
    assert pod_status(told, stored, T1) == status


# ---------------------------------------------------------------- nodes


def node(**changes: Any) -> model.NodeStatus:
    values: dict[str, Any] = {
        "node": "pi-1",
        "generation": 3,
        "epoch": "e",
        "capacity": model.Capacity(
            memory=1 << 30, memory_allocatable=900 << 20, cpu=4000, architecture="arm64", kernel="6.6", os="Debian 12"
        ),
        "version": "0.1.0",
        "address": "192.168.1.5",
        "boot_id": "b",
    }
    return model.NodeStatus(**(values | changes))


def test_a_node_is_told_in_kubernetes_words() -> None:
    status = node_status(node(), T0)
    assert status.capacity == {"cpu": "4", "memory": "1Gi", "pods": "110"}
    assert status.allocatable == {"cpu": "4", "memory": "900Mi", "pods": "110"}
    assert [(a.type, a.address) for a in status.addresses] == [("InternalIP", "192.168.1.5"), ("Hostname", "pi-1")]
    assert (status.node_info.kubelet_version, status.node_info.os_image) == ("0.1.0", "Debian 12")
    assert conditions(status) == {
        "MemoryPressure": ("False", "SufficientMemory", T0),
        "DiskPressure": ("False", "NoDiskPressure", T0),
        "PIDPressure": ("False", "SufficientPID", T0),
        "Ready": ("True", "NodeReady", T0),
        "Degraded": ("False", "FullFunction", T0),
    }
    stored = core.Node(metadata=core.ObjectMeta(name="pi-1"), status=status)
    assert revive(dump(stored)) == stored


def test_nothing_new_gives_the_old_status_back() -> None:
    old = node_status(node(), T0)
    assert node_status(node(generation=4), T1, old) is old


def test_a_node_that_is_away_is_unknown_and_back_again_ready() -> None:
    old = node_status(node(), T0)
    lost = away(old, old, lost_connection(T1), T1)
    assert conditions(lost)["Ready"] == ("Unknown", "NodeUnreachable", T1)
    assert conditions(lost)["MemoryPressure"] == ("Unknown", "NodeStatusUnknown", T1)
    assert conditions(lost)["Degraded"] == ("False", "FullFunction", T0)
    assert T1 in next(c.message for c in lost.conditions if c.type == "Ready")
    assert conditions(node_status(node(), T1, lost))["Ready"] == ("True", "NodeReady", T1)


def test_the_first_reason_of_an_absence_stays_whatever_is_heard_later() -> None:
    old = node_status(node(), T0)
    lost = away(old, old, silence(T0, 150.0), T0)
    assert conditions(lost)["Ready"] == ("Unknown", "NodeStatusUnknown", T0)
    again = away(node_status(node(), T1, lost), lost, lost_connection(T1), T1)
    assert again is lost


def test_what_a_node_said_before_it_was_lost_is_told_while_it_is_away() -> None:
    old = node_status(node(), T0)
    lost = away(node_status(node(version="0.2.0"), T1, old), old, lost_connection(T1), T1)
    assert lost.node_info.kubelet_version == "0.2.0"
    assert conditions(lost)["Ready"] == ("Unknown", "NodeUnreachable", T1)


def test_a_node_that_says_it_is_not_ready_isnt() -> None:
    trouble = model.NodeCondition(model.NOT_READY, "ContainerRuntimeNotReady", "crun is missing")
    status = node_status(node(conditions=(trouble,)), T0)
    assert conditions(status)["Ready"] == ("False", "ContainerRuntimeNotReady", T0)


def test_readiness_of_a_pod_is_unknown_since_its_node_was_lost_however_often_that_is_told() -> None:
    old = with_status(pod(), pod_status(report(), pod(), T0))
    lost = unreachable(old.status, old, T0)
    stored = with_status(pod(), lost)
    assert unreachable(pod_status(report(), stored, T1), stored, T1) == lost


def test_what_a_machine_can_not_do_and_what_it_refused_are_conditions() -> None:
    status = node_status(
        node(degraded=("cgroup v1: no memory.high",), refused=model.Refusal(2, "bad signature", WALL)), T0
    )
    found = {c.type: c for c in status.conditions}
    assert found["Degraded"].status == "True"
    assert found["Degraded"].message == "cgroup v1: no memory.high"
    assert "bad signature" in found["DesiredStateRefused"].message


def test_a_node_tells_its_storage_its_devices_and_what_it_is_short_of() -> None:
    capacity = model.Capacity(
        1 << 30, 900 << 20, 4000, storage=8 << 30, storage_allocatable=7 << 30, devices={"i2c-1": 8, "not valid": 1}
    )
    short = model.NodeCondition("DiskPressure", "DiskLow", "97 % of /var/lib/edged is in use")
    status = node_status(model.NodeStatus("pi-1", 1, "e", capacity, conditions=(short,)), T0)
    assert status.capacity["ephemeral-storage"] == "8Gi"
    assert status.allocatable == {
        "cpu": "4",
        "memory": "900Mi",
        "pods": "110",
        "ephemeral-storage": "7Gi",
        "edged.dev/i2c-1": "8",
    }
    found = next(c for c in status.conditions if c.type == "DiskPressure")
    assert (found.status, found.reason, found.message) == ("True", "DiskLow", "97 % of /var/lib/edged is in use")


# ---------------------------------------------------------------- init containers


def pod_with_init() -> core.Pod:
    init = [
        {"name": "fetch", "image": "a"},
        {"name": "proxy", "image": "b", "restartPolicy": "Always"},
        {"name": "check", "image": "c"},
    ]
    parsed = parse(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "web", "namespace": "garden", "uid": "u"},
            "spec": {"initContainers": init, "containers": [{"name": "web", "image": "nginx"}]},
        }
    )
    assert isinstance(parsed, core.Pod)
    return parsed


def init_report(*init: model.ContainerStatus, initialized: bool = False) -> model.PodStatus:
    waiting = model.ContainerStatus("web", "nginx", "waiting")
    return model.PodStatus(
        "u", "garden", "web", model.Phase.PENDING, containers=(waiting,), init=init, initialized=initialized
    )


FETCHED = model.ContainerStatus("fetch", "a", "terminated", "Completed", exit_code=0, ready=True)
PROXYING = model.ContainerStatus("proxy", "b", "running", started=True, ready=True)
CHECKING = model.ContainerStatus("check", "c", "running")


def test_init_containers_are_told_in_their_order_and_hold_up_the_others() -> None:
    status = pod_status(init_report(FETCHED, PROXYING, CHECKING), pod_with_init(), T1)
    assert [c.name for c in status.init_container_statuses] == ["fetch", "proxy", "check"]
    found = {c.type: c for c in status.conditions}
    assert (found["Initialized"].status, found["Initialized"].reason) == ("False", "ContainersNotInitialized")
    assert found["Initialized"].message == "containers with incomplete status: [check]"
    waiting = status.container_statuses[0].state.waiting
    assert waiting is not None
    assert waiting.reason == "PodInitializing"


def test_a_sidecar_that_is_not_ready_keeps_the_pod_from_being_ready() -> None:
    lame = model.ContainerStatus("proxy", "b", "running", started=True)
    done = model.ContainerStatus("check", "c", "terminated", exit_code=0)
    running = model.ContainerStatus("web", "nginx", "running", started=True, ready=True)
    report = model.PodStatus(
        "u", "garden", "web", model.Phase.RUNNING, containers=(running,), init=(FETCHED, lame, done)
    )
    found = {c.type: c for c in pod_status(report, pod_with_init(), T1).conditions}
    assert found["Initialized"].status == "True"
    assert found["Ready"].message == "containers with unready status: [proxy]"


def test_an_evicted_pod_has_failed_and_says_why() -> None:
    report = model.PodStatus("u", "garden", "web", model.Phase.FAILED, reason="Evicted", message="the disk is full")
    status = pod_status(report, pod(), T1)
    assert (status.phase, status.reason, status.message) == ("Failed", "Evicted", "the disk is full")
    assert conditions(status)["Ready"] == ("False", "PodFailed", T1)


@given(st.lists(st.tuples(st.sampled_from(["", "0", "1Gi", "2Gi"]), st.sampled_from(["", "0", "1Gi"])), min_size=1))
def test_hub_and_node_agree_on_the_class_of_a_pod(amounts: list[tuple[str, str]]) -> None:
    """Limits and requests of containers, every second one an init container; cpu likewise."""

    def resources(limit: str, request: str) -> dict[str, Any]:
        both = {"limits": {"memory": limit, "cpu": limit}, "requests": {"memory": request, "cpu": request}}
        return {kind: {k: v for k, v in values.items() if v} for kind, values in both.items()}

    made = [
        {"name": f"c{i}", "image": "x", "resources": resources(limit, request if limit >= request else "")}
        for i, (limit, request) in enumerate(amounts)
    ]
    spec = {"containers": made[::2], "initContainers": made[1::2]}
    metadata = {"name": "web", "namespace": "garden"}
    parsed = revive({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    assert isinstance(parsed, core.Pod)
    assert qos_class(parsed.spec) == model.qos_of(compile_pod(parsed))


def test_an_evicted_pod_says_that_it_was_disrupted() -> None:
    told = msgspec.structs.replace(report(model.Phase.FAILED), reason="Evicted", message="the disk is full")
    assert conditions(pod_status(told, pod(), T1))["DisruptionTarget"][:2] == ("True", "TerminationByKubelet")
    assert "DisruptionTarget" not in conditions(pod_status(report(), pod(), T1))
