"""SPDY/3.1 framing: bytes <-> frames (the Chromium project's SPDY Protocol, draft 3.1). Pure, no I/O.

As much of it as remote commands and port forwarding use: every frame type is understood, priorities are carried and
mean nothing. There is no flow control by WINDOW_UPDATE, because no Kubernetes client or server has it: TCP's is used.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

MAX_CONTROL = 64 << 10  # bytes of a control frame: headers are short here
MAX_HEADERS = 64 << 10  # bytes of headers once inflated
MAX_DATA = 0xFFFFFF  # bytes of a data frame

FIN, UNIDIRECTIONAL = 1, 2
PROTOCOL_ERROR, INVALID_STREAM, REFUSED_STREAM, CANCEL, INTERNAL_ERROR = 1, 2, 3, 5, 6  # RST_STREAM's status
OK = 0  # GOAWAY's, where PROTOCOL_ERROR is the same

_VERSION = 3
_CONTROL = 0x80000000
_ID = 0x7FFFFFFF
_FRAME = struct.Struct(">II")
_WORD = struct.Struct(">I")

# The dictionary that both ends start their compression with (section 2.6.10.1): words with their lengths, and a tail.
_WORDS = """
options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow
authorization cache-control connection content-base content-encoding content-language content-length content-location
content-md5 content-range content-type date etag expect expires from host if-match if-modified-since if-none-match
if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate proxy-authorization range
referer retry-after server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get
status 200_OK version HTTP/1.1 url public set-cookie keep-alive origin
"""
_TAIL = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY = b"".join(_WORD.pack(len(w)) + w.replace("_", " ").encode() for w in _WORDS.split()) + _TAIL.encode()

Headers = dict[str, str]  # names in lower case; several values of one name are separated by NUL


class SpdyError(Exception):
    """What came can't be SPDY/3.1, or is too large; the session is over (GOAWAY, PROTOCOL_ERROR)."""


class SynStream(NamedTuple):
    stream: int
    headers: Headers
    fin: bool = False
    unidirectional: bool = False
    associated: int = 0
    priority: int = 0  # 0 highest, 7 lowest


class SynReply(NamedTuple):
    stream: int
    headers: Headers
    fin: bool = False


class MoreHeaders(NamedTuple):
    """HEADERS."""

    stream: int
    headers: Headers
    fin: bool = False


class Data(NamedTuple):
    """Received data comes as soon as it is there: one frame may come as several of these, `fin` with the last."""

    stream: int
    data: bytes
    fin: bool = False


class RstStream(NamedTuple):
    stream: int
    status: int


class Setting(NamedTuple):
    id: int
    value: int
    flags: int = 0


class Settings(NamedTuple):
    settings: tuple[Setting, ...]
    clear: bool = False


class Ping(NamedTuple):
    """Whoever gets one with an id of the other side's sends it back."""

    id: int


class GoAway(NamedTuple):
    last: int
    status: int = OK


class WindowUpdate(NamedTuple):
    stream: int
    delta: int


Frame = SynStream | SynReply | MoreHeaders | Data | RstStream | Settings | Ping | GoAway | WindowUpdate


class Framing:
    """One end of a session. Compression has a memory: frames are received, and sent, in the order of the calls."""

    def __init__(self) -> None:
        # A small window: what we send has few and short headers, and there may be many sessions.
        self._deflate = zlib.compressobj(6, zlib.DEFLATED, 11, 1, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)
        self._inflate = zlib.decompressobj(15, DICTIONARY)
        self._buffer = bytearray()
        self._data: tuple[int, int, bool] | None = None  # a data frame under way: stream, bytes to come, fin

    # ------------------------------------------------------------ receiving

    def receive(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete with these bytes. To be consumed to the end before the next call.

        :raises SpdyError: and nothing good comes after it.
        """
        self._buffer += data
        while True:
            frame = self._rest_of_data() if self._data else self._next()
            if frame is None:
                return
            if not isinstance(frame, Data) or frame.data or frame.fin:
                yield frame

    def _rest_of_data(self) -> Data | None:
        assert self._data is not None
        stream, left, fin = self._data
        if left and not self._buffer:
            return None
        chunk = bytes(self._buffer[:left])
        del self._buffer[: len(chunk)]
        left -= len(chunk)
        self._data = (stream, left, fin) if left else None
        return Data(stream, chunk, fin and not left)

    def _next(self) -> Frame | None:
        if len(self._buffer) < _FRAME.size:
            return None
        first, second = _FRAME.unpack_from(self._buffer)
        flags, length = second >> 24, second & 0xFFFFFF
        if not first & _CONTROL:
            del self._buffer[: _FRAME.size]
            self._data = (first, length, bool(flags & FIN))
            return self._rest_of_data()
        version, kind = (first >> 16) & 0x7FFF, first & 0xFFFF
        if version != _VERSION:
            raise SpdyError(f"a frame of SPDY version {version}; this is version {_VERSION}")
        if length > MAX_CONTROL:
            raise SpdyError(f"a control frame of {length} bytes; there may be {MAX_CONTROL}")
        if len(self._buffer) < _FRAME.size + length:
            return None
        body = bytes(self._buffer[_FRAME.size : _FRAME.size + length])
        del self._buffer[: _FRAME.size + length]
        try:
            return self._control(kind, flags, body)
        except struct.error:
            raise SpdyError(f"a control frame of type {kind} is too short: {length} bytes") from None

    def _control(self, kind: int, flags: int, body: bytes) -> Frame:
        fin = bool(flags & FIN)
        match kind:
            case 1:
                stream, associated, priority, _ = struct.unpack_from(">IIBB", body)
                headers = self._headers(body[10:])
                both = bool(flags & UNIDIRECTIONAL)
                return SynStream(stream & _ID, headers, fin, both, associated & _ID, priority >> 5)
            case 2:
                return SynReply(_WORD.unpack_from(body)[0] & _ID, self._headers(body[4:]), fin)
            case 3:
                stream, status = _FRAME.unpack_from(body)
                return RstStream(stream & _ID, status)
            case 4:
                count = _WORD.unpack_from(body)[0]
                if 4 + 8 * count != len(body):
                    raise SpdyError(f"SETTINGS says it has {count} entries and has {len(body)} bytes")
                entries = struct.iter_unpack(">II", body[4:])
                return Settings(tuple(Setting(f & 0xFFFFFF, v, f >> 24) for f, v in entries), bool(flags & 1))
            case 6:
                return Ping(_WORD.unpack_from(body)[0])
            case 7:
                last, status = _FRAME.unpack_from(body)
                return GoAway(last & _ID, status)
            case 8:
                return MoreHeaders(_WORD.unpack_from(body)[0] & _ID, self._headers(body[4:]), fin)
            case 9:
                stream, delta = _FRAME.unpack_from(body)
                return WindowUpdate(stream & _ID, delta & _ID)
            case _:
                raise SpdyError(f"a control frame of unknown type {kind}")

    def _headers(self, block: bytes) -> Headers:
        try:
            plain = self._inflate.decompress(block, MAX_HEADERS + 1)
        except zlib.error as e:
            raise SpdyError(f"headers that can't be inflated: {e}") from None
        if len(plain) > MAX_HEADERS:
            raise SpdyError(f"headers of more than {MAX_HEADERS} bytes")
        words, at = [], 4
        (count,) = _WORD.unpack_from(plain)
        if count > len(plain) // 8:
            raise SpdyError(f"{count} headers in {len(plain)} bytes")
        for _ in range(2 * count):
            (size,) = _WORD.unpack_from(plain, at)
            at += 4 + size
            if at > len(plain):
                raise SpdyError("a header that is longer than its frame")
            words.append(plain[at - size : at].decode("latin-1"))
        names = words[::2]
        if at != len(plain) or "" in names or len(set(names)) != count or any(n != n.lower() for n in names):
            raise SpdyError("headers that are no headers: a name is empty, twice or not in lower case, or more follows")
        return dict(zip(names, words[1::2], strict=True))

    # ------------------------------------------------------------ sending

    def encode(self, frame: Frame) -> bytes:
        """:raises ValueError: data of more than MAX_DATA bytes, or headers that are not latin-1."""
        match frame:
            case Data(stream, data, fin):
                if len(data) > MAX_DATA:
                    raise ValueError(f"a data frame has {MAX_DATA} bytes at most, not {len(data)}")
                return _FRAME.pack(stream, (fin * FIN) << 24 | len(data)) + data
            case SynStream(stream, headers, fin, both, associated, priority):
                head = struct.pack(">IIBB", stream, associated, priority << 5, 0)
                return _control(1, fin * FIN | both * UNIDIRECTIONAL, head + self._block(headers))
            case SynReply(stream, headers, fin):
                return _control(2, fin * FIN, _WORD.pack(stream) + self._block(headers))
            case RstStream(stream, status):
                return _control(3, 0, _FRAME.pack(stream, status))
            case Settings(settings, clear):
                entries = b"".join(_FRAME.pack(s.flags << 24 | s.id, s.value) for s in settings)
                return _control(4, int(clear), _WORD.pack(len(settings)) + entries)
            case Ping(number):
                return _control(6, 0, _WORD.pack(number))
            case GoAway(last, status):
                return _control(7, 0, _FRAME.pack(last, status))
            case MoreHeaders(stream, headers, fin):
                return _control(8, fin * FIN, _WORD.pack(stream) + self._block(headers))
            case WindowUpdate(stream, delta):
                return _control(9, 0, _FRAME.pack(stream, delta))

    def _block(self, headers: Headers) -> bytes:
        words = [_WORD.pack(len(headers))]
        for pair in headers.items():
            for word in pair:
                encoded = word.encode("latin-1")
                words += [_WORD.pack(len(encoded)), encoded]
        return self._deflate.compress(b"".join(words)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


def _control(kind: int, flags: int, body: bytes) -> bytes:
    return _FRAME.pack(_CONTROL | _VERSION << 16 | kind, flags << 24 | len(body)) + body
