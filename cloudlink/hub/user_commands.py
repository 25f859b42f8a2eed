"""`edgehub user`: credentials for people, asked of the running hub (api.people)."""

from __future__ import annotations

import argparse
import base64
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cloudlink import certs, trust
from cloudlink.hub.asking import ask
from cloudlink.hub.config import HubConfig
from cloudlink.hub.premises import kubeconfig
from edged.errors import PermanentError

TTL = 90 * 24 * 3600  # seconds


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    user = commands.add_parser("user", help="credentials for people").add_subparsers(required=True, metavar="COMMAND")
    create = user.add_parser("create", parents=[common], help="a kubeconfig for somebody; RBAC says what they may do")
    create.add_argument("name", metavar="NAME")
    create.add_argument("--group", action="append", default=[], metavar="GROUP", help="more than once for more")
    create.add_argument("--ttl", type=int, default=TTL, metavar="SECONDS", help=f"default {TTL}; 0 = for ever")
    create.add_argument("--certificate", action="store_true", help="a client certificate instead of a token")
    create.add_argument("--token", action="store_true", help="print the token alone")
    create.add_argument("--server", default="", metavar="URL", help="another URL than the hub's own")
    create.add_argument("--output", type=Path, metavar="FILE", help="write it there (mode 0600), not to the terminal")
    create.set_defaults(act=_create)
    listed = user.add_parser("list", parents=[common], help="who has a token, and until when")
    listed.set_defaults(act=_list)
    revoke = user.add_parser("revoke", parents=[common], help="end a token at once")
    revoke.add_argument("id", nargs="?", default="", metavar="ID", help="of one token, as `list` shows it")
    revoke.add_argument("--user", default="", metavar="NAME", help="all tokens of this user")
    revoke.set_defaults(act=_revoke)


def _create(arguments: argparse.Namespace, config: HubConfig) -> None:
    asked: dict[str, Any] = {"user": arguments.name, "groups": arguments.group, "ttl": arguments.ttl}
    if arguments.certificate:
        key = certs.make_key()  # made here, it never leaves this machine
        csr = certs.make_csr(key, arguments.name[:64]).decode()
        made = ask(config, "POST", "/auth/v1/certificates", asked | {"csr": csr})
        shown = {"client-certificate-data": _base64(made["certificate"].encode()), "client-key-data": _base64(key)}
    else:
        made = ask(config, "POST", "/auth/v1/tokens", asked)
        shown = {"token": made["token"]}
    token_alone = arguments.token and not arguments.certificate
    text = f"{made['token']}\n" if token_alone else kubeconfig(config, arguments.server, arguments.name, shown)
    if arguments.output is None:
        sys.stdout.write(text)
        return
    try:
        trust.write_file(arguments.output, text.encode())
    except OSError as e:
        raise PermanentError(f"can't write {arguments.output}: {e.strerror}") from e


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _list(_: argparse.Namespace, config: HubConfig) -> None:
    rows = [("ID", "USER", "GROUPS", "CREATED", "EXPIRES")]
    for held in ask(config, "GET", "/auth/v1/tokens")["tokens"]:
        groups = ",".join(held["groups"]) or "-"
        rows.append((held["id"], held["user"], groups, held["created"], held["expires"] or "never"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        sys.stdout.write("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")


def _revoke(arguments: argparse.Namespace, config: HubConfig) -> None:
    if bool(arguments.id) == bool(arguments.user):
        raise PermanentError("name one token by its id (`edgehub user list` shows it), or a user with --user")
    path = f"/{quote(arguments.id, safe='')}" if arguments.id else f"?user={quote(arguments.user, safe='')}"
    gone = ask(config, "DELETE", f"/auth/v1/tokens{path}")["revoked"]
    sys.stdout.write(f"revoked {', '.join(gone)}\n")
