"""Who owns which fields after updates and applies. Cases are named as in structured-merge-diff's merge tests; what must
hold for any documents is at the end."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlink.hub.api.apply import overlaid
from cloudlink.hub.api.fields import FieldsError, told
from cloudlink.hub.api.managed import (
    LAST_APPLIED,
    MAX_UPDATERS,
    FieldConflictsError,
    Held,
    Owner,
    Owners,
    Writer,
    after_apply,
    after_update,
    before_apply,
    entries_of,
    last_applied,
    merge_applied,
    owned_part,
    owners_of,
    starting_point,
)
from cloudlink.hub.api.shapes import ANY, Shape, shape_of_schema
from cloudlink.kube.meta import FieldsV1, ManagedFieldsEntry

Document = Mapping[str, Any]

LIST = {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
TAGS = {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}
ITEM = {"type": "object", "properties": {"name": {}, "value": {}, "tags": TAGS}}
SCHEMA = {
    "type": "object",
    "properties": {
        "list": {**LIST, "items": ITEM},
        "set": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "atomic": {"type": "array"},
        "map": {"type": "object", "additionalProperties": {"type": "object", "additionalProperties": {}}},
        "struct": {"type": "object", "properties": {"a": {}, "b": {}}},
        "number": {"type": "integer"},
        "text": {"type": "string"},
    },
}
SHAPE = shape_of_schema(SCHEMA)


@dataclass
class State:
    """An object and its owners, as writes go over it."""

    document: Any = None
    owners: Owners = field(default_factory=dict)
    shape: Shape = SHAPE
    clock: int = 0

    def _writer(self, manager: str) -> Writer:
        self.clock += 1
        return Writer(manager, "v1", f"2026-01-01T00:00:{self.clock:02}Z")

    def update(self, manager: str, document: Document) -> None:
        writer = self._writer(manager)
        self.owners = after_update(self.document, document, self.owners, writer, self.shape)
        self.document = document

    def apply(self, manager: str, applied: Document, force: bool = False) -> None:
        writer, before = self._writer(manager), copy.deepcopy((self.document, applied))
        live = self.document or {}
        owners = before_apply(self.document, self.owners, writer, self.shape)
        merged = absent_nulls(merge_applied(live, applied, owners, writer, self.shape))
        self.owners = after_apply(live, merged, applied, owners, writer, self.shape, force)
        assert before == (self.document, applied)
        self.document = merged

    def held(self, manager: str) -> list[str]:
        return sorted(told(p) for o, h in self.owners.items() if o.manager == manager for p in h.fields)


def absent_nulls(value: Any) -> Any:
    """What parsing does."""
    if isinstance(value, Mapping):
        return {k: absent_nulls(v) for k, v in value.items() if v is not None}
    return [absent_nulls(v) for v in value] if isinstance(value, list) else value


def conflicts(state: State, manager: str, applied: Document) -> list[str]:
    with pytest.raises(FieldConflictsError) as e:
        state.apply(manager, applied)
    return [f"{owner}: {told(path)}" for owner, path in e.value.conflicts]


def items(*names: str, **values: Any) -> list[dict[str, Any]]:
    return [{"name": n} | ({"value": values[n]} if n in values else {}) for n in names]


# ---------------------------------------------------------------- one applier


def test_apply_twice_changes_nothing_the_second_time() -> None:
    state = State()
    state.apply("a", {"set": ["a", "c"], "number": 1})
    document, owners = state.document, state.owners
    state.apply("a", {"set": ["a", "c"], "number": 1})
    assert (state.document, state.owners) == (document, owners)  # times too


def test_apply_update_apply_no_overlap_keeps_both() -> None:
    state = State()
    state.apply("default", {"set": ["a", "c"]})
    state.update("controller", {"set": ["a", "b", "c", "d"]})
    state.apply("default", {"set": ["a", "aprime", "c", "cprime"]})
    assert state.document == {"set": ["a", "b", "aprime", "c", "d", "cprime"]}
    assert state.held("default") == ['.set[="a"]', '.set[="aprime"]', '.set[="c"]', '.set[="cprime"]']
    assert state.held("controller") == ['.set[="b"]', '.set[="d"]']


def test_apply_twice_reorder_takes_the_applied_order() -> None:
    state = State()
    state.apply("a", {"set": ["a", "b", "c", "d"]})
    state.apply("a", {"set": ["a", "d", "c", "b"]})
    assert state.document == {"set": ["a", "d", "c", "b"]}


def test_apply_update_apply_reorder_keeps_the_place_of_what_is_not_applied() -> None:
    state = State()
    state.apply("default", {"list": items("a", "b", "c", "d")})
    state.update("controller", {"list": items("a", "d", "c", "b")})
    state.apply("default", {"list": items("a", "b", "c", "d")})
    assert [i["name"] for i in state.document["list"]] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("live", "applied", "merged"),
    [
        ("abc", "ca", "bca"),
        ("abc", "axc", "abxc"),
        ("", "ba", "ba"),
        ("ab", "", "ab"),
        ("abc", "xyz", "abcxyz"),
        ("abcd", "db", "acdb"),
        ("ab", "xa", "xab"),
    ],
)
def test_a_merged_list_has_the_applied_order_and_the_rest_where_it_was(live: str, applied: str, merged: str) -> None:
    found = overlaid({"set": list(live)}, {"set": list(applied)}, SHAPE)
    assert "".join(found["set"]) == merged


def test_apply_twice_remove_takes_out_what_is_left_out() -> None:
    state = State()
    state.apply("a", {"set": ["a", "b", "c", "d"], "text": "t", "map": {"k": {"x": 1}}})
    state.apply("a", {"set": ["a", "c"]})
    assert state.document == {"set": ["a", "c"]}
    assert state.held("a") == ['.set[="a"]', '.set[="c"]']


def test_apply_nothing_leaves_nothing_and_no_entry() -> None:
    state = State()
    state.apply("a", {"number": 1, "list": items("x", x=1)})
    state.apply("a", {})
    assert (state.document, dict(state.owners)) == ({}, {})


# ---------------------------------------------------------------- several


def test_remove_one_keep_one_item_that_another_applies_too() -> None:
    state = State()
    state.apply("one", {"list": items("a", "b", "c")})
    state.apply("two", {"list": items("c", "d")})
    state.apply("one", {"list": items("a")})
    assert state.document == {"list": items("a", "c", "d")}
    assert (state.held("one"), state.held("two")) == (
        ['.list[name="a"]', '.list[name="a"].name'],
        ['.list[name="c"]', '.list[name="c"].name', '.list[name="d"]', '.list[name="d"].name'],
    )


def test_same_value_no_conflict_and_both_own_it() -> None:
    state = State()
    state.apply("one", {"list": items("a", a=0)})
    state.apply("two", {"list": items("a", a=0)})
    assert state.held("one") == state.held("two")


def test_change_value_yes_conflict_unless_forced() -> None:
    state = State()
    state.apply("one", {"list": items("a", a=0)})
    assert conflicts(state, "two", {"list": items("a", a=1)}) == ['"one": .list[name="a"].value']
    state.apply("two", {"list": items("a", a=1)}, force=True)
    assert '.list[name="a"].value' not in state.held("one")
    assert '.list[name="a"].value' in state.held("two")


def test_unset_scalar_shared_with_applier_stays_and_is_the_others() -> None:
    state = State()
    state.apply("one", {"number": 1, "text": "t"})
    state.apply("two", {"number": 1})
    state.apply("one", {"text": "t"})
    assert state.document == {"number": 1, "text": "t"}
    assert (state.held("one"), state.held("two")) == ([".text"], [".number"])


def test_unset_scalar_shared_with_updater_stays() -> None:
    state = State()
    state.update("updater", {"number": 1})
    state.apply("one", {"number": 1, "text": "t"})
    state.apply("one", {"text": "t"})
    assert state.document == {"number": 1, "text": "t"}


def test_updater_claims_field_and_the_applier_meets_a_conflict() -> None:
    state = State()
    state.apply("one", {"number": 1, "list": items("a", a=1)})
    state.update("editor", {"number": 2, "list": items("a", a=1)})
    assert (state.held("one"), state.held("editor")) == (
        ['.list[name="a"]', '.list[name="a"].name', '.list[name="a"].value'],
        [".number"],
    )
    assert conflicts(state, "one", {"number": 1}) == ['"editor" using v1: .number']
    state.apply("one", {"number": 1}, force=True)
    assert (state.document, state.held("editor")) == ({"number": 1}, [])


def test_remove_one_with_dangling_subitem_keeps_what_another_put_into_the_item() -> None:
    state = State()
    state.apply("one", {"list": items("a", "b", b=1)})
    state.update("controller", {"list": [{"name": "a"}, {"name": "b", "value": 1, "tags": ["t"]}]})
    state.apply("one", {"list": items("a")})
    assert state.document == {"list": items("a")}


def test_remove_one_keep_one_with_dangling_subitem_of_an_item_that_two_apply() -> None:
    def b(*tags: str) -> dict[str, Any]:
        return {"name": "b", "tags": list(tags)}

    state = State()
    state.apply("one", {"list": [{"name": "a"}, b("c")]})
    state.apply("two", {"list": [b("d")]})
    state.update("controller", {"list": [{"name": "a"}, b("c", "d", "e")]})
    state.apply("one", {"list": items("a")})
    assert state.document == {"list": [{"name": "a"}, b("d", "e")]}
    assert state.held("controller") == ['.list[name="b"].tags[="e"]']


def test_multiple_appliers_recursive_map_each_lose_only_their_own() -> None:
    state = State()
    state.apply("one", {"map": {"a": {"x": 1}, "c": {"d": 1}}})
    state.apply("two", {"map": {"a": {"y": 2}, "b": {"z": 3}}})
    state.update("controller", {"map": {**state.document["map"], "d": {"w": 4}}})
    state.apply("one", {"map": {}})
    assert state.document == {"map": {"a": {"y": 2}, "b": {"z": 3}, "d": {"w": 4}}}
    state.apply("two", {"map": {"b": {"z": 3}}})
    assert state.document == {"map": {"b": {"z": 3}, "d": {"w": 4}}}


def test_a_whole_list_changes_hands_as_a_whole() -> None:
    state = State()
    state.apply("one", {"atomic": [1, 2]})
    assert conflicts(state, "two", {"atomic": [1]}) == ['"one": .atomic']
    state.apply("two", {"atomic": [1]}, force=True)
    assert (state.document, state.held("one")) == ({"atomic": [1]}, [])


def test_without_a_schema_the_same_rules_hold_with_whole_lists() -> None:
    state = State(shape=ANY)
    state.apply("one", {"spec": {"list": items("a"), "m": {"x": 1}}})
    state.apply("two", {"spec": {"m": {"y": 1}}})
    assert conflicts(state, "two", {"spec": {"list": items("b"), "m": {"y": 1}}}) == ['"one": .spec.list']
    state.apply("one", {"spec": {"m": {"x": 1}}})
    assert state.document == {"spec": {"m": {"x": 1, "y": 1}}}


def test_what_is_applied_twice_under_one_key_is_refused_before_anything_happens() -> None:
    state = State()
    with pytest.raises(FieldsError, match="duplicate entries for key"):
        state.apply("one", {"list": items("a", "a")})
    assert (state.document, state.owners) == (None, {})


# ---------------------------------------------------------------- updates


def test_an_update_that_changes_nothing_leaves_the_times_alone() -> None:
    state = State()
    state.update("one", {"number": 1})
    owners = state.owners
    state.update("one", {"number": 1})
    state.update("two", {"number": 1})
    assert state.owners == owners


def test_an_object_that_nobody_tracks_is_not_tracked_until_somebody_applies() -> None:
    state = State(document={"number": 1, "text": "t"})
    state.update("editor", {"number": 2, "text": "t"})
    assert state.owners == {}
    assert conflicts(state, "one", {"number": 3}) == ['"before-first-apply" using v1: .number']
    state.apply("one", {"number": 3}, force=True)
    assert (state.held("before-first-apply"), state.held("one")) == ([".text"], [".number"])


def test_at_most_ten_entries_of_updates_are_kept_and_the_oldest_become_one() -> None:
    state = State()
    state.apply("one", {"text": "t"})
    for number in range(MAX_UPDATERS + 5):
        state.update(f"u{number}", {**state.document, "map": {**state.document.get("map", {}), f"k{number}": {"v": 1}}})
    updaters = [o.manager for o in state.owners if o.operation == "Update"]
    assert len(updaters) == MAX_UPDATERS
    assert {"ancient-changes", f"u{MAX_UPDATERS + 4}"} <= set(updaters)
    assert {".map.k0", ".map.k1"} <= set(state.held("ancient-changes"))
    assert state.held("one") == [".text"]


@pytest.mark.parametrize("given", [[], [{}]])
def test_an_update_that_empties_managed_fields_forgets_all_owners(given: Any) -> None:
    live = entries_of({Owner("x", "Update", "", "v1"): held_by({("f:a",)})})
    assert starting_point(given, live, live) == {}
    assert starting_point(None, (), live) == owners_of(live)


def test_managed_fields_that_make_no_sense_are_passed_over() -> None:
    live = entries_of({Owner("x", "Update", "", "v1"): held_by({("f:a",)})})
    senseless = (
        ManagedFieldsEntry(manager="y", operation="Update", api_version="v1"),
        ManagedFieldsEntry(manager="y", operation="Guess", api_version="v1", fields_type="FieldsV1"),
        ManagedFieldsEntry(
            manager="y", operation="Apply", api_version="v1", fields_type="FieldsV1", fields_v1=FieldsV1({"a": {}})
        ),
    )
    for entry in senseless:
        assert starting_point([{"manager": "y"}], (entry,), live) == owners_of(live)


def held_by(fields: set[tuple[str, ...]]) -> Held:
    return Held(frozenset(fields), "v1", "2026-01-01T00:00:00Z")


def test_entries_come_applies_first_and_then_by_time() -> None:
    state = State()
    state.update("z", {"number": 1})
    state.apply("b", {"text": "t"})
    state.update("y", {"number": 2, "text": "t", "atomic": [1]})
    state.apply("a", {"text": "t"})
    entries = entries_of(state.owners)
    assert [(e.manager, e.operation) for e in entries] == [("b", "Apply"), ("a", "Apply"), ("y", "Update")]
    assert owners_of(entries) == state.owners


def test_what_belongs_to_the_server_is_owned_by_nobody() -> None:
    metadata = {"name": "n", "uid": "u", "resourceVersion": "1", "generation": 2, "labels": {"a": "b"}}
    document = {"apiVersion": "v1", "kind": "K", "metadata": metadata, "spec": {"replicas": 1}, "status": {"x": 1}}
    assert owned_part(document, "", True) == {"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 1}}
    assert owned_part(document, "", False)["status"] == {"x": 1}
    assert owned_part(document, "status", True) == {"status": {"x": 1}}
    assert owned_part(document, "scale", True) == {"spec": {"replicas": 1}}
    assert owned_part({"metadata": {"name": "n"}}, "", True) == {}


# ---------------------------------------------------------------- kubectl's own change of ways

CLIENT_SIDE = {"apiVersion": "v1", "metadata": {"name": "n"}, "number": 1, "text": "t"}


def by_client_side_apply() -> State:
    state = State()
    annotations = {LAST_APPLIED: json.dumps(CLIENT_SIDE)}
    state.update("kubectl-client-side-apply", {"metadata": {"annotations": annotations}, "number": 1, "text": "t"})
    return state


def test_kubectl_takes_over_from_its_client_side_apply_what_is_still_as_it_was() -> None:
    state = by_client_side_apply()
    assert conflicts(by_client_side_apply(), "ci", {"number": 2}) == ['"kubectl-client-side-apply" using v1: .number']
    state.apply("kubectl", {"number": 2, "text": "t"})
    assert state.document["number"] == 2


def test_kubectl_does_not_take_over_what_others_have_changed_since() -> None:
    state = by_client_side_apply()
    state.update("editor", {**state.document, "number": 7})
    assert conflicts(state, "kubectl", {"number": 2, "text": "u"}) == ['"editor" using v1: .number']


def test_the_annotation_of_client_side_apply_is_kept_up_by_kubectl_alone() -> None:
    live = by_client_side_apply().document
    applied = {"apiVersion": "v1", "metadata": {"name": "n", "annotations": {LAST_APPLIED: "old"}}, "number": 2}
    kubectl = Writer("kubectl", "v1", "")
    assert last_applied(live, applied, kubectl) == '{"apiVersion":"v1","metadata":{"name":"n"},"number":2}\n'
    assert last_applied(live, applied, replace(kubectl, manager="ci")) is None
    assert last_applied({}, applied, kubectl) is None


# ---------------------------------------------------------------- whatever is applied

NAMES = st.lists(st.sampled_from("abc"), unique=True, max_size=3)
ITEMS = NAMES.flatmap(
    lambda names: st.tuples(
        *(st.fixed_dictionaries({"name": st.just(n)}, optional={"value": st.integers(0, 1)}) for n in names)
    ).map(list)
)
CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "list": ITEMS,
        "set": NAMES,
        "atomic": st.lists(st.integers(0, 1), max_size=2),
        "map": st.dictionaries(st.sampled_from("kl"), st.dictionaries(st.sampled_from("xy"), st.integers(0, 1))),
        "struct": st.fixed_dictionaries({}, optional={"a": st.integers(0, 1), "b": st.integers(0, 1)}),
        "number": st.integers(0, 1),
    },
)


@settings(deadline=None)
@given(CONFIGS, CONFIGS)
def test_applying_the_same_twice_is_no_change_whatever_was_there(live: Document, config: Document) -> None:
    state, config = State(), {"text": "t", **config}  # who applies nothing owns nothing
    state.update("other", live)
    state.apply("me", config, force=True)
    document, owners = state.document, state.owners
    state.apply("me", config)
    assert (state.document, state.owners) == (document, owners)


@settings(deadline=None)
@given(CONFIGS, CONFIGS)
def test_what_is_applied_is_there(live: Document, config: Document) -> None:
    state = State()
    state.update("other", live)
    state.apply("me", config, force=True)
    assert overlaid(state.document, config, SHAPE) == state.document
    by_name = {i["name"]: i for i in state.document.get("list", [])}
    assert all(by_name[i["name"]].items() >= i.items() for i in config.get("list", []))


@settings(deadline=None)
@given(CONFIGS, CONFIGS)
def test_managers_of_different_fields_never_meet(one: Document, two: Document) -> None:
    mine = {"list": [{**i, "name": f"my-{i['name']}"} for i in one.get("list", [])], "struct": {"a": 1}}
    yours = {"list": [{**i, "name": f"your-{i['name']}"} for i in two.get("list", [])], "map": two.get("map", {})}
    state = State()
    for manager, config in (("me", mine), ("you", yours)) * 2:
        state.apply(manager, config)  # raises where they meet
    assert not set(state.held("me")) & set(state.held("you"))


@settings(deadline=None)
@given(CONFIGS, CONFIGS)
def test_who_takes_back_all_that_he_applied_leaves_the_others_what_is_theirs(mine: Document, yours: Document) -> None:
    alone, both = State(), State()
    mine, yours = emptied(mine), emptied(yours)
    alone.apply("you", yours)
    both.apply("you", yours)
    both.apply("me", mine, force=True)
    held = both.held("you")
    both.apply("me", {})
    assert both.held("me") == []
    assert set(both.held("you")) <= set(held)
    if held == alone.held("you"):  # nothing was taken from him
        assert both.held("you") == held
        assert unordered(both.document) == unordered(alone.document)


def emptied(value: Any) -> Any:
    """Without what is empty, as documents are once they have been parsed."""
    if isinstance(value, Mapping):
        kept = {k: emptied(v) for k, v in value.items()}
        return {k: v for k, v in kept.items() if v not in ({}, [])}
    return value


def unordered(document: Document) -> Document:
    lists = {k: sorted(v, key=str) for k, v in document.items() if k in ("list", "set")}
    return emptied({**document, **lists})


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), CONFIGS), max_size=5))
def test_entries_survive_being_stored_whatever_has_happened(steps: list[tuple[str, bool, Document]]) -> None:
    state = State()
    for manager, applies, config in steps:
        if applies:
            state.apply(manager, config, force=True)
        else:
            state.update(manager, config)
    assert owners_of(entries_of(state.owners)) == state.owners
    assert all(held.fields for held in state.owners.values())
