"""The hub's certificate authority: X.509 for TLS, made with `cryptography` (13 MB: never loaded by the resident node).

Dates. A board without a clock boots in 1970, and the hub may be such a board: every certificate is valid from
1970-01-01, so that no clock is too early for it. And none ends (RFC 5280's 9999-12-31, "no well-defined
expiration date"): a date that a wrong clock can miss would lock out a working node or, worse, all of them
at once. What a date would give is bought otherwise: a certificate only opens the door to the broker, which is not
trusted (desired state is signed, secrets are sealed), and a lost node is shut out by the hub, not by the calendar.
People's certificates are another matter: they end, and come from an authority of their own (hub.auth.certificates).

Names. Nodes ask for HUB_TLS_NAME (trust.py) and not for the address that they happened to dial, so a hub may move.
A client's common name is its MQTT user name; the broker's access rules hang on it.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloudlink import trust, wire
from edged.errors import PermanentError

ALWAYS_FROM = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
FOR_EVER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
MAX_CSR = 8 << 10  # bytes; one for P-256 has 500

# No DNS-1123 label, so that no node can ever be given it: who has this common name may do all on the broker.
HUB_USER = "_hub"


class Pair(NamedTuple):
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


def make_key() -> bytes:
    """A new EC P-256 private key, PKCS#8 PEM: what every TLS library and every small board does fast."""
    return _pem(ec.generate_private_key(ec.SECP256R1()))


def make_csr(key: bytes, common_name: str) -> bytes:
    """A certificate signing request (PKCS#10, PEM) for a key made by make_key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(_load_key(key), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def fingerprint(certificate: bytes) -> bytes:
    """SHA-256 of the DER form of the first certificate in a PEM text."""
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.decode("ascii"))).digest()
    except ValueError as e:
        raise PermanentError(f"not a PEM certificate: {e}") from e


def serial_of(certificate: bytes) -> str:
    """The serial number in lower-case hex."""
    return f"{_load_certificate(certificate).serial_number:x}"


def names_of(certificate: bytes) -> frozenset[str]:
    """All subject alternative names (DNS and IP) of a certificate."""
    try:
        names = _load_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(names.get_values_for_type(x509.DNSName)) | {
        str(ip) for ip in names.get_values_for_type(x509.IPAddress)
    }


def key_id_of_csr(csr: bytes) -> bytes:
    """SHA-256 of the public key (SubjectPublicKeyInfo) that a request proves to hold."""
    return hashlib.sha256(_spki(_load_csr(csr).public_key())).digest()


class Authority:
    """The fleet's own CA. Its key signs server and client certificates and nothing else."""

    def __init__(self, pair: Pair) -> None:
        self.pem = pair.certificate
        self.fingerprint = fingerprint(pair.certificate)
        self._key = _load_key(pair.key)
        self._certificate = _load_certificate(pair.certificate)
        if _spki(self._key.public_key()) != _spki(self._certificate.public_key()):
            raise PermanentError(
                "the CA's key and certificate don't belong together; restore both from the same backup"
            )

    def issue_server(self, names: Sequence[str]) -> Pair:
        """A certificate for a TLS server with these DNS names and IP addresses (HUB_TLS_NAME is added)."""
        key = ec.generate_private_key(ec.SECP256R1())
        wanted = sorted({*names, trust.HUB_TLS_NAME})
        builder = self._builder("hub", key.public_key(), ExtendedKeyUsageOID.SERVER_AUTH)
        builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(n) for n in wanted]), critical=False)
        return Pair(self._sign(builder), _pem(key))

    def issue_client(self, common_name: str) -> Pair:
        """A certificate with a key made here: for the hub's own connections (HUB_USER), or for tests."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(common_name, key.public_key(), ExtendedKeyUsageOID.CLIENT_AUTH)
        return Pair(self._sign(builder), _pem(key))

    def sign_client(self, csr: bytes, node: str) -> bytes:
        """The certificate for a node's own key. Only the key is taken from the request; the name is ours to give.

        :raises PermanentError: the request is damaged, its key isn't P-256, or the node's name is no DNS-1123 label.
        """
        if not wire.valid_name(node):
            raise PermanentError(f"node name {node[:80]!r} is not a DNS-1123 label (a-z, 0-9, -, 63 at most)")
        request = _load_csr(csr)
        return self._sign(self._builder(node, request.public_key(), ExtendedKeyUsageOID.CLIENT_AUTH))

    def sign_user(
        self, csr: bytes, user: str, groups: Sequence[str], begin: datetime.datetime, end: datetime.datetime
    ) -> bytes:
        """The certificate for a person's own key (CN = user, O = groups). Only the key is taken from the request.

        :raises PermanentError: the request is damaged, or its key isn't P-256.
        """
        builder = self._builder(user, _load_csr(csr).public_key(), ExtendedKeyUsageOID.CLIENT_AUTH, groups)
        return self._sign(builder, begin, end)

    def _builder(
        self, common_name: str, key: object, usage: x509.ObjectIdentifier, groups: Sequence[str] = ()
    ) -> x509.CertificateBuilder:
        assert isinstance(key, ec.EllipticCurvePublicKey)
        names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, g) for g in groups]
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([*names, x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            # Keeps a node's certificate from passing as the hub's, and the other way round.
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )

    def _sign(
        self,
        builder: x509.CertificateBuilder,
        begin: datetime.datetime = ALWAYS_FROM,
        end: datetime.datetime = FOR_EVER,
    ) -> bytes:
        made = builder.not_valid_before(begin).not_valid_after(end).sign(self._key, hashes.SHA256())
        return made.public_bytes(serialization.Encoding.PEM)


def make_authority(fleet: str) -> Pair:
    """A new CA for a fleet."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"edged fleet {fleet}")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ALWAYS_FROM)
        .not_valid_after(FOR_EVER)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), _pem(key))


# ---------------------------------------------------------------- files


def load_or_create_authority(folder: Path, fleet: str) -> Authority:
    """The CA in `folder`, made on first use: ca.key holds key and certificate, ca.pem a copy for those who trust it.

    One file for both, so that a power cut at the first start leaves a whole CA or none. A CA that lost its
    key is an error and never replaced: every node of the fleet knows it by its fingerprint.
    """
    public, private = folder / "ca.pem", folder / "ca.key"
    if not private.exists():
        if public.exists():
            raise PermanentError(f"{public} has lost its {private.name}; restore that from a backup")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        trust.write_file(private, b"".join(reversed(make_authority(fleet))))
    held = _read_pair(private, private)
    authority = Authority(Pair(held.certificate[held.certificate.find(b"-----BEGIN CERTIFICATE") :], held.key))
    if not public.exists() or public.read_bytes() != authority.pem:
        trust.write_file(public, authority.pem, 0o644)
    return authority


def ensure_server(authority: Authority, folder: Path, names: Sequence[str]) -> Pair:
    """The hub's server certificate in `folder` (server.pem, server.key), issued anew where it doesn't fit.

    It fits if this CA issued it and it covers all `names`; so an address that the machine gained is picked up.
    """
    certificate, key = folder / "server.pem", folder / "server.key"
    try:
        held = _read_pair(certificate, key)
        if {*names, trust.HUB_TLS_NAME} <= names_of(held.certificate) and _belongs(authority, held):
            return held
    except PermanentError:
        pass  # missing or damaged: a server certificate is worth nothing by itself
    made = authority.issue_server(names)
    _write_pair(certificate, key, made)
    return made


def ensure_client(authority: Authority, folder: Path, common_name: str = HUB_USER) -> Pair:
    """The hub's own client certificate in `folder` (client.pem, client.key), issued anew where it doesn't fit."""
    certificate, key = folder / "client.pem", folder / "client.key"
    try:
        held = _read_pair(certificate, key)
        subject = _load_certificate(held.certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        if [a.value for a in subject] == [common_name] and _belongs(authority, held):
            return held
    except PermanentError:
        pass
    made = authority.issue_client(common_name)
    _write_pair(certificate, key, made)
    return made


def _write_pair(certificate: Path, key: Path, pair: Pair) -> None:
    certificate.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    certificate.unlink(missing_ok=True)  # so that an old certificate never stands beside a new key
    trust.write_file(key, pair.key)
    trust.write_file(certificate, pair.certificate, 0o644)


def _read_pair(certificate: Path, key: Path) -> Pair:
    try:
        return Pair(certificate.read_bytes(), key.read_bytes())
    except OSError as e:
        raise PermanentError(f"can't read {e.filename}: {e.strerror}") from e


def _belongs(authority: Authority, pair: Pair) -> bool:
    certificate = _load_certificate(pair.certificate)
    try:
        certificate.verify_directly_issued_by(_load_certificate(authority.pem))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return _spki(_load_key(pair.key).public_key()) == _spki(certificate.public_key())


# ---------------------------------------------------------------- cryptography's border


def _key_usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as e:
        raise PermanentError(f"{name!r} is neither an IP address nor a DNS name in ASCII: {e}") from e


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _spki(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise PermanentError("the key is not EC P-256; make it with `openssl ecparam -name prime256v1`, or let edgectl")
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as e:
        raise PermanentError(f"not an unencrypted PEM private key: {e}") from e
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PermanentError("the private key is not an elliptic-curve one")
    return key


def _load_certificate(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as e:
        raise PermanentError(f"not a PEM certificate: {e}") from e


def _load_csr(pem: bytes) -> x509.CertificateSigningRequest:
    """A request whose signature proves that the sender holds the key; PermanentError for any other bytes."""
    if len(pem) > MAX_CSR:
        raise PermanentError(f"the certificate request has {len(pem)} bytes, {MAX_CSR} are allowed")
    try:
        request = x509.load_pem_x509_csr(pem)
        _spki(request.public_key())
        if not request.is_signature_valid:
            raise PermanentError("the certificate request is not signed by its own key")
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as e:
        raise PermanentError(f"not a certificate request: {e}") from e
    return request
