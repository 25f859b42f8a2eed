"""Certificates: valid for any clock, only for their purpose, and only for whom the hub says."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlink import certs, trust, wire
from edged.errors import PermanentError

AUTHORITY = certs.Authority(certs.make_authority("home"))
NODE_KEY = certs.make_key()
CSR = certs.make_csr(NODE_KEY, "whatever-it-asks")


def _parsed(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def test_no_clock_is_too_early_or_too_late_for_a_certificate() -> None:
    for pem in (AUTHORITY.pem, AUTHORITY.issue_server([]).certificate, AUTHORITY.sign_client(CSR, "pi-1")):
        assert _parsed(pem).not_valid_before_utc.year == 1970
        assert _parsed(pem).not_valid_after_utc.year == 9999


def test_the_common_name_is_the_hubs_choice_and_not_the_requests() -> None:
    subject = _parsed(AUTHORITY.sign_client(CSR, "pi-1")).subject
    assert [a.value for a in subject] == ["pi-1"]
    assert subject.get_attributes_for_oid(NameOID.COMMON_NAME)


@pytest.mark.parametrize("name", [certs.HUB_USER, "", "+", "#", "a/b", "Pi", "x" * 64])
def test_no_node_is_given_a_name_that_bends_the_brokers_rules(name: str) -> None:
    assert not wire.valid_name(name)
    with pytest.raises(PermanentError):
        AUTHORITY.sign_client(CSR, name)


def test_a_server_certificate_always_covers_the_name_that_nodes_insist_on() -> None:
    names = certs.names_of(AUTHORITY.issue_server(["10.0.0.1", "fe80::1", "pi.local"]).certificate)
    assert names == {"10.0.0.1", "fe80::1", "pi.local", trust.HUB_TLS_NAME}


def test_the_key_of_a_request_is_known_by_its_hash() -> None:
    assert certs.key_id_of_csr(CSR) == certs.key_id_of_csr(certs.make_csr(NODE_KEY, "other"))
    assert certs.key_id_of_csr(CSR) != certs.key_id_of_csr(certs.make_csr(certs.make_key(), "other"))


@settings(max_examples=200)
@given(st.integers(0, len(CSR) - 1), st.integers(1, 255))
def test_a_damaged_request_is_refused_with_a_sentence(at: int, flip: int) -> None:
    damaged = bytearray(CSR)
    damaged[at] ^= flip
    try:
        AUTHORITY.sign_client(bytes(damaged), "pi-1")
    except PermanentError:
        return
    # What is left are white space and other spellings of the same base64.
    assert certs.key_id_of_csr(bytes(damaged)) == certs.key_id_of_csr(CSR)


@given(st.binary(max_size=200))
def test_garbage_is_no_request(garbage: bytes) -> None:
    for text in (
        garbage,
        b"-----BEGIN CERTIFICATE REQUEST-----\n" + garbage + b"\n-----END CERTIFICATE REQUEST-----\n",
    ):
        with pytest.raises(PermanentError):
            certs.key_id_of_csr(text)


def test_what_is_in_the_folder_is_kept_while_it_fits(tmp_path: Path) -> None:
    authority = certs.load_or_create_authority(tmp_path / "ca", "home")
    assert certs.load_or_create_authority(tmp_path / "ca", "home").fingerprint == authority.fingerprint
    server = certs.ensure_server(authority, tmp_path / "tls", ["localhost"])
    assert certs.ensure_server(authority, tmp_path / "tls", ["localhost"]) == server
    moved = certs.ensure_server(authority, tmp_path / "tls", ["localhost", "10.0.0.9"])
    assert moved != server
    assert "10.0.0.9" in certs.names_of(moved.certificate)
    assert certs.ensure_server(AUTHORITY, tmp_path / "tls", ["localhost"]) != moved
    client = certs.ensure_client(authority, tmp_path / "tls")
    assert certs.ensure_client(authority, tmp_path / "tls") == client
    assert certs.ensure_client(AUTHORITY, tmp_path / "tls") != client
    assert {p.stat().st_mode & 0o777 for p in tmp_path.rglob("*.key")} == {0o600}


def test_a_damaged_server_certificate_is_issued_anew_but_a_damaged_ca_is_an_error(tmp_path: Path) -> None:
    authority = certs.load_or_create_authority(tmp_path, "home")
    certs.ensure_server(authority, tmp_path, [])
    (tmp_path / "server.pem").write_bytes(b"half")
    assert certs.ensure_server(authority, tmp_path, []).certificate.startswith(b"-----BEGIN")
    (tmp_path / "ca.key").unlink()
    with pytest.raises(PermanentError, match=r"ca\.key"):
        certs.load_or_create_authority(tmp_path, "home")


def test_the_cas_public_copy_is_made_again_when_it_is_missing_or_damaged(tmp_path: Path) -> None:
    authority = certs.load_or_create_authority(tmp_path, "home")
    for spoil in (lambda p: p.unlink(), lambda p: p.write_bytes(b"half")):
        spoil(tmp_path / "ca.pem")
        assert certs.load_or_create_authority(tmp_path, "home").fingerprint == authority.fingerprint
        assert certs.fingerprint((tmp_path / "ca.pem").read_bytes()) == authority.fingerprint
    assert b"PRIVATE" not in (tmp_path / "ca.pem").read_bytes()


def test_a_foreign_key_beside_the_cas_certificate_is_noticed() -> None:
    with pytest.raises(PermanentError, match="belong"):
        certs.Authority(certs.Pair(AUTHORITY.pem, NODE_KEY))
