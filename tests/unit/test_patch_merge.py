"""JSON merge patch and JSON patch: the RFCs' own examples, and what must hold for any documents."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlink.hub.api.merge import PatchError, json_patch, merge_patch

SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab/~", max_size=3)
DOCUMENTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab/~", max_size=2), inner, max_size=3)
)
NO_NULLS = st.recursive(
    st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3),
)


@pytest.mark.parametrize(
    ("document", "patch", "result"),
    [  # RFC 7386, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_does_what_rfc_7386_shows(document: Any, patch: Any, result: Any) -> None:
    assert merge_patch(document, patch) == result


def merge_diff(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    gone = {k: None for k in old if k not in new}
    return gone | {k: merge_diff(old.get(k), v) for k, v in new.items() if k not in old or old[k] != v}


@settings(deadline=None)
@given(st.dictionaries(st.text("abc", max_size=2), NO_NULLS), st.dictionaries(st.text("abc", max_size=2), NO_NULLS))
def test_a_merge_patch_made_of_a_difference_converges_and_leaves_its_inputs_alone(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    before, patch = copy.deepcopy(old), merge_diff(old, new)
    assert merge_patch(old, patch) == new
    assert merge_patch(new, patch) == new
    assert old == before


@pytest.mark.parametrize(
    ("document", "operations", "result"),
    [  # RFC 6902, appendix A
        ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"baz": "qux", "foo": "bar"}),
        ({"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "qux"}], {"foo": ["bar", "qux", "baz"]}),
        ({"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
        ({"foo": ["bar", "qux", "baz"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["bar", "baz"]}),
        ({"baz": "qux"}, [{"op": "replace", "path": "/baz", "value": "boo"}], {"baz": "boo"}),
        (
            {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
            [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}],
            {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}},
        ),
        (
            {"foo": ["all", "grass", "cows", "eat"]},
            [{"op": "move", "from": "/foo/1", "path": "/foo/3"}],
            {"foo": ["all", "cows", "eat", "grass"]},
        ),
        ({"baz": "qux"}, [{"op": "test", "path": "/baz", "value": "qux"}], {"baz": "qux"}),
        ({"foo": "bar"}, [{"op": "add", "path": "/child", "value": {"g": {}}}], {"foo": "bar", "child": {"g": {}}}),
        ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
        ({"foo": ["bar"]}, [{"op": "add", "path": "/foo/-", "value": ["abc"]}], {"foo": ["bar", ["abc"]]}),
        ({"a": 1}, [{"op": "copy", "from": "/a", "path": "/b"}], {"a": 1, "b": 1}),
    ],
)
def test_json_patch_does_what_rfc_6902_shows(document: Any, operations: Any, result: Any) -> None:
    before = copy.deepcopy(document)
    assert json_patch(document, operations) == result
    assert document == before


@pytest.mark.parametrize(
    ("operations", "why"),
    [
        ({"op": "add"}, "a list of operations"),
        (["add"], "operation 0: must be a mapping"),
        ([{"op": "spam", "path": "/a"}], "unknown op 'spam'"),
        ([{"op": "add", "path": "/a"}], "add needs value"),
        ([{"op": "add", "value": 1}], "add needs path"),
        ([{"op": "add", "path": "a", "value": 1}], "not a JSON pointer"),
        ([{"op": "remove", "path": "/none"}], "nothing at /none"),
        ([{"op": "replace", "path": "/none", "value": 1}], "nothing at /none"),
        ([{"op": "add", "path": "/none/deeper", "value": 1}], "nothing at /none"),
        ([{"op": "test", "path": "/a", "value": True}], "test failed"),
        ([{"op": "add", "path": "/l/7", "value": 1}], "no index 7"),
        ([{"op": "add", "path": "/l/01", "value": 1}], "no index 01"),
        ([{"op": "move", "from": "/m", "path": "/m/x"}], "into itself"),
        ([{"op": "test", "path": "/a", "value": 1}] * 10_001, "is 10000, got 10001"),
    ],
)
def test_a_json_patch_that_makes_no_sense_is_refused_with_the_reason(operations: Any, why: str) -> None:
    with pytest.raises(PatchError, match=why):
        json_patch({"a": 1, "l": [1, 2], "m": {"n": 1}}, operations)


def test_a_json_patch_cannot_grow_without_bound_by_copies() -> None:
    double = [{"op": "copy", "from": "/m", "path": f"/m/{n}"} for n in range(60)]
    with pytest.raises(PatchError, match="copies more than 3 MiB"):
        json_patch({"m": {"n": "x"}}, double)


def test_values_that_a_json_patch_copies_or_adds_are_not_shared() -> None:
    value = {"x": 1}
    operations = [
        {"op": "add", "path": "/a", "value": value},
        {"op": "copy", "from": "/a", "path": "/b"},
        {"op": "replace", "path": "/b/x", "value": 2},
    ]
    assert json_patch({}, operations) == {"a": {"x": 1}, "b": {"x": 2}}
    assert value == {"x": 1}


def test_ten_thousand_operations_on_a_large_document_are_no_trouble() -> None:
    document = {"data": {f"k{n}": "v" for n in range(50_000)}, "list": list(range(50_000))}
    operations = [{"op": "add", "path": path, "value": "x"} for path in ("/data/new", "/list/0") * 5000]
    assert len(json_patch(document, operations)["list"]) == 55_000


@settings(deadline=None)
@given(DOCUMENTS, DOCUMENTS)
def test_garbage_never_crashes_a_json_patch(document: Any, garbage: Any) -> None:
    for operations in (
        garbage,
        [garbage],
        [{"op": garbage, "path": ""}],
        [{"op": "add", "path": garbage, "value": garbage}],
    ):
        with contextlib.suppress(PatchError):
            json_patch(document, operations)
