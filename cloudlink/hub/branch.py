"""A store to try things on: everything that the hub's store has now, in memory only, and nobody hears of what happens
in it.

Objects are frozen, so that a copy of the hub's memory costs its shelves and nothing more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from cloudlink.hub.database import Database
from cloudlink.hub.entries import Commit
from cloudlink.hub.memory import Memory
from cloudlink.hub.store import Store
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.parse import dump

LEFT_OUT = frozenset({"Event"})  # many, and nobody decides anything because of one


def branch(store: Store, now: Callable[[], float], buckets: Iterable[str] = ()) -> Store:
    """Ten thousand objects cost some milliseconds. Call it where the store is used, in its loop's thread; what comes
    of it may be used in another one.

    :param buckets: of records, that are needed there.
    """
    memory = _Copy(store.memory)
    for bucket in buckets:
        for key, value in store.records(bucket).items():
            memory.records.put(bucket, key, value)
    return Store(memory, _Nowhere(memory.position), now)


class _Copy(Memory):
    def __init__(self, of: Memory) -> None:
        super().__init__()
        self.objects = of.objects.copy(LEFT_OUT)
        self.revision, self.position, self.catalogue = of.revision, of.position, of.catalogue

    def raw(self, obj: KubeObject) -> bytes:
        return msgspec.json.encode(dump(obj))


class _Nowhere(Database):
    """What is written here is in memory already, and nowhere else."""

    def __init__(self, position: int) -> None:
        self.lost = self.refused = ""
        self._position = position

    def ensure(self, caught_up: Callable[[], None]) -> None:
        """There is nothing to reach."""

    @contextlib.contextmanager
    def writing(self) -> Iterator[int]:
        yield self._position

    def write(self, commit: Commit) -> None:
        self._position = commit.position

    def since(self, position: int, until: int | None = None) -> Sequence[Commit] | None:
        return ()

    def close(self) -> None:
        """Nothing is open."""
