"""Houses for tests: a hub, a broker and a node of one's own, under names that nobody else has."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from cloudlink import link, trust
from cloudlink.cli.house import House, Names
from cloudlink.cli.resources import apply
from cloudlink.hub.exchange import Link
from cloudlink.hub.streams import Streams
from cloudlink.streams.line import Timing


def unique_names() -> Names:
    tag = secrets.token_hex(3)
    subnet = f"10.{secrets.randbelow(100) + 100}.{secrets.randbelow(250)}.0/24"
    return Names(f"t{tag}", f"edt{tag}", f"edged_t{tag}", f"edged-t{tag}", subnet)


@contextlib.contextmanager
def a_house(
    image: str = "probe", settings: tuple[str, ...] = (), hub_settings: tuple[str, ...] = ()
) -> Iterator[House]:
    """A running house with one joined node and one image; gone afterwards, whatever happened.

    :param hub_settings: further lines of hub.toml.
    """
    folder = Path(tempfile.mkdtemp(prefix="edged-house-"))
    house = House(folder, unique_names())
    try:
        house.prepare_hub()
        with house.hub_toml.open("a") as file:
            file.writelines(f"{line}\n" for line in hub_settings)
        house.start_hub()
        house.build_image(image)
        house.join(settings)
        house.start_node()
        yield house
    finally:
        house.down()
        left = {kind: items for kind, items in house.left().items() if items}
        assert not left, f"left behind: {left}"


@contextlib.contextmanager
def a_further_node(house: House, image: str = "probe", settings: tuple[str, ...] = ()) -> Iterator[House]:
    """Another node on this machine that has joined the same hub; gone afterwards. Its `kubeconfig` is the hub's."""
    guest = House(Path(tempfile.mkdtemp(prefix="edged-house-")), unique_names())
    guest.hub_toml, guest.kubeconfig = house.hub_toml, house.kubeconfig
    try:
        guest.build_image(image)
        guest.join(settings)
        guest.start_node()
        yield guest
    finally:
        guest.down()
        left = {kind: items for kind, items in guest.left().items() if items}
        assert not left, f"left behind: {left}"


@contextlib.asynccontextmanager
async def asking(house: House, timing: Timing | None = None) -> AsyncIterator[Streams]:
    """A further process of the house's hub, so to speak: it has its keys, and asks its node."""
    hub, identity = house.folder / "hub", house.folder / "node" / "state" / "identity"
    listeners = [line.split() for line in (hub / "broker" / "mosquitto.conf").read_text().splitlines()]
    port = next(int(words[1]) for words in reversed(listeners) if words[:1] == ["listener"])
    ca, files = next(hub.rglob("ca.pem")).read_text(), (hub / "tls" / "client.pem", hub / "tls" / "client.key")
    public_key = trust.public_key_of(trust.load_key(identity / "seal.key"))
    streams = Streams(
        house.names.node,
        Link("127.0.0.1", port, lambda: link.hub_context(ca, files)),
        trust.load_key(next(hub.rglob("signing.key"))),
        lambda node: public_key if node == house.names.node else None,
        timing,
    )
    task = asyncio.create_task(streams.run(), name="streams of a test")
    try:
        async with asyncio.timeout(house.patience):
            await streams.connected.wait()
        yield streams
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def deployment(name: str, replicas: int = 1, command: str = "exec sleep 1d", **container: Any) -> dict[str, Any]:
    """A Deployment of the probe image as a manifest; `container` adds to its only container."""
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [
                        {
                            "name": "main",
                            "image": "localhost/probe:latest",
                            "imagePullPolicy": "IfNotPresent",  # there is no registry to ask
                            "command": ["/bin/sh", "-c", command],
                            "resources": {"limits": {"memory": "16Mi"}, "requests": {"memory": "4Mi"}},
                            **container,
                        }
                    ],
                },
            },
        },
    }


def pods_of(house: House, name: str) -> list[dict[str, Any]]:
    return [p for p in house.pods() if p["metadata"].get("labels", {}).get("app") == name]


def apply_and_wait(house: House, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Apply a Deployment and wait until all its pods run; returns them."""
    apply(house.client, manifest)
    name, replicas = manifest["metadata"]["name"], manifest["spec"]["replicas"]

    def running() -> bool:
        pods = pods_of(house, name)
        return sum((p.get("status") or {}).get("phase") == "Running" for p in pods) == replicas == len(pods)

    house.wait(
        f"{replicas} pods of {name} to run", running, lambda: str([p.get("status") for p in pods_of(house, name)])
    )
    return pods_of(house, name)


def container_status(pod: dict[str, Any]) -> dict[str, Any]:
    return dict(pod["status"]["containerStatuses"][0])


def container_pids(house: House, pod: dict[str, Any]) -> list[int]:
    """The processes in the pod's cgroup, from whichever hierarchy this machine has."""
    uid, parent = pod["metadata"]["uid"], house.names.cgroup
    for root in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        folder = root / parent / uid
        if folder.is_dir():
            return sorted(int(p) for f in folder.rglob("cgroup.procs") for p in f.read_text().split())
    return []
