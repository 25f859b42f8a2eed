"""Who may run something in a pod, over WebSocket and over SPDY, and what the audit log says of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from cloudlink.hub.auth.audit import Entry, document
from cloudlink.hub.auth.authority import bootstrap
from cloudlink.hub.changes import Create
from tests.fakes.hub_server import HubServer
from tests.fakes.place import Place
from tests.kubectl_lab import versions
from tests.unit.test_rbac_rules import binding, role, rule

pytestmark = pytest.mark.kubectl

PROGRAMS = versions() or {"none": "kubectl"}
ENDS = sorted({min(PROGRAMS, key=lambda v: v.split(".")), max(PROGRAMS, key=lambda v: v.split("."))})


class Told:
    """An audit log that remembers."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def tell(self, entry: Entry, stage: str) -> None:
        self.events.append(document(entry, stage, entry.received))

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def told() -> Told:
    return Told()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, told: Told) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("place"))
    made.hub._socket.close()  # it hasn't begun; ours has an audit log
    made.hub = HubServer(made.folder / "hub", remote=made.remote, audit=told)
    with made.hub as hub:
        made.furnish()
        hub.do(bootstrap)
        looks = role("looks", rule("get list watch", "pods pods/log pods/exec"), namespace="default")
        runs = role("runs", rule("get", "pods"), rule("create", "pods/exec"), namespace="default")
        every = [looks, binding("looks", "Role/looks", "User/ann", namespace="default")]
        every += [runs, binding("runs", "Role/runs", "User/bob", namespace="default")]
        hub.do(lambda store: store.commit([Create(obj) for obj in every]))
        yield made


def executions(told: Told) -> list[Any]:
    """What it remembers of exec."""
    return [e for e in told.events if e.get("objectRef", {}).get("subresource") == "exec"]


@pytest.mark.parametrize("version", ENDS)
def test_only_who_may_create_runs_something_in_a_pod_and_it_is_written_down_twice(
    place: Place, told: Told, version: str
) -> None:
    def run(user: str) -> tuple[int, str]:
        done = place.hub.kubectl("exec", "web", "--as", user, "--", "echo", "hello", binary=PROGRAMS[version])
        return done.returncode, done.stdout + done.stderr

    del told.events[:]
    code, said = run("ann")
    assert code == 1
    assert 'User "ann" cannot create resource "pods/exec"' in said
    refused = executions(told)
    assert {(e["verb"], e["responseStatus"]["code"], e["stage"]) for e in refused} == {
        ("create", 403, "ResponseComplete")
    }
    del told.events[:]
    assert run("bob") == (0, "hello\n")
    end = time.monotonic() + 30  # kubectl has its answer before the connection's end is written down
    while len(ran := executions(told)) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    assert [(e["verb"], e["responseStatus"]["code"], e["stage"]) for e in ran][:2] == [
        ("create", 101, "ResponseStarted"),
        ("create", 101, "ResponseComplete"),
    ]
    assert ran[0]["impersonatedUser"]["username"] == "bob"
