"""A tar reader for hostile streams: strict, forward only, and in bounded memory whatever the archive says.

Reads ustar, PAX (IEEE 1003.1-2001) and GNU long names. The standard library's tarfile is not used here because it
reads a header extension of any size into memory, keeps every member it has seen, and takes a broken header in the
middle of an archive for its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from edged.errors import PermanentError

BLOCK = 512
CHUNK = 256 << 10  # bytes handed out at once
LARGEST_EXTENSION = 1 << 20  # bytes of one PAX header or long name, as in Go's archive/tar
LATEST_MTIME = 253_402_300_799  # the end of the year 9999, in seconds

REGULAR, HARD_LINK, SYMLINK, CHAR_DEVICE, BLOCK_DEVICE, DIRECTORY, FIFO = "0", "1", "2", "3", "4", "5", "6"
_KINDS = {"\0": REGULAR, "7": REGULAR} | {k: k for k in "0123456"}
_XATTR = "SCHILY.xattr."


@dataclass(slots=True)
class Entry:
    """One archive member. Names are raw bytes as the archive has them; nothing has been checked yet.

    :ivar kind: one of the constants above.
    :ivar size: bytes of content; 0 for everything but regular files.
    :ivar mtime: nanoseconds.
    """

    name: bytes
    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = field(default_factory=dict)


class TarReader:
    """Iterate for entries; call `content()` for the current one's bytes before going on, or leave them.

    :param read: returns up to n bytes, b"" at the end.
    :param what: names the archive in errors.
    :param skip: moves n bytes ahead where that is cheaper than reading them.
    """

    def __init__(self, read: Callable[[int], bytes], what: str, skip: Callable[[int], None] | None = None) -> None:
        self._read = read
        self._what = what
        self._skip = skip
        self._left = 0  # content of the current entry not yet read
        self._padding = 0
        self.offset = 0  # bytes of the archive consumed

    def __iter__(self) -> Iterator[Entry]:
        long_name = long_link = None
        pax: dict[str, bytes] = {}
        while (header := self._next_header()) is not None:
            flag = chr(header[156])
            size = self._number(header[124:136], "size")
            if flag in "xgLK":
                data = self._extension(size)
                if flag == "x":
                    pax = self._pax_records(data)
                elif flag == "L":
                    long_name = data.rstrip(b"\0")
                elif flag == "K":
                    long_link = data.rstrip(b"\0")
                continue  # global PAX headers (g) carry comments; container tools ignore them, and so do we
            entry = self._entry(header, flag, size, pax, long_name, long_link)
            long_name, long_link, pax = None, None, {}
            self._begin(entry.size)
            yield entry

    def content(self) -> Iterator[bytes]:
        """The current entry's bytes, in chunks of at most CHUNK."""
        while self._left:
            data = self._read(min(self._left, CHUNK))
            if not data:
                raise self._error(f"ends early, {self._left} bytes of a file are missing")
            self._left -= len(data)
            self.offset += len(data)
            yield data

    def _begin(self, size: int) -> None:
        self._left, self._padding = size, -size % BLOCK

    def _finish(self) -> None:
        """Step over what nobody wanted of the current entry."""
        if self._skip:
            self._skip(self._left + self._padding)
            self.offset += self._left + self._padding
        else:
            for _ in self.content():
                pass
            self._exactly(self._padding)
        self._left = self._padding = 0

    def _exactly(self, size: int) -> bytes:
        parts, left = [], size
        while left:
            data = self._read(left)
            if not data:
                raise self._error("ends early, in the middle of a block")
            parts.append(data)
            left -= len(data)
        self.offset += size
        return b"".join(parts)

    def _next_header(self) -> bytes | None:
        self._finish()
        first = self._read(BLOCK)
        if not first:
            return None  # no end mark: some tools leave it out; digests tell whether anything is missing
        self.offset += len(first)
        header = first + self._exactly(BLOCK - len(first))
        if not any(header):
            return None
        said = self._number(header[148:156], "checksum")
        unsigned = sum(header[:148]) + 8 * 0x20 + sum(header[156:])
        signed = unsigned - 256 * sum(b > 127 for b in header[:148] + header[156:])
        if said not in (unsigned, signed):
            raise self._error("has a block that is not a tar header (checksum mismatch)")
        return header

    def _extension(self, size: int) -> bytes:
        if size > LARGEST_EXTENSION:
            raise self._error(f"has a header extension of {size} bytes; at most {LARGEST_EXTENSION} are read")
        self._begin(size)
        data = b"".join(self.content())
        self._finish()
        return data

    def _entry(
        self, header: bytes, flag: str, size: int, pax: dict[str, bytes], name: bytes | None, link: bytes | None
    ) -> Entry:
        raw_name = _text(header[:100])
        if header[257:263] == b"ustar\0" and (prefix := _text(header[345:500])):
            raw_name = prefix + b"/" + raw_name
        path = pax.get("path") or name or raw_name
        if flag == "S" or any(key.startswith("GNU.sparse.") for key in pax):
            raise self._error(f"stores {show(path)} as a sparse file, which image layers may not; build it without")
        if flag not in _KINDS:
            raise self._error(f"has an entry {show(path)} of unknown type {flag!r}")
        kind = _KINDS[flag]
        if kind == REGULAR and path.endswith(b"/"):
            kind = DIRECTORY  # how archives from before POSIX say it
        size = self._decimal(pax, "size", size) if kind == REGULAR else 0
        return Entry(
            name=path,
            kind=kind,
            mode=self._number(header[100:108], "mode") & 0o7777,
            uid=self._decimal(pax, "uid", self._number(header[108:116], "uid")),
            gid=self._decimal(pax, "gid", self._number(header[116:124], "gid")),
            size=size,
            mtime=self._mtime(pax, header),
            link=pax.get("linkpath") or link or _text(header[157:257]),
            device=(self._number(header[329:337], "devmajor"), self._number(header[337:345], "devminor"))
            if kind in (CHAR_DEVICE, BLOCK_DEVICE)
            else (0, 0),
            xattrs={key.removeprefix(_XATTR): value for key, value in pax.items() if key.startswith(_XATTR)},
        )

    def _pax_records(self, data: bytes) -> dict[str, bytes]:
        """`<length> <key>=<value>\\n`, the length counting the whole record."""
        records: dict[str, bytes] = {}
        position = 0
        while position < len(data):
            space = data.find(b" ", position, position + 20)
            digits = data[position:space] if space > 0 else b""
            length = int(digits) if digits.isdigit() else 0
            record = data[space + 1 : position + length]
            key, equals, value = record.partition(b"=")
            if not equals or not value.endswith(b"\n") or position + length > len(data):
                raise self._error("has a malformed PAX header")
            records[key.decode("utf-8", "backslashreplace")] = value[:-1]
            position += length
        return records

    def _number(self, raw: bytes, what: str) -> int:
        """Octal text, or GNU's base 256 where the first bit is set."""
        if raw[0] & 0x80:
            value = int.from_bytes(bytes([raw[0] & 0x7F]) + raw[1:], "big")
            if raw[0] & 0x40:
                raise self._error(f"has a negative {what}")
            return value
        digits = raw.partition(b"\0")[0].strip(b" ")
        if not digits:
            return 0
        if any(d not in b"01234567" for d in digits):
            raise self._error(f"has a {what} that is not a number: {show(digits)}")
        return int(digits, 8)

    def _decimal(self, pax: dict[str, bytes], key: str, otherwise: int) -> int:
        raw = pax.get(key)
        if raw is None:
            return otherwise
        if not raw.isdigit() or len(raw) > 19:
            raise self._error(f"has a PAX {key} that is not a number: {show(raw)}")
        return int(raw)

    def _mtime(self, pax: dict[str, bytes], header: bytes) -> int:
        """Nanoseconds, held between 1970 and 9999: what lies outside is no time that anyone means."""
        raw = pax.get("mtime")
        if raw is None:
            field_ = header[136:148]
            negative = field_[0] & 0x80 and field_[0] & 0x40
            return 0 if negative else min(self._number(field_, "mtime"), LATEST_MTIME) * 10**9
        whole, _, fraction = raw.removeprefix(b"-").partition(b".")
        if not (whole + fraction).isdigit() or len(raw) > 40:
            raise self._error(f"has a PAX mtime that is not a number: {show(raw)}")
        if raw.startswith(b"-"):
            return 0
        return min(int(whole or b"0"), LATEST_MTIME) * 10**9 + int(fraction[:9].ljust(9, b"0"))

    def _error(self, complaint: str) -> PermanentError:
        return PermanentError(f"{self._what}: the archive {complaint} (near byte {self.offset})")


def show(raw: bytes) -> str:
    """Bytes of unknown origin for an error message: one line, printable, not long."""
    text = raw[:200].decode("utf-8", "backslashreplace")
    return repr(text) + ("..." if len(raw) > 200 else "")


def _text(field_: bytes) -> bytes:
    return field_.partition(b"\0")[0]
