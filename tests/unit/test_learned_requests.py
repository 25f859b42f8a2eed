"""Requests that are left to what nodes learn: within their bound, for new pods only, and never forgotten."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlink.hub.changes import Create
from cloudlink.hub.learned import BUCKET, STEP, Lessons, Requests
from cloudlink.hub.world import World
from cloudlink.kube.core import Event, Pod
from cloudlink.kube.errors import Invalid
from cloudlink.kube.learned import BOUND, GIVEN, REQUESTS, Wish
from cloudlink.kube.parse import parse
from cloudlink.kube.quantity import format_bytes, to_int
from edged import model
from tests.fakes.fits import Document, Place, a_place, workload
from tests.fakes.hub_brain import MIB, node, pod

LEARN = {REQUESTS: "learned", BOUND: "16Mi-256Mi"}


def reported(of: Pod, p95: int, container: str = "main") -> model.PodStatus:
    told = model.ContainerStatus(name=container, image="demo:1", state="running", working_set_p95=p95)
    meta = of.metadata
    return model.PodStatus(meta.uid, meta.namespace, meta.name, model.Phase.RUNNING, containers=(told,))


def asked(of: Pod) -> str:
    return of.spec.containers[0].resources.requests["memory"]


class Fleet:
    """A Deployment whose pods' nodes tell what they measure."""

    def __init__(self, place: Place, **annotations: str) -> None:
        self.place = place
        self.annotations = {**LEARN, **annotations}
        self.lessons = Lessons(place.store, World(place.store))
        self.scale(2)

    def document(self, replicas: int, memory: str = "128Mi") -> Document:
        return workload("Deployment", "web", memory, replicas, annotations=self.annotations)

    def scale(self, replicas: int) -> None:
        assert self.place.apply(self.document(replicas))

    def measure(self, *p95: int) -> int:
        """MiB of each pod, in the order of their names; how many changes were written for it."""
        for one, amount in zip(self.place.pods("web"), p95, strict=False):
            self.lessons.hear(one, reported(one, amount * MIB))
        changes = self.lessons.changes()
        self.place.store.commit(changes)
        return len(changes)


def test_new_pods_ask_for_what_was_learned_and_those_that_run_stay_as_they_are() -> None:
    with a_place(node("pi-1", 900 * MIB)) as place:
        fleet = Fleet(place)
        assert {asked(p) for p in place.pods("web")} == {"128Mi"}  # nothing is known yet
        assert fleet.measure(40, 50) == 1
        before = {p.metadata.uid for p in place.pods("web")}
        sets = [s.metadata.name for s in place.store.list("ReplicaSet")]
        fleet.scale(3)
        [new] = [p for p in place.pods("web") if p.metadata.uid not in before]
        assert asked(new) == "60Mi"
        assert new.metadata.annotations[GIVEN] == "main=60Mi (uses 50Mi, declares 128Mi)"
        assert before <= {p.metadata.uid for p in place.pods("web")}
        assert [s.metadata.name for s in place.store.list("ReplicaSet")] == sets
        events = [e for e in place.store.list("Event") if isinstance(e, Event) and e.reason == "RequestsLearned"]
        assert [e.involved_object.name for e in events] == [new.metadata.name]


def test_it_is_written_down_seldom_and_a_new_hub_knows_it() -> None:
    with a_place(node("pi-1", 900 * MIB)) as place:
        fleet = Fleet(place)
        assert fleet.measure(50, 50) == 1
        assert fleet.measure(50, 50) == 0
        assert fleet.measure(51, 49) == 0  # a little more or less
        assert fleet.measure(40, 40) == 0
        assert fleet.measure(50, 80) == 1  # more is believed at once
        fleet.lessons = Lessons(place.store, World(place.store))  # another hub
        assert fleet.measure(30) == 0  # the other pod wasn't heard yet
        assert fleet.measure(30, 30) == 1
        [record] = place.store.records(BUCKET)
        assert record == "Deployment/default/web"


def test_a_pod_that_does_not_ask_for_it_teaches_nothing_and_gets_what_it_declares() -> None:
    with a_place(node("pi-1", 900 * MIB)) as place:
        place.apply(workload("Deployment", "web", "128Mi", 1))
        lessons = Lessons(place.store, World(place.store))
        [one] = place.pods("web")
        lessons.hear(one, reported(one, 50 * MIB))
        assert lessons.changes() == []


def test_fit_reckons_with_what_was_learned() -> None:
    with a_place(node("pi-1", 400 * MIB)) as place:
        fleet = Fleet(place)
        assert not place.fit(fleet.document(4))["fits"]
        fleet.measure(50, 50)
        assert place.fit(fleet.document(4))["fits"]


def test_what_a_limit_range_forbids_is_not_learned() -> None:
    with a_place(node("pi-1", 900 * MIB)) as place:
        fleet = Fleet(place)
        fleet.measure(20, 20)
        limits = [{"type": "Container", "min": {"memory": "100Mi"}}]
        head = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "least", "namespace": "default"}}
        place.store.commit([Create(parse({**head, "spec": {"limits": limits}}))])
        fleet.scale(3)
        assert {asked(p) for p in place.pods("web")} == {"128Mi"}
        assert len(place.pods("web")) == 3


@given(
    p95=st.integers(1, 1 << 34),
    declared=st.just(0) | st.integers(1 << 12, 1 << 33),
    limit=st.just(0) | st.integers(1 << 12, 1 << 33),
    low=st.integers(1, 1 << 32),
    more=st.integers(0, 1 << 32),
    bounded=st.booleans(),
)
def test_a_request_keeps_its_bound_and_never_passes_its_limit(
    p95: int, declared: int, limit: int, low: int, more: int, bounded: bool
) -> None:
    resources: dict[str, Any] = {
        "requests": {"memory": str(min(declared, limit) if limit else declared)},
        "limits": {"memory": str(limit)} if limit else {},
    }
    [container] = pod(containers=[{"name": "main", "image": "i", "resources": resources}]).spec.containers
    wish = Wish((low, low + more) if bounded else None)
    amount = wish.clamped(p95, container)
    if limit:
        assert amount <= limit
    if bounded:
        assert amount <= low + more
        assert amount >= min(low, limit or low)
    else:
        assert amount <= 2 * to_int(resources["requests"]["memory"])


def test_pods_of_one_template_go_on_sharing_their_description() -> None:
    with a_place(node("pi-1", 900 * MIB)) as place:
        fleet = Fleet(place)
        fleet.measure(50, 50)
        one = place.pods("web")[0]
        requests = Requests(place.store)
        first, second = requests.of(one), requests.of(one.model_copy())
        assert first.spec is second.spec
        assert to_int(asked(first)) % STEP == 0
        assert asked(first) == format_bytes(60 * MIB)


@pytest.mark.parametrize(
    ("annotations", "memory", "field", "words"),
    [
        ({REQUESTS: "guess"}, "1Mi", REQUESTS, 'supported values: "learned"'),
        ({REQUESTS: "learned"}, "", BOUND, "declares no memory"),
        ({BOUND: "1Mi-2Mi"}, "1Mi", REQUESTS, "nothing that it bounds"),
        ({REQUESTS: "learned", BOUND: "2Mi-1Mi"}, "1Mi", BOUND, "the smaller one first"),
        ({REQUESTS: "learned", BOUND: "0-1Mi"}, "1Mi", BOUND, "two quantities"),
        ({REQUESTS: "learned", BOUND: "64Mb-128Mi"}, "1Mi", BOUND, "two quantities"),
        ({"edged.dev/request-bound": "1Mi-2Mi"}, "1Mi", "edged.dev/request-bound", "there are edged.dev/requests"),
    ],
)
def test_annotations_that_make_no_sense_are_refused(
    annotations: dict[str, str], memory: str, field: str, words: str
) -> None:
    with pytest.raises(Invalid) as refused:
        parse(workload("Deployment", "web", memory, annotations=annotations))
    [cause] = refused.value.causes
    assert cause.field == f"spec.template.metadata.annotations[{field}]"
    assert words in cause.message


def test_the_annotation_on_the_deployment_itself_is_sent_to_its_template() -> None:
    document = workload("Deployment", "web", "1Mi")
    document["metadata"]["annotations"] = {REQUESTS: "learned"}
    with pytest.raises(Invalid, match=r"write it at spec\.template\.metadata\.annotations"):
        parse(document)
