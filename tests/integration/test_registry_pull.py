"""Pulls from the real docker-registry, over links that cut, throttle and ignore Range, and with the puller killed."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from edged.errors import PermanentError, RetryError
from edged.images import oci
from edged.images.auth import Logins
from edged.images.importer import import_file
from edged.images.platforms import parse_platform
from edged.images.pull import Event, pull
from edged.images.registry import PullConfig, RegistryConfig
from edged.images.store import ImageStore
from edged.model import Image
from tests.fakes import registries
from tests.fakes.oci_layout import Layout, descriptor, layer, member
from tests.fakes.registries import Link, TokenServer, docker_registry, push

pytestmark = [pytest.mark.root, registries.needs_registry]
AMD64, ARM = parse_platform("linux/amd64"), parse_platform("linux/arm/v7")
QUICK = PullConfig(stall_seconds=5.0, attempts=3, backoff_seconds=0.01)
BIG = 3_000_000  # bytes of each of the three big layers: noise, so about as large when compressed
ZSTD_LAYER = "application/vnd.oci.image.layer.v1.tar+zstd"


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def three_layers(layout: Layout) -> dict[str, Any]:
    """gzip, zstd and plain, some megabytes each; returns the manifest's descriptor."""
    plain = [layer(member(f"part{n}", noise(n, BIG)), member(f"d{n}"), member(f"d{n}/small", b"s")) for n in range(3)]
    packed = [gzip.compress(plain[0], 1, mtime=0), zstandard.ZstdCompressor().compress(plain[1]), plain[2]]
    entry = layout.image(plain, packed)
    manifest = json.loads(layout.files[f"blobs/sha256/{entry['digest'][7:]}"])
    manifest["layers"][1]["mediaType"] = ZSTD_LAYER
    manifest["layers"][2]["mediaType"] = "application/vnd.oci.image.layer.v1.tar"
    manifest["mediaType"] = oci.MANIFEST
    return descriptor(layout.put(json.dumps(manifest).encode()), oci.MANIFEST)


def is_whole(image: Image) -> bool:
    return all(Path(folder, f"part{n}").read_bytes() == noise(n, BIG) for n, folder in enumerate(image.layers))


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """ "host:port" of a registry with big:1, and multi:1 for four platforms."""
    base = tmp_path_factory.mktemp("registry")
    layout = Layout()
    layout.name("big", three_layers(layout))
    small = [layer(member("x", b"1"))]
    entries = []
    for architecture, variant in (("arm", "v6"), ("amd64", ""), ("arm", "v7"), ("arm64", "")):
        config = {"architecture": architecture, "os": "linux", "config": {"Cmd": [architecture + variant]}}
        config |= {"variant": variant} if variant else {}
        config |= {"rootfs": {"type": "layers", "diff_ids": [registries.digest(small[0])]}}
        entry = layout.image(small, settings=json.dumps(config).encode())
        platform = {"os": "linux", "architecture": architecture} | ({"variant": variant} if variant else {})
        entries.append(entry | {"platform": platform})
    index = json.dumps({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": entries}).encode()
    layout.name("multi", descriptor(layout.put(index), oci.INDEX))
    layout.name("zeros", layout.image([layer(member("zeros", bytes(20_000_000)))]))
    folder = layout.folder(base / "layout")
    with docker_registry(base / "registry") as address:
        push(folder, "big", f"{address}/big:1", "--preserve-digests")
        push(folder, "zeros", f"{address}/zeros:1")
        push(folder, "multi", f"{address}/multi:1", "--all")
        push(folder, "multi", f"{address}/docker:1", "--format", "v2s2", "--override-arch", "amd64")
        yield address


def total_of(address: str) -> int:
    """Bytes of the big image's compressed layers."""
    manifest = subprocess.run(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{address}/big:1"],
        capture_output=True,
        check=True,
    ).stdout
    return sum(int(part["size"]) for part in json.loads(manifest)["layers"])


def command(root: Path, reference: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "edged.images", "pull", "--root", str(root), *options, reference]


def write_config(tmp_path: Path, **content: Any) -> str:
    file = tmp_path / "registries.json"
    file.write_text(json.dumps(content))
    return str(file)


def through(link: Link, registry: str) -> PullConfig:
    """The registry's images, by way of the link."""
    return PullConfig(
        registries={registry: RegistryConfig(mirrors=(f"http://{link.address}",))},
        stall_seconds=5.0,
        attempts=3,
        backoff_seconds=0.01,
    )


def test_layers_packed_in_every_way_arrive_whole_and_the_second_pull_fetches_nothing(tmp_path: Path, big: str) -> None:
    events: list[Event] = []
    image = pull(tmp_path / "s", f"{big}/big:1", QUICK, machine=AMD64, tell=events.append)
    assert is_whole(image)
    assert [e.event for e in events if e.event not in ("progress",)] == ["resolved", *["unpacked"] * 3, "done"]
    assert events[-1].received == total_of(big)
    assert [f.name for f in (tmp_path / "s" / "partial").iterdir()] == ["pulls"]
    again: list[Event] = []
    assert pull(tmp_path / "s", f"{big}/big:1", QUICK, machine=AMD64, tell=again.append) == image
    assert [(e.event, e.present, e.received) for e in again] == [("done", True, 0)]


def test_the_platform_decides_which_image_of_an_index_comes(tmp_path: Path, big: str) -> None:
    reference = f"{big}/multi:1"
    assert pull(tmp_path / "a", reference, QUICK, machine=AMD64).cmd == ("amd64",)
    assert pull(tmp_path / "b", reference, QUICK, machine=ARM).cmd == ("armv7",)
    assert pull(tmp_path / "d", reference, QUICK, machine=parse_platform("linux/arm64/v8")).cmd == ("arm64",)
    assert pull(tmp_path / "e", reference, QUICK, machine=parse_platform("linux/arm/v6")).cmd == ("armv6",)
    with pytest.raises(PermanentError, match="has no image for linux/arm/v5"):
        pull(tmp_path / "f", reference, QUICK, machine=parse_platform("linux/arm/v5"))
    with pytest.raises(PermanentError, match="has no image for linux/riscv64"):
        pull(tmp_path / "c", reference, QUICK, machine=parse_platform("riscv64"))


def test_an_image_with_an_index_that_has_not_changed_costs_one_head(tmp_path: Path, big: str) -> None:
    with Link(big) as link:
        sent: list[bytes] = []
        link.rewrite = lambda data: sent.append(data) or data  # type: ignore[func-returns-value]
        for _ in range(2):
            sent.clear()
            pull(tmp_path / "s", f"{big}/multi:1", through(link, big), machine=AMD64)
        assert [data.split()[0] for data in sent] == [b"HEAD"]


def test_an_image_made_by_the_projects_own_builder_comes_as_it_was_built(tmp_path: Path, big: str) -> None:
    builder = Path(__file__).parents[2] / "images" / "build.py"
    archive = tmp_path / "probe.tar"
    subprocess.run([sys.executable, builder, "probe", "--output", archive], check=True, stdout=subprocess.DEVNULL)
    source, target = f"oci-archive:{archive}", f"docker://{big}/probe:1"
    subprocess.run(["skopeo", "copy", "-q", "--dest-tls-verify=false", source, target], check=True)
    image = pull(tmp_path / "s", f"{big}/probe:1", QUICK)
    [imported] = import_file(tmp_path / "imported", archive)
    assert image.id == imported.id
    assert [Path(f).name for f in image.layers] == [Path(f).name for f in imported.layers]
    assert Path(image.layers[0], "bin/busybox").stat().st_mode & 0o7777 == 0o755


def test_docker_manifests_are_understood_too(tmp_path: Path, big: str) -> None:
    assert pull(tmp_path / "s", f"{big}/docker:1", QUICK, machine=AMD64).cmd == ("amd64",)


def test_a_digest_names_an_image_as_well_and_needs_no_request_once_it_is_here(tmp_path: Path, big: str) -> None:
    digest = (
        pull(tmp_path / "a", f"{big}/multi:1", QUICK, machine=AMD64)
        and json.loads((tmp_path / "a" / "heads.json").read_text())[f"{big}/multi:1"]
    )
    for name in (digest["head"], digest["manifest"]):
        image = pull(tmp_path / "b", f"{big}/multi@{name}", QUICK, machine=AMD64)
        assert image.cmd == ("amd64",)
        nobody = PullConfig(attempts=1, registries={big: RegistryConfig(mirrors=("127.0.0.1:1",))})
        assert pull(tmp_path / "b", f"{big}/multi@{name}", nobody, machine=AMD64) == image


def test_a_tag_that_moved_is_followed_and_its_old_layers_go(tmp_path: Path, big: str) -> None:
    contents = [b"old", b"new"]
    for content in contents:
        layout = Layout()
        layout.name("t", layout.image([layer(member("x", content))]))
        push(layout.folder(tmp_path / content.decode()), "t", f"{big}/moving:1")
        image = pull(tmp_path / "s", f"{big}/moving:1", QUICK, machine=AMD64)
        assert Path(image.layers[0], "x").read_bytes() == content
    assert len(list((tmp_path / "s" / "layers").iterdir())) == 1


def test_a_link_that_cuts_every_connection_is_no_obstacle_and_nothing_is_fetched_twice(
    tmp_path: Path, big: str
) -> None:
    with Link(big) as link:
        link.cut_after = 500_000
        done: list[Event] = []
        image = pull(tmp_path / "s", f"{big}/big:1", through(link, big), machine=AMD64, tell=done.append)
        assert is_whole(image)
        assert link.cuts > 10
        assert done[-1].received == total_of(big)


def test_a_slow_link_is_waited_for_as_long_as_bytes_come(tmp_path: Path, big: str) -> None:
    config = PullConfig(stall_seconds=0.5, attempts=1, backoff_seconds=0.01)
    with Link(big) as link:
        link.per_second = 1_500_000  # the pull as a whole takes far longer than a stall may
        assert is_whole(pull(tmp_path / "s", f"{link.address}/big:1", config, machine=AMD64))


def test_a_link_that_goes_silent_ends_the_pull_with_later_and_keeps_what_came(tmp_path: Path, big: str) -> None:
    config = PullConfig(stall_seconds=0.3, attempts=2, backoff_seconds=0.01)
    with Link(big) as link:
        seen = threading.Event()

        def tell(event: Event) -> None:
            if event.event == "progress" and event.fetched > 1_000_000:
                link.silent = True
                seen.set()

        link.per_second = 4_000_000
        with pytest.raises(RetryError, match="nothing for too long"):
            pull(tmp_path / "s", f"{link.address}/big:1", config, machine=AMD64, tell=tell)
        link.silent = False
        assert seen.is_set()
        kept = sum(f.stat().st_size for f in (tmp_path / "s" / "partial").iterdir())
        assert kept > 1_000_000
        assert ImageStore(tmp_path / "s").resolve(f"{link.address}/big:1") is None
        link.per_second = 0
        events: list[Event] = []
        image = pull(tmp_path / "s", f"{link.address}/big:1", config, machine=AMD64, tell=events.append)
        assert is_whole(image)
        assert events[-1].received < total_of(big) - 900_000


def test_a_server_that_ignores_range_is_read_again_up_to_where_we_were(tmp_path: Path, big: str) -> None:
    with Link(big) as link:
        link.cut_after = 2_500_000
        link.rewrite = registries.without_range
        healed = threading.Event()

        def tell(event: Event) -> None:
            if event.event == "retry" and not healed.is_set():
                link.cut_after = None
                healed.set()

        events: list[Event] = []
        image = pull(
            tmp_path / "s",
            f"{big}/big:1",
            through(link, big),
            machine=AMD64,
            tell=lambda e: (events.append(e), tell(e)),
        )
        assert is_whole(image)
        assert healed.is_set()
        assert events[-1].received > total_of(big)


def test_a_server_that_refuses_to_go_on_with_416_is_asked_for_the_whole(tmp_path: Path, big: str) -> None:
    with Link(big) as link:
        link.cut_after = 2_500_000
        link.rewrite = registries.with_impossible_range
        reasons: list[str] = []

        def tell(event: Event) -> None:
            if event.event == "retry":
                link.cut_after = None
                reasons.append(event.reason)

        image = pull(tmp_path / "s", f"{big}/big:1", through(link, big), machine=AMD64, tell=tell)
        assert is_whole(image)
        assert any("refuses to go on at byte" in reason for reason in reasons)


def test_a_puller_killed_again_and_again_resumes_and_never_shows_a_broken_image(tmp_path: Path, big: str) -> None:
    root, reference, dice = tmp_path / "s", f"{big}/big:1", random.Random(5)
    store = ImageStore(root)
    with Link(big) as link:
        mirrors = {big: {"mirrors": [f"http://{link.address}"]}}
        config = write_config(tmp_path, registries=mirrors, backoffSeconds=0.01)
        link.per_second = 2_000_000
        for _ in range(6):
            child = subprocess.Popen(
                command(root, reference, "--config", config, "--platform", "amd64"), stdout=subprocess.DEVNULL
            )
            before, wanted = link.passed, dice.randrange(200_000, 2_000_000)
            deadline = time.monotonic() + registries.DEADLINE
            while child.poll() is None and link.passed - before < wanted and time.monotonic() < deadline:
                image = store.resolve(reference)
                assert image is None or is_whole(image)
                time.sleep(0.005)
            child.kill()
            child.wait()
            image = store.resolve(reference)
            assert image is None or is_whole(image)
        link.per_second = 0
        last = subprocess.run(
            command(root, reference, "--config", config, "--platform", "amd64"), capture_output=True, text=True
        )
        assert last.returncode == 0, last.stderr
        image = store.resolve(reference)
        assert image is not None
        assert is_whole(image)
        # What a kill may cost: what was in buffers of the three connections, here and in the link.
        assert link.passed < total_of(big) + 7 * 3 * (1 << 20)
    assert not list((root / "tmp").iterdir())
    assert [f.name for f in (root / "partial").iterdir()] == ["pulls"]


def test_two_pulls_of_the_same_image_at_once_fetch_it_once(tmp_path: Path, big: str) -> None:
    with Link(big) as link:
        link.per_second = 6_000_000
        config = write_config(tmp_path, registries={big: {"mirrors": [f"http://{link.address}"]}})
        line = command(tmp_path / "s", f"{big}/big:1", "--config", config, "--platform", "amd64")
        children = [subprocess.Popen(line, stdout=subprocess.DEVNULL) for _ in range(2)]
        assert [child.wait(60) for child in children] == [0, 0]
        assert link.passed < total_of(big) * 1.1
    image = ImageStore(tmp_path / "s").resolve(f"{big}/big:1")
    assert image is not None
    assert is_whole(image)


def test_a_layer_that_is_already_here_is_not_fetched(tmp_path: Path, big: str) -> None:
    layout, shared = Layout(), layer(member("shared", noise(9, BIG)))
    layout.name("a", layout.image([shared]))
    layout.name("b", layout.image([shared, layer(member("own", b"x"))]))
    folder = layout.folder(tmp_path / "layout")
    for name in "ab":
        push(folder, name, f"{big}/{name}:1")
    pull(tmp_path / "s", f"{big}/a:1", QUICK, machine=AMD64)
    events: list[Event] = []
    pull(tmp_path / "s", f"{big}/b:1", QUICK, machine=AMD64, tell=events.append)
    assert events[-1].received < 10_000


def test_basic_authorisation_lets_in_who_has_the_password(tmp_path: Path) -> None:
    bcrypt = "$2y$05$Ee6uKe6JrrWT0/Hnh0GgNOd4U2Os7hNmXZ0mVCWyjpz.EyrTkYpeW"
    (tmp_path / "htpasswd").write_text(f"ann:{made_by_htpasswd('ann', 'pass word') or bcrypt}\n")
    auth = {"htpasswd": {"realm": "r", "path": str(tmp_path / "htpasswd")}}
    layout = Layout()
    layout.name("x", layout.image([layer(member("x", b"1"))]))
    with docker_registry(tmp_path / "r", auth) as address:
        push(layout.folder(tmp_path / "l"), "x", f"{address}/team/x:1", "--dest-creds", "ann:pass word")
        reference = f"{address}/team/x:1"
        with pytest.raises(PermanentError, match="may need a login, or not exist"):
            pull(tmp_path / "s", reference, QUICK, machine=AMD64)
        with pytest.raises(PermanentError, match="credentials were refused") as caught:
            pull(tmp_path / "s", reference, QUICK, logins(tmp_path, address, "ann", "wrong-secret"), AMD64)
        assert "wrong-secret" not in str(caught.value)
        assert pull(tmp_path / "s", reference, QUICK, logins(tmp_path, address, "ann", "pass word"), AMD64)


def made_by_htpasswd(user: str, password: str) -> str:
    import shutil

    if shutil.which("htpasswd") is None:
        pytest.skip("needs htpasswd (Debian package apache2-utils) for a bcrypt hash")
    out = subprocess.run(["htpasswd", "-nbB", user, password], capture_output=True, text=True, check=True).stdout
    return out.strip().partition(":")[2]


def logins(tmp_path: Path, address: str, user: str, password: str) -> Logins:
    file = tmp_path / "auth.json"
    file.write_text(json.dumps({"auths": {address: {"username": user, "password": password}}}))
    return Logins.read(file)


def test_bearer_tokens_are_fetched_and_fetched_anew_when_they_expire(tmp_path: Path) -> None:
    layout = Layout()
    layout.name("big", three_layers(layout))
    with (
        TokenServer(tmp_path / "tokens", "ann", "secret-1") as tokens,
        docker_registry(tmp_path / "r", tokens.registry_auth) as address,
        Link(address) as link,
    ):
        push(
            layout.folder(tmp_path / "l"),
            "big",
            f"{address}/team/big:1",
            "--dest-creds",
            "ann:secret-1",
            "--preserve-digests",
        )
        with pytest.raises(PermanentError, match="may need a login"):
            pull(tmp_path / "s", f"{link.address}/team/big:1", QUICK, machine=AMD64)
        tokens.life, link.cut_after = 0.001, 1_000_000  # every request finds its token too old
        before = len(tokens.seen)
        who = logins(tmp_path, link.address, "ann", "secret-1")
        assert is_whole(pull(tmp_path / "s", f"{link.address}/team/big:1", QUICK, who, AMD64))
        assert len(tokens.seen) - before > 5
        assert all("repository%3Ateam%2Fbig%3Apull" in path for _, path, _ in tokens.seen[before:])


def test_tls_is_verified_against_the_ca_that_the_configuration_names(tmp_path: Path) -> None:
    tls = registries.certificate_for_loopback(tmp_path / "tls")
    layout = Layout()
    layout.name("x", layout.image([layer(member("x", b"1"))]))
    with docker_registry(tmp_path / "r", tls=tls) as address:
        push(layout.folder(tmp_path / "l"), "x", f"{address}/x:1")
        assert pull(tmp_path / "a", f"{address}/x:1", QUICK, machine=AMD64)  # loopback is never verified, as in Docker
        name = f"{registries.DISGUISE}:{address.partition(':')[2]}"
        with pytest.raises(PermanentError, match="certificate"):
            pull(tmp_path / "b", f"{name}/x:1", QUICK, machine=AMD64)
        assert pull(tmp_path / "b", f"{name}/x:1", PullConfig(ca=tls["certificate"]), machine=AMD64)


def test_the_command_speaks_json_and_its_exit_code_says_whether_to_try_again(tmp_path: Path, big: str) -> None:
    root = tmp_path / "s"
    done = subprocess.run(command(root, f"{big}/multi:1", "--platform", "amd64"), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["event"] for line in lines if line["event"] != "progress"] == ["resolved", "unpacked", "done"]
    gone = subprocess.run(command(root, f"{big}/nothing:1"), capture_output=True, text=True)
    assert gone.returncode == 4
    assert "has no" in gone.stderr
    config = write_config(tmp_path, attempts=1)
    dead = subprocess.run(command(root, "127.0.0.1:1/x:1", "--config", config), capture_output=True, text=True)
    assert dead.returncode == 3
    assert dead.stderr.count("\n") == 1
    wrong = subprocess.run(
        command(root, "x", "--config", write_config(tmp_path, mirrors=[])), capture_output=True, text=True
    )
    assert wrong.returncode == 4
    assert "mirrors" in wrong.stderr


def test_a_full_disk_is_said_as_such_and_leaves_the_old_image_and_no_rubbish(tmp_path: Path, big: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5M", "edged-test", disk], check=True)
    try:
        root = disk / "s"
        assert pull(root, f"{big}/multi:1", QUICK, machine=AMD64)
        with pytest.raises(RetryError, match=r"no space left: needs 9\.0 MB .* free on "):
            pull(root, f"{big}/big:1", QUICK, machine=AMD64)
        # its 20 MB are zeros, and small until they are unpacked
        with pytest.raises(RetryError, match=r"no space left: needs more than the .* free on "):
            pull(root, f"{big}/zeros:1", QUICK, machine=AMD64)
        assert not list((root / "tmp").iterdir())
        assert ImageStore(root).resolve(f"{big}/multi:1") is not None
        subprocess.run(["mount", "-o", "remount,size=60M", disk], check=True)
        assert is_whole(pull(root, f"{big}/big:1", QUICK, machine=AMD64))
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


def test_memory_stays_bounded_however_large_the_layers_are(tmp_path: Path, big: str) -> None:
    child = subprocess.Popen(command(tmp_path / "s", f"{big}/big:1", "--platform", "amd64"), stdout=subprocess.DEVNULL)
    peak = 0
    while child.poll() is None:
        for line in read_or_nothing(Path(f"/proc/{child.pid}/smaps_rollup")).splitlines():
            if line.startswith("Pss:"):
                peak = max(peak, int(line.split()[1]))
        os.sched_yield()
    assert child.returncode == 0
    assert peak <= 64 << 10


def read_or_nothing(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
