"""A kind of one's own from its definition to its end, with the oldest and newest kubectl; and what typos are told."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudlink.hub.manager import Manager
from tests.fakes.hub_server import HubServer
from tests.kubectl_lab import oldest_and_newest

CASES = Path(__file__).parents[1] / "cases" / "kube"
FOUND = oldest_and_newest()
HOUSE = """apiVersion: farm.example.com/v1
kind: Greenhouse
metadata: {name: a}
spec: {crop: basil, pumps: 2}
"""

pytestmark = [
    pytest.mark.kubectl,
    pytest.mark.skipif(all(shutil.which(b) is None for b in FOUND), reason="needs kubectl"),
]


@pytest.fixture(params=FOUND)
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path) as server:
        server.binary = request.param  # type: ignore[attr-defined]
        yield server


def kubectl(hub: HubServer, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return hub.kubectl(*words, stdin=stdin, binary=hub.binary)  # type: ignore[attr-defined]


def said(hub: HubServer, *words: str, stdin: str = "") -> str:
    done = kubectl(hub, *words, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_kind_lives_from_its_definition_to_its_end(hub: HubServer) -> None:
    said(hub, "apply", "-f", "-", stdin=(CASES / "accepted_definitions.yaml").read_text())
    said(hub, "wait", "--for=condition=Established", "crd/greenhouses.farm.example.com", "--timeout=20s")
    assert "greenhouses   gh" in said(hub, "api-resources", "--api-group=farm.example.com")
    assert "farm.example.com/v1beta1" in said(hub, "api-versions")
    assert "created" in said(hub, "apply", "-f", "-", stdin=HOUSE)
    said(hub, "scale", "gh/a", "--replicas=3")
    head, row = said(hub, "get", "gh", "-o", "wide").splitlines()
    assert head.split() == ["NAME", "CROP", "PUMPS", "READY", "SITE", "AGE"]
    assert row.split()[:4] == ["a", "basil", "3", "north"]
    assert "greenhouse.farm.example.com/a" in said(hub, "get", "all")
    for words in (["gh.spec"], ["gh", "--recursive"]):
        assert "pumps" in said(hub, "explain", *words)
    said(hub, "delete", "crd", "greenhouses.farm.example.com", "--wait=false")
    hub.do(lambda store: Manager(store).settle())
    assert kubectl(hub, "get", "gh").returncode != 0


def test_every_kind_can_be_explained_recursively(hub: HubServer) -> None:
    for kind in ("pod", "deployment", "crd", "cronjob"):
        assert "metadata" in said(hub, "explain", kind, "--recursive")


@pytest.mark.parametrize(
    ("was", "becomes", "sentence"),
    [
        ("pumps: 2", "pumpz: 2", 'unknown field "spec.pumpz"'),
        ("pumps: 2", "pumps: two", "spec.pumps in body must be of type integer"),
        ("basil", "cactus", 'Unsupported value: "cactus": supported values: "tomato", "basil", "lettuce"'),
        ("Greenhouse", "Greenhous", 'no matches for kind "Greenhous" in version "farm.example.com/v1"'),
        ("com/v1", "com/v9", 'no matches for kind "Greenhouse" in version "farm.example.com/v9"'),
    ],
)
def test_a_mistake_gets_a_sentence_that_names_it(hub: HubServer, was: str, becomes: str, sentence: str) -> None:
    said(hub, "apply", "-f", "-", stdin=(CASES / "accepted_definitions.yaml").read_text())
    done = kubectl(hub, "apply", "-f", "-", stdin=HOUSE.replace(was, becomes))
    assert done.returncode != 0
    assert sentence in done.stderr
