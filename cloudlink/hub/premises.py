"""The hub's folder: what it holds, who may enter, and that only one hub works in it.

data_dir/            0700
    hub.db           objects and records (SQLite)
    hub.lock         held while a hub runs
    admin.token      the administrator's bearer token
    signing.key      Ed25519: what nodes believe
    secrets.key      encrypts Secrets in the database
    accounts.key     signs service accounts' tokens (EC P-256)
    ca/ tls/         the fleet's CA; the hub's own certificates
    users-ca/        signs people's client certificates
    audit/           who asked what of the API
    broker/          mosquitto's configuration and what it keeps
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

from cloudlink import certs, trust
from cloudlink.hub.config import HubConfig
from cloudlink.hub.store import Store
from edged.errors import PermanentError

USER = "admin"
IDENTITY = ("hub", "identity")  # record: a digest of the keys that belong to the database


class Premises(NamedTuple):
    """Everything that a hub needs from its folder before it can open.

    :ivar lock: descriptor that holds the lock; closing it lets another hub in.
    """

    folder: Path
    authority: certs.Authority
    signing_key: bytes
    secrets_key: bytes
    accounts_key: bytes
    users: certs.Authority
    admin_token: str
    lock: int

    @classmethod
    def enter(cls, config: HubConfig) -> Self:
        """Make what is missing, and lock the folder.

        :raises PermanentError: another hub is in there, or something can't be read or written.
        """
        folder = config.data
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            held = lock(folder)
            authority = certs.load_or_create_authority(folder / "ca", config.fleet)
            certs.ensure_server(authority, folder / "tls", config.certificate_names)
            certs.ensure_client(authority, folder / "tls")
            users = certs.load_or_create_authority(folder / "users-ca", f"{config.fleet}, users")
            _write_if_new(folder / "tls" / "clients.pem", authority.pem + users.pem)
            signing_key = trust.load_or_create_key(folder / "signing.key")
            secrets_key = trust.load_or_create_key(folder / "secrets.key")
            for file, content in (
                ("admin.token", (secrets.token_hex(32) + "\n").encode()),
                ("accounts.key", certs.make_key()),
            ):
                if not (folder / file).exists():
                    trust.write_file(folder / file, content)
            accounts_key = (folder / "accounts.key").read_bytes()
            token = admin_token(folder)
            return cls(folder, authority, signing_key, secrets_key, accounts_key, users, token, held)
        except OSError as e:
            raise PermanentError(f"{e.filename or folder}: {e.strerror}; name another data_dir, or run as root") from e

    def check_identity(self, store: Store) -> None:
        """Hubs that share a database must share what nodes and people believe; the first one leaves its mark.

        :raises PermanentError: this folder's keys are another fleet's.
        """
        mine = identity_of(self.folder)
        store.refresh()
        known = store.get_record(*IDENTITY)
        if known is None:
            store.put_record(*IDENTITY, mine)
        elif known != mine:
            raise PermanentError(
                f"the database belongs to a hub with other keys than those in {self.folder}; bring that hub's keys here"
                " (`edgehub keys export` there, `edgehub keys import` here, into an empty data_dir)"
            )

    @property
    def server_files(self) -> tuple[Path, Path]:
        return self.folder / "tls" / "server.pem", self.folder / "tls" / "server.key"

    @property
    def client_files(self) -> tuple[Path, Path]:
        return self.folder / "tls" / "client.pem", self.folder / "tls" / "client.key"

    @property
    def clients_file(self) -> Path:
        """Whose certificates are asked for at the API: nodes' and people's."""
        return self.folder / "tls" / "clients.pem"

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca" / "ca.pem"


def _write_if_new(file: Path, content: bytes) -> None:
    if not file.exists() or file.read_bytes() != content:
        trust.write_file(file, content, 0o644)


def lock(folder: Path) -> int:
    """A descriptor; closing it lets another in. PermanentError while another hub is there."""
    file = os.open(folder / "hub.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        os.close(file)
        raise PermanentError(f"another hub works in {folder}; stop it, or name another data_dir") from e
    return file


def admin_token(folder: Path) -> str:
    """PermanentError if there is no hub's folder, or we may not read it."""
    return _read(folder / "admin.token").strip()


def ca_pem(folder: Path) -> str:
    return _read(folder / "ca" / "ca.pem")


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError as e:
        hint = "start the hub once (`edgehub run`), or name its data_dir"
        raise PermanentError(f"can't read {file}: {e.strerror}; {hint}") from e


def identity_of(folder: Path) -> bytes:
    """A digest of what nodes believe and what opens the database's Secrets; tells nothing of either."""
    parts = (ca_pem(folder).encode(), trust.verify_key_of(trust.load_key(folder / "signing.key")))
    secret = trust.load_key(folder / "secrets.key")
    return hashlib.blake2b(b"\0".join(parts), key=secret, digest_size=32).digest()


def kubeconfig(config: HubConfig, server: str = "", user: str = USER, shown: Mapping[str, str] | None = None) -> str:
    """What kubectl needs to reach this hub (kubeconfig v1, YAML). Holds a secret.

    :param server: another URL than the one the hub knows of itself.
    :param shown: how `user` says who they are, as kubeconfig's AuthInfo; None = with the administrator's token.
    """
    ca = base64.b64encode(ca_pem(config.data).encode()).decode()
    name = f"edged-{config.fleet}"
    shown = {"token": admin_token(config.data)} if shown is None else shown
    return "\n".join(
        [
            "apiVersion: v1",
            "kind: Config",
            f"current-context: {name}",
            "clusters:",
            f"- name: {name}",
            "  cluster:",
            f"    server: {server or config.url}",
            f"    certificate-authority-data: {ca}",
            "contexts:",
            f"- name: {name}",
            "  context:",
            f"    cluster: {name}",
            f"    user: {json.dumps(user)}",
            "users:",
            f"- name: {json.dumps(user)}",
            "  user:",
            *(f"    {key}: {value}" for key, value in shown.items()),
            "",
        ]
    )
