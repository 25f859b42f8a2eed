"""Whatever people and boards do, and when: a rollout keeps its bounds, a bad revision is undone, a good one arrives."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given, note, settings
from hypothesis import strategies as st

from cloudlink.hub.controllers.rollout import bounds
from cloudlink.kube.annotations import ROLLBACK, WAVE_HOLD, WAVES
from tests.fakes.hub_brain import deployment
from tests.fakes.rollout_world import BAD, GOOD, NATURES, RolloutWorld, image_in, nature_of

ROUNDS = 400  # of five seconds, until everything has come to an end
STEP = 5.0

shares = st.one_of(st.integers(0, 3), st.sampled_from(["0%", "25%", "50%", "100%"]))
waves = st.sampled_from(["", "1", "1, 2", "50%", "1, 50%", "20"])
holds = st.sampled_from(["", "0s", "20s", "manual"])
happenings = st.one_of(
    st.tuples(st.just("live"), st.integers(0, 20)),
    st.tuples(st.just("everything"), st.integers(1, 3)),
    st.tuples(st.just("fall"), st.integers(0, 20)),
    st.tuples(st.just("memory"), st.integers(0, 20)),
    st.tuples(st.just("delete"), st.integers(0, 20)),
    st.tuples(st.just("lose"), st.integers(0, 20)),
    st.tuples(st.just("off their nodes"), st.just(0)),
    st.tuples(st.just("time"), st.integers(1, 90)),
    st.tuples(st.just("edit"), st.sampled_from(NATURES)),
    st.tuples(st.just("undo"), st.just(0)),
    st.tuples(st.just("pause"), st.booleans()),
    st.tuples(st.just("confirm"), st.just(0)),
    st.tuples(st.just("scale"), st.integers(0, 6)),
)


def a_world(
    replicas: int, surge: int | str, missing: int | str, wait: int, annotations: dict[str, str]
) -> RolloutWorld:
    """A first revision that is good, and known to be."""
    if bounds(1, surge, 0).surge == 0 and missing in (0, "0%"):
        missing = 1  # both zero is refused when it is written
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": missing}}
    wanted = deployment(
        image="good:1", replicas=replicas, strategy=strategy, minReadySeconds=wait, progressDeadlineSeconds=60
    )
    world = RolloutWorld(wanted)
    for key, value in annotations.items():
        world.annotate(key, value)
    for _ in range(10):
        world.happen()
        world.cluster.clock.advance(STEP)
    assert world.good_images() == {"good:1"}
    return world


def happen(world: RolloutWorld, kind: str, n: Any) -> None:
    pods = world.cluster.pods
    pod = pods[n % len(pods)] if pods and isinstance(n, int) else None
    match kind:
        case "live" if pod:
            world.live(pod)
        case "everything":
            for _ in range(n):
                world.happen()
        case "fall" | "memory" if pod:
            world.accidents = True
            world.fall(pod, "OOMKilled" if kind == "memory" else "Error")
        case "delete" if pod:
            world.remove(pod, at_once=n % 2 == 0)
        case "lose" if pod:
            world.accidents = True
            world.silence(pod)
        case "off their nodes":
            world.cluster.take_away()
        case "time":
            world.accidents |= not world.is_complete()  # boards that stand still make any revision miss its deadline
            world.cluster.clock.advance(n)
        case "edit":
            world.edit(n)
        case "undo":
            world.undo()
        case "pause":
            world.cluster.change(paused=n)
        case "confirm":
            world.confirm()
        case "scale":
            world.cluster.change(replicas=n)
    world.settle()
    world.cluster.bind_all()


def to_the_end(world: RolloutWorld) -> None:
    """Nobody does anything any more but confirm; boards and clock go on."""
    world.cluster.change(paused=False)
    if world.deployment.spec.replicas == 0:
        world.cluster.change(replicas=2)
    for _ in range(ROUNDS):
        world.happen()
        world.confirm()
        world.cluster.clock.advance(STEP)
        if world.is_complete() and image_in(world.deployment) in world.good_images():
            return


REPLACED_EARLY = [("edit", "flash"), ("live", 0), ("off their nodes", 0), ("edit", "crash")]


@settings(max_examples=80)
@example(1, 0, "100%", 0, "", "", REPLACED_EARLY)
@example(1, 2, 0, 0, "1", "", [("edit", "good"), ("pause", True)])
@example(1, 1, 0, 0, "", "", [("edit", "good"), ("live", 0), ("edit", "good"), ("scale", 3)])
@example(1, 1, 0, 0, "", "", [("edit", "good"), ("live", 0), ("edit", "good"), ("time", 60)])
@given(st.integers(1, 5), shares, shares, st.sampled_from([0, 0, 8]), waves, holds, st.lists(happenings, max_size=25))
def test_whatever_happens_bounds_hold_bad_revisions_are_undone_and_good_ones_arrive(
    replicas: int,
    surge: int | str,
    missing: int | str,
    wait: int,
    wave: str,
    hold: str,
    story: list[tuple[str, Any]],
) -> None:
    annotations = ({WAVES: wave} if wave else {}) | ({WAVE_HOLD: hold} if wave and hold else {})
    note(f"{replicas=} {surge=} {missing=} {wait=} {annotations=} {story=}")
    world = a_world(replicas, surge, missing, wait, annotations)
    for kind, n in story:
        happen(world, kind, n)
    to_the_end(world)
    image = image_in(world.deployment)
    assert world.is_complete(), f"{image}: {world.by_image()}, {world.available()} available"
    assert nature_of(image) == GOOD
    if nature_of(world.wish) == GOOD and not world.accidents:
        assert image == world.wish
    else:
        assert image in (world.wish, *world.good_images())


@settings(max_examples=30)
@given(st.integers(1, 5), waves, st.sampled_from(BAD), st.lists(happenings, max_size=10))
def test_a_bad_revision_that_may_not_be_undone_stays_and_takes_no_more_than_it_may(
    replicas: int, wave: str, nature: str, story: list[tuple[str, Any]]
) -> None:
    world = a_world(replicas, 1, 0, 30, {ROLLBACK: "off"} | ({WAVES: wave} if wave else {}))
    world.edit(nature)
    for kind, n in story:
        happen(world, kind, n)
    to_the_end(world)
    assert world.undone == set()
    assert image_in(world.deployment) == world.wish
