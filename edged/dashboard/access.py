"""Who may look: the token, the session made from it, how often one may guess, and under which names we answer.

No clock and no framework in here: "now" is an argument, and every check is a function of values.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import os
import secrets
import tempfile
from collections import OrderedDict
from pathlib import Path

from edged.config import NodeConfig
from edged.errors import PermanentError

TOKEN_BYTES = 32
SESSION_SECONDS = 30 * 86400  # a wall tablet should not ask again every morning
FAILURES = 10  # wrong tokens from one address within WINDOW
FAILURES_IN_ALL = 100  # and from everybody together, since one attacker may own many addresses
WINDOW = 60.0  # seconds
ADDRESSES = 256  # remembered at most; the one that failed longest ago is forgotten first


def token_file(config: NodeConfig) -> Path:
    return config.state / "dashboard.token"


def load_token(path: Path) -> str:
    """Read the token, or make one: 32 random bytes, urlsafe base64, in a file that only its owner reads.

    Two processes that start together agree on one token. PermanentError names the file and what to do.
    """
    try:
        if not path.exists():
            _make_token(path)
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as e:
        raise PermanentError(f"cannot read or make the dashboard's token {path}: {e}; name another --token-file") from e
    if len(token) < TOKEN_BYTES or not token.isascii() or not token.isprintable():
        raise PermanentError(f"{path} holds no usable token; remove it, and the next start makes a new one")
    return token


def _make_token(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, fresh = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)  # mode 0600 from its first moment
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(TOKEN_BYTES) + "\n")
            file.flush()
            os.fsync(handle)
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)  # unlike rename, it never replaces a token that somebody already uses
    finally:
        Path(fresh).unlink()


def base_url(host: str, port: int) -> str:
    """ "http://host:port", with brackets around an IPv6 address and loopback for "all addresses"."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def login_url(config: NodeConfig) -> str:
    """The link that opens this node's dashboard once; makes the token if need be. For the person's eyes only."""
    url = base_url(config.dashboard.host, config.dashboard.port)
    return f"{url}/?token={load_token(token_file(config))}"


def same(given: str, expected: str) -> bool:
    """Compare without telling by timing where the difference is."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


class Sessions:
    """Session values that prove themselves, so none has to be remembered and a restart logs nobody out.

    A value is "<issued, seconds>.<HMAC-SHA-256 of that under a key derived from the token>"; a new token ends all.

    :ivar cookie: its name, other for every node: cookies don't know ports, and several nodes may share "localhost".
    """

    def __init__(self, token: str) -> None:
        self._key = hashlib.blake2b(token.encode(), person=b"edged session").digest()
        self.cookie = "edged_" + hashlib.blake2b(token.encode(), person=b"edged cookie", digest_size=4).hexdigest()

    def issue(self, now: float) -> str:
        issued = str(int(now))
        return f"{issued}.{self._sign(issued)}"

    def valid(self, value: str, now: float) -> bool:
        """A session from the future is valid: the board's clock was wrong then, or is now; the signature counts."""
        issued, _, signature = value.partition(".")
        if not same(signature, self._sign(issued)):
            return False
        return now - int(issued) < SESSION_SECONDS

    def _sign(self, issued: str) -> str:
        return hmac.new(self._key, issued.encode("utf-8", "surrogateescape"), "sha256").hexdigest()


class Throttle:
    """Counts wrong tokens per address in windows of WINDOW seconds. Memory: at most ADDRESSES small entries.

    A clock that jumps back (a board without one of its own, at its first NTP answer) ends a window, never prolongs it.
    """

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._all = (0.0, 0)

    def wait(self, address: str, now: float) -> float:
        """Seconds until this address may try again; 0 = now."""
        own = _left(self._failures.get(address, (0.0, 0)), FAILURES, now)
        return max(own, _left(self._all, FAILURES_IN_ALL, now))

    def failed(self, address: str, now: float) -> None:
        self._failures[address] = _count(self._failures.get(address, (0.0, 0)), now)
        self._failures.move_to_end(address)
        if len(self._failures) > ADDRESSES:
            self._failures.popitem(last=False)
        self._all = _count(self._all, now)

    def __len__(self) -> int:
        return len(self._failures)


def _left(window: tuple[float, int], limit: int, now: float) -> float:
    began, count = window
    return began + WINDOW - now if count >= limit and 0 <= now - began < WINDOW else 0.0


def _count(window: tuple[float, int], now: float) -> tuple[float, int]:
    began, count = window
    return (began, count + 1) if count and 0 <= now - began < WINDOW else (now, 1)


def host_allowed(header: str, names: frozenset[str], connected_to: str) -> bool:
    """Whether a Host header names this node, against DNS rebinding.

    Allowed: loopback, the address that the client connected to (a node's own by nature), and `names`, in lower case.
    """
    host = header.strip().lower()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    host = host.rstrip(".")
    if host == "localhost" or host.endswith(".localhost") or host in names:
        return True
    try:
        address = ipaddress.ip_address(host)
        return address.is_loopback or address == ipaddress.ip_address(connected_to.partition("%")[0])
    except ValueError:
        return False
