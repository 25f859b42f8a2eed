"""Rollouts on a hub, a broker and a node with crun: what fails is undone by itself, and nobody's good pod notices.

`EDGED_TRANSCRIPTS=<folder>` keeps what was typed and what came back.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudlink.cli.house import House
from cloudlink.kube.annotations import ROLLBACK, WAVE_HOLD, WAVES
from tests.houses import a_house
from tests.kubectl_lab import Kubectl, oldest_and_newest
from tests.rollout_lab import NEVER_READY, Web, edgectl, kill_hub, mode_of, tried

pytestmark = [pytest.mark.root, pytest.mark.kubectl]

ROOMS = (f"room-{n}" for n in itertools.count())
# One after the other, and none before the new one has lived for two seconds: what crashes at once replaces nobody.
CAREFUL: dict[str, Any] = {"minReadySeconds": 2, "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with a_house() as it:
        yield it


@pytest.fixture
def web(house: House, request: pytest.FixtureRequest) -> Iterator[Web]:
    """In a namespace of its own, with the newest kubectl, or the one that the test names."""
    program = getattr(request, "param", oldest_and_newest()[-1])
    room = next(ROOMS)
    kubectl = Kubectl(program, house.kubeconfig, room, f"{request.node.originalname}-{Path(program).name}")
    kubectl.ok("create", "namespace", room)
    yield Web([house], kubectl)
    kubectl.ok("delete", "namespace", room, "--wait=false")


def test_an_image_that_does_not_exist_is_undone_and_the_pods_keep_their_processes(web: Web) -> None:
    kubectl = web.kubectl
    web.begin()
    before = web.pids()
    kubectl.ok("set", "image", "deployment/web", "main=localhost/nobody:1")
    code, said = kubectl.run("rollout", "status", "deployment/web", "--timeout=60s")
    assert (code, said.splitlines()[-1]) == (1, 'error: deployment "web" exceeded its progress deadline')
    undone = web.until_undone()
    assert undone.startswith("revision 2 (image localhost/nobody:1) undone: 1 of 1 new pods ImagePullBackOff: ")
    assert undone.endswith("; revision 1 (image localhost/probe:latest) is rolled out again, as revision 3")
    web.until_complete("")
    assert web.pids() == before
    described = kubectl.ok("describe", "deployment", "web")
    assert "RolledBack     True    ImagePullBackOff" in described
    assert "Warning  RolledBack" in described
    assert undone in described
    assert undone in kubectl.ok("get", "events", "--field-selector", "reason=RolledBack")
    assert "successfully rolled out" in kubectl.ok("rollout", "status", "deployment/web", "--timeout=60s")
    assert [line.split()[0] for line in kubectl.ok("rollout", "history", "deployment/web").splitlines()[2:4]] == [
        "2",
        "3",
    ]


def test_a_revision_that_crashes_is_undone(web: Web) -> None:
    web.begin(**CAREFUL)
    before = web.pids()
    web.use("crash")
    undone = web.until_undone()
    assert (
        "undone: 1 of 1 new pods CrashLoopBackOff: container main ended with exit code 3, restarted 4 times" in undone
    )
    web.until_complete("")
    assert web.pids() == before
    assert web.condition("RolledBack")[:2] == ("True", "CrashLoopBackOff")


def test_a_revision_that_is_never_ready_is_undone_at_its_deadline(web: Web) -> None:
    web.begin(container={"readinessProbe": NEVER_READY}, progressDeadlineSeconds=4)
    before = web.pids()
    web.use("slow")
    assert "undone: no progress within 4 s; 1 of 1 new pods are not ready" in web.until_undone()
    web.until_complete("")
    assert web.pids() == before


def test_a_broken_revision_that_may_not_be_undone_stays_and_the_good_pods_run_on(web: Web) -> None:
    web.begin(annotations={ROLLBACK: "off"}, progressDeadlineSeconds=5, **CAREFUL)
    before = web.pids()
    web.use("crash")
    code, said = web.kubectl.run("rollout", "status", "deployment/web", "--timeout=60s")
    assert (code, said.splitlines()[-1]) == (1, 'error: deployment "web" exceeded its progress deadline')
    assert web.condition("RolledBack") == ("", "", "")
    assert len(web.pods("crash")) == 1
    assert web.pids("") == before
    web.kubectl.ok("rollout", "undo", "deployment/web")
    web.until_complete("")
    assert web.pids() == before


def test_a_canary_that_is_killed_at_its_memory_limit_is_undone(web: Web) -> None:
    web.begin(annotations={WAVES: "1, 100%", WAVE_HOLD: "10m"})
    before = web.pids()
    web.use("hungry")
    undone = web.until_undone()
    assert "undone: 1 of 1 new pods OOMKilled: container main needed more than its memory limit" in undone
    web.until_complete("")
    now = web.pids()
    assert sum(now.get(name) == pids for name, pids in before.items()) >= 2  # the canary took the place of one at most
    assert web.events("WaveStarted") == ["wave 1 of 2 of revision 2: 1 of 3 pods"]


@pytest.mark.parametrize("web", oldest_and_newest(), indirect=True, ids=lambda p: Path(p).name)
def test_a_canary_is_held_until_it_is_confirmed_with_edgectl(web: Web, house: House) -> None:
    web.begin(annotations={WAVES: "1, 100%", WAVE_HOLD: "manual"})
    before = web.pids()
    web.use("two")
    web.until_held("two", 1)
    status, reason, message = web.condition("Progressing")
    assert (status, reason) == ("True", "WaitingForConfirmation")
    assert (
        f"wave 1 of 2: 1 of 3 updated, holding for confirmation: edgectl confirm -n {web.kubectl.namespace}" in message
    )
    assert "WaitingForConfirmation" in web.kubectl.ok("describe", "deployment", "web")
    code, said = web.kubectl.run("rollout", "status", "deployment/web", "--timeout=1s")
    assert (code, "1 out of 3 new replicas have been updated" in said) == (1, True)
    assert len(kept := web.pids("")) == 2
    assert kept.items() <= before.items()
    said = edgectl(house, "confirm", "deployment/web", "-n", web.kubectl.namespace)
    assert said == "deployment/web: revision/wave 2/1 confirmed\n"
    assert "successfully rolled out" in web.kubectl.ok("rollout", "status", "deployment/web", "--timeout=60s")
    web.until_complete("two")


def test_a_canary_goes_on_by_itself_when_its_time_is_over(web: Web) -> None:
    web.begin(annotations={WAVES: "1, 2, 100%", WAVE_HOLD: "3s"})
    web.use("two")
    web.until_complete("two")
    assert sorted(web.events("WaveStarted")) == [
        "wave 1 of 3 of revision 2: 1 of 3 pods",
        "wave 2 of 3 of revision 2: 2 of 3 pods",
        "wave 3 of 3 of revision 2: all 3 pods",
    ]
    assert len(web.events("WaveHeld")) >= 1


def test_a_rollout_that_is_paused_in_a_wave_stands_until_it_is_resumed(web: Web) -> None:
    web.begin(annotations={WAVES: "1, 100%", WAVE_HOLD: "2s"})
    web.use("two")
    web.until("the first wave", lambda: web.pods("two"))
    web.kubectl.ok("rollout", "pause", "deployment/web")
    web.until("it to say so", lambda: web.condition("Progressing")[1] == "DeploymentPaused")
    web.until("its pod", lambda: web.ready("two") == 1)
    there = web.pids()
    web.kubectl.ok("annotate", "deployment", "web", f"{WAVE_HOLD}=0s", "--overwrite")
    web.kubectl.ok("scale", "deployment", "web", "--replicas=4")
    web.until("the fourth pod", lambda: len(web.pods()) == web.ready() >= 4)
    assert len(web.pods("two")) == 1
    assert there.items() <= web.pids().items()
    web.kubectl.ok("rollout", "resume", "deployment/web")
    web.until_complete("two")


def test_a_hub_that_dies_in_a_wave_goes_on_from_there_and_restarts_nobody(web: Web, house: House) -> None:
    web.begin(annotations={WAVES: "1, 100%", WAVE_HOLD: "manual"})
    web.use("two")
    web.until_held("two", 1)
    there = web.pids()
    kill_hub(house)
    house.start_hub()
    web.until_held("two", 1)
    assert web.pids() == there
    words = ("confirm", "deployment/web", "-n", web.kubectl.namespace)
    # A hub that is back may doubt its nodes for a moment; the wave isn't held meanwhile.
    web.until("a confirmation to be taken", lambda: tried(house, *words).returncode == 0)
    web.until_complete("two")
    canary = {name: pids for name, pids in web.pids().items() if name in there}
    assert canary.items() <= there.items()
    assert len(canary) == 1
    assert len(web.events("WaveStarted")) == 2


def test_a_hub_that_dies_while_it_undoes_a_revision_ends_what_it_began(web: Web, house: House) -> None:
    web.begin(**CAREFUL)
    before = web.pids()
    web.use("crash")
    web.until("the first crash", lambda: "restartCount': 1" in str(web.pods("crash")) or web.condition("RolledBack")[0])
    kill_hub(house)
    house.start_hub()
    web.until("Progressing to be given up, or what comes after it", lambda: web.events("RolledBack"))
    kill_hub(house)
    house.start_hub()
    web.until_undone()
    web.until_complete("")
    assert web.pids() == before
    assert len(web.events("RolledBack")) == 1
    assert mode_of(web.get()["spec"]["template"]["spec"]) == ""


def test_another_edit_in_a_wave_starts_over_and_scaling_keeps_to_it(web: Web) -> None:
    web.begin(annotations={WAVES: "1, 100%", WAVE_HOLD: "manual"})
    web.use("two")
    web.until_held("two", 1)
    web.use("three")
    web.until_held("three", 1)
    web.until("the abandoned canary to go", lambda: not web.pods("two"))
    web.kubectl.ok("scale", "deployment", "web", "--replicas=5")
    web.until("five pods", lambda: len(web.pods()) == web.ready() == 5)
    assert len(web.pods("three")) == 1
    web.kubectl.ok("scale", "deployment", "web", "--replicas=2")
    web.until("two pods", lambda: len(web.pods()) == web.ready() == 2)
    assert len(web.pods("three")) == 1


def test_kubectl_rollout_undo_ends_a_wave_at_once(web: Web) -> None:
    web.begin(annotations={WAVES: "1, 100%", WAVE_HOLD: "manual"})
    web.use("two")
    web.until_held("two", 1)
    kept = web.pids("")
    web.kubectl.ok("rollout", "undo", "deployment/web")
    web.until_complete("")
    assert kept.items() <= web.pids().items()
    assert web.condition("Progressing")[:2] == ("True", "NewReplicaSetAvailable")
