"""Watching the store: order, history, and readers that are too slow."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudlink.hub.store import Create, Delete, Gone, Store, Update
from cloudlink.hub.watch import READER_EVENTS, History, Subscription, WatchEvent
from tests.fakes.hub_objects import config, pod


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    opened = Store.open(database)
    yield opened
    opened.close()


def told(events: list[WatchEvent]) -> list[tuple[str, str]]:
    return [(e.type, e.object.metadata.name) for e in events]


def test_a_reader_sees_each_change_in_order_with_what_was_before(store: Store) -> None:
    with store.subscribe(frozenset({"ConfigMap"})) as reader:
        store.commit([Create(config("a", {"k": "1"})), Create(pod("p"))])
        store.commit([Update(config("a", {"k": "2"}))])
        store.commit([Delete("ConfigMap", "default", "a")])
        events = reader.drain()
    assert told(events) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
    assert events[0].before is None
    assert events[1].before == events[0].object
    assert [e.revision for e in events] == sorted(e.revision for e in events)
    assert events[2].object.metadata.resource_version == str(store.revision)


def test_a_reader_may_come_back_from_where_it_was(store: Store) -> None:
    store.commit([Create(config("a", {}))])
    seen = store.revision
    store.commit([Create(config("b", {})), Create(config("c", {}))])
    assert told(store.subscribe(since=seen).drain()) == [("ADDED", "b"), ("ADDED", "c")]
    assert told(store.subscribe(since=seen + 1).drain()) == [("ADDED", "c")]
    assert store.subscribe(since=store.revision).drain() == []


def test_a_revision_before_the_start_or_after_the_end_is_gone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/again.db"
    first = Store.open(url)
    first.commit([Create(config("a", {}))])
    first.close()
    second = Store.open(url)
    with pytest.raises(Gone):
        second.subscribe(since=second.revision - 1)
    with pytest.raises(Gone):
        second.subscribe(since=second.revision + 1)
    assert second.subscribe(since=second.revision).drain() == []
    second.close()


def test_history_is_bounded_by_number_and_by_size() -> None:
    def event(revision: int, size: int) -> WatchEvent:
        return WatchEvent("ADDED", "ConfigMap", config("a", {}), revision, None, b"x" * size)

    history = History(0, events=3, size=100)
    for revision in range(1, 6):
        history.add(event(revision, 1))
    assert [e.revision for e in history.since(2, None)] == [3, 4, 5]
    with pytest.raises(Gone):
        history.since(1, None)
    history.add(event(6, 99))
    assert [e.revision for e in history.since(history.floor, None)] == [5, 6]
    history.add(event(7, 500))
    assert [e.revision for e in history.since(history.floor, None)] == [7]


def test_readers_are_told_in_the_order_in_which_they_came(store: Store) -> None:
    there = list(store._memory.readers)
    mine = [store.subscribe() for _ in range(50)]
    mine.pop(7).close()
    assert list(store._memory.readers) == [*there, *mine]


def test_a_slow_reader_is_dropped_with_gone_and_forgotten(store: Store) -> None:
    slow, readers = store.subscribe(), store._memory.readers
    [made] = store.commit([Create(config("a", {}))])
    event = WatchEvent("MODIFIED", "ConfigMap", made, 1, None, b"")
    for _ in range(READER_EVENTS):
        slow.offer(event)
    assert slow not in readers

    async def read() -> None:
        with pytest.raises(Gone):
            await anext(slow)
        with pytest.raises(Gone):
            await slow.batch()

    asyncio.run(read())


def test_waiting_readers_wake_up_and_end_when_the_store_closes(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store.open(f"sqlite:///{tmp_path}/hub.db")
        one, many = store.subscribe(), store.subscribe()

        async def follow(reader: Subscription) -> list[str]:
            return [e.object.metadata.name async for e in reader]

        async with asyncio.TaskGroup() as group:
            following = group.create_task(follow(one), name="follow")
            waiting = group.create_task(many.batch(), name="wait")
            await asyncio.sleep(0)
            store.commit([Create(config("a", {})), Create(config("b", {}))])
            assert told(await waiting) == [("ADDED", "a"), ("ADDED", "b")]
            store.close()
        assert following.result() == ["a", "b"]
        assert await many.batch() == []

    asyncio.run(main())
