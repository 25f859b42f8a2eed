"""Warnings: quoted, once each, bounded; and fields that no model has, by ?fieldValidation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlink.hub.api import warnings
from cloudlink.hub.api.server import create_app
from cloudlink.hub.api.strictness import without
from cloudlink.hub.store import Store
from tests.fakes.hub_client import TOKEN, Client

MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
JSON = {"content-type": "application/json"}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    store = Store.open(f"sqlite:///{tmp_path}/hub.db")
    yield Client(create_app(store, {TOKEN: "tester"}.get))
    store.close()


def test_a_warning_is_quoted_and_told_once() -> None:
    told = warnings.headers(['say "no"', 'say "no"', "back\\slash", ""])
    assert told == (("warning", '299 - "say \\"no\\""'), ("warning", '299 - "back\\\\slash"'))


@given(st.lists(st.text(max_size=5000), max_size=50))
def test_warnings_of_any_text_fit_into_headers(texts: list[str]) -> None:
    told = warnings.headers(texts)
    assert sum(len(value) for _, value in told) <= 16 * warnings.MAX_TOTAL
    for _, value in told:
        assert "\n" not in value
        assert "\r" not in value
        assert value.encode("latin-1").decode()


def test_an_unknown_field_is_refused_or_dropped_as_the_request_says(client: Client) -> None:
    pod = (
        b'{"metadata":{"name":"%s"},"spec":{"containers":[{"name":"a","image":"x:1","imagee":"y"}],"colour":"red"},'
        b'"extra":1}'
    )
    assert client.raw("POST", PODS, pod % b"a", headers=JSON).status_code == 422
    assert client.raw("POST", f"{PODS}?fieldValidation=Strict", pod % b"a", headers=JSON).status_code == 422
    warned = client.raw("POST", f"{PODS}?fieldValidation=Warn", pod % b"b", headers=JSON)
    assert warned.status_code == 201
    assert sorted(warned.headers.get_list("warning")) == [
        '299 - "unknown field \\"extra\\""',
        '299 - "unknown field \\"spec.colour\\""',
        '299 - "unknown field \\"spec.containers[0].imagee\\""',
    ]
    quiet = client.raw("POST", f"{PODS}?fieldValidation=Ignore", pod % b"c", headers=JSON)
    assert (quiet.status_code, "warning" in quiet.headers) == (201, False)
    assert client.raw("POST", f"{PODS}?fieldValidation=Maybe", pod % b"d", headers=JSON).status_code == 422


def test_a_field_written_twice_is_refused_or_counts_the_last_time(client: Client) -> None:
    twice = b'{"metadata":{"name":"m"},"data":{"a":"1","a":"2"}}'
    assert client.raw("POST", MAPS, twice, headers=JSON).status_code == 400
    warned = client.raw("POST", f"{MAPS}?fieldValidation=Warn", twice, headers=JSON)
    assert (warned.status_code, warned.json()["data"]) == (201, {"a": "2"})
    assert warned.headers["warning"] == '299 - "duplicate field \\"a\\""'


def test_what_else_is_wrong_is_wrong_whatever_the_request_says(client: Client) -> None:
    bad = b'{"metadata":{"name":"m"},"spec":{"containers":[{"image":"x:1","imagee":"y"}]}}'
    refused = client.raw("POST", f"{PODS}?fieldValidation=Warn", bad, headers=JSON)
    assert refused.status_code == 422
    assert any(c["field"] == "spec.containers[0].name" for c in refused.json()["details"]["causes"])


def test_who_writes_what_nobody_acts_upon_is_warned(client: Client) -> None:
    policy = b'{"metadata":{"name":"n"},"spec":{"podSelector":{}}}'
    path = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
    told = client.raw("POST", path, policy, headers=JSON)
    assert told.status_code == 201
    assert "not enforced" in told.headers["warning"]


def test_who_asks_for_what_nobody_does_is_warned_and_it_is_kept(client: Client) -> None:
    spec = b'{"containers":[{"name":"a","image":"x:1"}],"readinessGates":[{"conditionType":"x"}]}'
    pod = b'{"metadata":{"name":"a"},"spec":%s}' % spec
    told = client.raw("POST", PODS, pod, headers=JSON)
    assert (told.status_code, told.json()["spec"]["readinessGates"]) == (201, [{"conditionType": "x"}])
    assert "spec.readinessGates: not acted upon yet" in told.headers["warning"]


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("a.b[1].c", {"a": {"b": [{"c": 1}, {}], "x.y": {"z": 1}}}),
        ("a.x.y.z", {"a": {"b": [{"c": 1}, {"c": 2}], "x.y": {}}}),
        ("a.b[7].c", None),
        ("a[b]", None),
        ("", None),
    ],
)
def test_a_path_takes_out_what_it_names_and_nothing_else(path: str, left: object) -> None:
    document = {"a": {"b": [{"c": 1}, {"c": 2}], "x.y": {"z": 1}}}
    assert without(document, path) == (document if left is None else left)
