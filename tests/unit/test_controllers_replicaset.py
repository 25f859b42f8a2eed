"""ReplicaSets make and remove exactly as many pods as are missing or too many, the least useful first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloudlink.hub.changes import Create, Delete, MarkDeleted, UpdateStatus
from cloudlink.hub.controllers.replicaset import BURST, FINISHED_KEPT, reconcile
from cloudlink.hub.decision import Decision
from cloudlink.hub.objects import is_active, owned_by
from cloudlink.kube.apps import ReplicaSet
from cloudlink.kube.core import Pod
from tests.fakes.hub_brain import NOW, names, pod, replica_set, reported, with_meta


def owned(rs: ReplicaSet, name: str, node: str = "pi", ready: bool | None = None, since: float = NOW) -> Pod:
    made = with_meta(
        pod(name, node=node), uid=f"uid-{name}", owner_references=(owned_by(rs),), labels={"app": rs.metadata.name}
    )
    return made if ready is None else reported(made, since, ready)


def removed(decision: Decision) -> list[str]:
    return [c.name for c in decision.changes if isinstance(c, Delete | MarkDeleted)]


def created(decision: Decision) -> list[Pod]:
    return [c.object for c in decision.changes if isinstance(c, Create) and isinstance(c.object, Pod)]


def test_missing_pods_are_made_from_the_template() -> None:
    rs = replica_set(replicas=2)
    decision = reconcile(rs, [], NOW, names())
    first, second = created(decision)
    assert (first.metadata.name, second.metadata.name) == ("web-1-00000", "web-1-00001")
    assert first.metadata.generate_name == "web-1-"
    assert first.metadata.labels == {"app": "web-1"}
    assert first.metadata.owner_references[0].uid == "rs-1"
    assert first.spec == rs.spec.template.spec
    assert [n.reason for n in decision.notes] == ["SuccessfulCreate"] * 2


def test_a_name_is_cut_and_its_random_end_kept() -> None:
    [made] = created(reconcile(replica_set("n" * 63), [], NOW, names()))
    assert len(made.metadata.name) == 63
    assert made.metadata.name.endswith("00000")


def test_a_suffix_that_is_taken_is_not_used_again() -> None:
    rs = replica_set(replicas=2)
    [made] = created(reconcile(rs, [owned(rs, "web-1-00000")], NOW, names()))
    assert made.metadata.name == "web-1-00001"


def test_pods_on_their_way_out_and_finished_ones_are_replaced() -> None:
    rs = replica_set(replicas=2)
    leaving = with_meta(owned(rs, "leaving", ready=True), deletion_timestamp="2025-06-15T15:06:40Z")
    done = reported(owned(rs, "done"), NOW, ready=False, phase="Failed")
    assert len(created(reconcile(rs, [leaving, done], NOW, names()))) == 2


def test_many_failures_do_not_pile_up() -> None:
    rs = replica_set(replicas=0)
    done = [
        with_meta(
            reported(owned(rs, f"done-{n}"), NOW, ready=False, phase="Failed"),
            creation_timestamp=f"2025-06-15T15:06:{n:02d}Z",
        )
        for n in range(8)
    ]
    assert removed(reconcile(rs, done, NOW, names())) == [f"done-{n}" for n in range(8 - FINISHED_KEPT)]


def test_the_least_useful_pods_go_first() -> None:
    rs = replica_set(replicas=1)
    pods = [
        owned(rs, "old-and-ready", ready=True, since=NOW - 100),
        owned(rs, "young-and-ready", ready=True, since=NOW - 1),
        owned(rs, "unready", ready=False),
        owned(rs, "pending"),
        owned(rs, "homeless", node=""),
    ]
    assert removed(reconcile(rs, pods, NOW, names())) == ["homeless", "pending", "unready", "young-and-ready"]


def test_a_pod_that_never_had_a_node_is_deleted_at_once_and_others_get_their_grace() -> None:
    rs = replica_set(replicas=0)
    decision = reconcile(rs, [owned(rs, "a", node=""), owned(rs, "b")], NOW, names())
    assert isinstance(decision.changes[0], Delete)
    mark = decision.changes[1]
    assert isinstance(mark, MarkDeleted)
    assert mark.grace == 30


def test_the_status_counts_what_the_commit_will_leave() -> None:
    rs = replica_set(replicas=3, min_ready_seconds=10)
    pods = [owned(rs, "a", ready=True, since=NOW - 10), owned(rs, "b", ready=True, since=NOW - 4)]
    decision = reconcile(rs, pods, NOW, names())
    [status] = [c.object.status for c in decision.changes if isinstance(c, UpdateStatus)]  # type: ignore[attr-defined]
    assert (status.replicas, status.ready_replicas, status.available_replicas) == (3, 2, 1)
    assert decision.wake_at == NOW + 6


def test_a_very_large_set_is_made_in_parts() -> None:
    assert len(created(reconcile(replica_set(replicas=BURST + 1), [], NOW, names()))) == BURST


def test_many_pods_are_told_of_in_few_events() -> None:
    decision = reconcile(replica_set(replicas=50), [], NOW, names())
    assert len(decision.notes) == 11
    assert decision.notes[-1].message == "Created pod: web-1-00049 and 39 others"


@given(
    st.integers(0, 8),
    st.lists(st.tuples(st.sampled_from(["", "pi"]), st.sampled_from([None, True, False]), st.booleans()), max_size=10),
)
def test_the_difference_is_made_up_and_available_pods_go_last(
    replicas: int, present: list[tuple[str, bool | None, bool]]
) -> None:
    rs = replica_set(replicas=replicas)
    pods = [
        with_meta(owned(rs, f"p{i}", node, ready if node else None), deletion_timestamp="x" if leaving else "")
        for i, (node, ready, leaving) in enumerate(present)
    ]
    decision = reconcile(rs, pods, NOW, names())
    gone = set(removed(decision))
    active = [p for p in pods if is_active(p)]
    assert len(active) + len(created(decision)) - len(gone) == replicas
    kept = [p for p in active if p.metadata.name not in gone]
    ready = {p.metadata.name for p in active if any(c.status == "True" for c in p.status.conditions)}
    if gone & ready:
        assert all(p.metadata.name in ready for p in kept)
