"""WATCH over ASGI: what each client hears, in order, and that nothing is left when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from cloudlink.hub.api.server import create_app
from cloudlink.hub.store import Create, Delete, Store, Update
from cloudlink.kube.meta import KubeObject
from tests.fakes.hub_client import TOKEN, OpenWatch
from tests.fakes.hub_objects import config, pod

MAPS = "/api/v1/namespaces/default/configmaps"

Scenario = Callable[[Store, FastAPI, asyncio.TaskGroup], Awaitable[None]]


def play(folder: Path, scenario: Scenario) -> None:
    async def main() -> None:
        store = Store.open(f"sqlite:///{folder}/hub.db")
        try:
            async with asyncio.TaskGroup() as group:
                await scenario(store, create_app(store, {TOKEN: "t"}.get), group)
        finally:
            # every watch has let go: RBAC's alone is left, which follows the roles as long as the store is open
            assert len(store._memory.readers) <= 1
            store.close()

    asyncio.run(main())


def open_watch(group: asyncio.TaskGroup, app: FastAPI, query: str, path: str = MAPS, accept: str = "") -> OpenWatch:
    watch = OpenWatch(app, path, query, accept or "application/json")
    group.create_task(watch.run(), name=f"watch {path}?{query}")
    return watch


async def heard(watch: OpenWatch) -> tuple[str, str]:
    line = await watch.line()
    assert line is not None
    return line["type"], line["object"]["metadata"]["name"]


def labelled(obj: KubeObject, **labels: str) -> KubeObject:
    return obj.model_copy(update={"metadata": obj.metadata.model_copy(update={"labels": labels})})


def test_a_watch_from_nothing_begins_with_what_is_there(tmp_path: Path) -> None:
    async def scenario(store: Store, app: FastAPI, group: asyncio.TaskGroup) -> None:
        store.commit([Create(config("a", {}))])
        watch = open_watch(group, app, "watch=true")
        assert await heard(watch) == ("ADDED", "a")
        store.commit([Create(config("b", {})), Create(config("c", {}, namespace="kube-system")), Create(pod("p"))])
        store.commit([Update(config("b", {"k": "v"})), Delete("ConfigMap", "default", "a")])
        assert [await heard(watch) for _ in range(3)] == [("ADDED", "b"), ("MODIFIED", "b"), ("DELETED", "a")]
        watch.disconnect()
        assert await watch.line() is None

    play(tmp_path, scenario)


def test_a_watch_from_a_revision_begins_after_it(tmp_path: Path) -> None:
    async def scenario(store: Store, app: FastAPI, group: asyncio.TaskGroup) -> None:
        store.commit([Create(config("a", {}))])
        revision = store.revision
        store.commit([Create(config("b", {}))])
        watch = open_watch(group, app, f"watch=1&resourceVersion={revision}")
        assert await heard(watch) == ("ADDED", "b")
        watch.disconnect()

    play(tmp_path, scenario)


def test_objects_come_into_view_and_leave_it_as_their_labels_change(tmp_path: Path) -> None:
    async def scenario(store: Store, app: FastAPI, group: asyncio.TaskGroup) -> None:
        store.commit([Create(config("a", {}))])
        watch = open_watch(group, app, f"watch=1&labelSelector=on&resourceVersion={store.revision}")
        await asyncio.sleep(0)
        a = config("a", {})
        store.commit([Update(labelled(a, on="1"))])
        store.commit([Update(labelled(a, on="2"))])
        store.commit([Update(labelled(a, off="1"))])
        store.commit([Update(labelled(a, off="2")), Delete("ConfigMap", "default", "a")])
        assert [await heard(watch) for _ in range(3)] == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
        store.commit([Create(labelled(config("b", {}), on="1"))])
        assert await heard(watch) == ("ADDED", "b")
        watch.disconnect()

    play(tmp_path, scenario)


def test_a_watch_of_one_name_hears_of_no_other(tmp_path: Path) -> None:
    async def scenario(store: Store, app: FastAPI, group: asyncio.TaskGroup) -> None:
        watch = open_watch(group, app, "watch=1&fieldSelector=metadata.name%3Db&resourceVersion=0")
        old = open_watch(group, app, "", path="/api/v1/watch/namespaces/default/configmaps/b")
        await asyncio.sleep(0)
        store.commit([Create(config("a", {})), Create(config("b", {}))])
        assert await heard(watch) == ("ADDED", "b")
        assert await heard(old) == ("ADDED", "b")
        watch.disconnect()
        old.disconnect()

    play(tmp_path, scenario)


def test_a_watch_ends_at_its_time_with_a_bookmark(tmp_path: Path) -> None:
    async def scenario(store: Store, app: FastAPI, group: asyncio.TaskGroup) -> None:
        query = f"watch=1&timeoutSeconds=1&allowWatchBookmarks=true&resourceVersion={store.revision}"
        watch = open_watch(group, app, query)
        lines: list[dict[str, Any]] = []
        while (line := await watch.line()) is not None:
            lines.append(line)
        assert {line["type"] for line in lines} == {"BOOKMARK"}
        assert lines[-1]["object"]["metadata"]["resourceVersion"] == str(store.revision)
        assert lines[-1]["object"]["kind"] == "ConfigMap"

    play(tmp_path, scenario)


def test_initial_events_end_with_their_bookmark(tmp_path: Path) -> None:
    async def scenario(store: Store, app: FastAPI, group: asyncio.TaskGroup) -> None:
        store.commit([Create(config("a", {}))])
        query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
        watch = open_watch(group, app, query)
        assert await heard(watch) == ("ADDED", "a")
        line = await watch.line()
        assert line is not None
        assert line["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        watch.disconnect()

    play(tmp_path, scenario)


def test_a_watch_as_a_table_has_one_row_an_event(tmp_path: Path) -> None:
    async def scenario(store: Store, app: FastAPI, group: asyncio.TaskGroup) -> None:
        table = "application/json;as=Table;v=v1;g=meta.k8s.io"
        watch = open_watch(group, app, "watch=1&resourceVersion=0", accept=table)
        store.commit([Create(config("a", {}))])
        line = await watch.line()
        assert line is not None
        assert (line["type"], line["object"]["kind"]) == ("ADDED", "Table")
        assert line["object"]["rows"][0]["cells"][0] == "a"
        watch.disconnect()

    play(tmp_path, scenario)


def test_a_watch_ends_when_the_hub_does(tmp_path: Path) -> None:
    async def scenario(store: Store, app: FastAPI, group: asyncio.TaskGroup) -> None:
        watch = open_watch(group, app, "watch=1&resourceVersion=0")
        store.commit([Create(config("a", {}))])
        assert await heard(watch) == ("ADDED", "a")
        store.close()
        assert await watch.line() is None

    play(tmp_path, scenario)


def test_a_revision_that_is_no_longer_known_is_told_as_an_event(tmp_path: Path) -> None:
    first = Store.open(f"sqlite:///{tmp_path}/hub.db")
    first.commit([Create(config("a", {}))])
    first.close()

    async def scenario(store: Store, app: FastAPI, group: asyncio.TaskGroup) -> None:
        watch = open_watch(group, app, "watch=1&resourceVersion=1")
        line = await watch.line()
        assert line is not None
        assert (watch.status, line["type"]) == (200, "ERROR")
        assert (line["object"]["kind"], line["object"]["reason"], line["object"]["code"]) == ("Status", "Expired", 410)
        assert await watch.line() is None

    play(tmp_path, scenario)
