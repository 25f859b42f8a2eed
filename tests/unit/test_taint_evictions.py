"""When the taints of its node end a pod: after what it tolerates, and never because of a node that is back."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlink.hub.changes import MarkDeleted, UpdateStatus
from cloudlink.hub.controllers.eviction import reconcile
from cloudlink.hub.decision import NEVER, Decision
from cloudlink.hub.objects import find_condition, rfc3339
from cloudlink.kube.core import Node, Pod, Taint
from cloudlink.kube.taints import NOT_READY, UNREACHABLE
from tests.fakes.hub_brain import NOW, node, pod, with_meta


def lost(*taints: Taint, ready: bool = False) -> Node:
    made = node("pi", ready=ready)
    return made.model_copy(update={"spec": made.spec.model_copy(update={"taints": taints})})


def taint(key: str = UNREACHABLE, at: float = NOW, value: str = "") -> Taint:
    return Taint(key=key, value=value, effect="NoExecute", time_added=rfc3339(at))


def toleration(key: str = UNREACHABLE, seconds: int | None = None, **more: Any) -> dict[str, Any]:
    bound = {} if seconds is None else {"tolerationSeconds": seconds}
    return {"key": key, "operator": "Exists", "effect": "NoExecute", **bound, **more}


def tenant(*tolerations: dict[str, Any]) -> Pod:
    return with_meta(pod("web", node="pi", tolerations=list(tolerations)), uid="u")  # type: ignore[no-any-return]


def is_evicted(decision: Decision) -> bool:
    return any(isinstance(c, MarkDeleted) for c in decision.changes)


def test_a_pod_goes_when_its_toleration_has_run_out_and_not_a_second_before() -> None:
    web = tenant(toleration(seconds=300))
    waits = reconcile(web, lost(taint()), NOW + 299)
    assert waits == Decision(wake_at=NOW + 300)
    goes = reconcile(web, lost(taint()), NOW + 300)
    told, asked = goes.changes
    assert isinstance(told, UpdateStatus)
    assert isinstance(told.object, Pod)
    condition = find_condition(told.object.status.conditions, "DisruptionTarget")
    assert condition is not None
    assert (condition.status, condition.reason) == ("True", "DeletionByTaintManager")
    assert condition.message == "Taint manager: deleting due to NoExecute taint"
    assert isinstance(asked, MarkDeleted)
    assert (asked.grace, asked.uid) == (30, "u")
    [note] = goes.notes
    assert note.reason == "TaintManagerEviction"
    assert note.message.startswith("Marking for deletion Pod default/web: node pi has taint node.kubernetes.io/unreach")


def test_a_pod_that_tolerates_nothing_goes_at_once_and_one_that_tolerates_for_ever_never() -> None:
    assert is_evicted(reconcile(tenant(), lost(taint()), NOW))
    assert reconcile(tenant(toleration()), lost(taint()), NOW + 1e9) == Decision()
    assert reconcile(tenant({"operator": "Exists"}), lost(taint(), taint("mine")), NOW + 1e9) == Decision()
    assert is_evicted(reconcile(tenant(toleration(seconds=-5)), lost(taint()), NOW))


def test_the_smallest_toleration_of_several_taints_counts() -> None:
    web = tenant(toleration(seconds=300), toleration("mine", seconds=60))
    assert reconcile(web, lost(taint(), taint("mine", NOW + 50)), NOW + 60).wake_at == NOW + 110
    assert is_evicted(reconcile(web, lost(taint(), taint("other")), NOW))


def test_a_taint_that_says_no_time_is_as_new_as_can_be() -> None:
    bare = Taint(key="mine", effect="NoExecute")
    assert reconcile(tenant(toleration("mine", seconds=60)), lost(bare, ready=True), NOW).wake_at == NOW + 60


def test_a_node_that_is_back_ends_nothing_whatever_its_taints_still_say() -> None:
    assert reconcile(tenant(), lost(taint(), taint(NOT_READY), ready=True), NOW + 1e6) == Decision()
    assert is_evicted(reconcile(tenant(), lost(taint("mine"), ready=True), NOW))


def test_a_hub_that_has_just_begun_to_listen_ends_nothing_yet_but_what_people_ask_for() -> None:
    web = tenant(toleration(seconds=300))
    assert reconcile(web, lost(taint(at=NOW - 1000)), NOW, settled_at=NOW + 150) == Decision(wake_at=NOW + 150)
    assert is_evicted(reconcile(web, lost(taint(at=NOW - 1000)), NOW + 150, settled_at=NOW + 150))
    assert is_evicted(reconcile(web, lost(taint("mine")), NOW, settled_at=NOW + 150))


def test_a_pod_whose_data_is_on_a_lost_node_stays_with_it_and_says_so() -> None:
    web = tenant(toleration(seconds=300))
    assert reconcile(web, lost(taint()), NOW, tied=("data",)) == Decision(wake_at=NOW + 300)
    held = reconcile(web, lost(taint()), NOW + 300, tied=("data",))
    assert held.changes == ()
    [note] = held.notes
    assert note.reason == "EvictionHeld"
    assert note.message.startswith("not moved: the data of claim data is on node pi and nowhere else")
    assert is_evicted(reconcile(web, lost(taint(), taint("mine")), NOW + 300, tied=("data",)))


def test_a_pod_that_is_on_its_way_out_is_not_ended_again() -> None:
    leaving = with_meta(tenant(), deletion_timestamp=rfc3339(NOW))
    assert reconcile(leaving, lost(taint()), NOW) == Decision()


# ---------------------------------------------------------------- Kubernetes' rule, for any history

KEYS = ("red", "blue", UNREACHABLE)
MOVES = st.lists(st.tuples(st.integers(0, 40), st.booleans(), st.sampled_from(KEYS)), max_size=12)
TOLERATIONS = st.lists(
    st.tuples(st.sampled_from((*KEYS, "")), st.sampled_from(["NoExecute", "", "NoSchedule"]), st.integers(-1, 60)),
    max_size=4,
)


def by_the_book(times: dict[str, int], tolerations: list[tuple[str, str, int]], now: int) -> bool:
    """Whether the pod has to go at `now`. `times`: since when each taint is there; seconds of -1: no bound."""
    for key, since in times.items():
        fitting = [s for k, e, s in tolerations if k in ("", key) and e in ("", "NoExecute")]
        if not fitting or (fitting[0] >= 0 and now - since >= fitting[0]):
            return True
    return False


@settings(max_examples=300)
@given(MOVES, TOLERATIONS)
def test_a_pod_is_marked_exactly_when_kubernetes_rule_says_so_whatever_taints_come_and_go(
    moves: list[tuple[int, bool, str]], tolerations: list[tuple[str, str, int]]
) -> None:
    web = tenant(
        *({"operator": "Exists", "effect": e, **({"key": k} if k else {}), **bound(e, s)} for k, e, s in tolerations)
    )
    told = [(k, e, s if e == "NoExecute" else -1) for k, e, s in tolerations]
    times: dict[str, int] = {}
    now, wake_at = 0, NEVER
    for pause, adds, key in [*moves, (200, False, "")]:
        before = now
        for _ in range(20):  # the moments at which the controller asked to be woken, in between
            if wake_at > NOW + before + pause:
                break
            now = max(int(wake_at - NOW), now)
            decision = ask(web, times, now)
            assert is_evicted(decision) == by_the_book(times, told, now)
            if is_evicted(decision):
                return
            wake_at = decision.wake_at
            assert wake_at > NOW + now
        # Between two looks nothing is missed: a second before the end of the pause the rule doesn't hold either.
        if pause:
            assert not by_the_book(times, told, before + pause - 1)
        now = before + pause
        if adds:
            times.setdefault(key, now)
        else:
            times.pop(key, None)
        decision = ask(web, times, now)
        assert is_evicted(decision) == by_the_book(times, told, now)
        if is_evicted(decision):
            return
        wake_at = decision.wake_at


def bound(effect: str, seconds: int) -> dict[str, int]:
    return {"tolerationSeconds": seconds} if effect == "NoExecute" and seconds >= 0 else {}


def ask(web: Pod, times: dict[str, int], now: int) -> Decision:
    there = lost(*(taint(key, NOW + at) for key, at in times.items()))
    return reconcile(web, there, NOW + now)
