"""Lists in pages show one moment, however much is written in between; beyond the history they say so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudlink.hub.api.server import create_app
from cloudlink.hub.store import Create, Delete, Store, Update
from tests.fakes.hub_client import TOKEN, Client
from tests.fakes.hub_objects import config

MAPS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path}/hub.db")
    opened.commit([Create(config(f"m{i}", {"v": "old"})) for i in range(6)])
    yield opened
    opened.close()


@pytest.fixture
def client(store: Store) -> Client:
    return Client(create_app(store, {TOKEN: "tester"}.get))


def page(client: Client, query: str) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    code, listed = client.request("GET", f"{MAPS}?{query}")
    assert code == 200
    return [(o["metadata"]["name"], o["data"]["v"]) for o in listed["items"]], listed["metadata"]


def meddle(store: Store) -> None:
    store.commit([Delete("ConfigMap", "default", "m3"), Update(config("m4", {"v": "new"}))])
    store.commit([Create(config("m2a", {"v": "new"})), Create(config("m9", {"v": "new"}))])


@pytest.mark.parametrize("selector", ["", "&labelSelector=!none"])
def test_later_pages_show_the_moment_of_the_first(client: Client, store: Store, selector: str) -> None:
    seen, meta = page(client, f"limit=2{selector}")
    revision = meta["resourceVersion"]
    assert meta.get("remainingItemCount") == (None if selector else 4)
    meddle(store)
    while token := meta.get("continue"):
        items, meta = page(client, f"limit=2&continue={token}{selector}")
        assert meta["resourceVersion"] == revision
        seen += items
    assert seen == [(f"m{i}", "old") for i in range(6)]


def test_an_exact_revision_is_served_while_it_is_known(client: Client, store: Store) -> None:
    revision = store.revision
    meddle(store)
    items, meta = page(client, f"resourceVersion={revision}&resourceVersionMatch=Exact")
    assert items == [(f"m{i}", "old") for i in range(6)]
    assert meta["resourceVersion"] == str(revision)
    items, _ = page(client, f"resourceVersion={revision}&resourceVersionMatch=NotOlderThan")
    assert ("m9", "new") in items


def test_a_page_beyond_the_history_is_gone_with_a_token_to_go_on(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/hub.db"
    first = Store.open(url)
    first.commit([Create(config(f"m{i}", {"v": "old"})) for i in range(4)])
    _, meta = page(Client(create_app(first, {TOKEN: "t"}.get)), "limit=2")
    first.commit([Update(config("m3", {"v": "new"}))])
    first.close()
    store = Store.open(url)  # its history begins anew
    client = Client(create_app(store, {TOKEN: "t"}.get))
    code, status = client.request("GET", f"{MAPS}?limit=2&continue={meta['continue']}")
    assert (code, status["reason"]) == (410, "Expired")
    items, rest = page(client, f"limit=2&continue={status['metadata']['continue']}")
    assert items == [("m2", "old"), ("m3", "new")]
    assert "continue" not in rest
    store.close()
