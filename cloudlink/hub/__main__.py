"""`edgehub`: the hub, and what its administrator asks of it on the spot."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import msgspec

from cloudlink.hub import config as configs
from cloudlink.hub.config import HubConfig
from edged.errors import EdgedError, PermanentError


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
            kind = type(field.default) if isinstance(field.default, int | float) else str
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
    _add_user(commands, common)
    _add_upkeep(commands, common)
    return parser


def _add_user(commands: Any, common: argparse.ArgumentParser) -> None:
    from cloudlink.hub.user_commands import add_commands

    add_commands(commands, common)


def _add_upkeep(commands: Any, common: argparse.ArgumentParser) -> None:
    check = commands.add_parser("check", parents=[common], help="whether the settings can be read; starts nothing")
    check.set_defaults(act=lambda _arguments, _config: None)  # they were read before this is called
    backup = commands.add_parser(
        "backup", parents=[common], help="everything that the hub has, in one file, while it runs or not"
    )
    backup.add_argument("file", type=Path, metavar="FILE", help="a new one; with --keep a folder of them")
    backup.add_argument("--without-keys", action="store_true", help="leave CA, keys and tokens out")
    backup.add_argument("--keep", type=int, metavar="N", help="how many stay in the folder, this one included")
    backup.set_defaults(act=_back_up)
    restore = commands.add_parser("restore", parents=[common], help="a backup into an empty data_dir and database")
    restore.add_argument("file", type=Path, metavar="FILE")
    restore.set_defaults(act=_restore)
    keys = commands.add_parser("keys", help="what hubs that share a database must share").add_subparsers(
        required=True, metavar="COMMAND"
    )
    for name, act in (("export", _export_keys), ("import", _import_keys)):
        command = keys.add_parser(name, parents=[common], help=f"{name} CA, keys and the administrator's token")
        command.add_argument("file", type=Path, metavar="FILE")
        command.set_defaults(act=act)
    broker = commands.add_parser(
        "broker-files", parents=[common], help="configuration and certificate for a mosquitto on another machine"
    )
    broker.add_argument("folder", type=Path, metavar="FOLDER", help="is filled with what that machine needs")
    broker.add_argument("--name", action="append", required=True, metavar="X", help="how it is reached; more than once")
    broker.add_argument("--place", type=Path, metavar="PATH", help="where the folder will be there (default: FOLDER)")
    broker.add_argument("--hub-listener", type=int, default=8884, metavar="PORT", help="for hubs alone (default 8884)")
    broker.set_defaults(act=_write_broker_files)


def _back_up(arguments: argparse.Namespace, config: HubConfig) -> None:
    from cloudlink.hub import upkeep

    with_keys = not arguments.without_keys
    if arguments.keep is not None:
        sys.stdout.write(f"{upkeep.back_up_into(config, arguments.file, with_keys, arguments.keep)}\n")
        return
    if arguments.file.is_dir():
        raise PermanentError(f"{arguments.file} is a folder; name a new file, or say with --keep how many stay in it")
    sys.stdout.write(f"{arguments.file}: {upkeep.back_up(config, arguments.file, with_keys)}\n")


def _restore(arguments: argparse.Namespace, config: HubConfig) -> None:
    from cloudlink.hub import upkeep

    sys.stdout.write(f"restored {upkeep.restore(config, arguments.file)}\n")


def _export_keys(arguments: argparse.Namespace, config: HubConfig) -> None:
    from cloudlink.hub import upkeep

    upkeep.export_keys(config, arguments.file)


def _import_keys(arguments: argparse.Namespace, config: HubConfig) -> None:
    from cloudlink.hub import upkeep

    upkeep.import_keys(config, arguments.file)


def _write_broker_files(arguments: argparse.Namespace, config: HubConfig) -> None:
    from cloudlink.hub import upkeep

    place = (arguments.place or arguments.folder).absolute()
    upkeep.write_broker_files(config, arguments.folder, place, tuple(arguments.name), arguments.hub_listener)


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
    from cloudlink.hub.asking import ask

    told = ask(config, "POST", "/enroll/v1/tokens", {"node": arguments.node, "ttl": arguments.ttl})
    sys.stdout.write(f"{told['token']}\n")


if __name__ == "__main__":
    main()
