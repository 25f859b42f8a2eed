"""Quotas and limit ranges as kubectl makes and shows them, on a house whose pods are real."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from cloudlink.cli.house import House
from tests.houses import a_house
from tests.kubectl_lab import Kubectl, oldest_and_newest
from tests.rollout_lab import Web

pytestmark = [pytest.mark.root, pytest.mark.kubectl]

ROOMS = (f"room-{n}" for n in itertools.count())
LIMITS = {
    "apiVersion": "v1",
    "kind": "LimitRange",
    "metadata": {"name": "usual"},
    "spec": {"limits": [{"type": "Container", "default": {"memory": "32Mi"}, "max": {"memory": "64Mi"}}]},
}
LARGE = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "large"},
    "spec": {"containers": [{"name": "c", "image": "demo:1", "resources": {"limits": {"memory": "128Mi"}}}]},
}


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with a_house() as it:
        yield it


@pytest.fixture(params=oldest_and_newest(), ids=lambda v: f"kubectl-{v}")
def web(house: House, request: pytest.FixtureRequest) -> Iterator[Web]:
    room = next(ROOMS)
    kubectl = Kubectl(request.param, house.kubeconfig, room, request.node.originalname)
    kubectl.ok("create", "namespace", room)
    yield Web([house], kubectl)
    kubectl.ok("delete", "namespace", room, "--wait=false")


def test_a_deployment_grows_as_far_as_its_quota_and_on_when_the_quota_does(web: Web) -> None:
    kubectl = web.kubectl
    kubectl.ok("create", "quota", "few", "--hard=pods=2,requests.memory=128Mi")
    kubectl.ok("apply", "-f", "-", stdin=LIMITS)
    kubectl.ok("apply", "-f", "-", stdin=web.manifest(3, container={"resources": {}}))
    web.until("two of three", lambda: web.ready() == 2)
    assert "exceeded quota: few, requested: pods=1, used: pods=2, limited: pods=2" in web.condition("ReplicaFailure")[2]
    shown = [line.split() for line in kubectl.ok("describe", "quota", "few").splitlines()]
    assert ["pods", "2", "2"] in shown
    assert ["requests.memory", "64Mi", "128Mi"] in shown
    before = web.pids()
    kubectl.ok("patch", "quota", "few", "-p", '{"spec":{"hard":{"pods":"3"}}}')
    web.until("all three", lambda: web.ready() == 3)
    assert before.items() <= web.pids().items()


def test_limits_are_filled_in_shown_and_kept(web: Web) -> None:
    kubectl = web.kubectl
    kubectl.ok("apply", "-f", "-", stdin=LIMITS)
    assert "Container   memory" in kubectl.ok("describe", "limitrange", "usual")
    said = kubectl.refused("apply", "-f", "-", stdin=LARGE)
    assert 'pods "large" is forbidden: maximum memory usage per Container is 64Mi, but limit is 128Mi' in said
    kubectl.ok("apply", "-f", "-", stdin=web.manifest(1, container={"resources": {}}))
    web.until("a pod", lambda: web.ready() == 1)
    assert web.pods()[0]["spec"]["containers"][0]["resources"]["limits"] == {"memory": "32Mi"}
