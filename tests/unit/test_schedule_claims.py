"""Pods follow their claims; the first one decides where a claim is."""

from __future__ import annotations

from typing import Any

from cloudlink.hub.schedule.fleet import fleet_with
from cloudlink.hub.schedule.place import Binding, Unplaced, Verdict, place
from cloudlink.hub.schedule.storage import places
from cloudlink.kube.core import Node, PersistentVolumeClaim, Pod
from cloudlink.kube.parse import parse
from tests.fakes.hub_brain import node, pod, with_meta

NODES = [node("pi-1"), node("pi-2")]


def claim(
    name: str = "data", where: str = "", mode: str = "ReadWriteOnce", size: str = "10Mi"
) -> PersistentVolumeClaim:
    metadata: dict[str, Any] = {"name": name, "namespace": "default", "uid": f"uid-{name}"}
    if where:
        metadata["annotations"] = {"volume.kubernetes.io/selected-node": where}
    spec = {"accessModes": [mode], "resources": {"requests": {"storage": size}}}
    made = parse({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec})
    assert isinstance(made, PersistentVolumeClaim)
    return made


def user(name: str, *claims: str, where: str = "", **spec: Any) -> Pod:
    volumes = [{"name": c, "persistentVolumeClaim": {"claimName": c}} for c in claims or ("data",)]
    return pod(name, where, volumes=volumes, **spec)


def ask(
    pending: list[Pod], claims: list[PersistentVolumeClaim], bound: list[Pod] | None = None, nodes: list[Node] = NODES
) -> dict[str, Verdict]:
    there = places(claims, bound or [])
    return {v.pod.metadata.name: v for v in place(pending, fleet_with(nodes, bound or [], there), there)}


def why(verdict: Verdict) -> str:
    assert isinstance(verdict, Unplaced)
    return verdict.why


def where(verdict: Verdict) -> str:
    assert isinstance(verdict, Binding)
    return verdict.node


def test_a_later_pod_goes_where_the_data_is() -> None:
    assert where(ask([user("a")], [claim(where="pi-2")])["a"]) == "pi-2"
    assert where(ask([user("a")], [claim(where="pi-1")])["a"]) == "pi-1"


def test_two_pods_with_a_new_claim_go_to_the_same_node() -> None:
    verdicts = ask([user("a"), user("b")], [claim()])
    assert where(verdicts["a"]) == where(verdicts["b"])


def test_a_claim_whose_pod_is_on_a_node_is_there_even_before_that_is_written_down() -> None:
    assert where(ask([user("b")], [claim()], [user("a", where="pi-2")])["b"]) == "pi-2"


def test_a_pod_that_does_not_fit_where_its_data_is_waits_and_says_so() -> None:
    full = pod("full", "pi-2", memory="890Mi")
    text = why(ask([user("a", memory="64Mi")], [claim(where="pi-2")], [full])["a"])
    assert text == (
        "0/2 nodes: 1 does not have the volume of claim data (it is on pi-2),"
        " 1 lacks 64 MiB memory (largest free 10 MiB)"
    )


def test_two_claims_on_two_nodes_can_not_be_had_together() -> None:
    text = why(ask([user("a", "x", "y")], [claim("x", "pi-1"), claim("y", "pi-2")])["a"])
    assert "of claim y (it is on pi-2)" in text
    assert "of claim x (it is on pi-1)" in text


def test_a_claim_that_is_missing_or_going_is_named() -> None:
    assert why(ask([user("a")], [])["a"]) == 'persistentvolumeclaim "data" not found'
    leaving = with_meta(claim(where="pi-1"), deletion_timestamp="2025-01-01T00:00:00Z")
    assert why(ask([user("a")], [leaving])["a"]) == 'persistentvolumeclaim "data" is being deleted'


def test_a_claim_for_one_pod_is_used_by_one_pod() -> None:
    only = claim(mode="ReadWriteOncePod")
    verdicts = ask([user("a"), user("b")], [only])
    assert where(verdicts["a"]) == "pi-1"
    assert why(verdicts["b"]) == 'persistentvolumeclaim "data" is ReadWriteOncePod, and pod a has it'
    done = user("old", where="pi-2")
    done = done.model_copy(update={"status": done.status.model_copy(update={"phase": "Succeeded"})})
    assert where(ask([user("a")], [only], [done])["a"]) == "pi-2"


def test_claims_take_their_room_whether_or_not_a_pod_uses_them() -> None:
    def small(name: str) -> Node:
        made = node(name)
        told = made.status.allocatable | {"ephemeral-storage": "100Mi"}
        return made.model_copy(update={"status": made.status.model_copy(update={"allocatable": told})})

    claims = [claim("old", "pi-1", size="95Mi"), claim("new", size="10Mi")]
    assert where(ask([user("a", "new")], claims, nodes=[small("pi-1"), small("pi-2")])["a"]) == "pi-2"
    text = why(ask([user("a", "new")], claims, nodes=[small("pi-1")])["a"])
    assert text == "0/1 nodes: 1 lacks 10 MiB storage (largest free 5 MiB)"
    assert where(ask([user("a", "old")], claims, nodes=[small("pi-1")])["a"]) == "pi-1"  # it is there already
