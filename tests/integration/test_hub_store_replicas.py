"""Several stores on one real PostgreSQL, as several hubs have them: nothing twice, nothing missed, one leader."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from cloudlink.hub import postgresql as rooms
from cloudlink.hub.following import Following
from cloudlink.hub.store import AlreadyExists, Create, Delete, Gone, NotLeader, PutRecord, Store, Update
from edged.errors import RetryError
from tests.fakes.hub_objects import config, pod, secret
from tests.postgres_lab import Cluster, a_cluster
from tests.wire_lab import until

KEY = b"k" * 32


@pytest.fixture
def url(postgresql: Cluster) -> str:
    return postgresql.database()


@pytest.fixture
def stores(url: str) -> Iterator[list[Store]]:
    opened = [Store.open(url, secret_key=KEY) for _ in range(3)]
    yield opened
    for store in opened:
        store.close()


@contextlib.asynccontextmanager
async def followed(*stores: Store) -> AsyncIterator[list[Following]]:
    following = [Following(s) for s in stores]
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(f.run(), name="following") for f in following]
        yield following
        for task in running:
            task.cancel()


def terms(stores: list[Store]) -> list[bool]:
    return [bool(s.database.term) for s in stores]


def test_what_one_commits_the_others_see_before_they_answer(stores: list[Store]) -> None:
    one, two, three = stores
    one.commit([Create(pod("a")), Create(secret("s", {"k": b"v"})), PutRecord("nodes", "pi", b"1")])
    two.refresh()
    assert two.get("Pod", "default", "a") == one.get("Pod", "default", "a")
    assert two.get("Secret", "default", "s") == one.get("Secret", "default", "s")
    assert two.get_record("nodes", "pi") == b"1"
    with pytest.raises(AlreadyExists):
        three.commit([Create(pod("a"))])  # it hadn't looked: it does before it commits
    assert three.revision == one.revision


def test_commits_of_all_are_one_sequence_and_every_watch_sees_it_once_and_in_order(stores: list[Store]) -> None:
    readers = [s.subscribe(frozenset({"ConfigMap"})) for s in stores]
    for i in range(60):
        stores[i % 3].commit([Create(config(f"c{i}", {"n": str(i)}))])
    for store in stores:
        store.refresh()
    seen = [[(e.type, e.object.metadata.name, e.revision) for e in r.drain()] for r in readers]
    assert seen[0] == seen[1] == seen[2]
    assert [name for _, name, _ in seen[0]] == [f"c{i}" for i in range(60)]
    revisions = [r for _, _, r in seen[0]]
    assert revisions == list(range(revisions[0], revisions[0] + 60))


def test_a_change_made_elsewhere_says_what_was_before_and_what_is_gone(stores: list[Store]) -> None:
    one, two, _ = stores
    one.commit([Create(config("c", {"k": "1"}))])
    two.refresh()
    reader = two.subscribe(frozenset({"ConfigMap"}))
    one.commit([Update(config("c", {"k": "2"})), Update(config("c", {"k": "3"}))])
    one.commit([Delete("ConfigMap", "default", "c"), Create(config("c", {"k": "4"}))])
    two.refresh()
    events = reader.drain()
    assert [e.type for e in events] == ["MODIFIED", "MODIFIED", "DELETED", "ADDED"]
    told = [(getattr(e.before, "data", None), getattr(e.object, "data", None)) for e in events]
    assert told[:2] == [({"k": "1"}, {"k": "2"}), ({"k": "2"}, {"k": "3"})]
    assert told[3] == (None, {"k": "4"})
    assert two.list("ConfigMap") == one.list("ConfigMap")


def test_one_that_missed_more_than_the_log_keeps_reads_anew_and_its_watches_are_told(
    stores: list[Store], postgresql: Cluster, url: str
) -> None:
    one, two, three = stores
    reader = two.subscribe()
    one.commit([Create(config("a", {}))])
    one.commit([Create(config("b", {}))])
    postgresql.execute("DELETE FROM changes", url.rpartition("/")[2])
    two.refresh()
    assert [o.metadata.name for o in two.list("ConfigMap")] == ["a", "b"]
    with pytest.raises(Gone):
        reader.drain()
    with pytest.raises(Gone):
        two.subscribe(since=two.revision - 1)
    three.commit([Create(config("c", {}))])  # likewise in the middle of a commit
    assert [o.metadata.name for o in three.list("ConfigMap")] == ["a", "b", "c"]


def test_the_log_of_commits_is_bounded_by_number_and_by_size(
    stores: list[Store], postgresql: Cluster, url: str
) -> None:
    database = url.rpartition("/")[2]
    postgresql.execute(
        "INSERT INTO changes SELECT -n, 1000000, 'x' FROM generate_series(1, 200) AS n; "
        "INSERT INTO changes SELECT -10000, 10, 'x'",
        database,
    )
    for i in range(rooms.TRIM_EVERY):
        stores[0].commit([PutRecord("r", "k", str(i).encode())])
    [(total, oldest)] = postgresql.execute("SELECT sum(size), min(position) FROM changes", database)
    assert int(str(total)) < rooms.BYTES_KEPT
    assert int(str(oldest)) > -rooms.COMMITS_KEPT


def test_followers_hear_of_commits_by_themselves_and_records_are_told_of(stores: list[Store]) -> None:
    async def scenario() -> None:
        one, two, three = stores
        told: list[str] = []
        two.on_record("nodes", told.append)
        async with followed(*stores):
            reader = three.subscribe(frozenset({"Pod"}))
            one.commit([Create(pod("a")), PutRecord("nodes", "pi", b"1")])
            async with asyncio.timeout(10):
                [event] = await reader.batch()
            assert event.object.metadata.name == "a"
            await until(lambda: told == ["pi"])

    asyncio.run(scenario())


def test_exactly_one_leads_and_a_lost_connection_ends_its_term_and_its_commits(
    stores: list[Store], postgresql: Cluster, url: str
) -> None:
    async def scenario() -> None:
        async with followed(*stores) as following:
            await until(lambda: sum(terms(stores)) == 1)
            leader = stores[terms(stores).index(True)]
            term = leader.database.term
            as_leader = leader.for_leader(term)
            as_leader.commit([Create(config("first", {}))])
            over = asyncio.create_task(following[stores.index(leader)].over(term), name="over")
            pid = leader.database._pid  # type: ignore[attr-defined]
            postgresql.execute(f"SELECT pg_terminate_backend({pid})", url.rpartition("/")[2])
            with pytest.raises(RetryError):  # at once: it doesn't even know yet
                as_leader.commit([Create(config("late", {}))])
            async with asyncio.timeout(10):
                await over
            await until(lambda: sum(terms(stores)) == 1 and not any(s.database.lost for s in stores))
            with pytest.raises(NotLeader):  # even if it leads again: that term is over
                as_leader.commit([Create(config("late", {}))])
            leader.commit([Create(config("anybody", {}))])  # what people ask for is not the leader's alone
            names = [o.metadata.name for o in leader.list("ConfigMap")]
            assert names == ["anybody", "first"]

    asyncio.run(scenario())


def test_a_leader_that_ends_hands_over_at_once_and_the_next_sees_all_it_did(stores: list[Store]) -> None:
    async def scenario() -> None:
        first, second, _ = stores
        leading = Following(first)
        task = asyncio.create_task(leading.run(), name="first")
        term = await leading.term()
        async with followed(second) as [following]:
            await asyncio.sleep(0.1)
            assert not second.database.term
            first.for_leader(term).commit([Create(config("c", {}))])
            task.cancel()
            async with asyncio.timeout(10):
                await following.term()
            assert second.get("ConfigMap", "default", "c") is not None
            assert not first.database.term

    asyncio.run(scenario())


def test_a_database_that_goes_away_and_comes_back_loses_nothing_and_no_watch() -> None:
    async def scenario(cluster: Cluster) -> None:
        url = cluster.database()
        one, two = Store.open(url), Store.open(url)
        try:
            async with followed(one, two):
                reader = two.subscribe(frozenset({"ConfigMap"}))
                one.commit([Create(config("before", {}))])
                cluster.stop()
                await until(lambda: one.database.lost and two.database.lost)
                for attempt in (one.refresh, lambda: one.commit([Create(config("never", {}))])):
                    with pytest.raises(RetryError):
                        attempt()
                assert one.trouble()
                assert one.get("ConfigMap", "default", "before") is not None  # what it knew, it knows
                cluster.start()
                await until(lambda: not one.trouble() and not two.trouble())
                one.commit([Create(config("after", {}))])
                await until(lambda: two.get("ConfigMap", "default", "after") is not None)
                assert [e.object.metadata.name for e in reader.drain()] == ["before", "after"]
                await until(lambda: sum(terms([one, two])) == 1)
        finally:
            one.close()
            two.close()

    with a_cluster() as cluster:
        asyncio.run(scenario(cluster))


def test_a_hub_that_is_stopped_in_the_middle_of_a_commit_holds_up_nobody_for_long(
    stores: list[Store], postgresql: Cluster, url: str
) -> None:
    one, two, _ = stores

    def stand_still() -> None:
        # The server gives such a session up after IDLE seconds, which we don't wait.
        with one.database.writing():
            pid = one.database._pid  # type: ignore[attr-defined]
            postgresql.execute(f"SELECT pg_terminate_backend({pid})", url.rpartition("/")[2])
            two.commit([Create(config("c", {}))])

    with pytest.raises(RetryError):
        stand_still()
    [(idle,)] = two.database.db.exec_driver_sql("SHOW idle_in_transaction_session_timeout").all()
    two.database.db.rollback()
    assert idle == f"{rooms.IDLE}s"
    assert one.commit([Create(config("d", {}))])  # with a session of its own again
    assert [o.metadata.name for o in one.list("ConfigMap")] == ["c", "d"]


def test_a_server_that_stands_still_is_given_up_and_found_again(
    stores: list[Store], postgresql: Cluster, url: str
) -> None:
    one, two, _ = stores
    one.commit([Create(config("before", {}))])
    database = one.database
    assert isinstance(database, rooms.PostgreSQL)
    with database._raw() as raw:
        raw.patience = 0.5  # type: ignore[attr-defined]
    os.kill(database._pid, signal.SIGSTOP)  # a server process of this test's own cluster
    try:
        with pytest.raises(RetryError, match="not answered"):
            one.refresh()
        assert database.lost
        one.refresh()  # a session of its own again, beside the one that stands still
        one.commit([Create(config("after", {}))])
        two.refresh()
        assert [o.metadata.name for o in two.list("ConfigMap")] == ["after", "before"]
    finally:
        for [pid] in postgresql.execute("SELECT pid FROM pg_stat_activity WHERE datname IS NOT NULL"):
            with contextlib.suppress(ProcessLookupError):  # a session that has ended since it was listed
                os.kill(int(str(pid)), signal.SIGCONT)
