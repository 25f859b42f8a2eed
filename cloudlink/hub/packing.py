"""Bytes in RAM at a fraction of their size: each is compressed against the first of its kind, which has most of its
words. Unpacking a pod's JSON costs some microseconds; encoding the object anew would cost fifty."""

from __future__ import annotations

import zstandard

SMALLEST = 512  # bytes; less isn't worth it
LEVEL = 1
PATTERN = 16 << 10  # bytes of the first one that the others of its kind are compressed against
_MAGIC = zstandard.FRAME_HEADER


class Packer:
    """For one kind of bytes. `pattern` is a typical one."""

    def __init__(self, pattern: bytes) -> None:
        words = zstandard.ZstdCompressionDict(pattern[:PATTERN], dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        words.precompute_compress(level=LEVEL)
        self._pack = zstandard.ZstdCompressor(level=LEVEL, dict_data=words, write_checksum=False)
        self._unpack = zstandard.ZstdDecompressor(dict_data=words)

    def pack(self, raw: bytes) -> bytes:
        if len(raw) < SMALLEST and not raw.startswith(_MAGIC):
            return raw
        # A copy: what compress() gives keeps all the room that the worst case would have taken.
        return bytes(memoryview(self._pack.compress(raw)))

    def unpack(self, packed: bytes) -> bytes:
        return self._unpack.decompress(packed) if packed.startswith(_MAGIC) else packed


class Packed:
    """The JSON of every object of a store, by what it is filed under. Bounded by the number of objects."""

    def __init__(self) -> None:
        self._packers: dict[str, Packer] = {}
        self._packed: dict[str, dict[str, dict[str, bytes]]] = {}

    def put(self, key: tuple[str, str, str], raw: bytes) -> None:
        kind, namespace, name = key
        if (packer := self._packers.get(kind)) is None:
            packer = self._packers[kind] = Packer(raw)
        self._packed.setdefault(kind, {}).setdefault(namespace, {})[name] = packer.pack(raw)

    def get(self, key: tuple[str, str, str]) -> bytes:
        kind, namespace, name = key
        return self._packers[kind].unpack(self._packed[kind][namespace][name])

    def remove(self, key: tuple[str, str, str]) -> None:
        kind, namespace, name = key
        spaces = self._packed.get(kind, {})
        names = spaces.get(namespace, {})
        names.pop(name, None)
        if not names:
            spaces.pop(namespace, None)


class Records:
    """Small bytes by bucket and key; the larger ones are packed. Bounded by what is stored."""

    def __init__(self) -> None:
        self._packers: dict[str, Packer] = {}
        self._buckets: dict[str, dict[str, bytes]] = {}

    def put(self, bucket: str, key: str, value: bytes) -> None:
        if len(value) >= SMALLEST and bucket not in self._packers:
            self._packers[bucket] = Packer(value)
        packer = self._packers.get(bucket)
        if packer is None and value.startswith(_MAGIC):
            packer = self._packers[bucket] = Packer(value)
        self._buckets.setdefault(bucket, {})[key] = value if packer is None else packer.pack(value)

    def get(self, bucket: str, key: str) -> bytes | None:
        packed = self._buckets.get(bucket, {}).get(key)
        packer = self._packers.get(bucket)
        return packed if packed is None or packer is None else packer.unpack(packed)

    def remove(self, bucket: str, key: str) -> None:
        self._buckets.get(bucket, {}).pop(key, None)

    def all(self, bucket: str) -> dict[str, bytes]:
        packer = self._packers.get(bucket)
        kept = self._buckets.get(bucket, {})
        return dict(kept) if packer is None else {key: packer.unpack(value) for key, value in kept.items()}
