"""JSON of stored objects in RAM, a fraction of its size: each is compressed against the first object of its kind,
which has most of its words. Unpacking costs some microseconds; encoding the object anew would cost fifty."""

from __future__ import annotations

import zstandard

SMALLEST = 512  # bytes; less isn't worth it
LEVEL = 1
PATTERN = 16 << 10  # bytes of the first object that the others of its kind are compressed against


class _Kind:
    def __init__(self, pattern: bytes) -> None:
        words = zstandard.ZstdCompressionDict(pattern[:PATTERN], dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        words.precompute_compress(level=LEVEL)
        self._pack = zstandard.ZstdCompressor(level=LEVEL, dict_data=words, write_checksum=False)
        self._unpack = zstandard.ZstdDecompressor(dict_data=words)

    def pack(self, raw: bytes) -> bytes:
        return self._pack.compress(raw)

    def unpack(self, packed: bytes) -> bytes:
        return self._unpack.decompress(packed)


class Packed:
    """The JSON of every object of a store, by what it is filed under. Bounded by the number of objects."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}
        self._packed: dict[str, dict[str, dict[str, bytes]]] = {}

    def put(self, key: tuple[str, str, str], raw: bytes) -> None:
        kind, namespace, name = key
        if len(raw) >= SMALLEST:
            if kind not in self._kinds:
                self._kinds[kind] = _Kind(raw)
            raw = self._kinds[kind].pack(raw)
        self._packed.setdefault(kind, {}).setdefault(namespace, {})[name] = raw

    def get(self, key: tuple[str, str, str]) -> bytes:
        kind, namespace, name = key
        packed = self._packed[kind][namespace][name]
        return packed if packed[:1] == b"{" else self._kinds[kind].unpack(packed)

    def remove(self, key: tuple[str, str, str]) -> None:
        kind, namespace, name = key
        spaces = self._packed.get(kind, {})
        names = spaces.get(namespace, {})
        names.pop(name, None)
        if not names:
            spaces.pop(namespace, None)
