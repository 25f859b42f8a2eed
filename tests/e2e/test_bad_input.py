"""The hostile user: what real kubectl, a live hub and a live node make of input that is wrong, late or too much."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudlink import link, mqtt, trust, wire
from cloudlink.cli.house import CHECKOUT, House
from cloudlink.cli.resources import apply
from edged.model import Desired
from tests.houses import a_house, apply_and_wait, container_pids, container_status, deployment, pods_of

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with a_house(settings=(f"memory_allocatable={256 << 20}",)) as it:
        yield it


def kubectl(house: House, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = ["kubectl", "--kubeconfig", str(house.kubeconfig), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=30, check=False)


def refusal(house: House, manifest: dict[str, Any]) -> str:
    done = kubectl(house, "apply", "-f", "-", stdin=json.dumps(manifest))
    assert done.returncode == 1, done.stdout
    return done.stderr


def container_of(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["spec"]["template"]["spec"]["containers"][0]
    return found


def attempts(house: House, name: str) -> dict[str, str]:
    """Pod name -> the id of its running attempt: equal before and after means that nothing was restarted."""
    return {p["metadata"]["name"]: container_status(p)["containerID"] for p in pods_of(house, name)}


def told_of(house: House, name: str) -> str:
    """Everything that `kubectl describe pod` says about the pods of a deployment."""
    return kubectl(house, "describe", "pods", "-l", f"app={name}").stdout


def until_told(house: House, name: str, words: str) -> None:
    house.wait(f'"{words}"', lambda: words in told_of(house, name), lambda: told_of(house, name))


def remove(house: House, *names: str) -> None:
    for name in names:
        house.client.call("DELETE", f"/apis/apps/v1/namespaces/default/deployments/{name}")
    house.wait("the pods to go", lambda: not any(pods_of(house, n) for n in names))


# ---------------------------------------------------------------- refused at the door


@pytest.mark.kubectl
def test_all_errors_are_told_at_once_each_with_its_path(house: House) -> None:
    wrong = deployment("wrong", replicas=-1, imagee="x")
    wrong["spec"]["template"]["metadata"]["labels"] = {"app": "other"}
    wrong["spec"]["template"]["spec"]["runtimeClassName"] = "kata"
    container_of(wrong)["resources"]["limits"]["memory"] = "16Mq"
    told = refusal(house, wrong)
    for words in (
        'spec.template.spec.containers[0].imagee: unknown field (did you mean "image"?)',
        "spec.template.spec.runtimeClassName: not supported: there is one runtime here, crun; remove it",
        'limits[memory]: "16Mq" is not a quantity',
        "spec.replicas: Invalid value: -1",
        "`selector` does not match template `labels`",
    ):
        assert words in told
    assert not pods_of(house, "wrong")


@pytest.mark.kubectl
def test_what_no_node_could_ever_run_is_refused_and_what_is_only_too_much_now_waits_with_a_sentence(
    house: House,
) -> None:
    big = deployment("big", replicas=2)
    container_of(big)["resources"] = {"requests": {"memory": "4Gi"}, "limits": {"memory": "4Gi"}}
    assert "needs 4 GiB, the largest node has 256 MiB allocatable" in refusal(house, big)
    container_of(big)["resources"] = {"requests": {"memory": "160Mi"}, "limits": {"memory": "160Mi"}}
    apply(house.client, big)
    until_told(house, "big", "lacks 160 MiB memory (largest free 96 MiB)")
    house.wait("the one that fits", lambda: sum("running" in s for s in states(house, "big")) == 1)
    remove(house, "big")


def states(house: House, name: str) -> list[str]:
    found = []
    for pod in pods_of(house, name):
        found += [next(iter(s["state"])) for s in (pod.get("status") or {}).get("containerStatuses") or []]
    return found


@pytest.mark.kubectl
def test_an_error_quotes_what_was_written_and_not_its_escapes(house: House) -> None:
    assert 'Invalid value: "gewächs"' in refusal(house, deployment("gewächs"))


# ---------------------------------------------------------------- accepted, and then a person has to act


@pytest.mark.kubectl
def test_a_missing_image_and_a_missing_command_are_sentences_of_the_pod(house: House) -> None:
    apply(house.client, deployment("no-image", image="localhost/nothere:1"))
    absent = deployment("no-command")
    container_of(absent)["command"] = ["/bin/nonsense"]
    apply(house.client, absent)
    until_told(house, "no-image", "localhost/nothere:1")
    until_told(house, "no-command", "`/bin/nonsense` not found")
    until_told(house, "no-image", "ErrImage")
    remove(house, "no-image", "no-command")


@pytest.mark.kubectl
def test_a_pod_starts_by_itself_once_the_config_map_and_the_key_it_refers_to_exist(house: House) -> None:
    value = {"name": "A", "valueFrom": {"secretKeyRef": {"name": "later", "key": "a"}}}
    apply(house.client, deployment("waiting", envFrom=[{"configMapRef": {"name": "later"}}], env=[value]))
    until_told(house, "waiting", "does not exist")
    assert kubectl(house, "create", "configmap", "later", "--from-literal=X=1").returncode == 0
    assert kubectl(house, "create", "secret", "generic", "later", "--from-literal=b=1").returncode == 0
    until_told(house, "waiting", "secret default/later has no key 'a'")
    patch = json.dumps({"stringData": {"a": "1"}})
    assert kubectl(house, "patch", "secret", "later", "-p", patch).returncode == 0
    house.wait("it to run", lambda: states(house, "waiting") == ["running"])
    remove(house, "waiting")


@pytest.mark.kubectl
def test_a_broken_image_takes_no_replica_away_and_undo_brings_the_old_pods_back_untouched(house: House) -> None:
    apply_and_wait(house, deployment("rollout", replicas=3))
    before = attempts(house, "rollout")
    assert kubectl(house, "set", "image", "deployment/rollout", "main=localhost/broken:1").returncode == 0
    until_told(house, "rollout", "localhost/broken:1")
    assert before.items() <= running_attempts(house, "rollout").items()
    assert kubectl(house, "rollout", "undo", "deployment/rollout").returncode == 0
    assert kubectl(house, "rollout", "status", "deployment/rollout", "--timeout=20s").returncode == 0
    house.wait("the broken pod to go", lambda: len(pods_of(house, "rollout")) == 3)
    assert attempts(house, "rollout") == before
    remove(house, "rollout")


def running_attempts(house: House, name: str) -> dict[str, str]:
    pods = [p for p in pods_of(house, name) if (p.get("status") or {}).get("phase") == "Running"]
    return {p["metadata"]["name"]: container_status(p)["containerID"] for p in pods}


@pytest.mark.kubectl
def test_more_config_than_a_node_can_be_told_holds_up_only_the_pod_that_wants_it(house: House) -> None:
    apply_and_wait(house, deployment("modest"))
    before = attempts(house, "modest")
    names = [f"huge-{n}" for n in range(4)]
    for name in names:
        noise = base64.b64encode(os.urandom(600_000)).decode()  # hardly to be compressed
        apply(house.client, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": noise}})
    greedy = deployment("greedy")
    volumes = [{"name": name, "configMap": {"name": name}} for name in names]
    greedy["spec"]["template"]["spec"]["volumes"] = volumes
    apply(house.client, greedy)
    until_told(house, "greedy", "make smaller: config map default/huge-3 (781 KiB)")
    apply_and_wait(house, deployment("modest", replicas=2))
    assert "DocumentTooLarge" in kubectl(house, "get", "pods", "-l", "app=greedy").stdout
    assert before.items() <= attempts(house, "modest").items()
    remove(house, "greedy", "modest")
    assert kubectl(house, "delete", "configmap", *names).returncode == 0


# ---------------------------------------------------------------- what must not restart anything


@pytest.mark.kubectl
def test_the_same_manifest_again_and_labels_and_annotations_change_nothing_that_runs(house: House) -> None:
    manifest = deployment("same", replicas=2)
    apply_and_wait(house, manifest)
    before = attempts(house, "same")
    document = json.dumps(manifest)
    assert kubectl(house, "apply", "-f", "-", stdin=document).returncode == 0
    again = kubectl(house, "apply", "-f", "-", stdin=document)
    assert again.stdout.strip() == "deployment.apps/same unchanged"
    pod = next(iter(before))
    for words in (("label", "deployment/same"), ("annotate", "deployment/same"), ("label", f"pod/{pod}")):
        assert kubectl(house, *words, "note=x").returncode == 0
    apply_and_wait(house, deployment("after-labels"))  # so the node has seen everything before it
    assert attempts(house, "same") == before
    assert edged(house, "plan").stdout.strip() == "nothing to do"
    remove(house, "same", "after-labels")


def edged(house: House, *arguments: str, config: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edged", *arguments, "--config", str(config or house.node_toml)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=CHECKOUT)


@pytest.mark.kubectl
def test_a_changed_config_restarts_nothing_and_the_next_container_sees_it_in_variables_and_files(house: House) -> None:
    assert kubectl(house, "create", "configmap", "conf", "--from-literal=A=one").returncode == 0
    manifest = deployment(
        "reader",
        command="echo says $A $(cat /conf/A); exec sleep 1d",
        envFrom=[{"configMapRef": {"name": "conf"}}],
        volumeMounts=[{"name": "files", "mountPath": "/conf"}],
    )
    manifest["spec"]["template"]["spec"]["volumes"] = [{"name": "files", "configMap": {"name": "conf"}}]
    (pod,) = apply_and_wait(house, manifest)
    before = attempts(house, "reader")
    assert kubectl(house, "patch", "configmap", "conf", "-p", '{"data": {"A": "two"}}').returncode == 0
    apply_and_wait(house, deployment("after-config"))
    assert attempts(house, "reader") == before
    os.kill(container_pids(house, pod)[0], 9)
    name = f"default/{pod['metadata']['name']}"
    house.wait("the new words", lambda: "says two two" in edged(house, "logs", name).stdout)
    remove(house, "reader", "after-config")


# ---------------------------------------------------------------- haste


@pytest.mark.kubectl
def test_scaling_up_to_nothing_and_up_again_at_once_ends_where_it_should(house: House) -> None:
    apply(house.client, deployment("hasty"))
    for count in (12, 0, 12, 3):
        assert kubectl(house, "scale", "deployment/hasty", f"--replicas={count}").returncode == 0
    house.wait("3 pods", lambda: len(pods_of(house, "hasty")) == 3 and states(house, "hasty") == ["running"] * 3)
    remove(house, "hasty")
    house.wait("an idle node", lambda: edged(house, "plan").stdout.strip() == "nothing to do")


# ---------------------------------------------------------------- garbage on the wire


def broker_ports(house: House) -> tuple[int, int]:
    """(nodes' listener, the hub's own)."""
    text = (house.folder / "hub" / "broker" / "mosquitto.conf").read_text()
    first, second = re.findall(r"^listener (\d+)", text, re.MULTILINE)
    return int(first), int(second)


def publish(house: House, messages: list[tuple[str, bytes]], retain: bool) -> None:
    """With the hub's own certificate: nobody can do worse."""
    folder = house.folder / "hub"
    tls = link.hub_context(
        (folder / "ca" / "ca.pem").read_text(), (folder / "tls" / "client.pem", folder / "tls" / "client.key")
    )

    async def send() -> None:
        port = broker_ports(house)[1]
        version = mqtt.ProtocolVersion.V5
        async with mqtt.Client("127.0.0.1", port, identifier="garbage", protocol=version, tls_context=tls) as client:
            for topic, body in messages:
                await client.publish(topic, body, qos=1, retain=retain)

    asyncio.run(send())


def condition(house: House, kind: str) -> dict[str, Any]:
    (node,) = house.client.call("GET", "/api/v1/nodes")["items"]
    return next((c for c in node["status"]["conditions"] if c["type"] == kind), {})


def test_garbage_on_the_desired_topic_changes_nothing_is_told_and_is_over_with_the_next_change(house: House) -> None:
    apply_and_wait(house, deployment("calm", replicas=2))
    before = attempts(house, "calm")
    fleet = node = house.names.node
    key = trust.load_key(house.folder / "hub" / "signing.key")
    topic = wire.desired_topic(fleet, node)
    good = trust.sign_desired(Desired(fleet, node, 1), key, 0.0)
    forged = trust.sign_desired(Desired(fleet, node, 1 << 40), trust.generate_key(), 0.0)
    foreign = trust.sign_desired(Desired(fleet, "another-node", 1 << 40), key, 0.0)
    # one at a time, for the node only looks at the newest of several
    for body, words in (
        (b"\xffgarbage", "not a signed envelope"),
        (good[: len(good) // 2], "not a signed envelope"),
        (forged, "badly signed"),
        (foreign, "is for node 'another-node'"),
        (good, "an older generation 1"),
    ):
        publish(house, [(topic, body)], retain=True)
        told: Callable[[], str] = lambda: condition(house, "DesiredStateRefused").get("message", "")  # noqa: E731
        house.wait(f'"{words}"', lambda words=words, told=told: words in told(), told)  # type: ignore[misc]
    assert attempts(house, "calm") == before
    apply_and_wait(house, deployment("calm", replicas=3))
    assert before.items() <= attempts(house, "calm").items()
    house.wait("the refusal to be over", lambda: condition(house, "DesiredStateRefused").get("status") != "True")
    remove(house, "calm")


def test_garbage_on_status_and_presence_topics_changes_nothing_at_the_hub(house: House) -> None:
    (pod,) = apply_and_wait(house, deployment("steady"))
    fleet = node = house.names.node
    bodies = [b"", b"{}", os.urandom(200), os.urandom(1_900_000)]
    topics = [wire.status_topic(fleet, node), wire.presence_topic(fleet, node), f"edge/v1/{fleet}/../status"]
    publish(house, [(topic, body) for topic in topics for body in bodies], retain=False)
    house.wait("a word about it", lambda: "ignored a message on" in (house.folder / "hub.log").read_text())
    (after,) = pods_of(house, "steady")
    assert after["status"] == pod["status"]
    assert condition(house, "Ready")["status"] == "True"
    apply_and_wait(house, deployment("steady", replicas=2))
    remove(house, "steady")


# ---------------------------------------------------------------- on the board itself


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('name = "x\n', "broken.toml: "),
        ('nmae = "x"\n', "unknown field `nmae`"),
        ("name = 5\n", "Expected `str`, got `int` - at `$.name`"),
        ('name = "x"\n[network]\npod_cidr = "bogus"\n', "network.pod_cidr 'bogus' is not an IPv4 network"),
        ('name = "x"\nstate_dir = "/proc/x"\nrun_dir = "/proc/y"\n', "state_dir /proc/x can't be used"),
        (None, "can't be read: Is a directory"),
    ],
)
def test_a_bad_configuration_is_one_sentence(tmp_path: Path, content: str | None, words: str) -> None:
    file = tmp_path / "broken.toml"
    if content is None:
        file.mkdir()
    else:
        if "state_dir" not in content:
            folders = f'state_dir = "{tmp_path}/state"\nrun_dir = "{tmp_path}/run"\n'
            content = content if content.startswith(("nmae", 'name = "x\n')) else folders + content
        file.write_text(content)
    command = [sys.executable, "-m", "edged", "run", "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=CHECKOUT)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith("edged: ")
    assert words in done.stderr


def test_a_second_daemon_of_the_same_node_ends_with_a_sentence(house: House) -> None:
    done = edged(house, "run")
    assert done.returncode == 1
    assert done.stderr.startswith("edged: another edged already works in ")


def test_unknown_words_and_pods_are_sentences(house: House) -> None:
    assert 'no such command: "frob"\n' in edged(house, "frob").stderr
    assert 'no pod "nobody" on this node' in edged(house, "logs", "nobody").stderr
    assert "the daemon of node" in edged(house, "teardown", "--yes").stderr


@pytest.mark.kubectl
def test_a_join_token_that_is_used_or_damaged_buys_nothing(house: House, tmp_path: Path) -> None:
    made = house.python("-m", "cloudlink.hub", "token", "create", "--config", str(house.hub_toml))
    token = made.stdout.split()[-1]

    def join(token: str, name: str) -> subprocess.CompletedProcess[str]:
        folder = tmp_path / name
        where = ("--config", f"{folder}.toml", "--state-dir", f"{folder}/state", "--run-dir", f"{folder}/run")
        return house.python("-m", "cloudlink.cli", "join", token, "--name", name, *where, check=False)

    assert "is damaged" in join(token[:-3] + "xyz", "first").stderr
    assert join(token, "first").returncode == 0
    used = join(token, "second")
    assert used.returncode == 1
    assert "has been used already" in used.stderr
    assert not (tmp_path / "second.toml").exists()
    assert kubectl(house, "delete", "node", "first", "--ignore-not-found").returncode == 0
