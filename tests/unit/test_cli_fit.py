"""`edgectl fit` for people: bars, verdicts, what to do, and errors that say where."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloudlink.cli.client import HubClient
from cloudlink.cli.fit import bar, lines

MIB = 1 << 20


def told(**workload: Any) -> str:
    whole = {"kind": "Deployment", "namespace": "default", "name": "web", "asked": True, **workload}
    return "\n".join(lines({"workloads": [whole]}, asked=True))


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((100, 0, 0), "[....................]"),
        ((100, 50, 0), "[##########..........]"),
        ((100, 50, 25), "[##########+++++.....]"),
        ((100, 50, -25), "[#####-----..........]"),
        ((100, 1, 0), "[#...................]"),
        ((100, 100, 0), "[####################]"),
        ((100, 150, 50), "[####################]"),
        ((0, 0, 0), "[????????????????????]"),
    ],
)
def test_a_bar_shows_what_is_there_what_comes_and_what_goes(numbers: tuple[int, int, int], expected: str) -> None:
    assert bar(*numbers) == expected


def test_what_fits_says_where_and_what_is_replaced() -> None:
    assert told(pods=3, placed=3, nodes={"a": 1, "b": 2}) == "deployment/web: fits: new on a (1), b (2)"
    said = told(pods=3, placed=3, stay=1, nodes={"b": 2}, ended={"a": 2})
    assert said == "deployment/web: fits: new on b (2); 1 stay as they are; ended on a (2)"
    assert told(pods=3, placed=3, stay=3) == "deployment/web: fits: nothing would move"
    assert "\n".join(lines({}, asked=True)) == "no pods are asked for: it fits"


@pytest.mark.parametrize(
    ("why", "advice"),
    [
        ("0/2 nodes: 2 lack 201 MiB memory (largest free 100 MiB)", "ask for no more than 100 MiB of memory"),
        ("0/1 nodes: 1 has taint dedicated=cam:NoSchedule that the pod does not tolerate", "dedicated=cam:NoSchedule-"),
        ("0/2 nodes: 1 is cordoned, 1 does not match nodeSelector cam=yes", "kubectl uncordon"),
        ("0/1 nodes: 1 does not match nodeSelector cam=yes", "kubectl label node NAME cam=yes"),
        ("0/1 nodes: 1 has host port 80/TCP taken", "80/TCP"),
        ('persistentvolumeclaim "data" not found', "put the claim data into the manifest"),
        ("a lacks 300 MiB memory (free 41 MiB)", "ask for no more than 41 MiB of memory"),
    ],
)
def test_what_does_not_fit_says_why_and_what_to_do(why: str, advice: str) -> None:
    said = told(pods=2, placed=1, nodes={"a": 1}, waiting=1, why=why)
    assert said.startswith(f"deployment/web: 1 of 2 pods do not fit: {why}\n")
    assert advice in said


def test_a_rollout_that_stops_and_pods_that_give_way_are_told() -> None:
    assert "would stop after 0 of 2 pods" in told(pods=2, stuck=2, waiting=1, why="no room")
    status = {
        "workloads": [{"kind": "Deployment", "name": "low", "namespace": "x", "ended": {"a": 1}, "nodes": {"b": 1}}],
        "preempted": [{"namespace": "x", "name": "low-1", "node": "a", "priority": -5, "by": "deployment/vip"}],
        "hidden": 2,
    }
    said = "\n".join(lines(status, asked=True))
    assert "pod x/low-1 on a would be ended for deployment/vip: its priority is lower (-5)" in said
    assert "deployment/low of x would change: a (1) -> b (1)" in said
    assert "2 pods of namespaces that you may not look into" in said


def test_the_table_has_what_is_requested_and_what_is_really_used() -> None:
    row = {"name": "pi-1", "ready": True, "memory": 400 * MIB, "memoryUsed": 100 * MIB, "cpu": 4000, "pods": 110}
    status = {"nodes": [row, {"name": "pi-2"}], "occupied": 1, "needed": 1}
    shown = list(lines(status, asked=False, used={"pi-1": {"memory": "30720Ki"}}))
    assert shown[0].split() == ["NODE", "MEMORY", "REQUESTED", "USED", "CPU", "REQUESTED", "PODS"]
    assert shown[1].split()[:4] == ["pi-1", "[#####...............]", "100/400Mi", "30Mi"]
    assert "pi-2 (takes no pods)" in shown[2]
    assert shown[-1] == "1 node with pods that request something; no fewer than 1 could hold them"
    assert list(lines({}, asked=False)) == ["no node has joined this fleet yet"]


def a_kubeconfig(folder: Path, namespace: str = "") -> Path:
    context = {"cluster": "c", "user": "u", **({"namespace": namespace} if namespace else {})}
    config = {
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1", "certificate-authority-data": ""}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "other", "context": {"namespace": "no"}}, {"name": "here", "context": context}],
        "current-context": "here",
    }
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    return file


def edgectl(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cloudlink.cli", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file or directory"),
        (b"a: [b", "app.yaml, line"),
        (b"a: b\na: c\n", 'app.yaml, line 2, column 1: duplicate key "a"'),
        (b"\xff\xfe\x00", "is no text"),
        (b"", "there is nothing in it"),
    ],
)
def test_a_bad_file_is_told_with_its_path_and_line_before_anybody_is_asked(
    tmp_path: Path, text: bytes | None, words: str
) -> None:
    file = tmp_path / "app.yaml"
    if text is not None:
        file.write_bytes(text)
    done = edgectl("fit", "-f", str(file), "--kubeconfig", str(a_kubeconfig(tmp_path)))
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_namespace_of_the_kubeconfig_s_context_is_meant_where_none_is_named(tmp_path: Path) -> None:
    assert HubClient(a_kubeconfig(tmp_path, "green")).namespace == "green"
    assert HubClient(a_kubeconfig(tmp_path)).namespace == "default"
