"""`edgectl join`, `edgectl configure`: an identity for this machine, and the node.toml that the daemon starts from."""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from cloudlink import node, trust
from edged.config import NodeConfig
from edged.errors import PermanentError

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
MAX_TOKEN = 4096  # characters; one has about 150


def join_and_write(arguments: argparse.Namespace) -> str:
    """Join, then write node.toml; returns the sentence that says what to do next.

    The settings are checked before the token is spent, and the file is written only after the hub said yes.
    """
    settings = wanted(arguments) | {"name": arguments.name}
    checked(settings)
    # Not on the command line, which everybody on a machine can read.
    token = sys.stdin.read(MAX_TOKEN) if arguments.token == "-" else arguments.token
    if arguments.check:
        return "the settings are right" + (f", and a token for {trust.parse_token(token).url}" if token.strip() else "")
    member = node.join(token, Path(arguments.state_dir) / "identity", arguments.name)
    write(arguments.config, of_member(settings, member))
    return f"{member.node} is a node of fleet {member.fleet}; start it: edged run --config {arguments.config}"


def configure(arguments: argparse.Namespace) -> str:
    """node.toml anew for a node that has joined: these settings and its membership, and nothing of the old file.

    :returns: with --print the text itself, and nothing is written; else what to do next.
    """
    member = node.load_membership(Path(arguments.state_dir) / "identity")
    settings = of_member(wanted(arguments), member)
    if arguments.print:
        return toml(settings).rstrip("\n")
    write(arguments.config, settings)
    return f"{arguments.config} is written; systemctl restart edged makes it so, and containers go on meanwhile"


def wanted(arguments: argparse.Namespace) -> dict[str, Any]:
    """What --settings and --set say, with the folders."""
    settings = merged(from_file(arguments.settings) if arguments.settings else {}, nested(arguments.set))
    return settings | {"state_dir": arguments.state_dir, "run_dir": arguments.run_dir}


def of_member(settings: dict[str, Any], member: node.Membership) -> dict[str, Any]:
    """What the hub gave at joining goes before what anybody wishes."""
    uplink = {**settings.get("uplink", {}), "factory": node.FACTORY}
    settings = settings | {"name": member.node, "fleet": member.fleet, "uplink": uplink}
    checked(settings)
    return settings


def write(config: Path, settings: dict[str, Any]) -> None:
    config.parent.mkdir(parents=True, exist_ok=True)
    trust.write_file(config, toml(settings).encode(), 0o644)


def from_file(file: Path) -> dict[str, Any]:
    """What node.toml shall say beside name, fleet and uplink, the hub's to give. TOML, or JSON by its name."""
    try:
        text = file.read_text()
        given = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except OSError as e:
        raise PermanentError(f"{file} can't be read: {e.strerror}") from e
    except ValueError as e:  # TOML's, JSON's and UTF-8's
        raise PermanentError(f"{file}: {e}") from e
    if not isinstance(given, dict):
        raise PermanentError(f"{file}: must be a table of settings")
    return given


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` wins, table by table."""
    both = dict(base)
    for key, value in over.items():
        old = both.get(key)
        both[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return both


def nested(pairs: list[str]) -> dict[str, Any]:
    """["network.bridge=br1", "log_bytes=65536"] -> {"network": {"bridge": "br1"}, "log_bytes": 65536}.

    A value that is a number or true/false as TOML writes them is taken as such; anything else is text.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise PermanentError(f"--set {pair}: must be KEY=VALUE, e.g. network.bridge=edged0")
        *tables, last = key.split(".")
        place = settings
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise PermanentError(f"--set {pair}: {table} is a value, not a table")
        place[last] = plain(value)
    return settings


def plain(text: str) -> str | int | float | bool:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text == "true" if text in ("true", "false") else text


def checked(settings: dict[str, Any]) -> NodeConfig:
    try:
        return msgspec.convert(settings, NodeConfig)
    except msgspec.ValidationError as e:
        raise PermanentError(f"settings: {e}; edged/config.py lists the settings") from e


def toml(settings: dict[str, Any]) -> str:
    """Plain values first, then each table, as TOML 1.0 wants it. A JSON string is a TOML basic string."""
    lines = ["# Written by edgectl; every setting with its unit and default is in edged/config.py."]
    return "\n".join(lines + _table(settings, ())) + "\n"


def _table(settings: dict[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"{_key(k)} = {_value(v)}" for k, v in settings.items() if not isinstance(v, dict)]
    for name, table in settings.items():
        if isinstance(table, dict):
            place = (*path, _key(name))
            lines += ["", f"[{'.'.join(place)}]", *_table(table, place)]
    return lines


def _key(name: str) -> str:
    return name if BARE_KEY.fullmatch(name) else _value(name)


def _value(value: Any) -> str:
    """As JSON, but for what TOML wants otherwise: no pairs of surrogates, and DEL escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
