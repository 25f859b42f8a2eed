"""What the real registry never does: redirects with traps, wrong content, lies about types, outages, power cuts."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edged.errors import PermanentError, RetryError
from edged.images import oci, partial
from edged.images.auth import Logins
from edged.images.platforms import parse_platform
from edged.images.pull import Event, pull
from edged.images.registry import PullConfig, RegistryConfig
from edged.images.store import ImageStore
from edged.model import Image
from tests.fakes.oci_layout import digest, layer, member
from tests.fakes.registries import Request, ScriptedRegistry

pytestmark = pytest.mark.root
AMD64 = parse_platform("linux/amd64")
QUICK = PullConfig(stall_seconds=5.0, attempts=2, backoff_seconds=0.001)
CONTENT = random.Random(1).randbytes(700_000)


@pytest.fixture
def registry() -> Any:
    """A registry with a:1, one layer with CONTENT in `x`."""
    with ScriptedRegistry() as it:
        it.tag("1", it.layout.image([layer(member("x", CONTENT))]))
        yield it


def content(image: Image) -> bytes:
    return Path(image.layers[0], "x").read_bytes()


def pulled(tmp_path: Path, registry: ScriptedRegistry, config: PullConfig = QUICK, **more: Any) -> Image:
    return pull(tmp_path / "s", f"{registry.address}/a:1", config, machine=AMD64, **more)


def login(tmp_path: Path, address: str) -> Logins:
    file = tmp_path / "auth.json"
    file.write_text(json.dumps({"auths": {address: {"username": "ann", "password": "top-secret"}}}))
    return Logins.read(file)


def requires_login(request: Request) -> bool:
    if request.headers.get("Authorization"):
        return False
    request.answer(401, WWW_Authenticate='Basic realm="r"')
    return True


def test_a_redirect_to_another_host_is_followed_without_the_login(tmp_path: Path, registry: ScriptedRegistry) -> None:
    with ScriptedRegistry(registry.layout) as storage:

        def script(request: Request) -> bool:
            if requires_login(request):
                return True
            if "/blobs/" not in request.path:
                return False
            request.answer(307, Location=f"http://{storage.address}{request.path}?signature=x")
            return True

        registry.script = script
        storage.script = lambda r: r.path.endswith("?signature=x") and _serve_without_query(storage, r)
        assert content(pulled(tmp_path, registry, logins=login(tmp_path, registry.address))) == CONTENT
        assert len(storage.seen) == 2
        assert all("authorization" not in headers for _, _, headers in storage.seen)
        assert any("authorization" in headers for _, _, headers in registry.seen)


def _serve_without_query(storage: ScriptedRegistry, request: Request) -> bool:
    request.path = request.path.partition("?")[0]
    return False


def test_a_redirect_back_to_the_registry_does_not_get_the_login_again(
    tmp_path: Path, registry: ScriptedRegistry
) -> None:
    with ScriptedRegistry(registry.layout) as storage:

        def script(request: Request) -> bool:
            if request.path.startswith("/trap"):
                request.answer(200, b"trapped")
                return True
            if requires_login(request) or "/blobs/" not in request.path:
                return request.headers.get("Authorization") is None
            request.answer(307, Location=f"http://{storage.address}{request.path}")
            return True

        def back(request: Request) -> bool:
            request.answer(302, Location=f"http://{registry.address}/trap")
            return True

        registry.script, storage.script = script, back
        with pytest.raises((RetryError, PermanentError)):
            pulled(tmp_path, registry, logins=login(tmp_path, registry.address))
        trapped = [headers for _, path, headers in registry.seen if path == "/trap"]
        assert trapped
        assert all("authorization" not in headers for headers in trapped)


def test_redirects_without_end_are_not_followed_without_end(tmp_path: Path, registry: ScriptedRegistry) -> None:
    def script(request: Request) -> bool:
        request.answer(307, Location=request.path)
        return True

    registry.script = script
    with pytest.raises(PermanentError, match="redirects more than 5 times"):
        pulled(tmp_path, registry)


@pytest.mark.parametrize("location", ["ftp://h/x", "http://u:p@h/x", "http://h:99999/x", "http://ü/x", "file:///etc"])
def test_a_redirect_to_something_strange_is_refused(tmp_path: Path, registry: ScriptedRegistry, location: str) -> None:
    def script(request: Request) -> bool:
        request.answer(307, Location=location)
        return True

    registry.script = script
    with pytest.raises(PermanentError, match="the redirect that"):
        pulled(tmp_path, registry)


def test_content_that_is_not_what_its_digest_says_never_gets_in(tmp_path: Path, registry: ScriptedRegistry) -> None:
    layers = blobs_of(registry, "layers")
    raw = registry.layout.files[layers[0]]
    registry.layout.files[layers[0]] = raw[:-1] + bytes([raw[-1] ^ 1])
    with pytest.raises(PermanentError, match="doesn't have this digest"):
        pulled(tmp_path, registry)
    assert ImageStore(tmp_path / "s").resolve(f"{registry.address}/a:1") is None
    assert registry.count("GET", Path(layers[0]).name) == 2


def test_a_half_fetched_layer_that_was_spoiled_on_the_disk_is_fetched_anew(
    tmp_path: Path, registry: ScriptedRegistry
) -> None:
    [blob] = blobs_of(registry, "layers")
    leave_half(tmp_path, registry, blob)
    half = tmp_path / "s" / "partial" / Path(blob).name
    half.write_bytes(b"!" + half.read_bytes()[1:])
    assert content(pulled(tmp_path, registry)) == CONTENT


def test_a_half_fetched_layer_of_an_earlier_boot_counts_only_as_far_as_it_was_noted(
    tmp_path: Path, registry: ScriptedRegistry
) -> None:
    [blob] = blobs_of(registry, "layers")
    leave_half(tmp_path, registry, blob)
    half = tmp_path / "s" / "partial" / Path(blob).name
    half.with_suffix(".safe").write_text('{"boot": "another", "length": 1000}')
    half.write_bytes(half.read_bytes()[:1000] + bytes(99_000))  # as a file system leaves it after a power cut
    registry.seen.clear()
    events: list[Event] = []
    assert content(pulled(tmp_path, registry, tell=events.append)) == CONTENT
    assert [h.get("range") for _, path, h in registry.seen if Path(blob).name in path] == ["bytes=1000-"]
    assert "retry" not in [e.event for e in events]


@pytest.mark.parametrize("note", ["", "garbage", '{"boot": 1}', None])
def test_a_lost_or_broken_note_costs_the_half_fetched_layer_and_nothing_else(
    tmp_path: Path, registry: ScriptedRegistry, note: str | None
) -> None:
    [blob] = blobs_of(registry, "layers")
    leave_half(tmp_path, registry, blob)
    safe = tmp_path / "s" / "partial" / f"{Path(blob).name}.safe"
    if note is None:
        safe.unlink()
    else:
        safe.write_text(note)
    registry.seen.clear()
    assert content(pulled(tmp_path, registry)) == CONTENT
    assert [h.get("range") for _, path, h in registry.seen if Path(blob).name in path] == [None]


def leave_half(tmp_path: Path, registry: ScriptedRegistry, blob: str) -> None:
    """A pull that got 100,000 bytes of the layer."""

    def script(request: Request) -> bool:
        if Path(blob).name not in request.path:
            return False
        if request.headers.get("Range"):
            request.answer(503)
        else:
            data = registry.layout.files[blob]
            request.answer(200, data[:100_000], Content_Length=str(len(data)))
            request.close_connection = True
        return True

    registry.script = script
    with pytest.raises(RetryError, match="answered 503"):
        pulled(tmp_path, registry)
    registry.script = lambda _: False
    assert (tmp_path / "s" / "partial" / Path(blob).name).stat().st_size == 100_000


def blobs_of(registry: ScriptedRegistry, field: str) -> list[str]:
    manifest = json.loads(registry.tags["1"][0])
    return [f"blobs/sha256/{part['digest'][7:]}" for part in manifest[field]]


def test_a_mirror_is_asked_first_and_the_registry_where_the_mirror_fails(
    tmp_path: Path, registry: ScriptedRegistry
) -> None:
    with ScriptedRegistry() as mirror:
        config = PullConfig(
            registries={registry.address: RegistryConfig(mirrors=("127.0.0.1:1", f"http://{mirror.address}/pre/fix"))},
            attempts=2,
            backoff_seconds=0.001,
        )
        assert content(pulled(tmp_path, registry, config)) == CONTENT
        assert mirror.seen[0][1].startswith("/pre/fix/v2/a/manifests/")
        assert mirror.count("GET", "/blobs/") == 0, "who had the manifest is asked for the blobs"


def test_a_mirror_that_has_everything_keeps_the_registry_out_of_it(tmp_path: Path, registry: ScriptedRegistry) -> None:
    config = PullConfig(registries={"docker.io": RegistryConfig(mirrors=(registry.address,))}, attempts=1)
    image = pull(tmp_path / "s", "a:1", config, machine=AMD64)
    assert content(image) == CONTENT
    assert image.reference == "docker.io/library/a:1"


def test_an_outage_is_waited_out_with_the_pauses_the_registry_asks_for(
    tmp_path: Path, registry: ScriptedRegistry
) -> None:
    answers = iter([(503, "0"), (429, "2")])

    def script(request: Request) -> bool:
        status, pause = next(answers, (0, ""))
        if status:
            request.answer(status, Retry_After=pause)
        return bool(status)

    registry.script = script
    events: list[Event] = []
    config = PullConfig(attempts=3, backoff_seconds=0.001)
    assert content(pulled(tmp_path, registry, config, tell=events.append)) == CONTENT
    assert [e.after >= 2.0 for e in events if e.event == "retry"] == [False, True]


@pytest.mark.parametrize(
    ("document", "media_type", "sentence"),
    [
        ({"schemaVersion": 1}, "application/vnd.docker.distribution.manifest.v1+prettyjws", "older than 1.10"),
        ({"schemaVersion": 2, "manifests": [], "layers": []}, oci.INDEX, "an image and an index at the same time"),
        ({"schemaVersion": 2, "mediaType": oci.INDEX, "layers": []}, oci.MANIFEST, "its registry says"),
        ({"schemaVersion": 2, "mediaType": "text/html"}, "text/html", "not an image"),
        ({"schemaVersion": 2, "manifests": []}, oci.INDEX, "has no image for linux/amd64"),
        ([], oci.INDEX, "not a valid"),
        ({"schemaVersion": 2, "config": {"digest": "sha256:../../x", "size": 1}, "layers": []}, oci.MANIFEST, "digest"),
        ({"schemaVersion": 2, "config": {"digest": digest(b""), "size": 1 << 40}, "layers": []}, oci.MANIFEST, "bytes"),
    ],
)
def test_a_manifest_that_is_not_what_it_should_be_is_refused_with_a_sentence(
    tmp_path: Path, registry: ScriptedRegistry, document: Any, media_type: str, sentence: str
) -> None:
    registry.tags["1"] = (json.dumps(document).encode(), media_type)
    with pytest.raises(PermanentError, match=sentence):
        pulled(tmp_path, registry)


def test_a_certificate_that_nobody_vouches_for_is_refused_unless_the_registry_is_configured_insecure(
    tmp_path: Path, registry: ScriptedRegistry
) -> None:
    with ScriptedRegistry(registry.layout, tls=tmp_path / "tls") as secure:
        secure.tags = registry.tags
        name, ca = secure.disguised, str(tmp_path / "tls" / "cert.pem")
        with pytest.raises(PermanentError, match=r"certificate of .* is refused: self-signed"):
            pull(tmp_path / "s", f"{name}/a:1", QUICK, machine=AMD64)
        assert not secure.seen
        for n, settings in enumerate((RegistryConfig(insecure=True), RegistryConfig(ca=ca))):
            config = PullConfig(registries={name: settings}, attempts=1)
            assert content(pull(tmp_path / f"s{n}", f"{name}/a:1", config, machine=AMD64)) == CONTENT


def test_a_registry_without_tls_gets_no_request_in_the_clear_unless_it_is_configured_insecure(
    tmp_path: Path, registry: ScriptedRegistry
) -> None:
    name = registry.disguised
    with pytest.raises(RetryError, match="no connection to"):
        pull(tmp_path / "s", f"{name}/a:1", QUICK, machine=AMD64)
    assert not [path for _, path, _ in registry.seen if path.startswith("/v2/")]
    config = PullConfig(registries={name: RegistryConfig(insecure=True)}, attempts=1)
    assert content(pull(tmp_path / "s", f"{name}/a:1", config, machine=AMD64)) == CONTENT


def test_a_manifest_without_end_is_cut_off(tmp_path: Path, registry: ScriptedRegistry) -> None:
    registry.tags["1"] = (b" " * (oci.LARGEST_DOCUMENT + 1), oci.MANIFEST)
    with pytest.raises(PermanentError, match="the most that is read"):
        pulled(tmp_path, registry)


def test_indexes_within_indexes_end_somewhere(tmp_path: Path, registry: ScriptedRegistry) -> None:
    entry = registry.layout.image([layer(member("x", b""))])
    for _ in range(6):
        index = json.dumps({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": [entry]}).encode()
        registry.layout.put(index)
        entry = {"mediaType": oci.INDEX, "digest": digest(index), "size": len(index)}
        registry.tag("1", entry)
    with pytest.raises(PermanentError, match="more than 4 indexes"):
        pulled(tmp_path, registry)


def test_an_error_text_of_the_registry_is_quoted_but_made_harmless(tmp_path: Path, registry: ScriptedRegistry) -> None:
    def script(request: Request) -> bool:
        said = {"errors": [{"code": "DENIED", "message": "no\x1b[31m way\n" + "x" * 9999}]}
        request.answer(403, json.dumps(said).encode())
        return True

    registry.script = script
    with pytest.raises(PermanentError, match="DENIED: no") as caught:
        pulled(tmp_path, registry)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_a_layer_that_unpacks_to_something_else_is_refused_and_not_kept(
    tmp_path: Path, registry: ScriptedRegistry
) -> None:
    forged = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest(b"other")]}}
    ).encode()
    registry.tag("1", registry.layout.image([layer(member("x", CONTENT))], settings=forged))
    with pytest.raises(PermanentError, match="diff_id"):
        pulled(tmp_path, registry)
    assert [f.name for f in (tmp_path / "s" / "partial").iterdir()] == ["pulls"]
    assert not list((tmp_path / "s" / "tmp").iterdir())


def test_half_fetched_layers_of_other_images_are_bounded_oldest_first(tmp_path: Path) -> None:
    names = [f"{n:064x}" for n in range(4)]
    for age, name in enumerate(names):
        (tmp_path / name).write_bytes(bytes(1000))
        os.utime(tmp_path / name, (1000 + age, 1000 + age))
    (tmp_path / f"{'f' * 64}.safe").write_text("left behind")
    assert partial.sweep(tmp_path, frozenset({f"sha256:{names[0]}"}), 1500) == 2000
    assert sorted(f.name for f in tmp_path.iterdir()) == [names[0], names[3]]


def test_no_secret_is_in_what_a_failing_command_says(tmp_path: Path, registry: ScriptedRegistry) -> None:
    def script(request: Request) -> bool:
        request.answer(401, WWW_Authenticate='Basic realm="r"')
        return True

    registry.script = script
    login(tmp_path, registry.address)
    command = [sys.executable, "-m", "edged.images", "pull", "--root", str(tmp_path / "s")]
    command += ["--auth", str(tmp_path / "auth.json"), f"{registry.address}/a:1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 4
    assert "credentials were refused" in done.stderr
    assert "top-secret" not in done.stdout + done.stderr
    assert any("authorization" in headers for _, _, headers in registry.seen), "the login was tried"
