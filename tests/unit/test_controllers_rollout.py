"""Rolling updates never stray further than they were allowed to, whatever happens to the pods meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlink.hub.controllers.rollout import Bounds, Count, bounds, percent_of, roll, scale
from tests.fakes.hub_brain import Cluster, deployment

shares = st.one_of(st.integers(0, 4), st.sampled_from(["0%", "25%", "30%", "50%", "100%"]))


@pytest.mark.parametrize(
    ("value", "total", "up", "expected"),
    [
        (3, 10, True, 3),
        ("25%", 10, True, 3),
        ("25%", 10, False, 2),
        ("100%", 7, True, 7),
        ("0%", 7, True, 0),
        ("x", 7, True, 0),
    ],
)
def test_shares_are_counts_or_percentages(value: int | str, total: int, up: bool, expected: int) -> None:
    assert percent_of(value, total, up=up) == expected


def test_a_rollout_that_may_neither_grow_nor_shrink_may_miss_one_pod() -> None:
    assert bounds(3, 0, 0) == Bounds(surge=0, unavailable=1)


def test_the_new_set_grows_by_the_surge_first() -> None:
    answer = roll(4, Bounds(surge=1, unavailable=1), Count("new", 0, 0, 0), [Count("old", 4, 4, 4)])
    assert answer == {"new": 1}


def test_old_pods_go_when_enough_others_are_available() -> None:
    answer = roll(4, Bounds(surge=1, unavailable=1), Count("new", 1, 1, 1), [Count("old", 4, 4, 4)])
    assert answer == {"new": 1, "old": 2}


def test_pods_that_do_not_work_go_before_pods_that_do() -> None:
    answer = roll(
        4, Bounds(surge=1, unavailable=1), Count("new", 1, 1, 0), [Count("bad", 2, 2, 0), Count("good", 2, 2, 2)]
    )
    assert answer["good"] == 2
    assert answer["bad"] == 1


def test_a_set_that_is_still_shrinking_counts_with_the_pods_it_still_has() -> None:
    answer = roll(4, Bounds(surge=1, unavailable=1), Count("new", 1, 1, 1), [Count("old", 2, 4, 4)])
    assert answer["new"] == 1


@given(
    st.integers(0, 20),
    shares,
    shares,
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4),
)
def test_one_step_keeps_both_bounds(
    replicas: int, surge: int | str, missing: int | str, sets: list[tuple[int, int]]
) -> None:
    limits = bounds(replicas, surge, missing)
    counts = [Count(f"s{i}", wanted, wanted, min(available, wanted)) for i, (wanted, available) in enumerate(sets)]
    new, old = counts[-1], counts[:-1]
    answer = roll(replicas, limits, new, old)
    wanted = {c.name: answer.get(c.name, c.wanted) for c in counts}
    assert all(n >= 0 for n in wanted.values())
    assert all(wanted[c.name] <= c.wanted for c in old)
    if wanted[new.name] > new.wanted:
        assert sum(wanted.values()) <= replicas + limits.surge
    kept = sum(min(c.available, wanted[c.name]) for c in counts)
    had = sum(c.available for c in counts)
    if kept < had and new.wanted <= replicas:
        assert kept >= replicas - limits.unavailable


@given(st.integers(0, 30), st.integers(0, 5), st.lists(st.integers(1, 9), min_size=2, max_size=4))
def test_scaling_in_the_middle_of_a_rollout_gives_exactly_the_allowed_total(
    replicas: int, surge: int, sizes: list[int]
) -> None:
    active = [Count(f"s{i}", n, n, n) for i, n in enumerate(sizes)]
    answer = scale(replicas, Bounds(surge, 0), active, active[-1].name)
    total = sum(answer.get(c.name, c.wanted) for c in active)
    assert total == (replicas + surge if replicas else 0)
    assert all(n >= 0 for n in answer.values())


def test_scaling_in_the_middle_of_a_rollout_keeps_the_proportion() -> None:
    active = [Count("old", 8, 8, 8), Count("new", 2, 2, 2)]
    assert scale(20, Bounds(0, 0), active, "new") == {"old": 16, "new": 4}


# ---------------------------------------------------------------- whole rollouts

actions = st.one_of(
    st.tuples(st.just("ready"), st.integers(0, 30)),
    st.tuples(st.just("unready"), st.integers(0, 30)),
    st.tuples(st.just("taken away"), st.just(0)),
    st.tuples(st.just("image"), st.integers(0, 3)),
    st.tuples(st.just("time"), st.integers(1, 100)),
)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 6), shares, shares, st.lists(actions, max_size=25))
def test_no_order_of_events_breaks_the_bounds_and_the_rollout_ends(
    replicas: int, surge: int | str, missing: int | str, happenings: list[tuple[str, int]]
) -> None:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": missing}}
    if bounds(replicas, surge, 0).surge == 0 and percent_of(missing, replicas, up=False) == 0:
        strategy["rollingUpdate"] = {"maxSurge": 0, "maxUnavailable": 1}  # both zero is refused when it is written
    cluster = Cluster(deployment(replicas=replicas, strategy=strategy))
    rolling = cluster.deployment.spec.strategy.rolling_update
    assert rolling is not None
    limits = bounds(replicas, rolling.max_surge, rolling.max_unavailable)
    cluster.run()
    assert cluster.available() == replicas
    for kind, n in happenings:
        pods = cluster.pods
        match kind:
            case "ready" | "unready" if pods:
                cluster.report(pods[n % len(pods)], kind == "ready")
            case "taken away":
                cluster.take_away()
            case "image":
                cluster.use_image(f"demo:{n}")
            case "time":
                cluster.clock.advance(n)
        before = cluster.available()
        cluster.settle()
        cluster.bind_all()
        assert len(cluster.pods) <= replicas + limits.surge
        assert cluster.available() >= min(before, replicas - limits.unavailable)
        asked_again = cluster.ask_deployment()
        assert asked_again.changes == ()
    cluster.run()
    [running] = [s for s in cluster.sets if s.spec.replicas]
    assert running.spec.template.spec == cluster.deployment.spec.template.spec
    assert cluster.available() == len(cluster.pods) == replicas
    status = cluster.deployment.status
    assert status.updated_replicas == status.available_replicas == status.replicas == replicas
