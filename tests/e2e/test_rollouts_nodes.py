"""Waves over several nodes: where each node has one pod, a wave of N pods is a wave of N nodes."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import pytest

from cloudlink.cli.house import House
from cloudlink.kube.annotations import WAVE_HOLD, WAVES
from tests.houses import a_further_node, a_house
from tests.kubectl_lab import Kubectl, oldest_and_newest
from tests.rollout_lab import Web, edgectl

pytestmark = [pytest.mark.root, pytest.mark.kubectl]

ROOMS = (f"room-{n}" for n in itertools.count())
NODES = 3


@pytest.fixture(scope="module")
def houses() -> Iterator[list[House]]:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(a_house())
        yield [first, *(stack.enter_context(a_further_node(first)) for _ in range(NODES - 1))]


@pytest.fixture
def web(houses: list[House], request: pytest.FixtureRequest) -> Iterator[Web]:
    room = next(ROOMS)
    kubectl = Kubectl(oldest_and_newest()[-1], houses[0].kubeconfig, room, request.node.originalname)
    kubectl.ok("create", "namespace", room)
    yield Web(houses, kubectl)
    kubectl.ok("delete", "namespace", room, "--wait=false")


def begin(web: Web, replicas: int, waves: str, hold: str) -> None:
    """Evenly over the nodes, each pod replaced where it was."""
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}},
    }
    strategy = {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    annotations = {WAVES: waves, WAVE_HOLD: hold}
    web.begin(replicas, annotations, pod={"topologySpreadConstraints": [spread]}, strategy=strategy)
    assert len(web.nodes("")) == NODES


def test_a_canary_of_one_node_then_two_then_all_as_they_are_confirmed(web: Web, houses: list[House]) -> None:
    begin(web, NODES, "1, 2, 100%", "manual")
    before = web.pids()
    web.use("two")
    for nodes in (1, 2):
        web.until_held("two", nodes)
        web.until("the others", lambda: web.ready() == NODES)
        assert len(web.nodes("two")) == nodes
        assert len(kept := web.pids("")) == NODES - nodes
        assert kept.items() <= before.items()
        web.kubectl.ok("get", "pods", "-o", "wide", "-L", "pod-template-hash")
        web.kubectl.ok(
            "get", "deployment", "web", "-o", 'jsonpath={.status.conditions[?(@.type=="Progressing")].message}'
        )
        said = edgectl(houses[0], "confirm", "deployment/web", "-n", web.kubectl.namespace)
        assert said == f"deployment/web: revision/wave 2/{nodes} confirmed\n"
    assert "successfully rolled out" in web.kubectl.ok("rollout", "status", "deployment/web", "--timeout=60s")
    assert len(web.nodes("two")) == NODES


def test_waves_by_percent_go_on_by_themselves_while_all_is_well(web: Web) -> None:
    begin(web, 2 * NODES, "10%, 50%, 100%", "2s")
    web.use("two")
    web.until_complete("two")
    web.until("what was said", lambda: len(web.events("WaveStarted")) == 3)
    assert sorted(web.events("WaveStarted")) == [
        "wave 1 of 3 of revision 2: 1 of 6 pods",
        "wave 2 of 3 of revision 2: 3 of 6 pods",
        "wave 3 of 3 of revision 2: all 6 pods",
    ]
    assert len(web.nodes("two")) == NODES


def test_a_canary_that_fails_on_its_node_is_undone_and_the_other_nodes_notice_nothing(web: Web) -> None:
    begin(web, NODES, "1, 100%", "10m")
    before = web.pids()
    web.use("hungry")
    assert "undone: 1 of 1 new pods OOMKilled" in web.until_undone()
    web.until_complete("")
    now = web.pids()
    assert sum(now.get(name) == pids for name, pids in before.items()) == NODES - 1
    assert len(web.nodes("")) == NODES
