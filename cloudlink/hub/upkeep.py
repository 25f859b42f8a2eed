"""What an administrator does to a hub from the command line: backup, restore, keys, the files of an outside broker."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from cloudlink import certs, trust
from cloudlink.hub import archive, backups
from cloudlink.hub.broker import Identity, Listener, access_rules, broker_config
from cloudlink.hub.config import HubConfig
from cloudlink.hub.database import Database
from cloudlink.hub.databases import database_for
from cloudlink.hub.entries import Seal
from cloudlink.hub.premises import IDENTITY, identity_of, lock
from edged.errors import PermanentError, RetryError


def _seal(folder: Path) -> Seal:
    file = folder / "secrets.key"
    return Seal(trust.load_key(file) if file.exists() else None)


def back_up(config: HubConfig, file: Path, with_keys: bool) -> str:
    """A running hub is not disturbed: it is read as of one moment."""
    keys = archive.keys_of(config.data)
    database = database_for(config.database_url, _seal(config.data))
    with contextlib.closing(database):
        database.open_to_read()
        return archive.backup(file, database, config.fleet, keys if with_keys else {}, time.time())


def back_up_into(config: HubConfig, folder: Path, with_keys: bool, keep: int) -> str:
    """One more backup in a folder, and the oldest ones away. Where this one fails, all others stay.

    One at a time: whoever comes second waits for the first.
    """
    if not 1 <= keep <= backups.MAX_KEPT:
        raise PermanentError(f"--keep {keep} must be between 1 and {backups.MAX_KEPT}")
    try:
        alone = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise PermanentError(f"can't use {folder}: {e.strerror}") from e
    try:
        fcntl.flock(alone, fcntl.LOCK_EX)
        name = backups.file_name(config.fleet, time.time())
        told = back_up(config, folder / name, with_keys)
        gone = backups.tidy(folder, name, config.fleet, keep)
    finally:
        os.close(alone)
    return f"{folder / name}: {told}" + (f"; {len(gone)} older removed" if gone else "")


def restore(config: HubConfig, file: Path) -> str:
    """Into a data_dir and a database that hold no hub yet; from either kind of database to either."""
    kept = archive.Archive(file)
    if not kept.has_content:
        raise PermanentError(f"{file} holds keys only; `edgehub keys import` takes it")
    if kept.fleet != config.fleet:
        raise PermanentError(
            f'{file} is of fleet "{kept.fleet}", the settings say "{config.fleet}"; nodes believe their own fleet only'
        )
    with _entered(config.data):
        database = database_for(config.database_url, Seal(None))
        with contextlib.closing(database):
            _refuse_a_second_hub(database)
            archive.import_keys(kept, config.data)
            database.seal = _seal(config.data)
            marked = kept.record(*IDENTITY)
            if marked is not None and marked != identity_of(config.data):
                raise PermanentError(
                    f"{file} has no keys in it, and those in {config.data} are not the ones that belong to it;"
                    " `edgehub keys import` first"
                )
            return archive.restore(kept, database)


def _refuse_a_second_hub(database: Database) -> None:
    database.open()
    with database.reading() as content:
        if content.position or content.revision:
            raise PermanentError("there is a hub in that database already; restore into an empty one")


def export_keys(config: HubConfig, file: Path) -> None:
    archive.export_keys(file, config.fleet, archive.keys_of(config.data))


def import_keys(config: HubConfig, file: Path) -> None:
    kept = archive.Archive(file)
    if not kept.keys:
        raise PermanentError(f"{file} holds no keys; make it with `edgehub keys export`")
    if kept.fleet != config.fleet:
        raise PermanentError(f'{file} is of fleet "{kept.fleet}", the settings say "{config.fleet}"')
    with _entered(config.data):
        archive.import_keys(kept, config.data)


@contextlib.contextmanager
def _entered(folder: Path) -> Iterator[None]:
    """No hub runs in the folder meanwhile."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        held = lock(folder)
    except OSError as e:
        raise PermanentError(f"{e.filename or folder}: {e.strerror}; name another data_dir, or run as root") from e
    try:
        yield
    finally:
        os.close(held)


def write_broker_files(config: HubConfig, folder: Path, place: Path, names: tuple[str, ...], hub_port: int) -> None:
    """What a mosquitto on another machine needs to be this fleet's broker.

    :param place: where the folder will be on that machine.
    :param names: names and addresses under which nodes and hubs reach it.
    :param hub_port: of the second listener, for hubs alone; keep nodes away from it (docs/hub.md).
    """
    try:
        authority = certs.load_or_create_authority(config.data / "ca", config.fleet)
        certs.ensure_server(authority, folder, names)
        trust.write_file(folder / "ca.pem", authority.pem, 0o644)
        trust.write_file(folder / "acl", access_rules(config.fleet).encode())
        listener = Listener(config.broker_host, config.broker_port, hub_port, config.broker_host)
        identity = Identity(place / "ca.pem", place / "server.pem", place / "server.key")
        trust.write_file(folder / "mosquitto.conf", broker_config(place, listener, identity).encode())
    except (OSError, RetryError) as e:
        raise PermanentError(f"can't write {folder}: {e}") from e
