"""Houses for tests: a hub, a broker and a node of one's own, under names that nobody else has."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cloudlink.cli.house import House, Names
from cloudlink.cli.resources import apply


def unique_names() -> Names:
    tag = secrets.token_hex(3)
    subnet = f"10.{secrets.randbelow(100) + 100}.{secrets.randbelow(250)}.0/24"
    return Names(f"t{tag}", f"edt{tag}", f"edged_t{tag}", f"edged-t{tag}", subnet)


@contextlib.contextmanager
def a_house(image: str = "probe", settings: tuple[str, ...] = ()) -> Iterator[House]:
    """A running house with one joined node and one image; gone afterwards, whatever happened."""
    folder = Path(tempfile.mkdtemp(prefix="edged-house-"))
    house = House(folder, unique_names())
    try:
        house.prepare_hub()
        house.start_hub()
        house.build_image(image)
        house.join(settings)
        house.start_node()
        yield house
    finally:
        house.down()
        left = {kind: items for kind, items in house.left().items() if items}
        assert not left, f"left behind: {left}"


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
