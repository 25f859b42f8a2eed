"""A hub restored from an older backup, with a node and a client that have seen more than the backup has."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudlink.cli.client import HubClient
from cloudlink.cli.leftovers import processes
from tests.e2e.test_hub_brain_process import HubProcess, joined
from tests.wire_lab import until

PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    hub = HubProcess(tmp_path)
    try:
        hub.start()
        yield hub
    finally:
        hub.close()
    assert processes(tmp_path) == {}


def pod(name: str) -> dict[str, Any]:
    spec = {"containers": [{"name": "main", "image": "demo:1"}], "terminationGracePeriodSeconds": 1}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def test_a_hub_restored_from_an_older_backup_is_believed_by_its_nodes_and_never_repeats_a_revision(
    hub: HubProcess,
) -> None:
    async def scenario() -> None:
        client = HubClient(hub.kubeconfig, timeout=10.0)
        async with joined(hub) as pretend:

            def has(*names: str) -> bool:
                return pretend.desired is not None and sorted(p.name for p in pretend.desired.pods) == sorted(names)

            await asyncio.to_thread(client.call, "POST", PODS, pod("kept"))
            await until(lambda: has("kept"))
            file = hub.folder / "hub.backup"
            done = await asyncio.to_thread(hub.call, "backup", str(file))
            assert done.returncode == 0, done.stderr
            for name in ("lost-1", "lost-2", "lost-3"):  # the node is told of more generations than the backup has
                await asyncio.to_thread(client.call, "POST", PODS, pod(name))
                await until(lambda name=name: any(p.name == name for p in pretend.desired.pods))  # type: ignore[misc, union-attr]
            known, seen = pretend.generation, client.call("GET", PODS)["metadata"]["resourceVersion"]
            assert (await asyncio.to_thread(hub.kill, signal.SIGTERM)) == 0
            (hub.folder / "hub").rename(hub.folder / "burnt")
            done = await asyncio.to_thread(hub.call, "restore", str(file))
            assert done.returncode == 0, done.stderr
            await asyncio.to_thread(hub.start)
            await until(lambda: has("kept"))  # told anew, beyond every generation that the node has
            assert pretend.generation > known
            listed = client.call("GET", PODS)  # with the administrator's token of before
            assert [p["metadata"]["name"] for p in listed["items"]] == ["kept"]
            assert int(listed["metadata"]["resourceVersion"]) > int(seen)
            told = client.call("GET", f"{PODS}?watch=1&resourceVersion={seen}")
            assert (told["type"], told["object"]["code"]) == ("ERROR", 410)
            [made] = [client.call("POST", PODS, pod("new"))]
            assert int(made["metadata"]["resourceVersion"]) > int(seen)
            await until(lambda: has("kept", "new"))

    asyncio.run(scenario())
