"""Collection of images by watermarks: what may go goes in order, what is needed never does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edged.decide.images_gc import Disk, Garbage, Kept, Marks, collect, is_above

MB = 1 << 20
MARKS = Marks(start=85, target=80, min_free=10 * MB)
FULL = Disk(1000 * MB, 100 * MB)  # 90 % used: 100 MB above the target


def kept(name: str, size: int = 60 * MB, **more: object) -> Kept:
    return Kept(name, f"id of {name}", ((f"layer of {name}", size),), **more)  # type: ignore[arg-type]


def test_nothing_goes_while_there_is_room() -> None:
    assert collect([kept("a")], 0, (), Disk(1000 * MB, 200 * MB), MARKS) == Garbage()


def test_what_was_used_longest_ago_goes_first_and_no_more_than_leads_below_the_target() -> None:
    images = [kept("new", last_used=30.0), kept("old", last_used=10.0), kept("middle", last_used=20.0)]
    found = collect(images, 0, (), FULL, MARKS)
    assert found.references == ("old", "middle")
    assert found.pressure == ""
    assert "90 % of the disk is used" in found.reason


def test_of_images_that_nobody_used_since_the_start_the_one_that_is_here_longest_goes_first() -> None:
    images = [kept("b", stored=2.0, size=200 * MB), kept("a", stored=1.0, size=200 * MB)]
    assert collect(images, 0, (), FULL, MARKS).references == ("a",)


def test_an_image_that_is_needed_under_any_of_its_names_or_by_its_id_stays() -> None:
    twins = [Kept("a:1", "same"), Kept("a:2", "same"), kept("running"), kept("wanted"), kept("free")]
    needed = {"a:1", "id of running", "wanted"}
    assert collect(twins, 0, needed, FULL, MARKS).references == ("free",)


def test_an_imported_image_stays_for_there_may_be_nowhere_to_get_it_again() -> None:
    found = collect([kept("pre-loaded", imported=True)], 0, (), FULL, MARKS)
    assert found.references == ()
    assert "no image that may go is left" in found.pressure


def test_nothing_goes_while_nobody_knows_what_is_needed() -> None:
    found = collect([kept("a")], 50 * MB, None, FULL, MARKS, urgent=True)
    assert (found.references, found.half_fetched) == ((), False)
    assert "nothing was ever accepted" in found.pressure


def test_half_fetched_layers_that_nobody_wants_go_before_any_image() -> None:
    found = collect([kept("a")], 150 * MB, (), FULL, MARKS)
    assert (found.references, found.half_fetched) == ((), True)


def test_an_image_whose_layers_all_stay_with_others_is_not_removed_for_nothing() -> None:
    shared = (("base", 300 * MB),)
    images = [Kept("alias", "x", shared), Kept("needed", "y", shared), kept("own", size=150 * MB, last_used=5.0)]
    assert collect(images, 0, {"needed"}, FULL, MARKS).references == ("own",)


def test_images_that_share_layers_go_together_where_only_that_frees_them() -> None:
    shared = (("base", 300 * MB),)
    found = collect([Kept("a", "x", shared), Kept("b", "y", shared)], 0, (), FULL, MARKS)
    assert found.references == ("a", "b")
    assert found.pressure == ""


def test_on_a_small_card_too_few_free_bytes_begin_it_whatever_the_percentage() -> None:
    card = Disk(100 * MB, 30 * MB)
    marks = Marks(start=85, target=80, min_free=40 * MB)
    assert is_above(card, marks)
    assert collect([kept("a", size=20 * MB), kept("b", size=20 * MB)], 0, (), card, marks).references == ("a",)


def test_on_a_disk_smaller_than_the_minimum_half_of_it_is_enough() -> None:
    assert not is_above(Disk(100 * MB, 60 * MB), Marks(min_free=256 * MB))


def test_a_needed_image_that_finds_no_room_gets_all_that_may_go() -> None:
    images = [kept("a", size=1), kept("b", size=1), kept("c", size=1)]
    empty_enough = Disk(1000 * MB, 900 * MB)
    assert collect(images, 0, {"b"}, empty_enough, MARKS, urgent=True).references == ("a", "c")


NAMES = st.sampled_from("abcdef")
LAYERS = st.lists(st.tuples(st.sampled_from("123456"), st.just(50 * MB)), max_size=4, unique=True).map(tuple)
KEPT = st.builds(
    Kept, NAMES, st.sampled_from("xyz"), LAYERS, st.floats(0, 9), st.floats(0, 9), st.booleans().map(lambda b: b)
)


@given(
    st.lists(KEPT, max_size=6, unique_by=lambda k: k.reference),
    st.none() | st.frozensets(st.sampled_from("abcdefxyz")),
    st.integers(0, 1000),
    st.integers(0, 100),
    st.booleans(),
)
def test_what_is_needed_or_imported_never_goes(
    images: list[Kept], needed: frozenset[str] | None, free: int, half: int, urgent: bool
) -> None:
    disk = Disk(1000 * MB, free * MB)
    found = collect(images, half * MB, needed, disk, MARKS, urgent)
    by_name = {i.reference: i for i in images}
    ids = {i.id for i in images if i.imported or i.reference in (needed or ()) or i.id in (needed or ())}
    for reference in found.references:
        assert needed is not None
        assert by_name[reference].id not in ids
    if not urgent and not is_above(disk, MARKS):
        assert found == Garbage()
    stay = {layer for i in images if i.reference not in found.references for layer, _ in i.layers}
    freed = sum(size for layer, size in {x for r in found.references for x in by_name[r].layers} if layer not in stay)
    if found.references:  # without its last one it would not have been enough
        assert freed > 0
