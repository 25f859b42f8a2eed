"""Rollouts that can't come to anything, and a drain that may not: told with what to do, while what was good runs on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from cloudlink.cli.house import House
from cloudlink.kube.annotations import WAVES
from edged.errors import PermanentError
from tests.houses import a_house
from tests.kubectl_lab import Kubectl, oldest_and_newest
from tests.rollout_lab import Web

pytestmark = [pytest.mark.root, pytest.mark.kubectl]

ROOMS = (f"room-{n}" for n in itertools.count())


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with a_house() as it:
        yield it


@pytest.fixture
def web(house: House, request: pytest.FixtureRequest) -> Iterator[Web]:
    room = next(ROOMS)
    kubectl = Kubectl(oldest_and_newest()[-1], house.kubeconfig, room, request.node.originalname)
    kubectl.ok("create", "namespace", room)
    yield Web([house], kubectl)
    kubectl.ok("delete", "namespace", room, "--wait=false")


def in_zone(zone: str) -> dict[str, Any]:
    term = {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    return {"spec": {"template": {"spec": {"affinity": {"nodeAffinity": required}}}}}


def test_a_selector_that_does_not_match_its_template_is_refused_with_its_path(web: Web) -> None:
    web.begin(1)
    before = web.pids()
    wrong = web.manifest(1)
    wrong["spec"]["template"]["metadata"]["labels"] = {"app": "wbe"}
    said = web.kubectl.refused("apply", "-f", "-", stdin=wrong)
    assert (
        'spec.template.metadata.labels: Invalid value: {"app": "wbe"}: `selector` does not match template `labels`'
        in said
    )
    wrong["spec"]["selector"] = {"matchLabels": {"app": "wbe"}}
    said = web.kubectl.refused("apply", "-f", "-", stdin=wrong)
    assert "spec.selector" in said
    assert "field is immutable" in said
    assert web.pids() == before


def test_an_affinity_that_no_node_can_meet_is_named_and_undone_at_the_deadline(web: Web, house: House) -> None:
    web.begin(2, progressDeadlineSeconds=5)
    before = web.pids()
    web.kubectl.ok("patch", "deployment", "web", "-p", str(in_zone("attic")).replace("'", '"'))
    sentence = "0/1 nodes: 1 does not match the pod's node affinity (zone In [attic])"
    web.until("the scheduler's sentence", lambda: sentence in web.kubectl.ok("describe", "pods"))
    assert f"undone: no progress within 5 s; 1 of 1 new pods have no node: {sentence}; revision 1" in web.until_undone()
    web.until_complete("")
    assert web.pids() == before
    web.kubectl.ok("label", "node", house.names.node, "zone=attic")
    try:
        web.kubectl.ok("patch", "deployment", "web", "-p", str(in_zone("attic")).replace("'", '"'))
        web.kubectl.ok("rollout", "status", "deployment/web", "--timeout=60s")
    finally:
        web.kubectl.ok("label", "node", house.names.node, "zone-")


def test_annotations_that_mean_nothing_are_refused_and_change_nothing(web: Web) -> None:
    web.begin(1)
    before = web.get()["metadata"]["resourceVersion"]
    for annotation, why in (
        ("edged.dev/rollbak=off", "no such annotation of a Deployment; did you mean edged.dev/rollback?"),
        ("edged.dev/rollback=false", 'must be "on" or "off", in quotes'),
        ("edged.dev/waves=1;2", "is neither a number of pods nor a percentage (e.g. '1, 10%, 50%, 100%')"),
        ("edged.dev/wave-hold=10m", "there is a edged.dev/wave-hold and no wave to hold"),
        ("edged.dev/proven-after=soon", "must be a time (e.g. '0s', '90s', '10m')"),
    ):
        said = web.kubectl.refused("annotate", "deployment", "web", annotation, "--overwrite")
        assert "metadata.annotations[edged.dev/" in said
        assert why in said
    unquoted = web.manifest(1)
    unquoted["metadata"]["annotations"]["edged.dev/rollback"] = False
    assert "metadata.annotations" in web.kubectl.refused("apply", "-f", "-", stdin=unquoted)
    assert web.get()["metadata"]["resourceVersion"] == before


def test_a_canary_of_more_pods_than_there_are_is_warned_of_and_takes_all(web: Web) -> None:
    web.begin(2)
    said = web.kubectl.ok("annotate", "deployment", "web", f"{WAVES}=20")
    assert "Warning: metadata.annotations[edged.dev/waves]: a wave of 20 pods, and there are 2: it takes all" in said
    web.use("two")
    web.until_complete("two")
    web.until("the event", lambda: web.events("WaveStarted"))
    assert web.events("WaveStarted") == ["wave 1 of 2 of revision 2: all 2 pods (20 asked for, there are 2)"]


def test_a_drain_that_a_budget_forbids_says_which_and_ends_by_its_timeout(web: Web, house: House) -> None:
    web.begin(1)
    before, node, room = web.pids(), house.names.node, web.kubectl.namespace
    web.kubectl.ok("create", "poddisruptionbudget", "keep-web", "--selector=app=web", "--min-available=1")
    try:
        said = web.kubectl.refused("drain", node, "--timeout=3s", "--pod-selector=app=web", f"--namespace={room}")
        assert "Cannot evict pod as it would violate the pod's disruption budget." in said
        assert "The disruption budget keep-web needs 1 healthy pods and has 1 currently" in said
        assert "global timeout reached: 3s" in said
        assert web.pids() == before
        web.kubectl.ok("delete", "poddisruptionbudget", "keep-web")
        web.kubectl.ok("drain", node, "--timeout=30s", "--pod-selector=app=web")
    finally:
        web.kubectl.ok("uncordon", node)
    web.kubectl.ok("rollout", "status", "deployment/web", "--timeout=60s")


def test_confirming_what_does_not_wait_says_what_it_does_instead(web: Web, house: House) -> None:
    from cloudlink.cli.confirm import confirm

    web.begin(1)
    with pytest.raises(
        PermanentError, match=r"does not wait for a confirmation: ReplicaSet .* successfully progressed"
    ):
        confirm(house.client, "deployment/web", web.kubectl.namespace, everything=False)
    with pytest.raises(PermanentError, match=r'deployments\.apps "wbe" not found'):
        confirm(house.client, "deployment/wbe", web.kubectl.namespace, everything=False)
