"""The last accepted desired state on flash: two slots, one fsync per real change.

    state_dir/
        desired.a    magic, sequence, length, checksum, msgpack of Saved, zeros
        desired.b    the same; the newer valid one counts

A change overwrites the older slot in place and flushes it once; whoever pulls the plug in the middle leaves the other
slot whole. Slots only ever grow, in steps, so that nearly every save finds its blocks there: then fdatasync(2) writes
the new content and no file system metadata (measured on ext4: 8 KB and one flush instead of 25 KB and two). Secrets
are in here only as they came: sealed.

Considered: SQLite, as first drawn. It costs the resident process 1.3 MB and each change two to three flushes (journal,
database, folder) to keep what is one value; two slots need one flush and no library. Restart history is
deliberately not here: it lives in run_dir with the containers it speaks of, because a crash-looping container
must not wear out a card, and after a reboot its backoff rightly starts anew.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from pathlib import Path

import msgspec

from edged.errors import PermanentError, RetryError
from edged.model import Desired, Value

MAGIC = b"edgedst1"
STEP = 64 << 10  # bytes by which a slot grows; a document of 20 pods has about 10 KB
HEADER = struct.Struct(">8sQII")  # magic, sequence, length, CRC-32 of sequence and body


class Saved(Value, frozen=True):
    """:ivar digest: of the document as it was signed, so that its redelivery is recognised."""

    desired: Desired
    digest: bytes = b""


class StateStore:
    """Not shared between processes; the daemon owns it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.damaged: list[str] = []  # sentences about slots that could not be read

    def load(self) -> Saved | None:
        """The newest whole slot, or None where nothing was ever accepted."""
        self.damaged = []
        found = [s for s in (self._read(self._slot(n)) for n in "ab") if s is not None]
        return max(found, key=lambda s: s[0])[1] if found else None

    def save(self, saved: Saved) -> None:
        """Durable when this returns. PermanentError with a sentence when the disk won't take it."""
        sequences = {n: (self._read(self._slot(n)) or (0, None))[0] for n in "ab"}
        older = min(sequences, key=lambda n: (sequences[n], n))
        body = msgspec.msgpack.encode(saved)
        sequence = max(sequences.values()) + 1
        head = HEADER.pack(MAGIC, sequence, len(body), checksum(sequence, body))
        slot = self._slot(older)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            is_new = not slot.exists()
            with os.fdopen(os.open(slot, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(head + body)
                missing = -(-file.tell() // STEP) * STEP - os.fstat(file.fileno()).st_size
                if missing > 0:  # zeros that are really written: blocks only reserved would cost metadata later
                    file.write(bytes(-file.tell() % STEP))
                file.flush()
                os.fdatasync(file.fileno())  # of a file that has grown it takes the new size along
            if is_new:  # the name itself must survive too; happens twice in a node's life
                sync_folder(self._folder)
        except OSError as e:
            raise PermanentError(
                f"can't save desired state to {slot}: {e.strerror}; the node goes on with what it has in memory"
            ) from e

    def _slot(self, name: str) -> Path:
        return self._folder / f"desired.{name}"

    def _read(self, slot: Path) -> tuple[int, Saved] | None:
        try:
            raw = slot.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as e:
            self.damaged.append(f"{slot}: {e.strerror}")
            return None
        if not raw:
            return None
        try:
            magic, sequence, length, expected = HEADER.unpack_from(raw)
            body = raw[HEADER.size : HEADER.size + length]
            if magic != MAGIC or len(body) != length or checksum(sequence, body) != expected:
                raise ValueError("its checksum does not match (cut off while it was written?)")
            return sequence, msgspec.msgpack.decode(body, type=Saved)
        except (ValueError, struct.error) as e:
            self.damaged.append(f"{slot}: {e}")
            return None


def checksum(sequence: int, body: bytes) -> int:
    """Covers the sequence too: a new header torn off before an old body must not look like the newest state."""
    return zlib.crc32(body, zlib.crc32(sequence.to_bytes(8)))


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(file: Path, data: bytes, durable: bool) -> None:
    """The old or the new, never half of it. :raises RetryError: it can't be written."""
    new = file.with_name(f".{file.name}.new")
    try:
        with new.open("wb") as f:
            f.write(data)
            f.flush()
            if durable:
                os.fsync(f.fileno())
        new.rename(file)
        if durable:
            sync_folder(file.parent)
    except OSError as e:
        with contextlib.suppress(OSError):
            new.unlink()
        raise RetryError(f"{file} can't be written: {e.strerror}") from e
