"""The images of a node whose disk fills up, and of one whose power was cut: what goes, what stays, what is said."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from edged.apply import Outcome
from edged.config import ImagesConfig, NodeConfig
from edged.decide.steps import Plan, RemoveImages, image_owner
from edged.errors import RetryError
from edged.image_keeper import ImageKeeper
from edged.images.cage import Cage
from edged.images.importer import import_file
from edged.images.store import ImageStore
from edged.model import Container, ContainerPhase, ContainerState, Desired, Observed, Pod
from edged.puller import ImageWorker
from tests.fakes.oci_layout import Layout, config, layer, member
from tests.fakes.registries import ScriptedRegistry

pytestmark = pytest.mark.root
PATIENCE = 180.0
MB = 1_000_000
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]


class Node:
    """A node on a small disk of its own, with a registry."""

    def __init__(self, folder: Path, registry: ScriptedRegistry, **settings: object) -> None:
        images = ImagesConfig(attempts=1, stall_seconds=60.0, gc_min_free=4 * MB, docker_config="", **settings)  # type: ignore[arg-type]
        parent = f"edged-test-keeper-{uuid.uuid4().hex[:8]}"
        self.config = NodeConfig(
            name="n", state_dir=str(folder), run_dir="/nowhere", cgroup_parent=parent, images=images
        )
        self.registry = registry
        self.start()

    def start(self) -> None:
        """The daemon, as far as images go."""
        self.images = ImageStore(self.config.state / "images")
        self.worker = ImageWorker(self.config)
        self.keeper = ImageKeeper(self.config, self.images, self.worker, compare_after=0.0)

    def offer(self, name: str, size: int = 4 * MB) -> str:
        noise = layer(member(name, random.Random(name).randbytes(size)))
        self.registry.tag(name, self.registry.layout.image([noise], [noise], config([noise], ARCHITECTURE)))
        return f"{self.registry.address}/x:{name}"

    def pull(self, name: str, size: int = 4 * MB) -> str:
        reference = self.offer(name, size)
        asyncio.run(self.worker.pull(reference, ()))
        return reference

    def look(self, wanted: list[str] | None, observed: Observed | None = None, now: float = 100.0) -> Plan:
        desired = None if wanted is None else Desired("f", "n", 1, pods=(pod(*wanted),))
        return self.keeper.steps(desired, observed or Observed(), now)

    def fill(self, percent: float) -> None:
        """Leave so much of the disk used, by things that are no images."""
        s = os.statvfs(self.config.state)
        more = int(s.f_blocks * s.f_frsize * percent / 100) - (s.f_blocks - s.f_bfree) * s.f_frsize
        (self.config.state / "ballast").write_bytes(bytes(max(more, 0)))

    def here(self) -> set[str]:
        return {r.rpartition(":")[2] for r in self.images.references()}

    def tidy(self) -> None:
        deadline = time.monotonic() + PATIENCE
        for group in Cage(self.config.cgroup_parent, 64 << 20)._groups:
            for folder in (group, group.parent):
                while folder.exists() and time.monotonic() < deadline:
                    with contextlib.suppress(OSError):
                        folder.rmdir()
                    time.sleep(0.005)


def pod(*images: str) -> Pod:
    containers = tuple(Container(f"c{n}", image) for n, image in enumerate(images))
    return Pod("default", "p", "u", containers=containers[1:], init=containers[:1])


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """Its disk has 40 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40M", "edged-test", disk], check=True)
    try:
        with ScriptedRegistry() as registry:
            node = Node(disk, registry)
            yield node
            node.tidy()
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


# ---------------------------------------------------------------- a full disk


def test_while_there_is_room_nothing_is_removed(node: Node) -> None:
    node.pull("a")
    assert node.look([]) == Plan()
    assert node.keeper.conditions == ()


def test_above_the_watermark_what_no_pod_needs_is_removed_until_there_is_room(node: Node) -> None:
    wanted = [node.pull("init"), node.pull("main")]
    old = [node.pull(name) for name in "abcd"]
    node.fill(90)
    node.look([*wanted, old[1]], now=50.0)  # b was needed until just now
    [step] = node.look(wanted, now=100.0).steps
    assert isinstance(step, RemoveImages)
    assert step.references[:1] == (old[0],)
    assert old[1] not in step.references
    assert "% of the disk is used" in step.reason
    asyncio.run(node.worker.remove(step.references))
    node.keeper.remember(Outcome(step))
    assert node.look(wanted).steps == ()
    assert {"init", "main", "b"} <= node.here()
    assert node.keeper.conditions == ()


def test_what_the_node_needs_stays_on_the_fullest_disk_and_pressure_is_told_once(node: Node) -> None:
    names = [node.pull(name) for name in ("wanted", "running", "pulled")]
    running = node.images.resolve(names[1])
    assert running is not None
    state = ContainerState("u.c.0", "u", "c", 0, "i", ContainerPhase.EXITED, image_id=running.id)
    observed = Observed(containers=(state,), busy=frozenset({image_owner(names[2])}))
    node.fill(90)
    assert node.look(names[:1], observed, now=100.0) == Plan((), 130.0), "nobody tells when there is room again"
    [condition] = node.keeper.conditions
    assert condition.kind == "DiskPressure"
    assert "no image that may go is left" in condition.message
    (node.config.state / "more").write_bytes(bytes(1 * MB))
    node.look(names[:1], observed)
    assert node.keeper.conditions == (condition,), "its words stay, or each look would be a new status"
    for file in ("ballast", "more"):
        (node.config.state / file).unlink()
    node.look(names[:1], observed)
    assert node.keeper.conditions == ()


def test_imported_and_pinned_images_stay_though_nothing_needs_them(node: Node, tmp_path: Path) -> None:
    pinned = node.pull("pinned", 4 * MB)
    node.config = msgspec.structs.replace(
        node.config, images=msgspec.structs.replace(node.config.images, pinned=(pinned,))
    )
    node.start()
    noise = layer(member("x", random.Random(1).randbytes(4 * MB)))
    layout = Layout()
    layout.name("localhost/preloaded:1", layout.image([noise], settings=config([noise], ARCHITECTURE)))
    import_file(node.images.root, layout.archive(tmp_path / "a.tar"))
    node.fill(90)
    assert node.look([]).steps == ()
    assert len(node.keeper.conditions) == 1


def test_nothing_is_removed_on_a_node_that_never_accepted_anything(node: Node) -> None:
    for name in "ab":
        node.pull(name)
    node.fill(90)
    assert node.look(None).steps == ()
    assert "nothing was ever accepted" in node.keeper.conditions[0].message


def test_a_pull_that_finds_the_disk_full_has_room_made_for_it_once(node: Node) -> None:
    for name in "abcde":
        node.pull(name, 6 * MB)
    wanted = node.offer("wanted", 9 * MB)
    node.look([wanted])
    asyncio.run(node.worker.pull(wanted, ()))
    assert node.here() == {"wanted"}


def test_no_space_is_said_as_such_and_nothing_half_written_stays(node: Node) -> None:
    needed = node.pull("needed", 20 * MB)
    wanted = node.offer("wanted", 30 * MB)
    node.look([needed, wanted])
    with pytest.raises(RetryError, match=r"no space left: needs 30\.\d MB .*MB free on .*/images; remove images"):
        asyncio.run(node.worker.pull(wanted, ()))
    assert node.images.resolve(needed) is not None
    assert not list((node.images.root / "tmp").iterdir())
    assert not list((node.images.root / "partial").glob("?" * 64))


def test_on_a_disk_without_one_free_byte_an_image_can_still_be_removed(node: Node) -> None:
    old, needed = node.pull("old"), node.pull("needed")
    with (node.config.state / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(4096))
    assert os.statvfs(node.config.state).f_bavail == 0
    [step] = node.look([needed]).steps
    assert isinstance(step, RemoveImages)
    assert step.references == (old,)
    asyncio.run(node.worker.remove(step.references))
    assert node.here() == {"needed"}
    assert node.images.resolve(needed) is not None
    assert os.statvfs(node.config.state).f_bavail > 0


# ---------------------------------------------------------------- a power cut


def run_until(node: Node, true: Callable[[], bool]) -> int:
    """Run the keeper beside a loop until it is true; returns how often it woke the loop."""
    wakes = 0

    def wake() -> None:
        nonlocal wakes
        wakes += 1

    async def both() -> None:
        running = asyncio.create_task(node.keeper.run(wake))
        async with asyncio.timeout(PATIENCE):
            while not true():  # noqa: ASYNC110 - what is waited for happens in another process
                await asyncio.sleep(0.01)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    asyncio.run(both())
    return wakes


def mark(node: Node) -> dict[str, object]:
    found: dict[str, object] = json.loads((node.images.root / "boot.json").read_text())
    return found


def test_after_an_unclean_boot_all_files_are_compared_in_the_background_and_what_is_broken_is_dropped(
    node: Node,
) -> None:
    whole, broken = node.pull("whole"), node.pull("broken")
    image = node.images.resolve(broken)
    assert image is not None
    Path(image.layers[0], "broken").write_bytes(b"")
    index = json.loads(node.images.index_file.read_text()) | {"unsettled": {}}  # they are old
    node.images.index_file.write_text(json.dumps(index))
    (node.images.root / "boot.json").write_text('{"boot": "an earlier boot"}')
    node.start()
    node.look([whole, broken])
    assert run_until(node, lambda: node.images.resolve(broken) is None and not mark(node).get("compare")) == 1
    assert node.images.resolve(whole) is not None
    [sentence] = node.keeper.degraded
    assert "damaged on the disk: broken has 0 bytes instead of 4000000; it is fetched again" in sentence
    asyncio.run(node.worker.pull(broken, ()))
    assert node.images.resolve(broken) == image


def test_after_a_clean_end_nothing_is_compared_and_no_worker_starts(node: Node) -> None:
    node.pull("a")
    index = json.loads(node.images.index_file.read_text()) | {"unsettled": {}}
    node.images.index_file.write_text(json.dumps(index))
    (node.images.root / "boot.json").write_text('{"boot": "an earlier boot", "clean": true}')
    node.start()
    node.worker.verify = forbidden  # type: ignore[method-assign]
    assert run_until(node, lambda: mark(node)["boot"] == node.images.boot) == 0
    assert mark(node)["clean"] is True, "the daemon has ended cleanly"


async def forbidden(young: bool = False) -> list[str]:
    raise AssertionError("there was nothing to compare")


def test_an_image_of_the_last_boot_is_compared_at_once_for_pods_that_may_not_pull(node: Node) -> None:
    reference = node.pull("a")
    index = json.loads(node.images.index_file.read_text())
    index["unsettled"] = dict.fromkeys(index["unsettled"], "an earlier boot")
    node.images.index_file.write_text(json.dumps(index))
    node.start()
    node.keeper._compare_after = PATIENCE * 10
    assert node.images.resolve(reference) is None
    run_until(node, lambda: node.images.resolve(reference) is not None)


def test_an_image_of_the_last_boot_is_settled_by_the_pull_that_the_plan_asks_for_with_no_registry_there(
    node: Node,
) -> None:
    reference = node.pull("a")
    index = json.loads(node.images.index_file.read_text())
    index["unsettled"] = dict.fromkeys(index["unsettled"], "an earlier boot")
    node.images.index_file.write_text(json.dumps(index))
    node.start()
    assert node.images.resolve(reference) is None
    node.registry.script = lambda request: request.answer(503) is None
    asyncio.run(node.worker.pull(reference, ()))
    assert node.images.resolve(reference) is not None
