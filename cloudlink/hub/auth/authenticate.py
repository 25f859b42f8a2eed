"""Who is it: certificate or bearer token -> user. Whatever is shown and isn't good is refused, never passed over."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from cloudlink.hub.auth.users import MASTERS, User, authenticated

MAX_TOKEN = 16 << 10  # characters; a ServiceAccount's has about 800


class Unauthorized(Exception):  # noqa: N818 - Kubernetes' own word
    """401, with a sentence that helps whoever meant well and tells nothing else."""


class Credentials(NamedTuple):
    """What came with a request.

    :ivar token: of `Authorization: Bearer`; "" = none.
    :ivar certificate: PEM, of the TLS connection's other end, verified against our CAs; b"" = none.
    """

    token: str = ""
    certificate: bytes = b""


class TokenReader(Protocol):
    def user_of(self, token: str) -> User | None:
        """None for a token that is of another sort; Unauthorized for one of this sort that isn't good."""


class CertificateReader(Protocol):
    def user_of(self, certificate: bytes) -> User:
        """Unauthorized where it isn't good."""


Administrator = Callable[[str], str | None]


class Authenticator:
    """:param administrator: the administrator's token -> a name; None for any other token.
    :param readers: asked one after the other; the first that knows the sort of token has the last word.
    """

    def __init__(
        self, administrator: Administrator, readers: tuple[TokenReader, ...], certificates: CertificateReader | None
    ) -> None:
        self._administrator = administrator
        self._readers = readers
        self._certificates = certificates

    def authenticate(self, shown: Credentials) -> User:
        """:raises Unauthorized: with the sentence for the answer."""
        if shown.certificate and self._certificates is not None:  # before the token, as kube-apiserver has it
            return self._certificates.user_of(shown.certificate)
        if not shown.token:
            raise Unauthorized("the hub wants a bearer token or a client certificate; see your kubeconfig")
        return self.of_token(shown.token)

    def of_token(self, token: str) -> User:
        if len(token) <= MAX_TOKEN and token.isascii():
            if name := self._administrator(token):
                return authenticated(name, (MASTERS,))
            for reader in self._readers:
                if (user := reader.user_of(token)) is not None:
                    return user
        raise Unauthorized("the hub doesn't know this bearer token; it may have been revoked, or be another hub's")
