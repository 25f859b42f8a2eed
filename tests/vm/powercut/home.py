"""What a board has at home: a hub with its broker and a registry, all on this machine's loopback, which boards reach as
10.0.2.2. And a witness, who listens to all that hub and nodes say to each other, and so knows what a node has accepted.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import io
import json
import random
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiomqtt

from cloudlink import link, trust, wire
from cloudlink.cli.client import HubClient
from cloudlink.hub.exchange import Link
from edged.model import Desired, NodeStatus
from tests.fakes.oci_layout import Layout, config, layer, member
from tests.fakes.oci_layout import link as tar_link
from tests.fakes.registries import docker_registry, push
from tests.houses import unique_names
from tests.vm.fleet import SEEN_AT, Fleet
from tests.vm.image import ROOT

PATIENCE = 60.0


class Seen(NamedTuple):
    """:ivar documents: generation -> document, as signed by the hub.
    :ivar acknowledged: the highest generation that the node has told of. A node tells of none that it has not saved.
    :ivar ran: uids of pods that it said were running, and `images` what their containers run from.
    :ivar online: how often it has come.
    """

    documents: dict[int, Desired]
    acknowledged: int
    ran: frozenset[str]
    images: frozenset[str]
    online: int
    status: NodeStatus | None


NOBODY = Seen({}, 0, frozenset(), frozenset(), 0, None)


class Witness(threading.Thread):
    """Listens at the broker with the hub's own certificate."""

    def __init__(self, fleet: str, way: Link, verify_key: bytes) -> None:
        super().__init__(name="witness", daemon=True)
        self._fleet, self._way, self._key = fleet, way, verify_key
        self._seen: dict[str, Seen] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self.trouble = ""

    def of(self, node: str) -> Seen:
        with self._lock:
            return self._seen.get(node, NOBODY)

    def stop(self) -> None:
        self._over.set()
        self.join(PATIENCE)

    def run(self) -> None:
        asyncio.run(self._until_over())

    async def _until_over(self) -> None:
        task = asyncio.create_task(self._listen())
        while not self._over.is_set():  # noqa: ASYNC110 (set by another thread)
            await asyncio.sleep(0.1)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _listen(self) -> None:
        while True:
            try:
                async with aiomqtt.Client(
                    self._way.host,
                    self._way.port,
                    protocol=aiomqtt.ProtocolVersion.V5,
                    tls_context=self._way.tls(),
                ) as client:
                    for leaf in (wire.DESIRED, wire.STATUS, wire.PRESENCE):
                        await client.subscribe(wire.every_node(self._fleet, leaf), qos=1)
                    async for message in client.messages:
                        if isinstance(message.payload, bytes) and message.payload:
                            self._hear(wire.parse_topic(str(message.topic)), message.payload)
            except aiomqtt.MqttError as e:
                self.trouble = str(e)
                await asyncio.sleep(0.5)

    def _hear(self, topic: wire.Topic, body: bytes) -> None:
        with self._lock:
            seen = self._seen.get(topic.node, NOBODY)
            if topic.leaf == wire.DESIRED:
                opened = trust.open_envelope(body, self._key, self._fleet, topic.node)
                seen = seen._replace(documents=seen.documents | {opened.desired.generation: opened.desired})
            elif topic.leaf == wire.STATUS:
                status = wire.decode_status(body, topic.node)
                running = [p for p in status.pods if p.phase == "Running" and p.ready]
                seen = seen._replace(
                    acknowledged=max(seen.acknowledged, status.generation),
                    ran=seen.ran | {p.uid for p in running},
                    images=seen.images | {c.image for p in running for c in p.containers},
                    status=status,
                )
            elif wire.decode_presence(body).online:
                seen = seen._replace(online=seen.online + 1)
            self._seen[topic.node] = seen


class Home:
    """:ivar registry: "10.0.2.2:port".
    :ivar layers: diff_id -> path -> what it is, of every image that was ever pushed: "d", "l target", "f sha256".
    """

    def __init__(self, folder: Path, registry: str) -> None:
        self.folder = folder
        self.house = Fleet(folder / "house", unique_names(), PATIENCE)
        self._push_to = registry
        self.registry = f"{SEEN_AT}:{registry.rpartition(':')[2]}"
        self.layers: dict[str, dict[str, str]] = {}
        self.images: dict[str, list[str]] = {}
        self._base = self._probe_layer()

    @property
    def client(self) -> HubClient:
        return self.house.client

    # ------------------------------------------------------------ hub

    def start(self) -> None:
        self.house.prepare_hub()
        self.house.start_hub()
        hub = self.house.folder / "hub"
        listeners = [line.split() for line in (hub / "broker" / "mosquitto.conf").read_text().splitlines()]
        ports = [int(words[1]) for words in listeners if words[:1] == ["listener"]]
        ca, files = next(hub.rglob("ca.pem")).read_text(), (hub / "tls" / "client.pem", hub / "tls" / "client.key")
        signing = trust.load_key(next(hub.rglob("signing.key")))
        way = Link("127.0.0.1", ports[-1], lambda: link.hub_context(ca, files))
        self.witness = Witness(self.house.names.node, way, trust.verify_key_of(signing))
        self.witness.start()

    def stop(self) -> None:
        self.witness.stop()
        self.house.down()

    # ------------------------------------------------------------ images

    def an_image(self, name: str, *further: bytes) -> str:
        """Push the probe image with further layers; how boards call it."""
        layers = [self._base, *further]
        layout = Layout()
        settings = config(layers, Env=["PATH=/bin"], User="1000:1000")
        layout.name("x", layout.image(layers, settings=settings))
        folder = self.folder / "layouts" / name.replace(":", "-")
        push(layout.folder(folder), "x", f"{self._push_to}/{name}")
        for plain in layers:
            self.layers[f"sha256:{hashlib.sha256(plain).hexdigest()}"] = contents(plain)
        return f"{self.registry}/{name}"

    def _probe_layer(self) -> bytes:
        archive = self.folder / "probe.tar"
        build = [sys.executable, str(ROOT / "images" / "build.py"), "probe", "--output", str(archive)]
        subprocess.run(build, check=True, capture_output=True)
        with tarfile.open(archive) as tar:

            def read(digest: str) -> bytes:
                file = tar.extractfile(f"blobs/{digest.replace(':', '/')}")
                assert file is not None
                return file.read()

            index_file = tar.extractfile("index.json")
            assert index_file is not None
            manifest = json.loads(read(json.load(index_file)["manifests"][0]["digest"]))
            [only] = manifest["layers"]
            blob = read(only["digest"])
        return gzip.decompress(blob) if blob[:2] == b"\x1f\x8b" else blob


@contextlib.contextmanager
def a_home(folder: Path) -> Iterator[Home]:
    folder.mkdir(parents=True, exist_ok=True)
    with docker_registry(folder / "registry") as address:
        home = Home(folder, address)
        try:
            home.start()
            yield home
        finally:
            home.stop()


def large_layer(dice: random.Random, megabytes: int) -> bytes:
    """A few files that no compression makes smaller."""
    pieces = [member(f"large/{n}", dice.randbytes(megabytes << 18)) for n in range(4)]
    return layer(member("large"), *pieces)


def fine_layer(dice: random.Random, files: int) -> bytes:
    """Very many small files, with links among them: what an unpacker spends its time on."""
    members = [member("fine")]
    for n in range(files):
        if n % 50 == 0:
            members.append(member(f"fine/{n // 50}"))
        name = f"fine/{n // 50}/{n}"
        if n % 50 == 7:
            members.append(tar_link(name, f"{n - 1}"))
        elif n % 50 == 9:
            members.append(tar_link(name, f"fine/{n // 50}/{n - 1}", hard=True))
        else:
            members.append(member(name, dice.randbytes(dice.randrange(1, 3000))))
    return layer(*members)


def contents(plain: bytes) -> dict[str, str]:
    """Path -> what it is, of one layer."""
    found: dict[str, str] = {}
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        for one in tar:
            name = one.name.removeprefix("./").rstrip("/")
            if one.isdir():
                found[name] = "d"
            elif one.issym():
                found[name] = f"l {one.linkname}"
            elif one.islnk():
                found[name] = found[one.linkname.removeprefix("./")]
            elif one.isfile():
                file = tar.extractfile(one)
                assert file is not None
                found[name] = f"f {hashlib.sha256(file.read()).hexdigest()}"
    found.pop("", None)
    found.pop(".", None)
    return found


def deployment(
    name: str, node: str, image: str, replicas: int = 1, revision: str = "1", pod: dict[str, Any] | None = None
) -> dict[str, Any]:
    labels = {"app": name}
    mounts = [{"name": v["name"], "mountPath": f"/{v['name']}"} for v in (pod or {}).get("volumes", ())]
    container = {
        "name": "main",
        "image": image,
        "command": ["/bin/sh", "-c", "trap 'exit 0' TERM; sleep 1d & wait"],
        "env": [{"name": "REVISION", "value": revision}],
        "resources": {"limits": {"memory": "16Mi"}, "requests": {"memory": "4Mi"}},
        "volumeMounts": mounts,
    }
    spec = {"terminationGracePeriodSeconds": 1, "nodeSelector": {"kubernetes.io/hostname": node}, **(pod or {})}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {**spec, "containers": [container]}},
        },
    }


def secret(name: str, version: str, keys: int = 8) -> dict[str, Any]:
    """Every key of it says which version it is of, and none is small."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "default"},
        "stringData": {f"key{n}": f"{version} " + "x" * 2000 for n in range(keys)},
    }
