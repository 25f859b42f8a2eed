"""Waves: no more new pods than allowed, held for a time or until confirmed, undone when one of them fails."""

from __future__ import annotations

import pytest

from cloudlink.hub.objects import find_condition
from cloudlink.kube.annotations import CONFIRM, PROVEN_AFTER, WAVE_HOLD, WAVES
from cloudlink.kube.inert import inert_fields
from cloudlink.kube.rollouts import policy_of
from cloudlink.kube.validate import validate
from tests.fakes.hub_brain import Cluster, deployment, with_meta
from tests.fakes.rollouts import annotate, kill_for_memory, newest, tell, updated


def in_waves(waves: str, hold: str = "", replicas: int = 12) -> Cluster:
    """demo:1 was good; demo:2 begins in waves, and its first wave is full."""
    cluster = Cluster(deployment(replicas=replicas))
    cluster.run()
    cluster.clock.advance(60)
    cluster.run()
    annotate(cluster, {WAVES: waves} | ({WAVE_HOLD: hold} if hold else {}))
    cluster.use_image("demo:2")
    cluster.run()
    return cluster


def progressing(cluster: Cluster) -> tuple[str, str]:
    found = find_condition(cluster.deployment.status.conditions, "Progressing")
    return (found.reason, found.message) if found else ("", "")


def test_a_wave_is_held_for_its_time_and_then_the_next_begins() -> None:
    cluster = in_waves("1, 50%", "10m")
    assert (updated(cluster, "demo:2"), len(cluster.pods)) == (1, 12)
    reason, message = progressing(cluster)
    assert reason == "WaveHeld"
    assert message.startswith("wave 1 of 3: 1 of 12 updated, holding until ")
    cluster.clock.advance(599)
    cluster.run()
    assert updated(cluster, "demo:2") == 1
    cluster.clock.advance(1)
    cluster.run()
    assert (updated(cluster, "demo:2"), len(cluster.pods)) == (6, 12)
    cluster.clock.advance(600)
    cluster.run()
    assert updated(cluster, "demo:2") == 12
    assert progressing(cluster)[0] == "NewReplicaSetAvailable"


def test_a_wave_waits_until_somebody_confirms_it() -> None:
    cluster = in_waves("1, 50%", "manual")
    cluster.clock.advance(1e6)
    cluster.run()
    assert updated(cluster, "demo:2") == 1
    assert "holding for confirmation: edgectl confirm -n default deployment/web" in progressing(cluster)[1]
    annotate(cluster, {CONFIRM: "2/1"})
    cluster.run()
    assert updated(cluster, "demo:2") == 6
    annotate(cluster, {CONFIRM: "2"})
    cluster.run()
    assert updated(cluster, "demo:2") == 12


def test_a_wave_whose_pod_needs_too_much_memory_is_undone() -> None:
    cluster = in_waves("1", "10m")
    kill_for_memory(cluster)
    [said] = [n.message for n in tell(cluster) if n.type == "Warning"]
    assert said.startswith("revision 2 (image demo:2) undone: 1 of 1 new pods OOMKilled")
    cluster.run()
    assert (updated(cluster, "demo:1"), len(cluster.pods)) == (12, 12)


def test_a_canary_of_more_pods_than_there_are_takes_all_of_them() -> None:
    cluster = in_waves("20", "manual", replicas=3)
    assert updated(cluster, "demo:2") == 3
    assert progressing(cluster)[0] == "NewReplicaSetAvailable"


def test_a_canary_of_more_pods_than_there_are_is_said_when_it_is_written_and_when_it_begins() -> None:
    wanted = with_meta(deployment(replicas=3), annotations={WAVES: "20"})
    said = "metadata.annotations[edged.dev/waves]: a wave of 20 pods, and there are 3: it takes all of them at once"
    assert inert_fields(wanted) == [said]
    cluster = Cluster(deployment(replicas=3))
    cluster.run()
    annotate(cluster, {WAVES: "20"})
    cluster.use_image("demo:2")
    told = [n.message for n in tell(cluster) if n.reason == "WaveStarted"]
    assert told == ["wave 1 of 2 of revision 2: all 3 pods (20 asked for, there are 3)"]


def test_going_back_in_a_wave_to_what_was_good_last_is_not_held() -> None:
    cluster = in_waves("1, 50%", "manual")
    cluster.use_image("demo:1")
    cluster.run()
    assert updated(cluster, "demo:1") == 12
    assert progressing(cluster)[0] == "NewReplicaSetAvailable"


def test_going_back_to_what_was_good_before_the_last_is_done_in_waves() -> None:
    cluster = in_waves("1, 50%")
    cluster.run()
    cluster.clock.advance(60)
    cluster.run()
    annotate(cluster, {WAVE_HOLD: "manual"})
    cluster.use_image("demo:1")
    cluster.run()
    assert updated(cluster, "demo:1") == 1


def test_a_canary_that_comes_and_goes_without_a_restart_is_undone() -> None:
    cluster = in_waves("1", "manual")
    said: list[str] = []
    for _ in range(4):
        [canary] = newest(cluster)
        cluster.report(canary, False)
        said += [n.message for n in tell(cluster) if n.type == "Warning"]
        if not said:
            cluster.report(newest(cluster)[0], True)
            tell(cluster)
    assert said[0].startswith("revision 2 (image demo:2) undone: pods of wave 1 ceased to be available 4 times; ")


def test_scaling_in_the_middle_of_a_wave_keeps_to_the_wave() -> None:
    cluster = in_waves("1", "manual")
    cluster.change(replicas=20)
    cluster.run()
    assert (updated(cluster, "demo:2"), len(cluster.pods)) == (1, 20)
    cluster.change(replicas=2)
    cluster.run()
    assert (updated(cluster, "demo:2"), len(cluster.pods)) == (1, 2)


def test_a_new_template_in_the_middle_of_a_wave_starts_over() -> None:
    cluster = in_waves("1, 50%", "manual")
    annotate(cluster, {CONFIRM: "2/1"})
    cluster.run()
    cluster.use_image("demo:3")
    cluster.run()
    assert updated(cluster, "demo:3") == 1
    assert "wave 1 of 3" in progressing(cluster)[1]


@pytest.mark.parametrize(
    ("annotations", "said"),
    [
        ({WAVES: "1, x"}, '"x" is neither a number of pods nor a percentage'),
        ({WAVES: "50%, 10%"}, "not more than the wave before"),
        ({WAVES: "1", WAVE_HOLD: "soon"}, "must be a time (e.g. '90s', '10m', '1h30m') or 'manual'"),
        ({PROVEN_AFTER: "soon"}, "must be a time (e.g. '0s', '90s', '10m')"),
        ({PROVEN_AFTER: "8d"}, "at most 7d"),
        ({CONFIRM: "yes"}, "must be <revision>/<wave>"),
        ({"edged.dev/rollbak": "off"}, "did you mean edged.dev/rollback?"),
        ({"edged.dev/rollback": "false"}, 'must be "on" or "off"'),
        ({WAVE_HOLD: "10m"}, "no wave to hold"),
    ],
)
def test_values_that_mean_nothing_are_refused_with_path_and_example(annotations: dict[str, str], said: str) -> None:
    [cause] = validate(with_meta(deployment(), annotations=annotations))
    assert cause.field.startswith("metadata.annotations[edged.dev/")
    assert said in cause.message


def test_percentages_are_rounded_up_and_the_last_wave_is_all() -> None:
    assert policy_of({WAVES: "1, 10%, 50%"}).sizes(12) == (1, 2, 6, 12)
