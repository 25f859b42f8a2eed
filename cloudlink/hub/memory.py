"""All of the hub's state in RAM, and who is told when it changes. Touches no database and no clock."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from cloudlink.hub.changes import PutRecord, RecordChange
from cloudlink.hub.entries import Commit, Stored
from cloudlink.hub.errors import Gone
from cloudlink.hub.packing import Packed, Records
from cloudlink.hub.sharing import Pool
from cloudlink.hub.shelves import Key, Objects, key_of
from cloudlink.hub.watch import HISTORY_EVENTS, READER_EVENTS, EventType, History, Subscription, WatchEvent
from cloudlink.kube.catalogue import BUILT_IN, DEFINITIONS, after, catalogue_of
from cloudlink.kube.errors import Invalid
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.parse import dump
from edged.errors import PermanentError

_encode = msgspec.json.Encoder().encode

RecordTold = Callable[[str], None]


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Reading everything makes no garbage in cycles; looking for some, over and over, is a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Step(NamedTuple):
    """One object's change, ready to be shown."""

    type: EventType
    object: KubeObject
    before: KubeObject | None
    revision: int
    raw: bytes


class Memory:
    """:ivar revision: the newest resourceVersion; :ivar position: the newest commit."""

    def __init__(self) -> None:
        self.objects = Objects()
        self.records = Records()
        self.readers: dict[Subscription, None] = {}  # told in the order in which they came
        self.revision = 0
        self.position = 0
        self.history = History(0, HISTORY_EVENTS)
        self.catalogue = BUILT_IN  # and what definitions add; another one after each change of these
        self._raw = Packed()
        self._pool = Pool()
        self._record_readers: dict[str, list[RecordTold]] = {}

    def fill(
        self,
        position: int,
        revision: int,
        objects: Iterable[tuple[Key, bytes]],
        records: Iterable[tuple[str, str, bytes]],
    ) -> None:
        """Start over with everything that there is. Who followed what was there before is told that it missed some.

        :raises PermanentError: an object can't be read; its name is in the sentence.
        """
        fresh, raws = Objects(), Packed()
        with _without_collections():
            for key, raw in objects:
                obj = self._read(key, raw)
                fresh.put(obj)
                raws.put(key_of(obj), raw)
        kept = Records()
        for bucket, name, value in records:
            kept.put(bucket, name, value)
        self.objects, self._raw, self.records = fresh, raws, kept
        self.position, self.revision = position, revision
        self.history = History(revision, HISTORY_EVENTS)
        self.catalogue = catalogue_of(fresh.list(DEFINITIONS), self.catalogue.serial + 1)
        for reader in tuple(self.readers):
            reader.fall_behind()
        for bucket, listeners in self._record_readers.items():
            for name in kept.all(bucket):
                for listener in listeners:
                    listener(name)

    # ------------------------------------------------------------ reading

    def raw(self, obj: KubeObject) -> bytes:
        """An object as JSON: as it was encoded when it was stored; now, if it is another revision."""
        there = self.objects.get(key_of(obj))
        return self._raw.get(key_of(obj)) if there is obj else _encode(dump(obj))

    def subscribe(self, kinds: Container[str] | None, since: int | None) -> Subscription:
        past: Sequence[WatchEvent] = ()
        if since is not None:
            if since > self.revision:
                raise Gone(f"resource version {since} is in the future ({self.revision}); list again")
            past = self.history.since(since, kinds)
        return Subscription(self.readers, kinds, past, READER_EVENTS)

    def on_record(self, bucket: str, told: RecordTold) -> Callable[[], None]:
        """Call `told` with the key of each record of a bucket that changes; returns what ends that.

        It is called in the middle of a commit and must not commit anything itself.
        """
        listeners = self._record_readers.setdefault(bucket, [])
        listeners.append(told)
        return lambda: listeners.remove(told)

    def differs(self, change: RecordChange) -> bool:
        there = self.records.get(change.bucket, change.key)
        return there != change.value if isinstance(change, PutRecord) else there is not None

    # ------------------------------------------------------------ taking in

    def take(self, position: int, revision: int, steps: Iterable[Step], records: Sequence[RecordChange]) -> None:
        """A commit that is on disk: from now on it is what there is."""
        self.position, self.revision = position, revision
        for record in records:
            if isinstance(record, PutRecord):
                self.records.put(record.bucket, record.key, record.value)
            else:
                self.records.remove(record.bucket, record.key)
        written: list[KubeObject] = []
        for step in steps:
            written.append(step.object)
            key = key_of(step.object)
            if step.type == "DELETED":
                self.objects.remove(key)
                self._raw.remove(key)
            else:
                self._pool.adopt(step.object, step.raw, step.before)
                self.objects.put(step.object)
                self._raw.put(key, step.raw)
            told = WatchEvent(step.type, key[0], step.object, step.revision, step.before, step.raw)
            self.history.add(told)
            for reader in tuple(self.readers):
                reader.offer(told)
        self.catalogue = after(self.catalogue, written, self.objects.list(DEFINITIONS))
        for record in records:
            for listener in self._record_readers.get(record.bucket, ()):
                listener(record.key)

    def take_foreign(self, commit: Commit) -> None:
        """A commit of another hub. :raises PermanentError: it can't be read; nothing of it was taken in."""
        made = [(w, self._read(w.key, w.raw)) for w in commit.writes]
        self.take(commit.position, commit.revision, self._steps(made), commit.records)

    def _steps(self, made: Iterable[tuple[Stored, KubeObject]]) -> Iterable[Step]:
        for write, obj in made:  # lazily: what was before may have come with the same commit
            before = self.objects.get(write.key)
            yield Step(write.type, obj, before, write.revision, write.raw)

    def _read(self, key: Key, raw: bytes) -> KubeObject:
        try:
            return self._pool.read(raw)
        except (Invalid, msgspec.DecodeError) as e:
            title = f'{key[0]} "{key[1]}/{key[2]}"'
            raise PermanentError(f"the hub's database holds {title}, which this hub can't read: {e}") from e
