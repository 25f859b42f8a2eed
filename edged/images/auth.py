"""Who we are to a registry: docker's `config.json`, `WWW-Authenticate` challenges, bearer tokens.

Follows RFC 9110 section 11 (challenges), the distribution project's token specification and Docker's configuration
file. Secrets appear in no sentence that this module makes: errors name the file and the host, never a value.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from edged.errors import PermanentError
from edged.images.reference import DEFAULT_REGISTRY
from edged.model import Value

LARGEST_FILE = 1 << 20  # bytes of a config.json
SECRET_KEYS = (".dockerconfigjson", ".dockercfg")  # what Kubernetes calls the one key of such a Secret
SHORTEST_LIFE = 60.0  # seconds a token lives that doesn't say how long; the specification's own default
SPARE = 0.8  # of its life; then a token counts as expired, so that none ends on the way
_PARAMETER = re.compile(r'\s*([A-Za-z0-9!#$%&\'*+.^_`|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))\s*(?:,|$)')
_SCHEME = re.compile(r"[\s,]*([A-Za-z][A-Za-z0-9-]*)(?:\s+|$|(?=,))")
_HEADER_SAFE = re.compile(r"[\x21-\x7e]+")


class Login(Value, frozen=True):
    """:ivar identity_token: an OAuth2 refresh token; then user and password are empty."""

    user: str = ""
    password: str = ""
    identity_token: str = ""

    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    def __repr__(self) -> str:
        return "Login(...)"  # what gets printed by accident says nothing


class Challenge(Value, frozen=True):
    """:ivar scheme: lower case, "basic" or "bearer" or something we don't speak."""

    scheme: str
    parameters: dict[str, str]


class Token(Value, frozen=True):
    """:ivar expires: in seconds of the monotonic clock; a board's wall clock may be 50 years off."""

    text: str
    expires: float

    def __repr__(self) -> str:
        return "Token(...)"


class _AuthEntry(Value, frozen=True):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _DockerConfig(Value, frozen=True, rename="camel"):
    auths: dict[str, _AuthEntry] = msgspec.field(default_factory=dict)
    cred_helpers: dict[str, str] = msgspec.field(default_factory=dict)
    creds_store: str = ""


class _TokenAnswer(Value, frozen=True):
    token: str = ""
    access_token: str = ""
    expires_in: int | float | None = None


class Keys(Protocol):
    """Whatever has logins."""

    def find_all(self, host: str, repository: str) -> tuple[Login, ...]:
        """Those to try for `host`/`repository`, in this order; none means anonymous."""
        ...


class Logins:
    """The logins of one `config.json`, found by host and, more specifically, by host and path.

    A host may have `*` in its parts ("*.example.com"), as Kubernetes allows in registry secrets.
    """

    def __init__(self, config: _DockerConfig, file: str) -> None:
        self._file = file
        self._auths = {_key(name): entry for name, entry in config.auths.items()}
        self._helpers = {_key(name) for name in config.cred_helpers}
        self._has_store = bool(config.creds_store)

    @classmethod
    def none(cls) -> Logins:
        return cls(_DockerConfig(), "")

    @classmethod
    def read(cls, path: Path) -> Logins:
        """:raises PermanentError: the file can't be read or isn't a docker config.json."""
        try:
            with path.open("rb") as f:
                raw = f.read(LARGEST_FILE + 1)
        except OSError as e:
            raise PermanentError(f"cannot read the credentials in {path}: {e.strerror}") from e
        return cls._decode(raw, str(path))

    @classmethod
    def of_secret(cls, key: str, value: bytes) -> Logins:
        """The logins of a v1 Secret of type kubernetes.io/dockerconfigjson, or of the older dockercfg, which has what
        the newer has under "auths"."""
        return cls._decode(b'{"auths": %b}' % value if key == ".dockercfg" else value, f"a registry secret's {key}")

    @classmethod
    def _decode(cls, raw: bytes, what: str) -> Logins:
        if len(raw) > LARGEST_FILE:
            raise PermanentError(f"{what} is longer than {LARGEST_FILE} bytes; that is no docker config.json")
        try:
            return cls(msgspec.json.decode(raw, type=_DockerConfig), what)
        except msgspec.ValidationError as e:  # says types and places, never values
            raise PermanentError(f"{what} is not a docker config.json: {e}") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise PermanentError(f"{what} is not a docker config.json: it is not valid JSON") from None

    def find(self, host: str, repository: str) -> Login | None:
        """The login for `host`/`repository`: the longest key that is a prefix of it, else the host's; None: anonymous.

        :raises PermanentError: the entry is malformed, or lies with a credential helper, which is not run here.
        """
        parts = f"{host}/{repository}".split("/")
        for length in range(len(parts), 0, -1):
            key = "/".join(parts[:length])
            entry = self._auths.get(key)
            empty = entry is None or entry == _AuthEntry()
            if key in self._helpers or (entry is not None and empty and self._has_store):
                raise PermanentError(
                    f"{self._file}: the login for {key} lies with a credential helper, which is not run on a node; "
                    "write it into the file itself (auths, with username and password or auth)"
                )
            if entry is not None and not empty:
                return self._login(entry, key)
        for key, entry in self._auths.items():
            if "*" in key and entry != _AuthEntry() and _fits(key, parts):
                return self._login(entry, key)
        return None

    def find_all(self, host: str, repository: str) -> tuple[Login, ...]:
        login = self.find(host, repository)
        return (login,) if login else ()

    def _login(self, entry: _AuthEntry, key: str) -> Login:
        user, password = entry.username, entry.password
        if entry.auth and not (user or password):
            try:
                decoded = base64.b64decode(entry.auth, validate=True).decode().rstrip("\0")
            except (binascii.Error, UnicodeDecodeError):
                raise PermanentError(f"{self._file}: auths[{key}].auth is not base64 of user:password") from None
            user, colon, password = decoded.partition(":")
            if not colon:
                raise PermanentError(f"{self._file}: auths[{key}].auth has no colon between user and password")
        if entry.identitytoken:
            return Login(identity_token=entry.identitytoken)
        if not user:
            raise PermanentError(f"{self._file}: auths[{key}] has no user name")
        return Login(user, password)


class Keyring:
    """The logins of a pod's registry secrets, in their order, and then the node's own.

    A secret that can't be read must not keep a public image, or another pod's, from coming: it is left out, and
    `complaints` has the sentence.
    """

    def __init__(self, secrets: Sequence[Mapping[str, bytes]], docker_config: str) -> None:
        self.complaints: list[str] = []
        self._sources: list[Logins] = []
        for secret in secrets:
            try:
                self._sources += [Logins.of_secret(key, value) for key, value in secret.items() if key in SECRET_KEYS]
            except PermanentError as e:
                self.complaints.append(str(e))
        if docker_config and Path(docker_config).exists():
            try:
                self._sources.append(Logins.read(Path(docker_config)))
            except PermanentError as e:
                self.complaints.append(str(e))

    def find_all(self, host: str, repository: str) -> tuple[Login, ...]:
        found: list[Login] = []
        for source in self._sources:
            try:
                found += [login for login in source.find_all(host, repository) if login not in found]
            except PermanentError as e:
                self.complaints.append(str(e))
        return tuple(found)


def _fits(pattern: str, parts: list[str]) -> bool:
    """Whether host and path of `pattern` are a prefix of `parts`; a `*` stands for (a part of) a label of the host."""
    host, *path = pattern.split("/")
    labels, wanted = host.split("."), parts[0].split(".")
    if path != parts[1 : 1 + len(path)] or len(labels) != len(wanted):
        return False
    return all(fnmatch.fnmatchcase(there, label) for there, label in zip(wanted, labels, strict=True))


def _key(name: str) -> str:
    """A key of `auths` as host or host/path: without scheme, and without the API version docker login writes."""
    name = name.removeprefix("https://").removeprefix("http://").rstrip("/")
    name = name.removesuffix("/v1").removesuffix("/v2")
    host, slash, path = name.partition("/")
    if host in ("index.docker.io", "registry-1.docker.io"):
        host = DEFAULT_REGISTRY
    return f"{host}{slash}{path}"


def parse_challenges(header: str) -> list[Challenge]:
    """The challenges of a WWW-Authenticate header, several headers joined by commas; garbage ends the list."""
    challenges: list[Challenge] = []
    at = 0
    header = header[:8192]
    while (scheme := _SCHEME.match(header, at)) is not None:
        at = scheme.end()
        parameters: dict[str, str] = {}
        while (found := _PARAMETER.match(header, at)) is not None:
            quoted, plain = found.group(2), found.group(3)
            parameters[found.group(1).lower()] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            at = found.end()
        challenges.append(Challenge(scheme.group(1).lower(), parameters))
    return challenges


def read_token(raw: bytes, host: str, now: float) -> Token:
    """A token server's answer. `now` is the monotonic clock, in seconds.

    :raises PermanentError: it isn't one, or has a token that can't stand in a header.
    """
    try:
        answer = msgspec.json.decode(raw, type=_TokenAnswer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise PermanentError(f"the token server {host} answered with something that is not a token") from None
    text = answer.token or answer.access_token
    if not _HEADER_SAFE.fullmatch(text):
        raise PermanentError(f"the token server {host} answered without a usable token")
    life = float(answer.expires_in or 0)
    return Token(text, now + SPARE * (life if life > 0 else SHORTEST_LIFE))


def monotonic() -> float:
    return time.monotonic()
