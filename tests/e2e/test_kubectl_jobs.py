"""Jobs and CronJobs on a real house: what a person does with them, a hub that is away, a board that loses power.

`EDGED_TRANSCRIPTS=<folder>` keeps what was typed and what came back.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudlink.cli import leftovers
from cloudlink.cli.house import House
from tests.houses import a_house
from tests.kubectl_lab import Kubectl, oldest_and_newest

pytestmark = [pytest.mark.root, pytest.mark.kubectl]

ROOMS = (f"yard-{n}" for n in itertools.count())


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with a_house() as it:
        yield it


@pytest.fixture(params=oldest_and_newest())
def kubectl(house: House, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """In a namespace of its own."""
    room = next(ROOMS)
    it = Kubectl(str(request.param), house.kubeconfig, room, f"{request.function.__name__}-{room}")
    it.ok("create", "namespace", room)
    yield it
    it.ok("delete", "namespace", room, "--wait=false")


@pytest.fixture
def notes() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="edged-notes-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def template(command: str, restart: str = "Never", notes: Path | None = None) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": "main",
        "image": "localhost/probe:latest",
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", command],
        "resources": {"limits": {"memory": "16Mi"}, "requests": {"memory": "4Mi"}},
    }
    spec: dict[str, Any] = {"restartPolicy": restart, "terminationGracePeriodSeconds": 1, "containers": [container]}
    if notes is not None:
        container["volumeMounts"] = [{"name": "notes", "mountPath": "/notes"}]
        spec["volumes"] = [{"name": "notes", "hostPath": {"path": str(notes), "type": "Directory"}}]
    return {"spec": spec}


def job(name: str, command: str, restart: str = "Never", notes: Path | None = None, **spec: Any) -> dict[str, Any]:
    document = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}}
    return document | {"spec": {**spec, "template": template(command, restart, notes)}}


def cron_job(name: str, schedule: str, command: str, notes: Path | None = None, **spec: Any) -> dict[str, Any]:
    document = {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name}}
    made = {"spec": {"template": template(command, notes=notes)}}
    return document | {"spec": {"schedule": schedule, "jobTemplate": made, **spec}}


def kill(house: House, words: str) -> None:
    found = [pid for pid, line in leftovers.processes(house.folder).items() if words in line]
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    house.wait(f"{words} to be dead", lambda: not any(leftovers.alive(pid) for pid in found))


# ---------------------------------------------------------------- Jobs


def test_a_job_runs_to_its_end_and_says_what_it_has_done(kubectl: Kubectl) -> None:
    applied = kubectl.ok("apply", "-f", "-", stdin=job("sum", "echo the sum is $((20 + 22))"))
    assert "Warning" not in applied
    kubectl.ok("wait", "--for=condition=complete", "job/sum", "--timeout=30s")
    assert "the sum is 42" in kubectl.ok("logs", "job/sum")
    [line] = kubectl.ok("get", "job", "sum", "--no-headers").splitlines()
    assert line.split()[:3] == ["sum", "Complete", "1/1"]
    described = kubectl.ok("describe", "job", "sum")
    assert "0 Active (0 Ready) / 1 Succeeded / 0 Failed" in described
    assert "SuccessfulCreate" in described
    assert "Completed" in kubectl.ok("get", "pods", "--no-headers")
    kubectl.ok("delete", "job", "sum")
    kubectl.until("its pod to go", lambda: "No resources" in kubectl.ok("get", "pods"))


def test_each_pod_of_an_indexed_job_knows_its_part(kubectl: Kubectl) -> None:
    parts = job("parts", "echo part $JOB_COMPLETION_INDEX of $(hostname)", completions=3, completionMode="Indexed")
    kubectl.ok("apply", "-f", "-", stdin=parts)
    kubectl.ok("wait", "--for=condition=complete", "job/parts", "--timeout=60s")
    said = kubectl.ok("logs", "-l", "job-name=parts")
    assert sorted(said.splitlines()) == [f"part {n} of parts-{n}" for n in range(3)]
    assert kubectl.json("get", "job", "parts")["status"]["completedIndexes"] == "0-2"


def test_a_job_that_fails_says_why_and_its_logs_stay(kubectl: Kubectl) -> None:
    rules = [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]
    kubectl.ok("apply", "-f", "-", stdin=job("bad", "echo no; exit 3", backoffLimit=0))
    kubectl.ok("apply", "-f", "-", stdin=job("worse", "exit 42", podFailurePolicy={"rules": rules}))
    kubectl.ok("apply", "-f", "-", stdin=job("again", "exit 1", "OnFailure", backoffLimit=2))
    kubectl.ok("apply", "-f", "-", stdin=job("slow", "sleep 1000", activeDeadlineSeconds=1))
    reasons = {
        "bad": "BackoffLimitExceeded",
        "worse": "PodFailurePolicy",
        "again": "BackoffLimitExceeded",
        "slow": "DeadlineExceeded",
    }
    for name, reason in reasons.items():
        kubectl.ok("wait", "--for=condition=failed", f"job/{name}", "--timeout=60s")
        conditions = {c["type"]: c for c in kubectl.json("get", "job", name)["status"]["conditions"]}
        assert conditions["Failed"]["reason"] == reason
    assert "failed with exit code 42 matching FailJob rule at index 0" in str(kubectl.json("get", "job", "worse"))
    assert kubectl.ok("logs", "job/bad").strip() == "no"
    assert kubectl.json("get", "job", "slow")["status"]["failed"] == 1


def test_a_job_is_suspended_resumed_and_cleaned_up_after_its_time(kubectl: Kubectl) -> None:
    kubectl.ok("apply", "-f", "-", stdin=job("nap", "sleep 1000", suspend=True, ttlSecondsAfterFinished=1))
    kubectl.until("it to be suspended", lambda: "Suspended" in kubectl.ok("get", "jobs"))
    assert "No resources" in kubectl.ok("get", "pods")
    kubectl.ok("patch", "job", "nap", "-p", '{"spec": {"suspend": false}}')
    kubectl.until("its pod to run", lambda: "Running" in kubectl.ok("get", "pods"))
    kubectl.ok("patch", "job", "nap", "-p", '{"spec": {"activeDeadlineSeconds": 1}}')
    kubectl.until("it to be gone", lambda: "No resources" in kubectl.ok("get", "jobs,pods"))


@pytest.mark.parametrize("cascade", ["background", "foreground", "orphan"])
def test_a_job_is_deleted_with_its_pods_or_without(kubectl: Kubectl, cascade: str) -> None:
    kubectl.ok("apply", "-f", "-", stdin=job("long", "exec sleep 1000", parallelism=2, completions=2))
    kubectl.until("both to run", lambda: kubectl.ok("get", "pods").count("Running") == 2)
    kubectl.ok("delete", "job", "long", f"--cascade={cascade}")
    assert "No resources" in kubectl.ok("get", "jobs")
    if cascade == "orphan":
        pods = kubectl.json("get", "pods")["items"]
        assert len(pods) == 2
        kubectl.until("them to be let go", lambda: "job-tracking" not in kubectl.ok("get", "pods", "-o", "yaml"))
        kubectl.ok("delete", "pods", "--all", "--wait=false")
    kubectl.until("no pod to be left", lambda: "No resources" in kubectl.ok("get", "pods"))


# ---------------------------------------------------------------- CronJobs


def test_a_cron_job_shows_its_next_jobs_and_one_is_made_by_hand(kubectl: Kubectl) -> None:
    kubectl.ok("apply", "-f", "-", stdin=cron_job("nightly", "0 3 * * *", "echo night", timeZone="Europe/Berlin"))
    [line] = kubectl.ok("get", "cronjobs", "--no-headers").splitlines()
    assert line.split()[0] == "nightly"
    assert "0 3 * * *" in line
    kubectl.until("tonight's job", lambda: "Waiting" in kubectl.ok("get", "jobs"))
    kubectl.until("the node to hold it", lambda: "WaitingForTime" in kubectl.ok("get", "pods"))
    kubectl.ok("create", "job", "now", "--from=cronjob/nightly")
    kubectl.ok("wait", "--for=condition=complete", "job/now", "--timeout=30s")
    assert kubectl.ok("logs", "job/now").strip() == "night"
    described = kubectl.ok("describe", "cronjob", "nightly")
    assert "0 3 * * *" in described
    kubectl.ok("patch", "cronjob", "nightly", "-p", '{"spec": {"suspend": true}}')
    kubectl.until("tonight's job to be called off", lambda: "Waiting" not in kubectl.ok("get", "jobs"))
    kubectl.ok("delete", "cronjob", "nightly")
    kubectl.until("nothing to be left", lambda: "No resources" in kubectl.ok("get", "jobs,pods"))


def test_a_line_that_never_comes_is_refused_with_its_path(kubectl: Kubectl) -> None:
    said = kubectl.refused("apply", "-f", "-", stdin=cron_job("never", "0 0 30 2 *", "true"))
    assert 'spec.schedule: Invalid value: "0 0 30 2 *": there is no such day: it would never run' in said


def test_a_node_runs_the_next_times_while_no_hub_is_there_and_each_once(house: House, notes: Path) -> None:
    house.patience = 150.0  # two whole minutes pass
    kubectl = Kubectl(oldest_and_newest()[-1], house.kubeconfig, "default", "node-alone")
    ran = notes / "ran"
    kubectl.ok("apply", "-f", "-", stdin=cron_job("tick", "* * * * *", "echo $HOSTNAME >> /notes/ran", notes))
    kubectl.until("the node to hold what comes", lambda: kubectl.ok("get", "pods").count("WaitingForTime") >= 4)

    def lines() -> list[str]:
        return ran.read_text().splitlines() if ran.exists() else []

    before = len(lines())
    kill(house, "cloudlink.hub")
    kill(house, "mosquitto")
    house.wait("two times to come with no hub", lambda: len(lines()) >= before + 2, lambda: str(lines()))
    kill(house, "edged run")  # and what a power cut takes, too
    house.python("-m", "edged", "teardown", "--yes", "--config", str(house.node_toml))
    alone = lines()
    house.start_node()
    house.wait("the node", house.node_answers)
    house.start_hub()

    def succeeded() -> list[str]:
        pods = kubectl.json("get", "pods", "-l", "job-name")["items"]
        return sorted(p["metadata"]["name"] for p in pods if p["status"].get("phase") == "Succeeded")

    kubectl.until("the hub to hear of them", lambda: set(alone) <= set(succeeded()) or len(succeeded()) >= 3)
    jobs = [j for j in kubectl.json("get", "jobs")["items"] if j["status"].get("completionTime")]
    assert all(j["status"]["succeeded"] == 1 and not j["status"].get("failed") for j in jobs)
    time.sleep(1.0)  # time for what must not happen: to run again what has run
    assert len(lines()) == len(set(lines())), "one of them ran twice"
    assert kubectl.json("get", "cronjob", "tick")["status"]["lastSuccessfulTime"]
    kubectl.ok("delete", "cronjob", "tick")
    kubectl.until("nothing to be left", lambda: "tick" not in kubectl.ok("get", "jobs,pods"))
