"""The daemon's puller: a worker in a cgroup of its own, with its logins in memory only, that dies with the daemon."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from edged.config import ImagesConfig, NodeConfig, RegistryConfig
from edged.errors import PermanentError, RetryError
from edged.images.cage import Cage
from edged.images.store import ImageStore
from edged.puller import ImageWorker
from tests.fakes import registries
from tests.fakes.oci_layout import Layout, config, digest, layer, member
from tests.fakes.registries import Link, Request, ScriptedRegistry, TokenServer, docker_registry, push
from tests.ports import free_port

pytestmark = pytest.mark.root
PATIENCE = 180.0
USER, PASSWORD = "bob", "s3cret-of-bob"


def architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]


def image(layout: Layout, *parts: bytes, **run: object) -> dict[str, object]:
    return layout.image(list(parts), settings=config(list(parts), architecture(), **run))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeConfig]:
    parent = f"edged-test-puller-{uuid.uuid4().hex[:8]}"
    yield NodeConfig(
        name="n",
        state_dir=str(tmp_path / "state"),
        run_dir=str(tmp_path / "run"),
        cgroup_parent=parent,
        images=ImagesConfig(attempts=3, stall_seconds=60.0, docker_config=str(tmp_path / "config.json")),
    )
    deadline = time.monotonic() + PATIENCE
    for folder in groups(parent):
        while folder.exists() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                for below in [*folder.glob("*/"), folder]:
                    below.rmdir()
            time.sleep(0.01)


def groups(parent: str) -> list[Path]:
    cage = Cage(parent, 64 << 20)
    return [group.parent for group in cage._groups]


def store(node: NodeConfig) -> ImageStore:
    return ImageStore(node.state / "images")


def changed(node: NodeConfig, **settings: object) -> NodeConfig:
    return msgspec.structs.replace(node, images=msgspec.structs.replace(node.images, **settings))


def secret(host: str, user: str = USER, password: str = PASSWORD) -> dict[str, bytes]:
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {".dockerconfigjson": json.dumps({"auths": {host: {"auth": auth}}}).encode()}


async def pull(node: NodeConfig, reference: str, *logins: dict[str, bytes]) -> ImageWorker:
    worker = ImageWorker(node)
    await worker.pull(reference, logins)
    return worker


# ---------------------------------------------------------------- what comes


def test_an_image_comes_with_its_stop_signal(node: NodeConfig) -> None:
    with ScriptedRegistry() as registry:
        registry.tag("1", image(registry.layout, layer(member("x", b"1")), StopSignal="SIGQUIT"))
        reference = f"{registry.address}/a:1"
        asyncio.run(pull(node, reference))
    found = store(node).resolve(reference)
    assert found is not None
    assert found.stop_signal == "SIGQUIT"


def test_what_will_never_work_is_told_apart_from_what_may_work_later(node: NodeConfig) -> None:
    with ScriptedRegistry() as registry:
        with pytest.raises(PermanentError, match=f"{registry.address} has no .*a:none"):
            asyncio.run(pull(node, f"{registry.address}/a:none"))
        with pytest.raises(RetryError, match=r"no connection to|gave up for now"):
            asyncio.run(pull(changed(node, attempts=1), f"127.0.0.1:{free_port()}/a:1"))


def test_an_image_for_another_machine_is_refused_before_any_of_its_layers_is_fetched(node: NodeConfig) -> None:
    with ScriptedRegistry() as registry:
        part = layer(member("x", b"1"))
        entry = registry.layout.image([part], settings=config([part], "s390x"))
        registry.tag("1", entry)
        with pytest.raises(PermanentError, match=r"is for linux/s390x, this machine is linux/.*get the image for"):
            asyncio.run(pull(node, f"{registry.address}/a:1"))
        manifest = json.loads(registry.layout.files[f"blobs/sha256/{str(entry['digest'])[7:]}"])
        assert registry.count("GET", manifest["layers"][0]["digest"]) == 0


def test_mirrors_and_insecure_registries_come_from_the_nodes_settings(node: NodeConfig) -> None:
    with ScriptedRegistry() as mirror:
        mirror.tag("1", image(mirror.layout, layer(member("x", b"1"))))
        settings = {
            "registry.invalid": RegistryConfig(mirrors=(mirror.disguised,)),
            mirror.disguised: RegistryConfig(insecure=True),
        }
        asyncio.run(pull(changed(node, registries=settings), "registry.invalid/a:1"))
    assert store(node).resolve("registry.invalid/a:1") is not None


# ---------------------------------------------------------------- logins


def with_password(request: Request) -> bool:
    """Basic authorisation for one user."""
    expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    if request.headers.get("Authorization") == expected:
        return False
    request.answer(401, WWW_Authenticate='Basic realm="test"')
    return True


@pytest.mark.parametrize("form", ["dockerconfigjson", "dockercfg", "second of two", "glob", "node's own file"])
def test_a_private_image_comes_with_the_login_wherever_it_is_kept(
    node: NodeConfig, form: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with ScriptedRegistry() as registry:
        registry.tag("1", image(registry.layout, layer(member("x", b"1"))))
        registry.script = with_password
        reference = f"{registry.address}/a:1"
        with pytest.raises(PermanentError, match=r"denies .*may need a login"):
            asyncio.run(pull(node, reference))
        right = secret(registry.address)
        logins = [right]
        if form == "dockercfg":
            logins = [{".dockercfg": json.dumps(json.loads(right[".dockerconfigjson"])["auths"]).encode()}]
        elif form == "second of two":
            logins = [secret(registry.address, "alice", "wrong"), {".dockerconfigjson": b"no json"}, right]
        elif form == "glob":
            logins = [secret("127.0.*.1:" + registry.address.partition(":")[2])]
        elif form == "node's own file":
            logins = []
            Path(node.images.docker_config).write_bytes(right[".dockerconfigjson"])
        asyncio.run(pull(node, reference, *logins))
    assert store(node).resolve(reference) is not None
    assert PASSWORD not in "".join(capfd.readouterr())


def test_a_secret_that_cannot_be_read_is_named_when_the_image_is_denied(node: NodeConfig) -> None:
    with ScriptedRegistry() as registry:
        registry.script = with_password
        with pytest.raises(PermanentError, match=r"denies .*besides, a registry secret's \.dockerconfigjson is not"):
            asyncio.run(pull(node, f"{registry.address}/a:1", {".dockerconfigjson": b'{"auths": {"h": {"auth": 7}}}'}))


@registries.needs_registry
def test_a_token_is_bought_with_a_pull_secret_from_the_real_registry(node: NodeConfig, tmp_path: Path) -> None:
    layout = Layout()
    layout.name("a", image(layout, layer(member("x", b"1"))))
    folder = layout.folder(tmp_path / "layout")
    tokens = TokenServer(tmp_path / "t", USER, PASSWORD)
    with tokens, docker_registry(tmp_path / "r", auth=tokens.registry_auth) as address:
        push(folder, "a", f"{address}/a:1", "--dest-creds", f"{USER}:{PASSWORD}")
        with pytest.raises(PermanentError, match="it may need a login"):
            asyncio.run(pull(node, f"{address}/a:1"))
        asyncio.run(pull(node, f"{address}/a:1", secret(address)))
    assert store(node).resolve(f"{address}/a:1") is not None


def test_no_login_is_in_arguments_environment_or_files_of_a_running_worker(node: NodeConfig, tmp_path: Path) -> None:
    with ScriptedRegistry() as registry:
        registry.tag("1", image(registry.layout, layer(member("x", b"1"))))
        seen: list[bytes] = []

        def look(request: Request) -> bool:
            for pid in workers(node):
                for file in ("cmdline", "environ"):
                    seen.append(Path(f"/proc/{pid}/{file}").read_bytes())
            return with_password(request)

        registry.script = look
        asyncio.run(pull(node, f"{registry.address}/a:1", secret(registry.address)))
    told = [base64.b64encode(f"{USER}:{PASSWORD}".encode()), PASSWORD.encode()]
    assert any(b"edged.images" in one for one in seen)
    assert not [one for one in seen for word in told if word in one]
    written = [f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()]
    assert not [one for one in written for word in told if word in one]


# ---------------------------------------------------------------- its cgroup and its end


def workers(node: NodeConfig) -> list[int]:
    found: set[int] = set()
    for group in groups(node.cgroup_parent):
        with contextlib.suppress(OSError):
            found.update(int(line) for line in (group / "images" / "cgroup.procs").read_text().split())
    return sorted(found)


def test_a_worker_is_in_a_cgroup_of_64_mib_with_little_weight(node: NodeConfig) -> None:
    limits: list[str] = []
    with ScriptedRegistry() as registry:
        registry.tag("1", image(registry.layout, layer(member("x", b"1"))))

        def look(request: Request) -> bool:
            [pid] = workers(node)
            places = Path(f"/proc/{pid}/cgroup").read_text()
            assert places.count(f"/{node.cgroup_parent}/images") >= 1
            for group in groups(node.cgroup_parent):
                for name in ("memory.max", "memory.limit_in_bytes"):
                    with contextlib.suppress(OSError):
                        limits.append((group / "images" / name).read_text().strip())
            return False

        registry.script = look
        asyncio.run(pull(node, f"{registry.address}/a:1"))
    assert set(limits) == {str(64 << 20)}
    assert workers(node) == []


def large_image(layout: Layout) -> dict[str, object]:
    """200 MB in 5 layers and 5,000 files, about three quarters of it noise."""
    dice, parts, packed = random.Random(4), [], []
    for n in range(5):
        names = [f"l{n}/d{i // 50}/f{i}" for i in range(1000)]
        contents = [dice.randbytes(30_000) + bytes(10_000) for _ in names]
        parts.append(layer(*(member(name, content) for name, content in zip(names, contents, strict=True))))
        packed.append(gzip.compress(parts[-1], 1, mtime=0))
    return layout.image(parts, packed, config(parts, architecture()))


def test_a_large_image_of_many_files_goes_through_although_its_files_count_as_the_workers_memory(
    node: NodeConfig,
) -> None:
    with ScriptedRegistry() as registry:
        registry.tag("1", large_image(registry.layout))
        worker = asyncio.run(pull(node, f"{registry.address}/a:1"))
    found = store(node).resolve(f"{registry.address}/a:1")
    assert found is not None
    files = [f for folder in found.layers for f in Path(folder).rglob("f*") if f.is_file()]
    assert len(files) == 5000
    assert sum(f.stat().st_size for f in files) == 200_000_000
    assert worker.degraded == ()
    # The kernel lets charges through that can't fail, so the peak may lie a little above the limit (cgroup-v2.rst).
    assert 0 < Cage(node.cgroup_parent, 64 << 20).peak() <= 72 << 20
    assert Cage(node.cgroup_parent, 64 << 20).oom_kills() == 0


def test_a_worker_that_the_kernel_killed_for_want_of_memory_is_said_as_such(node: NodeConfig) -> None:
    with ScriptedRegistry() as registry:
        registry.tag("1", image(registry.layout, layer(member("x", b"1"))))
        worker = ImageWorker(node, Cage(node.cgroup_parent, 4 << 20))  # less than the settings would allow
        with pytest.raises(RetryError, match=r"pull .*/a:1 ran out of its 64 MiB of memory and was killed"):
            asyncio.run(worker.pull(f"{registry.address}/a:1", ()))


def test_a_worker_that_gets_nowhere_is_killed_and_the_next_one_finishes(node: NodeConfig) -> None:
    impatient = changed(node, stall_seconds=0.5, patience_seconds=1.0)
    with ScriptedRegistry() as registry:
        registry.tag("1", image(registry.layout, layer(member("x", b"1"))))

        def stop(request: Request) -> bool:
            for pid in workers(node):
                os.kill(pid, signal.SIGSTOP)
            return False

        registry.script = stop
        worker = ImageWorker(impatient)
        with pytest.raises(RetryError, match="got nowhere for 1 s and was killed"):
            asyncio.run(worker.pull(f"{registry.address}/a:1", ()))
        assert workers(node) == []
        assert worker.progress() == {}
        registry.script = lambda _: False
        asyncio.run(pull(node, f"{registry.address}/a:1"))


DAEMON = """
    import asyncio, sys, msgspec
    from pathlib import Path
    from edged.config import NodeConfig
    from edged.puller import ImageWorker
    asyncio.run(ImageWorker(msgspec.json.decode(sys.argv[1], type=NodeConfig)).pull(sys.argv[2], ()))
"""


def test_a_worker_dies_with_its_daemon_and_the_next_pull_goes_on_where_it_was(node: NodeConfig) -> None:
    dice = random.Random(5)
    with ScriptedRegistry() as registry:
        parts = [layer(member(f"part{n}", dice.randbytes(3_000_000))) for n in range(3)]
        registry.tag("1", image(registry.layout, *parts))
        with Link(registry.address) as link:
            reference = f"{registry.address}/a:1"
            settings = changed(node, registries={registry.address: RegistryConfig(mirrors=(f"http://{link.address}",))})
            link.per_second = 1_000_000
            command = [sys.executable, "-c", textwrap.dedent(DAEMON), msgspec.json.encode(settings).decode(), reference]
            with subprocess.Popen(command) as daemon:
                wait_until(lambda: half_fetched(node) > 1_500_000)
                pids = workers(node)
                daemon.kill()
            assert pids
            wait_until(lambda: not workers(node))
            kept = half_fetched(node)
            assert kept > 0
            assert store(node).resolve(reference) is None
            link.per_second = 0
            before = link.passed
            asyncio.run(pull(settings, reference))
            assert link.passed - before < 9_500_000 - kept
    assert store(node).resolve(reference) is not None


def half_fetched(node: NodeConfig) -> int:
    folder = node.state / "images" / "partial"
    return sum(f.stat().st_size for f in folder.glob("?" * 64)) if folder.is_dir() else 0


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_worker_that_an_earlier_daemon_left_is_killed_before_the_first_of_ours_starts(node: NodeConfig) -> None:
    places = Cage(node.cgroup_parent, 64 << 20).open()
    entering = "for f in $1; do echo 0 > $f; done; echo in; exec sleep 1000"
    with subprocess.Popen(["sh", "-c", entering, "sh", " ".join(places)], stdout=subprocess.PIPE) as left:
        assert left.stdout is not None
        assert left.stdout.readline() == b"in\n"
        asyncio.run(ImageWorker(node).remove(["localhost/not-here:1"]))
        assert left.wait(PATIENCE) == -signal.SIGKILL


def test_progress_says_how_far_each_pull_is_and_which_one_waits(node: NodeConfig) -> None:
    told = set[str]()
    with ScriptedRegistry() as registry, Link(registry.address) as link:
        part = layer(member("x", random.Random(6).randbytes(6_000_000)))
        registry.tag("1", image(registry.layout, part))
        settings = changed(node, registries={registry.address: RegistryConfig(mirrors=(f"http://{link.address}",))})
        link.per_second = 20_000_000
        worker = ImageWorker(settings)

        async def both() -> None:
            pulls = [asyncio.create_task(worker.pull(f"{registry.address}/{name}:1", ())) for name in "ab"]
            while not all(p.done() for p in pulls):
                told.update(worker.progress().values())
                await asyncio.sleep(0.001)
            await asyncio.gather(*pulls)

        asyncio.run(both())
    assert "waits for another pull" in told
    assert any(one.endswith(" of 6.0 MB") for one in told)
    assert worker.progress() == {}


# ---------------------------------------------------------------- removal


def test_removal_takes_what_is_half_fetched_of_images_that_nobody_wants_any_more(node: NodeConfig) -> None:
    dice = random.Random(7)
    with ScriptedRegistry() as registry:
        references = []
        for name in "ab":
            part = layer(member(name, dice.randbytes(4_000_000)))
            registry.tag("1", image(registry.layout, part))
            registry.script = stop_halfway
            references.append(f"{registry.address}/{name}:1")
            with pytest.raises(RetryError):
                asyncio.run(pull(changed(node, attempts=1), references[-1]))
        both = half_fetched(node)
        assert both == 2_000_000
        worker = ImageWorker(node)
        worker.wanted = frozenset(references[:1])
        asyncio.run(worker.remove([]))
        assert half_fetched(node) == both // 2
        worker.wanted = frozenset()
        asyncio.run(worker.remove([]))
        assert half_fetched(node) == 0


def stop_halfway(request: Request) -> bool:
    """Layers come up to their first megabyte, and then nothing any more."""
    if "/blobs/" not in request.path:
        return False
    data = request.server.owner.layout.files[f"blobs/sha256/{request.path.rpartition(':')[2]}"]
    if len(data) < 1_000_000:
        return False
    if "Range" in request.headers:
        request.answer(503)
    else:
        request.answer(200, data[:1_000_000], Content_Length=str(len(data)))
        request.close_connection = True
    return True


def test_what_a_pull_has_unpacked_survives_other_images_until_nobody_wants_it_any_more(node: NodeConfig) -> None:
    small, big = layer(member("small", b"1")), layer(member("big", random.Random(8).randbytes(4_000_000)))
    with ScriptedRegistry() as registry:
        registry.tag("half", image(registry.layout, small, big))
        registry.script = stop_halfway
        half, other = f"{registry.address}/a:half", f"{registry.address}/b:other"
        with pytest.raises(RetryError):
            asyncio.run(pull(changed(node, attempts=1), half))
        assert list(store(node).read_index().pending.values()) == [half]
        registry.script = lambda _: False
        registry.tag("other", image(registry.layout, layer(member("x", b"2"))))
        asyncio.run(pull(node, other))
        worker = ImageWorker(node)
        worker.wanted = frozenset({half})
        asyncio.run(worker.remove([other]))
        assert store(node).read_index().layers.keys() == store(node).read_index().pending.keys() == {digest(small)}
        asyncio.run(worker.remove([]))
        assert len(store(node).read_index().layers) == 1
        before = registry.count("GET", digest(gzip.compress(small, mtime=0)))
        asyncio.run(worker.pull(half, ()))
        assert registry.count("GET", digest(gzip.compress(small, mtime=0))) == before, "it was here already"
        assert store(node).read_index().pending == {}


def test_what_a_pull_has_unpacked_goes_when_nobody_wants_its_image_any_more(node: NodeConfig) -> None:
    small, big = layer(member("small", b"1")), layer(member("big", random.Random(8).randbytes(4_000_000)))
    with ScriptedRegistry() as registry:
        registry.tag("half", image(registry.layout, small, big))
        registry.script = stop_halfway
        with pytest.raises(RetryError):
            asyncio.run(pull(changed(node, attempts=1), f"{registry.address}/a:half"))
        registry.script = lambda _: False
        registry.tag("other", image(registry.layout, layer(member("x", b"2"))))
        worker = ImageWorker(node)
        worker.wanted = frozenset({f"{registry.address}/b:other"})
        asyncio.run(worker.pull(f"{registry.address}/b:other", ()))
    assert store(node).read_index().pending == {}
    assert len(store(node).read_index().layers) == 1
