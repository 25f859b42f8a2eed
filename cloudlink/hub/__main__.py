"""`edgehub`: the hub, and what its administrator asks of it on the spot."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

import msgspec

from cloudlink.hub import config as configs
from cloudlink.hub.config import HubConfig
from edged.errors import EdgedError, PermanentError, RetryError


def main(argv: list[str] | None = None) -> None:
    """Entry point; an error is one line and exit code 1."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.act(arguments, configs.load(arguments.config, _flags(arguments)))
    except EdgedError as e:
        sys.stderr.write(f"edgehub: {e}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", type=Path, metavar="FILE", help=f"settings (TOML); default {configs.DEFAULT_FILE}")
    for field in msgspec.structs.fields(HubConfig):
        if field.name != "names":
            kind = int if isinstance(field.default, int) else str
            shown = f"default {field.default!r}"
            common.add_argument(
                f"--{field.name.replace('_', '-')}", dest=field.name, type=kind, metavar="X", help=shown
            )
    parser = argparse.ArgumentParser(prog="edgehub", description="The hub of a fleet.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", parents=[common], help="run the hub in the foreground until SIGTERM")
    run.add_argument("--verbose", action="store_true", help="log every decision")
    run.set_defaults(act=_run)
    kubeconfig = commands.add_parser("kubeconfig", parents=[common], help="what kubectl needs to reach this hub")
    kubeconfig.add_argument("--server", default="", metavar="URL", help="another URL than the hub's own")
    kubeconfig.add_argument(
        "--output", type=Path, metavar="FILE", help="write it there (mode 0600), not to the terminal"
    )
    kubeconfig.set_defaults(act=_kubeconfig)
    token = commands.add_parser("token", help="join tokens").add_subparsers(required=True, metavar="COMMAND")
    create = token.add_parser("create", parents=[common], help="a one-time token that lets a machine join the fleet")
    create.add_argument("--node", default="", metavar="NAME", help="the only name it is good for")
    create.add_argument("--ttl", type=int, default=3600, metavar="SECONDS", help="how long it lives (default 3600)")
    create.set_defaults(act=_create_token)
    return parser


def _flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """Settings that were given on the command line."""
    names = {f.name for f in msgspec.structs.fields(HubConfig)}
    return {k: v for k, v in vars(arguments).items() if k in names and v is not None}


def _run(arguments: argparse.Namespace, config: HubConfig) -> None:
    level = logging.DEBUG if arguments.verbose else logging.INFO
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    from cloudlink.hub.app import run

    run(config)


def _kubeconfig(arguments: argparse.Namespace, config: HubConfig) -> None:
    from cloudlink import trust
    from cloudlink.hub.premises import kubeconfig

    text = kubeconfig(config, arguments.server)
    if arguments.output is None:
        sys.stdout.write(text)
        return
    try:
        trust.write_file(arguments.output, text.encode())
    except OSError as e:
        raise PermanentError(f"can't write {arguments.output}: {e.strerror}") from e


def _create_token(arguments: argparse.Namespace, config: HubConfig) -> None:
    """Ask the running hub: only one process may write to its database."""
    import http.client

    from cloudlink import link
    from cloudlink.hub.premises import admin_token, ca_pem

    host = "127.0.0.1" if configs.ipaddress_is_any(config.host) else config.host
    context = link.hub_context(ca_pem(config.data))
    connection = http.client.HTTPSConnection(host, config.port, timeout=10.0, context=context)
    body = json.dumps({"node": arguments.node, "ttl": arguments.ttl})
    headers = {"Authorization": f"Bearer {admin_token(config.data)}", "Content-Type": "application/json"}
    try:
        connection.request("POST", "/enroll/v1/tokens", body, headers)
        answer = connection.getresponse()
        told = json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError) as e:
        raise RetryError(f"the hub at {host}:{config.port} does not answer ({e}); is `edgehub run` running?") from e
    finally:
        connection.close()
    if answer.status != 200:
        raise PermanentError(str(told.get("detail", told)))
    sys.stdout.write(f"{told['token']}\n")


if __name__ == "__main__":
    main()
