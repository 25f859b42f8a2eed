"""After a power cut: files are compared with what they should be, and only what is broken is fetched again."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edged.images import filelist, verify
from edged.images.boots import BootMark
from edged.images.importer import import_file
from edged.images.platforms import parse_platform
from edged.images.pull import Event, pull
from edged.images.registry import PullConfig
from edged.images.store import ImageStore, layer_name
from edged.images.writer import StoreWriter
from tests.fakes.oci_layout import digest, layer, link, member, one_image
from tests.fakes.registries import ScriptedRegistry

pytestmark = pytest.mark.root
AMD64 = parse_platform("linux/amd64")
ONCE = PullConfig(attempts=1, stall_seconds=60.0)


def part(n: int) -> bytes:
    return layer(
        member(f"d{n}"),
        member(f"d{n}/program", b"program " * 1000 + bytes([n])),
        member(f"d{n}/data", random.Random(n).randbytes(300_000)),
        link(f"d{n}/link", "program"),
        link(f"d{n}/twin", f"d{n}/program", hard=True),
        member(f"d{n}/empty", b""),
        member(f"d{n}/.wh.gone", b""),
    )


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    with ScriptedRegistry() as one:
        one.tag("1", one.layout.image([part(n) for n in range(3)]))
        yield one


def reboot(root: Path) -> ImageStore:
    """As if this boot were another one than that which wrote what is here."""
    index = json.loads((root / "index.json").read_text())
    index["unsettled"] = dict.fromkeys(index.get("unsettled", {}), "an earlier boot")
    (root / "index.json").write_text(json.dumps(index))
    return ImageStore(root)


def blobs_asked(registry: ScriptedRegistry) -> int:
    """Requests for layers: those for configs are asked by name too, but there is one a pull."""
    return registry.count("GET", "/blobs/")


def truncated(file: Path) -> None:
    os.truncate(file, 0)


def flipped(file: Path) -> None:
    """One bit, and times as they were: what a lost block looks like."""
    before, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    with file.open("r+b") as f:
        f.write(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def zeroed(file: Path) -> None:
    size = file.stat().st_size
    with file.open("r+b") as f:
        f.write(bytes(size))


DAMAGES: list[tuple[str, Callable[[Path], None], str]] = [
    ("d1/data", flipped, "has other content than it had"),
    ("d1/data", zeroed, "has other content than it had"),
    ("d1/program", truncated, "has 0 bytes instead of 8001"),
    ("d1/program", Path.unlink, "cannot be read: No such file"),
    ("d1/link", lambda f: (f.unlink(), f.symlink_to("elsewhere"))[0], "leads elsewhere"),
    ("d1/gone", Path.unlink, "cannot be read: No such file"),
    ("d1/empty", lambda f: f.write_bytes(b"x"), "has 1 bytes instead of 0"),
    ("d1/empty", lambda f: (f.unlink(), f.mkdir())[0], "is something else than it was"),
    ("d1", lambda f: shutil.rmtree(f), "cannot be read: No such file"),
]


@pytest.mark.parametrize(("name", "damage", "complaint"), DAMAGES)
def test_a_damaged_layer_is_found_before_use_and_it_alone_is_fetched_again(
    tmp_path: Path, registry: ScriptedRegistry, name: str, damage: Callable[[Path], None], complaint: str
) -> None:
    root, reference, told = tmp_path / "s", f"{registry.address}/a:1", list[Event]()
    image = pull(root, reference, ONCE, machine=AMD64)
    damage(Path(image.layers[1], name))
    store = reboot(root)
    assert store.resolve(reference) is None, "it must not be used before somebody has looked"
    before = blobs_asked(registry)
    again = pull(root, reference, ONCE, machine=AMD64, tell=told.append)
    assert blobs_asked(registry) - before == 2, "its config, and the layer"
    [broken] = [event for event in told if event.event == "broken"]
    assert complaint in broken.reason
    assert broken.digest == digest(part(1))
    assert again == store.resolve(reference)
    assert Path(again.layers[1], "d1/program").read_bytes() == b"program " * 1000 + bytes([1])
    assert [filelist.compare(Path(f), root / "lists" / Path(f).name) for f in again.layers] == [""] * 3


def test_what_is_whole_is_used_again_without_asking_anybody(tmp_path: Path, registry: ScriptedRegistry) -> None:
    root, reference = tmp_path / "s", f"{registry.address}/a:1"
    image = pull(root, reference, ONCE, machine=AMD64)
    store, before = reboot(root), len(registry.seen)
    assert store.doubtful(reference) == {digest(part(n)) for n in range(3)}
    assert pull(root, reference, ONCE, machine=AMD64) == image
    assert len(registry.seen) == before
    assert ImageStore(root).resolve(reference) == image, "settled: no later boot looks at it before use"


def test_in_the_boot_that_wrote_it_a_layer_is_as_good_as_any(tmp_path: Path, registry: ScriptedRegistry) -> None:
    pull(tmp_path / "s", f"{registry.address}/a:1", ONCE, machine=AMD64)
    store = ImageStore(tmp_path / "s")
    assert store.resolve(f"{registry.address}/a:1") is not None
    assert store.all_doubtful == frozenset()


def test_a_store_of_a_version_that_kept_no_lists_is_believed(tmp_path: Path, registry: ScriptedRegistry) -> None:
    root, reference = tmp_path / "s", f"{registry.address}/a:1"
    pull(root, reference, ONCE, machine=AMD64)
    index = json.loads((root / "index.json").read_text())
    del index["unsettled"]
    (root / "index.json").write_text(json.dumps(index))
    shutil.rmtree(root / "lists")
    assert ImageStore(root).resolve(reference) is not None
    assert verify.settle(root, index["layers"]) == frozenset()
    assert ImageStore(root).resolve(reference) is not None


@pytest.mark.parametrize("damage", [truncated, flipped, Path.unlink])
def test_a_layer_whose_list_is_damaged_is_not_believed(
    tmp_path: Path, registry: ScriptedRegistry, damage: Callable[[Path], None]
) -> None:
    root, reference = tmp_path / "s", f"{registry.address}/a:1"
    pull(root, reference, ONCE, machine=AMD64)
    damage(root / "lists" / layer_name(digest(part(0))))
    reboot(root)
    before = blobs_asked(registry)
    pull(root, reference, ONCE, machine=AMD64)
    assert blobs_asked(registry) - before == 2


def test_another_image_that_shares_a_doubtful_layer_has_it_compared_too(
    tmp_path: Path, registry: ScriptedRegistry
) -> None:
    root = tmp_path / "s"
    image = pull(root, f"{registry.address}/a:1", ONCE, machine=AMD64)
    truncated(Path(image.layers[0], "d0/data"))
    reboot(root)
    registry.tag("2", registry.layout.image([part(0), part(7)]))
    other = pull(root, f"{registry.address}/b:2", ONCE, machine=AMD64)
    assert Path(other.layers[0], "d0/data").stat().st_size == 300_000


def test_an_import_replaces_a_layer_that_nobody_has_compared_yet(tmp_path: Path) -> None:
    root = tmp_path / "s"
    archive = one_image("localhost/a:1", part(0), part(1)).archive(tmp_path / "a.tar")
    [image] = import_file(root, archive, machine=AMD64)
    truncated(Path(image.layers[1], "d1/data"))
    reboot(root)
    [again] = import_file(root, archive, machine=AMD64)
    assert again == image
    assert Path(again.layers[1], "d1/data").stat().st_size == 300_000


def test_old_layers_are_compared_as_well_and_dropped_if_a_card_has_lost_their_blocks(
    tmp_path: Path, registry: ScriptedRegistry
) -> None:
    root, reference = tmp_path / "s", f"{registry.address}/a:1"
    image = pull(root, reference, ONCE, machine=AMD64)
    reboot(root)
    pull(root, reference, ONCE, machine=AMD64)  # settled
    flipped(Path(image.layers[2], "d2/data"))
    store = ImageStore(root)
    assert store.resolve(reference) is not None
    assert verify.settle(root, verify.in_order(store, [reference])) == {digest(part(2))}
    assert store.resolve(reference) is None
    before = blobs_asked(registry)
    pull(root, reference, ONCE, machine=AMD64)
    assert blobs_asked(registry) - before == 2


def test_a_layer_that_was_brought_anew_while_it_was_compared_stays(tmp_path: Path, registry: ScriptedRegistry) -> None:
    root, reference = tmp_path / "s", f"{registry.address}/a:1"
    image = pull(root, reference, ONCE, machine=AMD64)
    truncated(Path(image.layers[0], "d0/data"))

    def bring_anew(finding: verify.Finding) -> None:
        if finding.event == "broken":
            with StoreWriter(root) as writer:
                writer.settle((), [finding.digest])
            pull(root, reference, ONCE, machine=AMD64)

    assert verify.settle(root, [digest(part(0))], bring_anew) == frozenset()
    assert ImageStore(root).resolve(reference) is not None


# ---------------------------------------------------------------- lists


@pytest.mark.parametrize(
    "members",
    [
        [member("a", b"1"), member("a", b"2")],
        [member("d"), member("d/x", b"1"), member("d", b"a file now")],
        [member("d/.wh.x", b""), member("d/x", b"back")],
        [member(".wh.d", b""), member("d/x", b"under what was hidden")],
        [member("d"), link("way", "d"), member("way/x", b"behind a link"), member("d/x", b"again")],
        [member("d"), member("d/.wh..wh..opq", b""), member(".wh.d", b"")],
        [member("odd\nname \xff", b"1"), member("x" * 200, b"2"), member(".", None, mode=0o700)],
    ],
    ids=["twice", "replaced", "unhidden", "hidden", "link", "opaque", "names"],
)
def test_a_list_says_what_is_there_in_the_end_however_often_a_layer_changes_its_mind(
    tmp_path: Path, members: list[tuple[object, bytes]]
) -> None:
    plain = layer(*members)  # type: ignore[arg-type]
    [image] = import_file(tmp_path / "s", one_image("localhost/a:1", plain).archive(tmp_path / "a.tar"), machine=AMD64)
    listing = tmp_path / "s" / "lists" / Path(image.layers[0]).name
    assert filelist.compare(Path(image.layers[0]), listing) == ""


def test_lists_go_with_their_layers(tmp_path: Path) -> None:
    root = tmp_path / "s"
    import_file(root, one_image("localhost/a:1", part(0), part(1)).archive(tmp_path / "a.tar"), machine=AMD64)
    import_file(root, one_image("localhost/a:1", part(1)).archive(tmp_path / "b.tar"), machine=AMD64)
    assert [f.name for f in (root / "lists").iterdir()] == [layer_name(digest(part(1)))]


# ---------------------------------------------------------------- boots


def test_files_are_compared_after_a_boot_that_did_not_end_cleanly_until_that_is_done(tmp_path: Path) -> None:
    assert BootMark(tmp_path, "first").begin(), "nobody knows how it ended before"
    assert BootMark(tmp_path, "first").begin(), "the daemon was started again before it was done"
    BootMark(tmp_path, "first").compared()
    assert not BootMark(tmp_path, "first").begin()
    BootMark(tmp_path, "first").end()
    assert not BootMark(tmp_path, "second").begin()
    assert BootMark(tmp_path, "third").begin(), "the power was cut in the second"
    BootMark(tmp_path, "third").end()
    assert BootMark(tmp_path, "fourth").begin(), "it ended cleanly, but too early to be done"


def test_a_mark_that_cannot_be_read_counts_as_an_unclean_end_and_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "boot.json").write_bytes(b"\0" * 40)
    assert BootMark(tmp_path, "first").begin()


def test_nothing_is_written_where_nothing_has_changed(tmp_path: Path) -> None:
    BootMark(tmp_path, "first").begin()
    before = (tmp_path / "boot.json").stat().st_ino
    for _ in range(3):
        BootMark(tmp_path, "first").begin()
    assert (tmp_path / "boot.json").stat().st_ino == before
