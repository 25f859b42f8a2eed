"""HTTP/1.1 to registries: connections that are kept, TLS, and errors that say whether to try again.

Built on http.client and threads, not on an HTTP library: a board has to carry every dependency, and the client that
is needed here is small (GET, HEAD, one POST; no cookies, no pools per host to tune, redirects followed by hand because
the Authorization header must not travel). http.client bounds header lines and their number by itself.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from typing import NamedTuple
from urllib.parse import urlsplit

from edged.errors import EdgedError, PermanentError, RetryError

CHUNK = 256 << 10
SMALL_REST = 16 << 10  # bytes of an unwanted body that are read to keep the connection
MOST_IDLE = 4  # kept connections per origin; more than there are threads is never needed
USER_AGENT = "edged"
_NOT_YET_VALID, _EXPIRED = 9, 10  # X509_V_ERR_*: with a board's clock in 1970, both mean "later"


class NoTlsError(RetryError):
    """The other end doesn't speak TLS, or nobody listens."""


class Url(NamedTuple):
    """:ivar target: path and query, as it stands in the request line."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def origin(self) -> tuple[str, str, int]:
        return (self.scheme, self.host, self.port)

    def __str__(self) -> str:
        """Without the query: signatures of redirected downloads stand there."""
        return f"{self.scheme}://{self.netloc}{self.target.partition('?')[0]}"

    @property
    def netloc(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


_PORTS = {"https": 443, "http": 80}


def parse_url(text: str, what: str) -> Url:
    """:raises PermanentError: not an absolute http(s) URL, or one with a user in it; the text is not quoted."""
    try:
        parts = urlsplit(text)
        port = parts.port
        host = parts.hostname or ""
        host.encode("ascii")
        text.encode("ascii")
    except (ValueError, UnicodeError):
        raise PermanentError(f"{what} is not a valid URL") from None
    if parts.scheme not in _PORTS or not host or parts.username is not None:
        raise PermanentError(f"{what} is not an http:// or https:// URL of a host (and without a user in it)")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if any(c <= " " or c == "\x7f" for c in target):
        raise PermanentError(f"{what} has blanks or control characters in it")
    return Url(parts.scheme, host, port or _PORTS[parts.scheme], target)


class Response:
    """An answer whose body is read in pieces. Read to its end, the connection is kept; closed before, it is dropped."""

    def __init__(self, transport: Transport, url: Url, connection: http.client.HTTPConnection, method: str) -> None:
        self._transport, self._connection = transport, connection
        self._raw = connection.getresponse()
        self.url = url
        self.status = self._raw.status
        self._complete = method == "HEAD"
        self._closed = False

    def header(self, name: str) -> str:
        return ", ".join(self._raw.headers.get_all(name, []))

    def read1(self, size: int = CHUNK) -> bytes:
        """What has arrived, at least one byte; b"" at the end. RetryError where the connection breaks."""
        try:
            data = self._raw.read1(size)
        except (OSError, http.client.HTTPException) as e:
            self._transport.drop(self._connection)
            raise _converted(e, self.url) from e
        if not data and size:
            self._complete = not self._raw.length  # less than Content-Length is no end
            if self._raw.length:
                self._transport.drop(self._connection)
                raise RetryError(
                    f"{self.url.netloc} closed the connection, {self._raw.length} bytes were still to come"
                )
        return data

    def read_all(self, limit: int, what: str) -> bytes:
        """The whole body; PermanentError if it is longer than `limit` bytes."""
        parts, size = [], 0
        while data := self.read1():
            parts.append(data)
            size += len(data)
            if size > limit:
                raise PermanentError(f"{what} is longer than {limit} bytes, the most that is read")
        self._complete = True
        return b"".join(parts)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if not self._complete and 0 < (self._raw.length or 0) <= SMALL_REST:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._raw.read()  # cheaper than another connection
                self._complete = True
        if (self._complete or self._raw.length == 0) and not self._raw.will_close:
            self._raw.close()
            self._transport.keep(self.url, self._connection)
        else:
            self._transport.drop(self._connection)

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Transport:
    """Connections to any number of hosts, shared by the threads of one pull.

    :param stall: seconds without a single byte after which a connection counts as dead.
    """

    def __init__(self, stall: float) -> None:
        self._stall = stall
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, str, int], list[http.client.HTTPConnection]] = {}
        self._open: set[http.client.HTTPConnection] = set()
        self._contexts: dict[tuple[str, bool], ssl.SSLContext] = {}
        self._aborted = False

    def request(
        self,
        method: str,
        url: Url,
        headers: dict[str, str],
        body: bytes | None = None,
        ca: str = "",
        verify: bool = True,
    ) -> Response:
        """One exchange, no redirect followed. A kept connection that turns out to be dead is replaced silently.

        :raises RetryError: the network; :raises PermanentError: a certificate that will not get better.
        """
        while True:
            connection = self._take(url)
            kept = connection is not None
            try:
                connection = connection or self._connect(url, ca, verify)
                connection.request(method, url.target, body, {"User-Agent": USER_AGENT} | headers)
                return Response(self, url, connection, method)
            except (OSError, http.client.HTTPException) as e:
                if connection is not None:
                    self.drop(connection)
                if kept and not isinstance(e, TimeoutError):
                    continue
                raise _converted(e, url) from e

    def _take(self, url: Url) -> http.client.HTTPConnection | None:
        with self._lock:
            idle = self._idle.get(url.origin)
            return idle.pop() if idle else None

    def _connect(self, url: Url, ca: str, verify: bool) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection
        if url.scheme == "https":
            context = self._context(ca, verify)
            connection = http.client.HTTPSConnection(url.host, url.port, timeout=self._stall, context=context)
        else:
            connection = http.client.HTTPConnection(url.host, url.port, timeout=self._stall)
        connection.connect()
        with self._lock:
            self._open.add(connection)
            aborted = self._aborted
        if aborted:
            self.drop(connection)
            raise ConnectionAbortedError("the pull ends")
        return connection

    def _context(self, ca: str, verify: bool) -> ssl.SSLContext:
        with self._lock:
            if (ca, verify) not in self._contexts:
                self._contexts[ca, verify] = _verifying(ca) if verify else _trusting()
            return self._contexts[ca, verify]

    def keep(self, url: Url, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            idle = self._idle.setdefault(url.origin, [])
            if len(idle) < MOST_IDLE and connection.sock is not None:
                idle.append(connection)
                return
        self.drop(connection)

    def drop(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._open.discard(connection)
        connection.close()

    def abort(self) -> None:
        """Wake every thread that waits for bytes; nothing more is connected."""
        with self._lock:
            self._aborted = True
            connections = list(self._open)
        for connection in connections:
            if (sock := connection.sock) is not None:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """After `abort`, and when no thread uses it any more."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            self.drop(connection)


def _verifying(ca: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context()
        if ca:
            context.load_verify_locations(cafile=ca)
    except (OSError, ssl.SSLError) as e:
        raise PermanentError(f"the CA file {ca} cannot be used: {e.strerror or e}") from e
    return context


def _trusting() -> ssl.SSLContext:
    """Encrypted, but whoever answers is believed; only for registries that are configured so."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _converted(e: Exception, url: Url) -> EdgedError:
    """What a broken exchange means for the caller. Only the host is named."""
    where = url.netloc
    if isinstance(e, ssl.SSLCertVerificationError):
        reason = e.verify_message
        if e.verify_code in (_NOT_YET_VALID, _EXPIRED):
            return RetryError(f"the certificate of {where} is refused ({reason}); is this node's clock right?", 60.0)
        return PermanentError(f"the certificate of {where} is refused: {reason}; name its CA file in the configuration")
    if isinstance(e, TimeoutError):
        return RetryError(f"{where} sent nothing for too long")
    if isinstance(e, socket.gaierror):
        return RetryError(f"the name {url.host} cannot be resolved: {e.strerror}", 5.0)
    if isinstance(e, ssl.SSLError | ConnectionRefusedError):
        return NoTlsError(f"no connection to {where}: {e.strerror or type(e).__name__}")
    if isinstance(e, OSError):
        return RetryError(f"the connection to {where} broke: {e.strerror or e or type(e).__name__}")
    return RetryError(f"the connection to {where} broke: {type(e).__name__}")
