"""One commit as a value: what is written to the tables, and what other hubs read of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from cloudlink.hub.changes import DeleteRecord, PutRecord, RecordChange
from cloudlink.hub.shelves import Key
from cloudlink.hub.watch import EventType
from edged.errors import PermanentError


class Stored(NamedTuple):
    """One object's step.

    :ivar raw: JSON; for DELETED as it last was.
    """

    type: EventType
    key: Key
    revision: int
    raw: bytes


class Commit(NamedTuple):
    """:ivar position: its place among all commits; the database has exactly one for each.
    :ivar revision: the newest resourceVersion once it is done.
    """

    position: int
    revision: int
    writes: Sequence[Stored]
    records: Sequence[RecordChange]


class _Write(msgspec.Struct, array_like=True, frozen=True):
    type: EventType
    key: Key
    revision: int
    sealed: bool
    data: bytes


class _Entry(msgspec.Struct, array_like=True, frozen=True):
    """A Commit as it is in the log; a record's None is its end."""

    revision: int
    writes: list[_Write]
    records: list[tuple[str, str, bytes | None]]


class Seal:
    """Secrets at rest: encrypted with the hub's key where there is one."""

    def __init__(self, key: bytes | None) -> None:
        self._box = SecretBox(key) if key is not None else None

    def close(self, kind: str, raw: bytes) -> tuple[bytes, bool]:
        if kind == "Secret" and self._box is not None:
            return bytes(self._box.encrypt(raw)), True
        return raw, False

    def open(self, key: Key, sealed: bool, data: bytes) -> bytes:
        if not sealed:
            return bytes(data)
        if self._box is None:
            raise PermanentError("the hub's database holds encrypted Secrets; start the hub with its secret key file")
        try:
            return bytes(self._box.decrypt(data))
        except CryptoError as e:
            raise PermanentError(
                f'Secret "{key[1]}/{key[2]}" was encrypted with another key than the one given;'
                " start the hub with the key file that belongs to this database"
            ) from e


class SealedWrite(NamedTuple):
    """A Stored with `raw` as it goes to the disk."""

    stored: Stored
    data: bytes
    sealed: bool


def seal(commit: Commit, box: Seal) -> list[SealedWrite]:
    return [SealedWrite(w, *box.close(w.key[0], w.raw)) for w in commit.writes]


def encode(commit: Commit, sealed: Sequence[SealedWrite]) -> bytes:
    """For the log."""
    writes = [_Write(s.stored.type, s.stored.key, s.stored.revision, s.sealed, s.data) for s in sealed]
    records = [(r.bucket, r.key, r.value if isinstance(r, PutRecord) else None) for r in commit.records]
    return msgspec.msgpack.encode(_Entry(commit.revision, writes, records))


def decode(position: int, data: bytes, box: Seal) -> Commit:
    """:raises PermanentError: it was sealed with another key, or written by a hub of another release."""
    try:
        entry = msgspec.msgpack.decode(data, type=_Entry)
    except msgspec.MsgspecError as e:
        raise PermanentError(f"commit {position} in the hub's database can't be read: {e}") from e
    writes = [Stored(w.type, w.key, w.revision, box.open(w.key, w.sealed, w.data)) for w in entry.writes]
    records: list[RecordChange] = [DeleteRecord(b, k) if v is None else PutRecord(b, k, v) for b, k, v in entry.records]
    return Commit(position, entry.revision, writes, records)
