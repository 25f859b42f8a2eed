"""Labels that a board says of itself, beside those that people give it at the hub."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cloudlink.hub.controllers.nodes import MAX_LABELS, REMEMBERED, with_labels
from cloudlink.kube.core import Node
from tests.fakes.hub_brain import node, with_meta


def board(**labels: str) -> Node:
    return node("pi", labels={"kubernetes.io/hostname": "pi", **labels})


def labels(node: Node) -> dict[str, str]:
    return {k: v for k, v in node.metadata.labels.items() if k != "kubernetes.io/hostname"}


def relabelled(node: Node, **values: Any) -> Node:
    """As a person at the hub does it; None takes a label away."""
    changed = {k: v for k, v in {**node.metadata.labels, **values}.items() if v is not None}
    made = with_meta(node, labels=changed)
    assert isinstance(made, Node)
    return made


def test_what_a_board_says_becomes_labels_and_goes_when_it_no_longer_says_so() -> None:
    told = with_labels(board(), {"site": "roof", "topology.kubernetes.io/zone": "garden"})
    assert labels(told) == {"site": "roof", "topology.kubernetes.io/zone": "garden"}
    assert with_labels(told, {"site": "roof", "topology.kubernetes.io/zone": "garden"}) is told
    assert labels(with_labels(told, {"site": "shed"})) == {"site": "shed"}
    gone = with_labels(told, {})
    assert labels(gone) == {}
    assert REMEMBERED not in gone.metadata.annotations


def test_a_label_given_at_the_hub_is_never_overridden() -> None:
    ours = board(site="cellar")
    assert with_labels(ours, {"site": "roof"}) is ours
    assert with_labels(ours, {"kubernetes.io/hostname": "evil"}) is ours
    changed = relabelled(with_labels(board(), {"site": "roof"}), site="cellar")
    later = with_labels(changed, {"site": "attic"})
    assert labels(later) == {"site": "cellar"}
    assert labels(with_labels(later, {})) == {"site": "cellar"}


def test_a_label_taken_away_at_the_hub_comes_back_while_the_board_says_it() -> None:
    changed = relabelled(with_labels(board(), {"site": "roof"}), site=None)
    assert labels(with_labels(changed, {"site": "roof"})) == {"site": "roof"}


def test_a_board_can_not_give_itself_a_role_or_what_is_no_label() -> None:
    told = {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/arch": "x", "a b": "c", "ok": "not ok!"}
    assert with_labels(board(), told).metadata.labels == board().metadata.labels


def test_labels_of_a_board_are_bounded() -> None:
    assert len(labels(with_labels(board(), {f"l{i}": "x" for i in range(1000)}))) == MAX_LABELS


@given(st.dictionaries(st.text(max_size=4), st.text(max_size=4)), st.text(max_size=20))
def test_whatever_is_told_or_remembered_changes_nothing_the_second_time(told: dict[str, str], memory: str) -> None:
    once = with_labels(with_meta(board(site="x"), annotations={REMEMBERED: memory}), told)
    assert with_labels(once, told) == once
    assert once.metadata.labels["site"] == "x"
