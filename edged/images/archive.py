"""Where an importer reads from: a folder, a tar, or a compressed tar, each as named files.

Only what is asked for is read, and in pieces; a tar is looked through once for where its files lie.
"""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from edged.errors import PermanentError
from edged.images import tarstream
from edged.images.tarstream import TarReader

CHUNK = 256 << 10
MOST_FILES = 100_000
MOST_BYTES = 64 << 30
_GZIP = b"\x1f\x8b"


class Source(Protocol):
    """Files by name. `name` is how the whole is called in errors."""

    name: str

    def has(self, path: str) -> bool: ...

    def size(self, path: str) -> int: ...

    def open(self, path: str) -> BinaryIO:
        """:raises PermanentError: there is no such file, or it can't be read."""
        ...

    def close(self) -> None: ...


def read(source: Source, path: str, limit: int) -> bytes:
    """A whole small file; PermanentError if it is longer than `limit` bytes."""
    with source.open(path) as f:
        raw = f.read(limit + 1)
    if len(raw) > limit:
        raise PermanentError(f"{source.name}: {path} is longer than {limit} bytes, the most that is read")
    return raw


class Folder:
    """An unpacked layout."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.name = str(root)

    def _find(self, path: str) -> Path:
        """Names come from JSON inside the layout; none may lead out of it."""
        if path.startswith("/") or ".." in PurePosixPath(path).parts:
            raise PermanentError(f"{self.name}: refused {path!r}, a path that leads outside the image")
        return self._root / path

    def has(self, path: str) -> bool:
        return self._find(path).is_file()

    def size(self, path: str) -> int:
        try:
            return self._find(path).stat().st_size
        except OSError as e:
            raise PermanentError(f"{self.name}: cannot read {path}: {e.strerror}") from e

    def open(self, path: str) -> BinaryIO:
        try:
            return self._find(path).open("rb")
        except OSError as e:
            raise PermanentError(f"{self.name}: cannot read {path}: {e.strerror}") from e

    def close(self) -> None:
        pass


class _Window(io.RawIOBase):
    """`size` bytes of a file from `start` on, as a file of its own."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._position, self._end = file, start, start + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._file.seek(self._position)
        data = self._file.read(min(len(buffer), self._end - self._position))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class TarFile:
    """An uncompressed tar that can be read anywhere.

    :param name: what people call the file; differs from `path` if that is a decompressed copy.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._places: dict[str, tuple[int, int]] = {}  # path -> (start, size)
        self._links: dict[str, str] = {}
        try:
            self._file = path.open("rb")
        except OSError as e:
            raise PermanentError(f"cannot read {name}: {e.strerror}") from e
        try:
            self._look_through(path.stat().st_size)
        except BaseException:
            self._file.close()
            raise

    def _look_through(self, length: int) -> None:
        reader = TarReader(self._file.read, self.name, skip=lambda n: void(self._file.seek(n, io.SEEK_CUR)))
        for number, entry in enumerate(reader):
            if number >= MOST_FILES:
                raise PermanentError(f"{self.name}: has more than {MOST_FILES} files; that is no image archive")
            path = _plain(entry.name.decode("utf-8", "backslashreplace"))
            if entry.kind == tarstream.REGULAR:
                if reader.offset + entry.size > length:
                    raise PermanentError(
                        f"{self.name}: ends early, in the middle of {path}; the file is cut short, get it again"
                    )
                self._places[path] = (reader.offset, entry.size)
            elif entry.kind in (tarstream.SYMLINK, tarstream.HARD_LINK):
                target = entry.link.decode("utf-8", "backslashreplace")
                base = PurePosixPath(path).parent if entry.kind == tarstream.SYMLINK else PurePosixPath()
                self._links[path] = _plain(str(base / target))

    def _find(self, path: str) -> tuple[int, int] | None:
        """`docker save` writes a layer that comes twice as a link to the first."""
        path = _plain(path)
        for _ in range(8):
            if path in self._places:
                return self._places[path]
            path = self._links.get(path, "")
        return None

    def has(self, path: str) -> bool:
        return self._find(path) is not None

    def size(self, path: str) -> int:
        return self._must_find(path)[1]

    def open(self, path: str) -> BinaryIO:
        return io.BufferedReader(_Window(self._file, *self._must_find(path)), CHUNK)

    def _must_find(self, path: str) -> tuple[int, int]:
        place = self._find(path)
        if place is None:
            raise PermanentError(f"{self.name}: has no file {path}; the archive is incomplete, get or make it again")
        return place

    def close(self) -> None:
        self._file.close()


def open_source(path: Path, scratch: Path) -> Source:
    """A folder, a tar, or a gzip'ed tar (decompressed into `scratch`, which the caller deletes)."""
    if path.is_dir():
        return Folder(path)
    try:
        with path.open("rb") as f:
            magic = f.read(2)
    except OSError as e:
        raise PermanentError(f"cannot read {path}: {e.strerror}") from e
    if magic != _GZIP:
        return TarFile(path, str(path))
    copy = scratch / "archive.tar"
    _decompress(path, copy)
    return TarFile(copy, str(path))


def _decompress(path: Path, copy: Path) -> None:
    try:
        with gzip.open(path) as packed, copy.open("wb") as plain:
            while data := packed.read(CHUNK):
                plain.write(data)
                if plain.tell() > MOST_BYTES:
                    raise PermanentError(f"{path}: unpacks to more than {MOST_BYTES} bytes, the limit")
    except EOFError as e:
        raise PermanentError(f"{path}: ends early; the file is cut short, get it again") from e
    except (zlib.error, gzip.BadGzipFile) as e:
        raise PermanentError(f"{path}: damaged gzip data ({e}); get the file again") from e


def _plain(path: str) -> str:
    """Without "./", doubled slashes and "..": only ever a key into the tables above."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def void(_: object) -> None:
    """For calls whose result says nothing."""
