"""One repository on one registry or mirror: authorised requests, redirects, manifests.

Follows the OCI distribution specification 1.1 (pull) and Docker's token authentication. Whatever comes from a registry
is hostile until its digest fits; sentences quote at most a short, printable part of it.
"""

from __future__ import annotations

import threading
from urllib.parse import quote, urlencode, urljoin

import msgspec

from edged.errors import EdgedError, PermanentError, RetryError
from edged.images import auth, oci
from edged.images.reference import DEFAULT_REGISTRY, Reference
from edged.images.settings import PullConfig, RegistryConfig
from edged.images.transport import NoTlsError, Response, Transport, Url, parse_url
from edged.model import Value

MOST_REDIRECTS = 5
LARGEST_ANSWER = 256 << 10  # bytes of a token or an error document
LONGEST_PAUSE = 300.0  # seconds; a Retry-After above it is a mistake or an attack
DOCKER_HOST = "registry-1.docker.io"  # where docker.io's images are
ACCEPTED = ", ".join(sorted(oci.INDEXES) + sorted(oci.MANIFESTS))
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"


class _Error(Value, frozen=True):
    code: str = ""
    message: str = ""


class _Errors(Value, frozen=True):
    errors: tuple[_Error, ...] | None = None


class Document(Value, frozen=True):
    """A manifest or an index, as it came, verified where a digest was known.

    :ivar media_type: what the document itself says it is, else what the registry said.
    """

    raw: bytes
    media_type: str

    @property
    def digest(self) -> str:
        return oci.digest_of(self.raw)


class _Kind(Value, frozen=True, rename="camel"):
    media_type: str = ""
    schema_version: int = 2
    manifests: msgspec.Raw = msgspec.Raw()
    layers: msgspec.Raw = msgspec.Raw()


class Endpoint:
    """A repository at one address. Safe to use from several threads.

    :param base: "host:port" or URL; without a scheme HTTPS, and where `settings` allow it HTTP next.
    """

    def __init__(
        self, transport: Transport, base: str, repository: str, settings: RegistryConfig, login: auth.Login | None
    ) -> None:
        self._transport, self._settings, self._login = transport, settings, login
        self._repository = repository
        self.name = base.partition("://")[2].partition("/")[0] if "://" in base else base
        schemes = [base] if "://" in base else [f"https://{base}"]
        self._bases = [parse_url(text.rstrip("/"), f"the registry address {base!r}") for text in schemes]
        self._insecure = settings.insecure or _is_loopback(self._bases[0].host)
        if self._insecure and "://" not in base:
            self._bases.append(parse_url(f"http://{base}", f"the registry address {base!r}"))
        self._authorization = ""
        self._expires = float("inf")
        self._lock = threading.Lock()

    # ------------------------------------------------------------ manifests and blobs

    def head_manifest(self, wanted: str) -> str:
        """The digest that a tag points to now, or "" where the registry doesn't say."""
        with self._request("HEAD", f"manifests/{wanted}", {"Accept": ACCEPTED}) as response:
            if response.status in (404, 405, 501):
                return ""  # GET says why, and in words
            self._check(response, f"{self._repository}:{wanted}")
            return response.header("Docker-Content-Digest")

    def manifest(self, wanted: str) -> Document:
        """:param wanted: a tag or a digest; the digest is verified."""
        what = f"{self.name}/{self._repository}{'@' if ':' in wanted else ':'}{wanted}"
        with self._request("GET", f"manifests/{wanted}", {"Accept": ACCEPTED}) as response:
            self._check(response, what)
            raw = response.read_all(oci.LARGEST_DOCUMENT, what)
            announced = wanted if ":" in wanted else response.header("Docker-Content-Digest")
            content_type = response.header("Content-Type").partition(";")[0].strip()
        if announced.startswith("sha256:") and oci.digest_of(raw) != announced:
            raise RetryError(f"{what}: came with digest {oci.digest_of(raw)} instead of {announced[:80]}")
        return Document(raw, _media_type(raw, content_type, what))

    def blob(self, digest: str, offset: int = 0) -> Response:
        """The answer to a request for a blob from byte `offset` on: status 200 (from the start), 206 or 416."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        response = self._request("GET", f"blobs/{digest}", headers)
        if response.status == 416 and offset:
            return response
        try:
            self._check(response, f"blob {digest}")
        except BaseException:
            response.close()
            raise
        return response

    # ------------------------------------------------------------ requests

    def _request(self, method: str, path: str, headers: dict[str, str]) -> Response:
        """An answer that is neither a redirect nor a challenge we could meet."""
        authorization = self._current_authorization()
        response = self._followed(method, path, headers, authorization)
        for _ in range(2):  # a token may have been revoked, and the next one be for another scope
            if response.status != 401 or response.url.origin != self._bases[0].origin:
                break
            meeting = self._authorise(auth.parse_challenges(response.header("WWW-Authenticate")), authorization)
            if not meeting:
                break
            response.close()
            authorization = meeting
            response = self._followed(method, path, headers, authorization)
        return response

    def _followed(self, method: str, path: str, headers: dict[str, str], authorization: str) -> Response:
        response = self._first(method, path, headers | ({"Authorization": authorization} if authorization else {}))
        for _ in range(MOST_REDIRECTS):
            if response.status not in (301, 302, 303, 307, 308):
                return response
            here, location = response.url, response.header("Location")
            response.close()
            what = f"the redirect that {here.netloc} sent"
            there = parse_url(urljoin(f"{here.scheme}://{here.netloc}{here.target}", location), what)
            if there.scheme == "http" and here.scheme == "https" and not self._insecure:
                raise PermanentError(f"{what} leads from HTTPS to plain HTTP at {there.netloc}; refused")
            # Once on another host, never again: the way back may be a trap, and signed URLs refuse a second login.
            if there.origin != here.origin:
                authorization = ""
            response = self._send(method, there, headers | ({"Authorization": authorization} if authorization else {}))
        response.close()
        raise PermanentError(f"{self.name} redirects more than {MOST_REDIRECTS} times")

    def _first(self, method: str, path: str, headers: dict[str, str]) -> Response:
        """The request to the registry itself; the first one finds out whether it speaks TLS, if both are allowed."""
        with self._lock:
            bases = list(self._bases)
        for base in bases:
            url = base._replace(target=f"{base.target.rstrip('/')}/v2/{self._repository}/{path}")
            try:
                response = self._send(method, url, headers)
            except NoTlsError:
                if base is bases[-1]:
                    raise
            else:
                with self._lock:
                    self._bases = [base]
                return response
        raise AssertionError("an endpoint has at least one address")

    def _send(self, method: str, url: Url, headers: dict[str, str], body: bytes | None = None) -> Response:
        return self._transport.request(method, url, headers, body, self._settings.ca, not self._insecure)

    def _check(self, response: Response, what: str) -> None:
        """Turn every status but success into the error it means."""
        status = response.status
        if status in (200, 206):
            return
        where = response.url.netloc
        said = "" if response.url.origin != self._bases[0].origin else _said(response)
        if status in (401, 403):
            hint = "its credentials were refused" if self._login else "it may need a login, or not exist"
            raise PermanentError(f"{where} denies {what}: {hint}{said}")
        if status in (404, 410):
            raise PermanentError(f"{where} has no {what}{said}")
        if status in (408, 425, 429) or status >= 500:
            raise RetryError(f"{where} answered {status} for {what}{said}", _pause(response.header("Retry-After")))
        raise PermanentError(f"{where} answered {status} for {what}{said}")

    # ------------------------------------------------------------ authorisation

    def _current_authorization(self) -> str:
        with self._lock:
            if auth.monotonic() > self._expires:
                self._authorization, self._expires = "", float("inf")
            return self._authorization

    def _authorise(self, challenges: list[auth.Challenge], refused: str) -> str:
        """What meets one of the challenges, or "". `refused` is what the registry has just not accepted."""
        with self._lock:
            if self._authorization not in ("", refused):
                return self._authorization  # another thread was faster
            self._authorization, self._expires = "", float("inf")
            for challenge in challenges:
                if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
                    token = self._fetch_token(challenge.parameters)
                    self._authorization, self._expires = f"Bearer {token.text}", token.expires
                elif challenge.scheme == "basic" and self._login and self._login.user and not refused:
                    self._authorization = self._login.basic()  # only once: it would be refused again
                if self._authorization:
                    break
            return self._authorization

    def _fetch_token(self, parameters: dict[str, str]) -> auth.Token:
        realm = parse_url(parameters["realm"], f"the token server that {self.name} names")
        if realm.scheme == "http" and not self._insecure:
            raise PermanentError(f"{self.name} wants logins sent to {realm.netloc} over plain HTTP; refused")
        scope = parameters.get("scope") or f"repository:{self._repository}:pull"
        query = {"scope": scope} | ({"service": parameters["service"]} if parameters.get("service") else {})
        headers: dict[str, str] = {}
        if self._login and self._login.identity_token:
            form = query | {"grant_type": "refresh_token", "client_id": "edged"}
            body = urlencode(form | {"refresh_token": self._login.identity_token}).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            response = self._send("POST", realm, headers, body)
        else:
            if self._login:
                headers["Authorization"] = self._login.basic()
            joiner = "&" if "?" in realm.target else "?"
            target = realm.target + joiner + urlencode(query, quote_via=quote)
            response = self._send("GET", realm._replace(target=target), headers)
        with response:
            if response.status != 200:
                sentence = f"the token server {realm.netloc} answered {response.status}"
                if response.status in (400, 401, 403):
                    why = "the credentials are refused" if self._login else "it may need a login"
                    raise PermanentError(f"{sentence} for {self.name}/{self._repository}: {why}")
                raise RetryError(sentence, _pause(response.header("Retry-After")))
            raw = response.read_all(LARGEST_ANSWER, f"the answer of the token server {realm.netloc}")
        return auth.read_token(raw, realm.netloc, auth.monotonic())


def endpoints(reference: Reference, config: PullConfig, logins: auth.Keys, transport: Transport) -> list[Endpoint]:
    """Where to ask for `reference`: its mirrors in their order, then its registry; each once for every login that fits
    it, as with the kubelet: which of several is the right one, only the registry knows."""
    own = config.registries.get(reference.registry, RegistryConfig())
    result = []
    for address in (*own.mirrors, reference.registry):
        is_mirror = address is not reference.registry
        name = address.partition("://")[2].partition("/")[0] if "://" in address else address
        settings = config.registries.get(name, RegistryConfig()) if is_mirror else own
        if not settings.ca and config.ca:
            settings = msgspec.structs.replace(settings, ca=config.ca)
        base = DOCKER_HOST if address == DEFAULT_REGISTRY else address
        for login in logins.find_all(name, reference.repository) or (None,):
            result.append(Endpoint(transport, base, reference.repository, settings, login))
    return result


def _media_type(raw: bytes, content_type: str, what: str) -> str:
    """What the document is. One that could be read in two ways is refused (GHSA-77vh-xpmg-72qh)."""
    if content_type.startswith(_SCHEMA_1):
        raise PermanentError(
            f"{what} was pushed by a Docker older than 1.10 (schema 1); push it again with a newer one"
        )
    kind = oci.decode(raw, _Kind, what)
    if kind.schema_version != 2:
        raise PermanentError(f"{what} has schemaVersion {kind.schema_version}; only 2 is supported")
    if bytes(kind.manifests) and bytes(kind.layers):
        raise PermanentError(f"{what} is an image and an index at the same time; refused")
    if kind.media_type and content_type in oci.MANIFESTS | oci.INDEXES and kind.media_type != content_type:
        raise PermanentError(
            f"{what} says it is {kind.media_type[:100]!r}, its registry says {content_type!r}; refused"
        )
    media_type = kind.media_type or content_type
    if media_type not in oci.MANIFESTS | oci.INDEXES:
        media_type = oci.INDEX if bytes(kind.manifests) else oci.MANIFEST if bytes(kind.layers) else media_type
    if media_type not in oci.MANIFESTS | oci.INDEXES:
        raise PermanentError(f"{what} is a {media_type[:100]!r}, not an image")
    return media_type


def _said(response: Response) -> str:
    """The registry's own words, cut and made printable, for the end of a sentence."""
    try:
        errors = msgspec.json.decode(response.read_all(LARGEST_ANSWER, "the error"), type=_Errors).errors or ()
    except (msgspec.DecodeError, UnicodeDecodeError, EdgedError):
        return ""
    words = "; ".join(f"{e.code}: {e.message}" if e.message else e.code for e in errors[:3])
    return f" ({''.join(c if c.isprintable() else '?' for c in words[:200])})" if words else ""


def _pause(retry_after: str) -> float:
    """Seconds; the form with a date is not trusted with this node's clock."""
    return min(float(retry_after), LONGEST_PAUSE) if retry_after.isdigit() and len(retry_after) < 9 else 1.0


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
