"""Kubernetes' own rules of rollouts, case by case: rounding, proportional scaling, deadlines, history, Recreate."""

from __future__ import annotations

from typing import Any

import pytest

from cloudlink.hub.controllers.rollout import Bounds, Count, bounds, scale
from cloudlink.hub.objects import find_condition
from cloudlink.kube.apps import Deployment
from cloudlink.kube.errors import Invalid
from cloudlink.kube.parse import parse
from tests.fakes.hub_brain import Cluster, deployment, pod_spec
from tests.fakes.rollouts import updated

ROLLING = "spec.strategy.rollingUpdate"


@pytest.mark.parametrize(
    ("replicas", "surge", "missing", "expected"),
    [
        (10, "39%", "39%", (4, 3)),  # surge is rounded up, unavailable down
        (7, 5, 1, (5, 1)),
        (1, "25%", "25%", (1, 0)),  # one pod alone is never missed
        (4, "25%", "25%", (1, 1)),
        (3, "34%", "100%", (2, 3)),
        (2, 0, 5, (0, 2)),  # no more can be missed than there are
        (3, "0%", "10%", (0, 1)),  # neither would stand still
    ],
)
def test_how_many_may_be_too_many_or_missing(
    replicas: int, surge: int | str, missing: int | str, expected: tuple[int, int]
) -> None:
    assert bounds(replicas, surge, missing) == Bounds(*expected)


@pytest.mark.parametrize(
    ("replicas", "surge", "before", "after"),
    [
        (12, 0, (10,), (12,)),
        (5, 0, (10,), (5,)),
        (10, 0, (3, 2), (6, 4)),
        (3, 0, (3, 2), (2, 1)),
        (4, 0, (1, 8), (0, 4)),
        (10, 0, (2, 3, 2), (3, 4, 3)),
        (8, 0, (3, 8, 2), (2, 5, 1)),
        (4, 0, (1, 1, 1), (1, 1, 2)),  # what is left over goes to the newest
        (2, 0, (1, 1, 1), (0, 1, 1)),  # and is taken from the oldest
        (0, 0, (3, 3, 3), (0, 0, 0)),
        (20, 2, (6, 6), (11, 11)),  # pods beyond `replicas` are spread, too
        (50, 6, (8, 5), (34, 22)),
    ],
)
def test_scaling_in_a_rollout_is_spread_over_its_sets_by_their_size(
    replicas: int, surge: int, before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    sets = [Count(f"v{i}", n, n, n) for i, n in enumerate(before)]
    answer = scale(replicas, Bounds(surge, 0), sets, sets[-1].name)
    assert tuple(answer[c.name] for c in sets) == after


def test_what_a_deployment_says_nothing_about_is_as_in_kubernetes() -> None:
    template = {"metadata": {"labels": {"app": "web"}}, "spec": pod_spec()}
    spec = {"selector": {"matchLabels": {"app": "web"}}, "template": template}
    made = parse({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
    assert isinstance(made, Deployment)
    assert (made.spec.replicas, made.spec.min_ready_seconds) == (1, 0)
    assert (made.spec.revision_history_limit, made.spec.progress_deadline_seconds) == (10, 600)
    rolling = made.spec.strategy.rolling_update
    assert (made.spec.strategy.type, rolling and (rolling.max_surge, rolling.max_unavailable)) == (
        "RollingUpdate",
        ("25%", "25%"),
    )


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"minReadySeconds": -1}, "spec.minReadySeconds"),
        ({"revisionHistoryLimit": -1}, "spec.revisionHistoryLimit"),
        ({"minReadySeconds": 600}, "spec.progressDeadlineSeconds"),
        ({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}, f"{ROLLING}.maxUnavailable"),
        ({"strategy": {"rollingUpdate": {"maxUnavailable": "101%"}}}, f"{ROLLING}.maxUnavailable"),
        ({"strategy": {"rollingUpdate": {"maxSurge": "many"}}}, f"{ROLLING}.maxSurge"),
        ({"strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}}, ROLLING),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_path(spec: dict[str, Any], path: str) -> None:
    with pytest.raises(Invalid) as refused:
        deployment(**spec)
    assert [cause.field for cause in refused.value.causes] == [path]


def test_no_old_pod_goes_before_a_new_one_was_ready_for_min_ready_seconds() -> None:
    strategy = {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    cluster = Cluster(deployment(replicas=2, minReadySeconds=30, strategy=strategy))
    cluster.run()
    cluster.clock.advance(31)
    cluster.use_image("demo:2")
    cluster.run()
    assert (updated(cluster, "demo:1"), updated(cluster, "demo:2")) == (2, 1)
    cluster.clock.advance(29)
    cluster.run()
    assert updated(cluster, "demo:1") == 2
    cluster.clock.advance(1)
    cluster.run()
    assert updated(cluster, "demo:1") == 1


def test_the_time_that_pods_are_waited_for_is_no_standstill() -> None:
    strategy = {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    cluster = Cluster(deployment(replicas=3, minReadySeconds=30, progressDeadlineSeconds=40, strategy=strategy))
    cluster.run()
    for _ in range(2):
        cluster.clock.advance(31)
        cluster.run()
    cluster.use_image("demo:2")
    for _ in range(3):
        cluster.run()
        cluster.clock.advance(31)
    cluster.run()
    told = find_condition(cluster.deployment.status.conditions, "Progressing")
    assert (told and told.reason, updated(cluster, "demo:2")) == ("NewReplicaSetAvailable", 3)


def test_a_deadline_of_the_largest_number_is_none() -> None:
    cluster = Cluster(deployment(progressDeadlineSeconds=2**31 - 1))
    cluster.settle()
    cluster.clock.advance(10 * 365 * 86400)
    cluster.settle()
    told = find_condition(cluster.deployment.status.conditions, "Progressing")
    assert told is not None
    assert told.status == "True"


def test_history_keeps_the_newest_empty_sets_and_those_with_pods() -> None:
    cluster = Cluster(deployment(revisionHistoryLimit=1))
    for n in range(1, 5):
        cluster.use_image(f"demo:{n}")
        cluster.run()
        cluster.clock.advance(60)
        cluster.run()
    kept = sorted(s.metadata.annotations["deployment.kubernetes.io/revision"] for s in cluster.sets)
    assert kept == ["3", "4"]


def test_recreate_waits_for_a_pod_whose_node_does_not_answer_and_blames_nobody() -> None:
    cluster = Cluster(deployment(replicas=2, strategy={"type": "Recreate"}))
    cluster.run()
    cluster.use_image("demo:2")
    for _ in range(3):
        cluster.settle()
        cluster.clock.advance(600)
    assert updated(cluster, "demo:2") == 0
    cluster.take_away()
    cluster.run()
    assert updated(cluster, "demo:2") == 2
