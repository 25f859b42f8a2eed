"""`edgectl fit` on a real house: asked before, applied, asked again; what it says is what then happens."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from cloudlink.cli.house import CHECKOUT, House, environment
from cloudlink.cli.resources import apply
from tests.houses import a_house, apply_and_wait, deployment, pods_of

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with a_house(settings=(f"memory_allocatable={128 << 20}",)) as it:
        yield it


def manifest(name: str, replicas: int, memory: str, **pod: Any) -> dict[str, Any]:
    made = deployment(name, replicas, resources={"requests": {"memory": memory}})
    made["spec"]["template"]["spec"].update(pod)
    return made


def edgectl(house: House, *arguments: str, documents: list[Any] | None = None) -> tuple[int, str]:
    file = house.folder / "app.yaml"
    if documents is not None:
        file.write_text(yaml.safe_dump_all(documents))
        arguments = (*arguments, "-f", str(file))
    command = [sys.executable, "-m", "cloudlink.cli", *arguments, "--kubeconfig", str(house.kubeconfig)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=CHECKOUT, env=environment()
    )
    print(f"$ edgectl {' '.join(arguments)}\n{done.stdout}{done.stderr}")  # pytest -s shows what people see
    return done.returncode, done.stdout + done.stderr


def requested(told: str) -> int:
    """MiB of memory that the only node's pods request, out of the table."""
    found = re.search(r"(\d+)/128Mi", told)
    assert found is not None, told
    return int(found[1])


def remove(house: House, *names: str) -> None:
    for name in names:
        house.client.call("DELETE", f"/apis/apps/v1/namespaces/default/deployments/{name}")
    house.wait("the pods to go", lambda: not any(pods_of(house, n) for n in names))


def test_asked_before_applied_and_asked_after(house: House) -> None:
    web = manifest("web", 2, "40Mi")
    code, before = edgectl(house, "fit", documents=[web])
    assert code == 0, before
    assert f"deployment/web: fits: new on {house.names.node} (2)" in before
    assert requested(before) == 80
    assert pods_of(house, "web") == []  # it was only asked
    apply_and_wait(house, web)
    code, after = edgectl(house, "fit", documents=[web])
    assert code == 0
    assert "deployment/web: fits: nothing would move" in after
    assert requested(after) == requested(edgectl(house, "packing")[1]) == 80
    code, told = edgectl(house, "fit", documents=[manifest("big", 2, "30Mi")])
    assert code == 1
    assert "deployment/big: 1 of 2 pods do not fit: 0/1 nodes: 1 lacks 30 MiB memory (largest free 18 MiB)" in told
    assert "what to do: ask for no more than 18 MiB of memory" in told
    apply(house.client, manifest("big", 2, "30Mi"))

    def sentences() -> list[str]:
        conditions = [c for p in pods_of(house, "big") for c in p["status"].get("conditions", ())]
        return [c.get("message", "") for c in conditions if c["type"] == "PodScheduled" and c["status"] == "False"]

    house.wait("the scheduler's sentence", lambda: bool(sentences()))
    assert all(s in told for s in sentences())
    remove(house, "big", "web")


def test_who_would_have_to_go_is_named_and_goes(house: House) -> None:
    head = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass"}
    urgent = {**head, "metadata": {"name": "urgent"}, "value": 1000}
    apply_and_wait(house, manifest("low", 2, "50Mi"))
    vip = manifest("vip", 1, "60Mi", priorityClassName="urgent")
    code, told = edgectl(house, "fit", documents=[urgent, vip])
    assert code == 0, told
    found = re.search(r"pod default/(low-\S+) on \S+ would be ended for deployment/vip: its priority is lower", told)
    assert found is not None, told
    assert "1 pod would wait" in told
    for document in (urgent, vip):
        apply(house.client, document)

    def names() -> set[str]:
        return {p["metadata"]["name"] for p in pods_of(house, "low")}

    house.wait("the pod to make room", lambda: found[1] not in names())
    house.wait("vip to run", lambda: any(p["status"].get("phase") == "Running" for p in pods_of(house, "vip")))
    remove(house, "low", "vip")


def test_a_bad_manifest_says_what_is_wrong_and_where(house: House) -> None:
    wrong = manifest("wrong", 1, "10Mi")
    wrong["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    code, told = edgectl(house, "fit", documents=[wrong])
    assert code == 1
    assert 'spec.template.spec.containers[0].imagee: unknown field (did you mean "image"?)' in told
    (house.folder / "app.yaml").write_text("kind: [\n")
    code, told = edgectl(house, "fit", "-f", str(house.folder / "app.yaml"))
    assert code == 1
    assert "app.yaml, line 2" in told


@pytest.mark.kubectl
def test_kubectl_describe_node_reckons_as_fit_does(house: House) -> None:
    limited = manifest("limited", 1, "20Mi")
    limited["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {"memory": "20Mi", "cpu": "100m"}}
    apply_and_wait(house, limited)
    apply_and_wait(house, manifest("asking", 1, "30Mi"))
    command = ["kubectl", "--kubeconfig", str(house.kubeconfig), "describe", "node", house.names.node]
    described = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    allocated = described.split("Allocated resources:")[1]
    memory, cpu = re.search(r"memory +(\d+)Mi", allocated), re.search(r"cpu +(\d+)m", allocated)
    told = edgectl(house, "fit")[1]
    assert memory is not None, allocated
    assert cpu is not None, allocated
    assert requested(told) == int(memory[1]) == 50
    assert re.search(rf"\b{cpu[1]}/\d+m", told), (told, allocated)
    remove(house, "limited", "asking")
