"""A hub in one file: everything that the database holds, in a form that no database has a say in, and the keys.

A gzipped tar, mode 0600:

    manifest.json     format, fleet, revision, when
    objects.jsonl     one object a line: what it is filed under, its JSON in base64; Secrets sealed as in the database
    records.jsonl     bucket, key, value in base64
    keys/...          CA, signing key, secrets key, administrator's token, ... unless they were left out
    SHA256SUMS        of all the others, in the form of sha256sum(1), last

It is made of one moment of the database, whether or not hubs are at work in it. What is restored goes on REVISION_LEAP
revisions later: clients may have seen revisions that the archive doesn't know, and none of those may come twice.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cloudlink import trust
from cloudlink.hub.changes import PutRecord
from cloudlink.hub.database import Database
from cloudlink.hub.entries import Commit, Seal, Stored
from edged.errors import PermanentError

FORMAT = 1
REVISION_LEAP = 1_000_000_000  # more than any hub commits between a backup and its use; the API takes 15 digits
# In data_dir; tls/ is made anew where it is needed.
KEYS = ("ca/ca.key", "ca/ca.pem", "users-ca/ca.key", "users-ca/ca.pem", "*.key", "*.token")
MAX_MEMBER = 8 << 30  # bytes unpacked


class _Writer:
    """A tar being written, beside its place and moved there when it is whole."""

    def __init__(self, file: Path) -> None:
        self._file, self._draft = file, file.with_name(f".{file.name}.{os.getpid()}")
        self._sums: list[str] = []
        try:
            self._stream = os.fdopen(os.open(self._draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb")
        except OSError as e:
            raise PermanentError(f"can't write {file}: {e.strerror}") from e
        self._tar = tarfile.open(fileobj=self._stream, mode="w:gz", compresslevel=6)  # noqa: SIM115

    def add(self, name: str, content: bytes) -> None:
        self._sums.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
        self._put(name, content)

    def _put(self, name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(content), 0o600
        self._tar.addfile(info, io.BytesIO(content))

    def finish(self) -> None:
        self._put("SHA256SUMS", "".join(self._sums).encode())
        self._tar.close()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._draft.rename(self._file)
        trust.sync_folder(self._file.parent)

    def abandon(self) -> None:
        self._stream.close()
        self._draft.unlink(missing_ok=True)


def backup(file: Path, database: Database, fleet: str, keys: Mapping[str, bytes], now: float) -> str:
    """Write an archive; what is in it, in a few words.

    :param database: opened for reading.
    :param keys: from `keys_of`; empty to leave them out.
    """
    if file.exists():
        raise PermanentError(f"{file} exists already; name another file")
    writer = _Writer(file)
    try:
        with database.reading() as content:
            objects = [_object_line(key, raw, database.seal) for key, raw in content.objects]
            records = [_line({"bucket": b, "key": k, "value": _text(v)}) for b, k, v in content.records]
            revision = content.revision
        manifest = {
            "format": FORMAT,
            "fleet": fleet,
            "revision": revision,
            "madeAt": int(now),
            "objects": len(objects),
            "records": len(records),
            "keys": bool(keys),
        }
        writer.add("manifest.json", json.dumps(manifest, indent=1).encode())
        writer.add("objects.jsonl", b"".join(objects))
        writer.add("records.jsonl", b"".join(records))
        for name, value in keys.items():
            writer.add(f"keys/{name}", value)
        writer.finish()
    except OSError as e:
        writer.abandon()
        raise PermanentError(f"can't write {file}: {e.strerror}") from e
    except BaseException:
        writer.abandon()
        raise
    told = f"{len(objects)} objects and {len(records)} records as of revision {revision}"
    return told + (f", {len(keys)} keys" if keys else ", no keys")


def _object_line(key: tuple[str, str, str], raw: bytes, seal: Seal) -> bytes:
    data, sealed = seal.close(key[0], raw)
    return _line({"key": key, "sealed": sealed, "data": _text(data)})


def _line(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


# ---------------------------------------------------------------- reading one


class Archive:
    """One that was read and found whole.

    :ivar keys: path in data_dir -> content.
    """

    def __init__(self, file: Path) -> None:
        """:raises PermanentError: it is none, or damaged."""
        self._members = _members(file)
        try:
            self.manifest: dict[str, Any] = json.loads(self._members["manifest.json"])
            if self.manifest["format"] > FORMAT:
                raise PermanentError(f"{file} was made by a newer edgehub; restore it with that one")
            self.keys = {n.removeprefix("keys/"): v for n, v in self._members.items() if n.startswith("keys/")}
        except (KeyError, TypeError, ValueError) as e:
            raise PermanentError(f"{file} is no backup of a hub: {e!r}") from e

    @property
    def fleet(self) -> str:
        return str(self.manifest["fleet"])

    @property
    def has_content(self) -> bool:
        """False where only keys were exported."""
        return "objects.jsonl" in self._members

    def commit(self, seal: Seal, leap: int) -> Commit:
        """Everything as the first commit of an empty database; `leap` as restore() has it."""
        writes: list[Stored] = []
        for line in self._members["objects.jsonl"].splitlines():
            row = json.loads(line)
            kind, namespace, name = row["key"]
            raw = seal.open((kind, namespace, name), row["sealed"], base64.b64decode(row["data"]))
            revision = int(json.loads(raw)["metadata"]["resourceVersion"])
            writes.append(Stored("ADDED", (kind, namespace, name), revision, raw))
        return Commit(1, int(self.manifest["revision"]) + leap, writes, list(self._records()))

    def record(self, bucket: str, key: str) -> bytes | None:
        return next((r.value for r in self._records() if (r.bucket, r.key) == (bucket, key)), None)

    def _records(self) -> Iterator[PutRecord]:
        for line in self._members.get("records.jsonl", b"").splitlines():
            row = json.loads(line)
            yield PutRecord(row["bucket"], row["key"], base64.b64decode(row["value"]))


def _members(file: Path) -> dict[str, bytes]:
    """Every file in it, none of them damaged."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(file, "r:gz") as tar:
            for member in tar:
                if not member.isfile() or member.size > MAX_MEMBER or ".." in member.name or member.name[:1] == "/":
                    raise PermanentError(f"{file} is no backup of a hub: it holds {member.name[:80]!r}")
                stream = tar.extractfile(member)
                found[member.name] = stream.read() if stream is not None else b""
    except (tarfile.TarError, zlib.error, EOFError) as e:
        raise PermanentError(f"{file} is damaged, or no backup of a hub: {e}") from e
    except OSError as e:
        raise PermanentError(f"can't read {file}: {e.strerror or e}") from e
    sums = "".join(f"{hashlib.sha256(v).hexdigest()}  {n}\n" for n, v in found.items() if n != "SHA256SUMS")
    if found.get("SHA256SUMS", b"").decode(errors="replace") != sums:
        raise PermanentError(f"{file} is damaged: its content doesn't match its checksums")
    return found


def restore(archive: Archive, database: Database, leap: int = REVISION_LEAP) -> str:
    """Fill an empty database, in one transaction.

    :param leap: how much later than the archive's newest revision it goes on.
    :raises PermanentError: it isn't empty, or its Secrets are sealed with another key.
    """
    commit = archive.commit(database.seal, leap)
    with database.writing() as there:
        if there != 0:
            raise PermanentError("there is a hub in that database already; restore into an empty one")
        database.write(commit)
    return f"{len(commit.writes)} objects and {len(commit.records)} records; goes on at revision {commit.revision}"


# ---------------------------------------------------------------- keys


def keys_of(folder: Path) -> dict[str, bytes]:
    """What makes a hub the hub that its nodes and people know: path in data_dir -> content."""
    try:
        found = {str(f.relative_to(folder)): f.read_bytes() for k in KEYS for f in sorted(folder.glob(k))}
    except OSError as e:
        raise PermanentError(f"can't read {e.filename}: {e.strerror}") from e
    if "ca/ca.key" not in found:
        raise PermanentError(f"{folder} holds no hub's keys; name the data_dir of a hub that has run once")
    return found


def export_keys(file: Path, fleet: str, keys: Mapping[str, bytes]) -> None:
    """An archive of keys alone: what another hub on the same database needs."""
    if file.exists():
        raise PermanentError(f"{file} exists already; name another file")
    writer = _Writer(file)
    try:
        writer.add("manifest.json", _line({"format": FORMAT, "fleet": fleet, "keys": True}))
        for name, value in keys.items():
            writer.add(f"keys/{name}", value)
        writer.finish()
    except BaseException:
        writer.abandon()
        raise


def import_keys(archive: Archive, folder: Path) -> None:
    """Put them into a data_dir. Keys that are there already must be the same ones.

    :raises PermanentError: there are others; nothing was changed.
    """
    for name, value in archive.keys.items():
        there = folder / name
        if there.exists() and there.read_bytes() != value:
            raise PermanentError(f"{there} is there already and is another one; name an empty data_dir")
    try:
        for name, value in archive.keys.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            trust.write_file(folder / name, value)
    except OSError as e:
        raise PermanentError(f"can't write {e.filename or folder}: {e.strerror}") from e
