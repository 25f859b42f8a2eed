"""Lists in pages: the same objects in the same order, whatever the size of a page."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloudlink.hub.shelves import Objects, key_of
from tests.fakes.hub_objects import config

names = st.text("abc", min_size=1, max_size=3)
places = st.sets(st.tuples(names, names), max_size=30)


def shelf(taken: set[tuple[str, str]]) -> Objects:
    objects = Objects()
    for namespace, name in taken:
        objects.put(config(name, {}, namespace=namespace))
    return objects


def titles(objects: Objects, namespace: str | None = None) -> list[tuple[str, str]]:
    return [(o.metadata.namespace, o.metadata.name) for o in objects.list("ConfigMap", namespace)]


@given(places, st.sampled_from([None, "a", "ab"]), st.integers(1, 7))
def test_pages_put_together_are_the_list_and_say_how_much_is_left(
    taken: set[tuple[str, str]], namespace: str | None, limit: int
) -> None:
    objects = shelf(taken)
    whole = titles(objects, namespace)
    assert whole == sorted(p for p in taken if namespace in (None, p[0]))
    after, seen = None, []
    while page := objects.page("ConfigMap", namespace, after, limit):
        seen += [(o.metadata.namespace, o.metadata.name) for o in page]
        after = seen[-1]
        assert objects.count_after("ConfigMap", namespace, after) == len(whole) - len(seen)
    assert seen == whole


@given(places, st.tuples(names, names))
def test_a_page_goes_on_from_a_place_whose_object_is_gone(taken: set[tuple[str, str]], after: tuple[str, str]) -> None:
    objects = shelf(taken)
    found = [(o.metadata.namespace, o.metadata.name) for o in objects.page("ConfigMap", None, after, 100)]
    assert found == [p for p in titles(objects) if p > after]
    assert objects.count_after("ConfigMap", None, after) == len(found)


def test_what_was_taken_away_leaves_no_empty_namespace_behind() -> None:
    objects = shelf({("a", "x"), ("b", "y")})
    objects.remove(key_of(config("x", {}, namespace="a")))
    assert titles(objects) == [("b", "y")]
    assert (objects.count("ConfigMap"), objects.count("ConfigMap", "a")) == (1, 0)
    assert list(objects.within("a")) == []
