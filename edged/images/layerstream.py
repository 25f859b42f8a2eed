"""A layer on its way to the disk: decompressed, measured and hashed on both sides, never held whole."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable
from typing import IO, BinaryIO, Protocol, cast

from edged.errors import PermanentError

CHUNK = 256 << 10
LARGEST_ZSTD_WINDOW = 32 << 20  # bytes of memory a zstd frame may ask for; --ultra levels want up to 128 MB


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class HashedReader:
    """Reads on, counting and hashing what passes."""

    def __init__(self, source: Readable, limit: int, complaint: str) -> None:
        self._source = source
        self._hash = hashlib.sha256()
        self._limit = limit
        self._complaint = complaint
        self._ahead = b""
        self.count = 0

    def read(self, size: int = CHUNK, /) -> bytes:
        wanted = CHUNK if size < 0 else min(size, CHUNK)
        if self._ahead:
            data, self._ahead = self._ahead[:wanted], self._ahead[wanted:]
        else:
            data = self._source.read(wanted)
        self._hash.update(data)
        self.count += len(data)
        if self.count > self._limit:
            raise PermanentError(self._complaint)
        return data

    def peek(self, size: int) -> bytes:
        while len(self._ahead) < size and (more := self._source.read(size - len(self._ahead))):
            self._ahead += more
        return self._ahead

    @property
    def digest(self) -> str:
        return "sha256:" + self._hash.hexdigest()


class LayerStream:
    """The uncompressed tar of a layer.

    :param digest: of the blob as it comes, "sha256:<hex>"; verified by `finish`.
    :param size: bytes of the blob as it comes; a longer one is refused as soon as it is longer.
    :param diff_id: digest of the uncompressed tar; verified by `finish`.
    :param limit: bytes that the uncompressed tar may have.
    :param what: names the layer in errors: which file, which digest.
    :param progress: called now and then as it is read.
    """

    def __init__(
        self,
        blob: BinaryIO,
        *,
        digest: str,
        size: int,
        diff_id: str,
        limit: int,
        what: str,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self.what = what
        self._progress, self._quiet = progress, 0
        self._digest, self._size, self._diff_id = digest, size, diff_id
        self._packed = HashedReader(blob, size, f"{what}: is longer than the {size} bytes that its descriptor says")
        self._plain = HashedReader(
            _decompressor(self._packed, what), limit, f"{what}: unpacks to more than {limit} bytes, the limit"
        )

    def read(self, size: int, /) -> bytes:
        self._quiet += size
        if self._quiet >= 4 * CHUNK:
            self._quiet = 0
            self._progress()
        try:
            return self._plain.read(size)
        except EOFError as e:
            raise PermanentError(f"{self.what}: ends early; the file is cut short, get it again") from e
        except (zlib.error, gzip.BadGzipFile) as e:
            raise PermanentError(f"{self.what}: damaged gzip data ({e}); get the file again") from e

    def finish(self) -> None:
        """Read to the end and compare; PermanentError if the content isn't what it was announced as."""
        while self.read(CHUNK):
            pass
        while self._packed.read(CHUNK):
            pass
        if self._packed.count != self._size:
            raise PermanentError(
                f"{self.what}: has {self._packed.count} bytes, its descriptor says {self._size}; get the file again"
            )
        if self._packed.digest != self._digest:
            raise PermanentError(
                f"{self.what}: the content has digest {self._packed.digest} instead; it is damaged, get the file again"
            )
        if self._plain.digest != self._diff_id:
            raise PermanentError(
                f"{self.what}: unpacks to diff_id {self._plain.digest}, but the image's config says {self._diff_id}"
            )


class _ZstdReader:
    """zstandard's reader with its error at our border."""

    def __init__(self, source: HashedReader, what: str) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        self._what = what
        self._reader = zstandard.ZstdDecompressor(max_window_size=LARGEST_ZSTD_WINDOW).stream_reader(
            cast(IO[bytes], source), read_size=CHUNK, read_across_frames=True, closefd=False
        )

    def read(self, size: int, /) -> bytes:
        try:
            data: bytes = self._reader.read(size)
        except self._error as e:
            raise PermanentError(
                f"{self._what}: unreadable zstd data ({e}); it is damaged, or was packed with a window above "
                f"{LARGEST_ZSTD_WINDOW >> 20} MiB"
            ) from e
        return data


def _decompressor(packed: HashedReader, what: str) -> Readable:
    """By the first bytes: media types are wrong often enough, and the digests are checked in any case."""
    magic = packed.peek(4)
    if magic[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=cast(IO[bytes], packed), mode="rb")  # it only ever calls read()
    if magic == b"\x28\xb5\x2f\xfd" or (len(magic) == 4 and magic[1:] == b"\x2a\x4d\x18" and magic[0] >> 4 == 5):
        return _ZstdReader(packed, what)
    return packed
