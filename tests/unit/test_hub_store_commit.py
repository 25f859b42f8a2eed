"""The hub's store: one transaction a commit, Kubernetes' rules for metadata, nothing lost at reopening."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudlink.hub.store import (
    AlreadyExists,
    Conflict,
    Create,
    Delete,
    MarkDeleted,
    NotFound,
    PutRecord,
    Store,
    StoreError,
    Terminating,
    Update,
    UpdateStatus,
)
from cloudlink.kube.core import Namespace, Pod, PodStatus
from cloudlink.kube.meta import ObjectMeta
from cloudlink.kube.parse import dump
from edged.errors import PermanentError, RetryError
from tests.fakes.hub_objects import config, deployment, event, node, pod, secret

NOW = 1_700_000_000.0
KEY = b"k" * 32


@pytest.fixture
def file(tmp_path: Path) -> str:
    """For what is about the file that SQLite has."""
    return f"sqlite:///{tmp_path}/hub.db"


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    opened = Store.open(database, now=lambda: NOW)
    yield opened
    opened.close()


@pytest.fixture
def in_a_file(file: str) -> Iterator[Store]:
    opened = Store.open(file, now=lambda: NOW)
    yield opened
    opened.close()


def test_a_new_store_has_the_first_namespaces(store: Store) -> None:
    assert [o.metadata.name for o in store.list("Namespace")] == ["default", "kube-system"]
    first = store.get("Namespace", None, "default")
    assert isinstance(first, Namespace)
    assert first.status.phase == "Active"


def test_create_gives_identity_time_revision_and_generation(store: Store) -> None:
    [made] = store.commit([Create(pod("a"))])
    assert made.metadata.uid
    assert made.metadata.creation_timestamp == "2023-11-14T22:13:20Z"
    assert made.metadata.resource_version == str(store.revision)
    assert made.metadata.generation == 1
    assert isinstance(made, Pod)
    assert made.status.phase == "Pending"


def test_create_twice_says_that_it_exists_and_changes_nothing(store: Store) -> None:
    store.commit([Create(pod("a"))])
    before = store.revision
    with pytest.raises(AlreadyExists, match='Pod "default/a" already exists'):
        store.commit([Create(pod("b")), Create(pod("a"))])
    assert store.revision == before
    assert store.get("Pod", "default", "b") is None


def test_create_in_a_namespace_that_is_not_there_names_the_namespace(store: Store) -> None:
    with pytest.raises(NotFound, match='Namespace "nowhere" not found'):
        store.commit([Create(pod("a", namespace="nowhere"))])


def test_one_commit_may_make_a_namespace_and_what_goes_in_it(store: Store) -> None:
    store.commit([Create(Namespace(metadata=ObjectMeta(name="new"))), Create(pod("a", namespace="new"))])
    assert store.get("Pod", "new", "a") is not None


def test_an_update_keeps_status_and_bumps_generation_only_when_the_spec_changes(store: Store) -> None:
    [made] = store.commit([Create(deployment("web", replicas=1))])
    relabelled = made.model_copy(update={"metadata": made.metadata.model_copy(update={"labels": {"a": "b"}})})
    [labelled] = store.commit([Update(relabelled)])
    assert labelled.metadata.generation == 1
    [scaled] = store.commit([Update(deployment("web", replicas=3))])
    assert scaled.metadata.generation == 2
    assert scaled.metadata.uid == made.metadata.uid
    assert scaled.metadata.creation_timestamp == made.metadata.creation_timestamp


def test_an_update_that_changes_nothing_is_no_new_revision(store: Store) -> None:
    [made] = store.commit([Create(deployment("web", replicas=1))])
    before = store.revision
    [same] = store.commit([Update(deployment("web", replicas=1))])
    assert same == made
    assert store.revision == before


def test_a_stale_resource_version_is_a_conflict(store: Store) -> None:
    [made] = store.commit([Create(deployment("web", replicas=1))])
    store.commit([Update(deployment("web", replicas=2))])
    with pytest.raises(Conflict, match="has been modified"):
        store.commit([Update(deployment("web", replicas=3), expect=made.metadata.resource_version)])


def test_an_object_that_was_made_anew_is_not_touched_for_its_predecessor(store: Store) -> None:
    [old] = store.commit([Create(pod("a"))])
    store.commit([Delete("Pod", "default", "a"), Create(pod("a"))])
    with pytest.raises(Conflict, match="made anew"):
        store.commit([UpdateStatus(old)])
    with pytest.raises(Conflict, match="made anew"):
        store.commit([Delete("Pod", "default", "a", uid=old.metadata.uid)])


def test_update_status_takes_nothing_but_the_status(store: Store) -> None:
    [made] = store.commit([Create(pod("a"))])
    assert isinstance(made, Pod)
    other = pod("a", image="other:1").model_copy(update={"status": PodStatus(phase="Running")})
    [told] = store.commit([UpdateStatus(other)])
    assert isinstance(told, Pod)
    assert told.status.phase == "Running"
    assert told.spec == made.spec
    assert told.metadata.generation == 1


def test_a_deletion_mark_can_only_be_shortened(store: Store) -> None:
    store.commit([Create(pod("a"))])
    [marked] = store.commit([MarkDeleted("Pod", "default", "a", 30)])
    assert marked.metadata.deletion_timestamp == "2023-11-14T22:13:50Z"
    assert marked.metadata.deletion_grace_period_seconds == 30
    [longer] = store.commit([MarkDeleted("Pod", "default", "a", 60)])
    assert longer == marked
    [shorter] = store.commit([MarkDeleted("Pod", "default", "a", 1)])
    assert shorter.metadata.deletion_grace_period_seconds == 1


def test_an_empty_terminating_namespace_goes_with_its_last_object(store: Store) -> None:
    store.commit([Create(Namespace(metadata=ObjectMeta(name="room")))])
    store.commit([Create(pod("a", namespace="room")), Create(event("e", "a", namespace="room"))])
    [marked] = store.commit([MarkDeleted("Namespace", None, "room", 0)])
    assert isinstance(marked, Namespace)
    assert marked.status.phase == "Terminating"
    with pytest.raises(Terminating):
        store.commit([Create(pod("b", namespace="room"))])
    store.commit([Delete("Pod", "room", "a")])
    assert store.get("Namespace", None, "room") is None
    assert store.list("Event", "room") == []
    assert store.commit([Create(event("late", "a", namespace="room"))]) == []


def test_an_empty_namespace_goes_as_soon_as_it_is_marked(store: Store) -> None:
    store.commit([Create(Namespace(metadata=ObjectMeta(name="room")))])
    store.commit([MarkDeleted("Namespace", None, "room", 0)])
    assert store.get("Namespace", None, "room") is None


def test_a_marked_namespace_stays_while_the_same_commit_puts_something_in_it(store: Store) -> None:
    store.commit([Create(Namespace(metadata=ObjectMeta(name="room"))), Create(config("c", {}, namespace="room"))])
    store.commit(
        [
            Create(pod("a", namespace="room")),
            Delete("ConfigMap", "room", "c"),
            MarkDeleted("Namespace", None, "room", 0),
        ]
    )
    assert store.get("Namespace", None, "room") is not None


def test_events_are_bounded_and_the_oldest_go(database: str) -> None:
    store = Store.open(database, events_kept=3)
    for i in range(5):
        store.commit([Create(event(f"e{i}", "a"))])
    store.commit([Create(event(f"f{i}", "a")) for i in range(2)])
    assert [o.metadata.name for o in store.list("Event")] == ["e4", "f0", "f1"]
    store.close()
    again = Store.open(database, events_kept=3)
    assert [o.metadata.name for o in again.list("Event")] == ["e4", "f0", "f1"]
    again.close()


def test_everything_is_there_after_reopening(database: str) -> None:
    store = Store.open(database)
    store.commit([Create(pod("a")), Create(node("n")), Create(secret("s", {"k": b"v"})), PutRecord("b", "k", b"\x00")])
    store.commit([Create(config("gone", {})), Delete("ConfigMap", "default", "gone")])
    before = {kind: store.list(kind) for kind in ("Pod", "Node", "Secret", "Namespace", "ConfigMap")}
    revision = store.revision
    store.close()
    again = Store.open(database)
    assert {kind: again.list(kind) for kind in before} == before
    assert again.revision == revision
    assert again.get_record("b", "k") == b"\x00"
    again.close()


def test_secrets_are_not_readable_in_the_file_and_need_their_key(file: str, tmp_path: Path) -> None:
    store = Store.open(file, secret_key=KEY)
    [made] = store.commit([Create(secret("s", {"password": b"hunter2-hunter2"}))])
    encoded = dump(made)["data"]["password"]
    store.close()
    everything = b"".join(f.read_bytes() for f in tmp_path.iterdir())
    assert b"hunter2-hunter2" not in everything
    assert encoded.encode() not in everything
    with pytest.raises(PermanentError, match="start the hub with its secret key file"):
        Store.open(file)
    with pytest.raises(PermanentError, match="another key"):
        Store.open(file, secret_key=b"x" * 32)
    again = Store.open(file, secret_key=KEY)
    assert again.get("Secret", "default", "s") == made
    again.close()


def test_records_live_in_buckets_and_may_join_a_commit(store: Store) -> None:
    store.put_record("nodes", "a", b"1")
    store.put_record("tokens", "a", b"2")
    with pytest.raises(NotFound):
        store.commit([PutRecord("nodes", "b", b"3"), Delete("Pod", "default", "none")])
    assert store.records("nodes") == {"a": b"1"}
    store.commit([PutRecord("nodes", "a", b"4"), Create(pod("p"))])
    store.delete_record("tokens", "a")
    store.delete_record("tokens", "never")
    assert store.records("nodes") == {"a": b"4"}
    assert store.get_record("tokens", "a") is None


def test_a_second_hub_on_the_same_file_is_refused_and_the_first_goes_on(file: str) -> None:
    first, second = Store.open(file), Store.open(file)
    first.commit([Create(pod("a"))])
    with pytest.raises(PermanentError, match="only one hub"):
        second.commit([Create(pod("b"))])
    first.commit([Create(pod("c"))])
    first.close()
    second.close()
    again = Store.open(file)
    assert [o.metadata.name for o in again.list("Pod")] == ["a", "c"]
    again.close()


def test_objects_without_a_name_or_in_the_wrong_place_are_refused(store: Store) -> None:
    makers: list[Callable[[], object]] = [
        lambda: store.commit([Create(pod(""))]),
        lambda: store.commit([Create(pod("a", namespace=""))]),
        lambda: store.commit([Create(Namespace(metadata=ObjectMeta(name="x", namespace="default")))]),
    ]
    for make in makers:
        with pytest.raises(StoreError):
            make()


def test_a_commit_that_the_disk_refuses_leaves_no_trace_and_tells_no_secret(in_a_file: Store) -> None:
    store = in_a_file
    before, reader = store.revision, store.subscribe()
    pages = pragma(store, "page_count")
    pragma(store, f"max_page_count = {pages + 1}")
    with pytest.raises(RetryError) as refused:
        store.commit([Create(pod("a")), Create(secret("s", {"k": b"hunter2" * 10_000}))])
    assert "aHVudGVy" not in str(refused.value)
    assert (store.revision, store.list("Pod"), store.list("Secret"), reader.drain()) == (before, [], [], [])
    pragma(store, "max_page_count = 100000")
    assert store.commit([Create(pod("a"))])


def pragma(store: Store, words: str) -> int:
    connection = store.database.db.connection.driver_connection
    assert connection is not None
    return int(connection.execute(f"PRAGMA {words}").fetchone()[0])


def test_only_its_owner_may_read_the_database(in_a_file: Store, tmp_path: Path) -> None:
    in_a_file.commit([Create(pod("a"))])
    assert {f.stat().st_mode & 0o777 for f in tmp_path.iterdir()} == {0o600}


def test_a_database_that_cannot_be_opened_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RetryError, match="can't be opened"):
        Store.open(f"sqlite:///{tmp_path}/no/such/folder/hub.db")
    (tmp_path / "garbage.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(RetryError, match="can't be opened"):
        Store.open(f"sqlite:///{tmp_path}/garbage.db")


def test_lists_are_ordered_and_can_be_limited_to_a_namespace(store: Store) -> None:
    store.commit([Create(pod("b")), Create(pod("a")), Create(pod("z", namespace="kube-system"))])
    assert [o.title for o in store.list("Pod")] == ["default/a", "default/b", "kube-system/z"]
    assert [o.title for o in store.list("Pod", "kube-system")] == ["kube-system/z"]
    assert store.list("Pod", "nowhere") == []
