"""The judge of power cuts isn't blind: each kind of damage is called by its name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from edged.model import Container, Desired, Env, Pod
from tests.vm.powercut.campaign import plan
from tests.vm.powercut.deeds import DEEDS
from tests.vm.powercut.findings import Expected, unusual, wrong
from tests.vm.powercut.home import NOBODY

POD = Pod("ns", "web", "u1", (Container("main", "x", env=(Env("REVISION", "7"),)),))
DOCUMENTS = {3: Desired("f", "n", 3, (POD,)), 4: Desired("f", "n", 4, (POD,))}
LAYERS = {"sha256:l": {"a": "f 1"}}
EXPECTED = Expected(NOBODY._replace(acknowledged=3), DOCUMENTS, {3: "v1", 4: "v2"}, LAYERS)
FOUND: dict[str, Any] = {
    "generation": 3,
    "damaged": [],
    "wanted": {"u1": "ns/web"},
    "must": ["u1"],
    "snapshot": {
        "status": {
            "pods": [{"uid": "u1", "name": "web", "phase": "Running", "ready": True, "containers": [{"reason": ""}]}]
        }
    },
    "containers": [{"pod": "u1", "name": "main", "revision": "7", "secret": {"key0": "v1", "key1": "v1"}}],
    "images": {
        "damage": [],
        "wrong_blobs": [],
        "strays": [],
        "strays_before": [],
        "partial": [],
        "layers": {"sha256:l": {"a": "f 1"}},
    },
    "kernel": {"errors": [], "failed": [], "cgroups": ["u1", "images"], "conmons": 1},
    "leftovers": [],
    "files": ["desired.a", "images"],
    "versions": {
        "current": "1",
        "trial": None,
        "versions": [{"version": "1", "whole": True, "running": True, "failed": None}],
        "damaged": [],
    },
}


def test_a_board_that_came_back_whole_gives_no_cause_for_complaint() -> None:
    assert wrong(FOUND, EXPECTED) == []
    assert unusual(FOUND, EXPECTED) == "nothing"


def test_a_pod_may_wait_for_an_image_that_was_not_through() -> None:
    found = copy.deepcopy(FOUND)
    waiting(found, "ErrImagePull")
    assert wrong(found, EXPECTED) == []
    assert unusual(found, EXPECTED) == "1 pods wait for an image that was not through"


def ended(found: dict[str, Any]) -> None:
    found["snapshot"]["status"]["pods"][0] |= {"ready": False, "phase": "Pending"}


def waiting(found: dict[str, Any], reason: str) -> None:
    """A pod that had not run before."""
    found.update(must=[], containers=[])
    found["kernel"].update(conmons=0)
    pod = {"ready": False, "phase": "Pending", "containers": [{"reason": reason}]}
    found["snapshot"]["status"]["pods"][0] |= pod


DAMAGES: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda f: f.update(generation=2), "was acknowledged"),
    (lambda f: f.update(generation=9), "was never published"),
    (lambda f: f.update(generation=4), "where its document has 'v2'"),
    (lambda f: f.update(wanted={"u2": "ns/x"}), "has other pods on the board"),
    (lambda f: f.update(damaged=["a", "b"]), "both slots"),
    (ended, "ran before and doesn't now"),
    (lambda f: waiting(f, ""), "neither runs nor waits for its image: Pending []"),
    (lambda f: waiting(f, "ContainerCreating"), "neither runs nor waits for its image: Pending ['ContainerCreating']"),
    (lambda f: f["containers"][0].update(revision="6"), "runs revision '6' of '7'"),
    (lambda f: f["containers"][0]["secret"].update(key1="v2"), "a mix of secrets"),
    (lambda f: f["containers"].append(dict(f["containers"][0])), "something runs twice"),
    (lambda f: f["images"]["layers"]["sha256:l"].update(a="f 2"), "is not what it should be"),
    (lambda f: f["images"]["layers"].update(other={}), "no image that was ever pushed"),
    (lambda f: f["images"].update(wrong_blobs=["ab"]), "wrong blobs"),
    (lambda f: f["images"].update(strays=["tmp/x"]), "strays"),
    (lambda f: f["kernel"].update(cgroups=["u9"]), "cgroups of nobody"),
    (lambda f: f["kernel"].update(conmons=2), "2 monitors for 1"),
    (lambda f: f["kernel"].update(errors=["EXT4-fs error"]), "the kernel complains"),
    (lambda f: f.update(leftovers=["rw/u9"]), "folders of pods that nobody wants"),
    (lambda f: f.update(files=[".x.new"]), "half-written"),
    (lambda f: f["versions"].update(current="2"), "which is none of"),
    (lambda f: f["versions"].update(damaged=["1: a"]), "not what pip wrote"),
    (lambda f: f.update(snapshot=None), "does not answer"),
]


@pytest.mark.parametrize(("damage", "complaint"), DAMAGES, ids=[c for _, c in DAMAGES])
def test_each_kind_of_damage_is_called_by_its_name(damage: Callable[[dict[str, Any]], Any], complaint: str) -> None:
    found = copy.deepcopy(FOUND)
    damage(found)
    assert any(complaint in sentence for sentence in wrong(found, EXPECTED)), wrong(found, EXPECTED)


def test_a_seed_is_a_plan_in_which_every_deed_has_its_turn() -> None:
    cuts = plan(5, "board-1", 2 * len(DEEDS))
    assert cuts == plan(5, "board-1", 2 * len(DEEDS))
    assert cuts != plan(6, "board-1", 2 * len(DEEDS))
    assert sorted(cut.deed for cut in cuts) == sorted([*DEEDS] * 2)
