"""edged.toml: its bytes to Settings, or to what is wrong with it, in words for whoever wrote it. Pure.

Written on any computer, by any editor: byte order marks, CRLF and UTF-16 are taken as they come. What can't be
understood is named with its line and what to write instead; all of it at once, and then none of the file is used.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import checks
from .checks import Network, Wifi, WrongError

MAX_SIZE = 64 << 10  # bytes; the example has 2 KB
NUL = "\0"
UNUSUAL = {
    "“": 'a typographic quotation mark; write a straight one: "',
    "”": 'a typographic quotation mark; write a straight one: "',
    "„": 'a typographic quotation mark; write a straight one: "',
    "«": 'a typographic quotation mark; write a straight one: "',
    "»": 'a typographic quotation mark; write a straight one: "',
    "‘": "a typographic quotation mark; write a straight one: '",
    "’": "a typographic quotation mark; write a straight one: '",
    "\u00a0": "a space that isn't one (U+00A0, from a web page or a word processor); type the space again",
    "\u200b": "a character that can't be seen (U+200B); write the line again",
    "\u2013": 'a dash where "-" is meant',
    "＝": 'a wide "="; write a plain one',
}
KEYS: Mapping[str, frozenset[str]] = {
    "": frozenset({"token", "hostname", "ssh_authorized_keys", "timezone", "watchdog", "wifi", "network", "node"}),
    "wifi": frozenset({"country", "ssid", "password", "psk", "open", "hidden"}),
    "network": frozenset({"address", "gateway", "dns", "link"}),
}
# What the image and the hub decide.
NOT_OURS = ("fleet", "uplink", "state_dir", "run_dir", "cgroup_parent")


@dataclass(frozen=True, slots=True)
class Problem:
    """:ivar line: from 1; 0 = the file as a whole. :ivar where: the field, "wifi.ssid"; "" = none."""

    line: int
    where: str
    what: str

    def __str__(self) -> str:
        place = ": ".join([f"line {self.line}"] * bool(self.line) + [self.where] * bool(self.where))
        return f"{place}: {self.what}" if place else self.what


@dataclass(frozen=True, slots=True)
class Settings:
    """None (or empty) = not mentioned: stays as it is.

    :ivar node: settings of node.toml, as JSON has them; `name` is the node's, if it isn't the host's.
    :ivar secrets: words that must not stay on the boot partition.
    """

    token: str | None = None
    hostname: str | None = None
    ssh_authorized_keys: tuple[str, ...] | None = None
    timezone: str | None = None
    watchdog: str | None = None
    wifi: Wifi | None = None
    network: Network | None = None
    name: str | None = None
    node: Mapping[str, Any] | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)


def read(raw: bytes) -> Settings | tuple[Problem, ...]:
    """All that is wrong, or all that it says; never a part."""
    text = decode(raw)
    if isinstance(text, Problem):
        return (text,)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        return (_not_toml(text, str(e)),)
    except RecursionError:
        return (Problem(0, "", "brackets in brackets without end"),)
    return _settings(table, text)


def decode(raw: bytes) -> str | Problem:
    if len(raw) > MAX_SIZE:
        return Problem(0, "", f"the file has {len(raw)} bytes; this can't be it. At most {MAX_SIZE} are read")
    for mark, name in (
        (b"{\\rtf", "a formatted document (RTF)"),
        (b"PK\x03\x04", "a word processor's document"),
        (b"\xd0\xcf\x11\xe0", "a word processor's document"),
    ):
        if raw.startswith(mark):
            return Problem(0, "", f"this is {name}; save it as plain text")
    try:
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            return raw.decode("utf-16")
        if raw[1:2] == b"\0" or raw[:1] == b"\0":  # UTF-16 without its mark: the first character is ASCII
            return raw.decode("utf-16-le" if raw[:1] != b"\0" else "utf-16-be")
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = raw[: e.start].count(b"\n") + 1
        hint = 'in Notepad: "Save as", Encoding "UTF-8"'
        return Problem(
            line, "", f"a character that isn't UTF-8 (byte {raw[e.start]:#04x}); save the file as UTF-8 ({hint})"
        )


def _not_toml(text: str, said: str) -> Problem:
    """What tomllib can't tell: which mistakes people make."""
    found = re.search(r" \(at line (\d+), column (\d+)\)$", said)
    lines = text.split("\n")
    number = int(found[1]) if found else len(lines)
    line = lines[number - 1] if number <= len(lines) else ""
    if NUL in text:
        return Problem(
            text[: text.index(NUL)].count("\n") + 1, "", "the file is damaged (it has NUL bytes); write it anew"
        )
    for character, what in UNUSUAL.items():
        if character in line.split("#")[0]:
            return Problem(number, "", f"there is {what}")
    what = said[: found.start()] if found else said.removesuffix(" (at end of document)")
    value = re.fullmatch(r"\s*([\w.-]+)\s*=\s*[^\"'\[{#].*", line)
    if value and "value" in what.lower():  # which isn't repeated: it may be a password, and this goes to the screen
        return Problem(number, value[1], f'text stands in straight quotes: {value[1]} = "..."')
    if "\\" in line and '"' in line:
        what += r". In double quotes a \ must be doubled; or write the text in single quotes: '...'"
    if re.fullmatch(r"\s*[\w.-]+\s*:.*", line):
        what = 'a field and its value are joined by "=", not by ":"'
    return Problem(number, "", f"this can't be read ({what})" if "=" not in what else what)


def line_of(text: str, where: str) -> int:
    """The line of a field, as well as one can say without a parser that keeps lines; 0 where it isn't found."""
    table, _, key = where.rpartition(".")
    current = ""
    for number, line in enumerate(text.split("\n"), 1):
        if header := re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line):
            current = header[1].replace('"', "")
            if current == where:
                return number
        elif found := re.match(r"\s*[\"']?([^\"'=]+?)[\"']?\s*=", line):
            here = f"{current}.{found[1]}" if current else found[1]
            if here == where or (here == table and key in line):
                return number
    return 0


def _settings(table: dict[str, Any], text: str) -> Settings | tuple[Problem, ...]:
    problems: list[Problem] = []

    def wrong(where: str, what: str) -> None:
        problems.append(Problem(line_of(text, where), where, what))

    for name, known in KEYS.items():
        part = table if not name else table.get(name, {})
        if not isinstance(part, dict):
            wrong(name, f"must be a table: [{name}] on a line of its own, its fields below")
            return tuple(problems)
        for key in part.keys() - known:
            near = difflib.get_close_matches(key, known, 1) or [
                k for t, ks in KEYS.items() if t and key in ks for k in [f"{key} below [{t}]"]
            ]
            hint = f"; did you mean {near[0]}?" if near else ""
            wrong(f"{name}.{key}".lstrip("."), f"there is no such field{hint}")
    found: dict[str, Any] = {}
    for key, check in CHECKS.items():
        if key not in table:
            continue
        try:
            found[key] = check(table[key])
        except WrongError as e:
            wrong(f"{key}.{e.field}".rstrip("."), str(e))
    if not table:
        wrong("", 'there is nothing in it: remove the "#" in front of what you want to set')
    if problems:
        return tuple(sorted(problems, key=lambda p: (p.line, p.where)))
    return _found(found, table)


def _found(found: dict[str, Any], table: dict[str, Any]) -> Settings:
    node = dict(found.pop("node", None) or {})
    name = node.pop("name", None)
    wifi = table.get("wifi", {})
    secrets = [found.get("token"), wifi.get("password"), wifi.get("psk")]
    given = "node" in table
    return Settings(**found, name=name, node=node if given else None, secrets=tuple(s for s in secrets if s))


def node(value: Any) -> dict[str, Any]:
    """The daemon checks the rest (`edgectl join --check`): this program knows none of its settings."""
    settings = checks.plain(value)
    for key in NOT_OURS:
        if key in settings:
            raise WrongError("is the image's and the hub's to say; remove it", key)
    if "name" in settings:
        settings["name"] = checks.hostname(settings["name"], "name")
    return settings


CHECKS = {
    "token": checks.token,
    "hostname": checks.hostname,
    "ssh_authorized_keys": checks.ssh_keys,
    "timezone": checks.timezone,
    "watchdog": checks.watchdog,
    "wifi": checks.wifi,
    "network": checks.network,
    "node": node,
}
