"""What is news, and whose."""

from __future__ import annotations

from edged.decide import happenings
from edged.decide.steps import CLAIMS, IMAGES, PullImage, hook_owner, image_owner, pressure_owner
from edged.model import NOT_READY, Container, NodeCondition, Observed, Pod, Setback

SETBACK = Setback("Failed", "it did not work", 1, 10.0)


def news_of(owner: str) -> list[tuple[str, str]]:
    told = happenings.between(Observed(), Observed(setbacks={owner: SETBACK}))
    return [(h.pod, h.container) for h in told]


def test_a_failure_is_told_of_the_pod_or_the_container_that_it_is_about() -> None:
    assert news_of("uid-1") == [("uid-1", "")]
    assert news_of(pressure_owner("uid-1")) == [("uid-1", "")]
    assert news_of(hook_owner("uid.1.main.0")) == [("uid.1", "main")]
    assert news_of("") == news_of(IMAGES) == news_of(CLAIMS) == [("", "")]


def test_a_failure_that_says_the_same_again_is_no_news() -> None:
    before = Observed(setbacks={"uid-1": SETBACK})
    again = Observed(setbacks={"uid-1": Setback("Failed", "it did not work", 2, 20.0)})
    assert happenings.between(before, again) == ()


def test_a_failed_pull_is_told_once_to_the_pods_that_wait_and_not_to_all_of_a_hundred() -> None:
    pods = tuple(Pod("default", f"p{n}", f"uid-{n}", (Container("c", "x"),)) for n in range(100))
    step = PullImage("x", pods, "they need it")
    assert news_of(image_owner("x")) == []
    told = happenings.failed_pull(step, "no route to host", here=False, before=None)
    assert [h.pod for h in told] == ["uid-0", "uid-1", "uid-2", "uid-3"]
    again = Setback("ErrImagePull", "no route to host", 1, 10.0)
    assert not happenings.failed_pull(step, "no route to host", here=False, before=again)
    assert not happenings.begun(step, again), "a try that comes back is no news either"


def test_conditions_are_told_when_they_begin_and_when_they_end() -> None:
    pressed = (NodeCondition("MemoryPressure", "why", "memory is short"),)
    assert [(h.kind, h.reason) for h in happenings.conditions((), pressed)] == [("Warning", "NodeHasMemoryPressure")]
    assert happenings.conditions(pressed, pressed) == ()
    broken = (NodeCondition(NOT_READY, "ContainerRuntimeNotReady", "crun is missing"),)
    assert [(h.kind, h.reason) for h in happenings.conditions((), broken)] == [("Warning", "NodeNotReady")]
    assert [(h.kind, h.reason) for h in happenings.conditions(broken, ())] == [("Normal", "NodeReady")]
    assert [(h.kind, h.reason) for h in happenings.conditions(pressed, ())] == [("Normal", "NodeHasNoMemoryPressure")]
