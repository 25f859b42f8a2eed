"""TLS client certificates at the API: people's (CN = user, O = groups) and nodes' (CN = node).

They come from two authorities on purpose. What is a user's name here is a node's name at the broker, which trusts the
fleet's authority: a certificate for a user "pi-1" must not open node pi-1's topics, nor a node's certificate be a user.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from cloudlink import certs, wire
from cloudlink.hub.auth.authenticate import Unauthorized
from cloudlink.hub.auth.tokens import CREDENTIAL
from cloudlink.hub.auth.users import User, authenticated, node
from edged.errors import PermanentError

MAX_NAME = 64  # characters; ub-common-name and ub-organization-name
REMEMBERED = 1000  # certificates that were taken apart; each connection shows its own with every request


class _Known(NamedTuple):
    user: User
    begin: dt.datetime
    end: dt.datetime


class Certificates:
    """:param fleet: the nodes' authority, PEM.
    :param users: the people's authority, PEM.
    :param now: wall clock, seconds.
    """

    def __init__(self, fleet: bytes, users: bytes, now: Callable[[], float] = time.time) -> None:
        self._fleet = x509.load_pem_x509_certificate(fleet)
        self._users = x509.load_pem_x509_certificate(users)
        self._now = now
        self._known: OrderedDict[bytes, _Known] = OrderedDict()

    def user_of(self, certificate: bytes) -> User:
        """See authenticate.CertificateReader. The TLS library has checked the chain; who signed is checked again."""
        known = self._known.get(certificate)
        if known is None:
            known = self._known[certificate] = self._read(certificate)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        now = dt.datetime.fromtimestamp(self._now(), dt.UTC)
        if now > known.end:
            raise Unauthorized(f"the client certificate has expired at {known.end:%Y-%m-%d %H:%M} UTC; make a new one")
        if now < known.begin:
            raise Unauthorized(f"the client certificate is good from {known.begin:%Y-%m-%d %H:%M} UTC only")
        return known.user

    def _read(self, pem: bytes) -> _Known:
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            names = [str(a.value) for a in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
            groups = [str(a.value) for a in certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
            serial = f"{certificate.serial_number:x}"
            times = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as e:
            raise Unauthorized("the client certificate can't be read") from e
        if len(names) != 1 or not names[0]:
            raise Unauthorized("the client certificate must have one common name: who you are")
        if _issued(self._users, certificate):
            user = authenticated(names[0], groups, extra={CREDENTIAL: (f"X509SERIAL={serial}",)})
        elif _issued(self._fleet, certificate) and wire.valid_name(names[0]):
            user = node(names[0])
        else:
            raise Unauthorized("the client certificate is neither a user's nor a node's of this fleet")
        return _Known(user, *times)


def _issued(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def issue(
    authority: certs.Authority, csr: bytes, user: str, groups: tuple[str, ...], begin: float, end: float
) -> bytes:
    """A person's certificate for a key of their own.

    :param begin, end: wall clock, seconds.
    :raises PermanentError: the request is damaged, or a name doesn't fit into a certificate.
    """
    if any(len(part) > MAX_NAME for part in (user, *groups)):
        raise PermanentError(f"names in a certificate have {MAX_NAME} characters at most (X.520); use a token instead")
    times = dt.datetime.fromtimestamp(begin, dt.UTC), dt.datetime.fromtimestamp(end, dt.UTC)
    return authority.sign_user(csr, user, groups, *times)
