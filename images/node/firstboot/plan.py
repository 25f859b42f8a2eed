"""What to do at this boot. Pure: the board's facts in, steps out.

The boot partition's file stays until all that it says is on the data partition; only then is it wiped. So a power cut
before that repeats the same steps, all of which may be repeated, and one during the wipe is finished by the mark.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import files
from .checks import Network, Wifi
from .settings import Problem, Settings, read
from .steps import Grow, Link, MakeHostKey, Put, Remove, Scrub, SetHostname, Step, Tell, Wipe

DATA = "/data"
STATE = f"{DATA}/first-boot"
TOKEN = f"{STATE}/token"
NODE = f"{STATE}/node.json"
WIPING = f"{STATE}/wiping"
DONE = f"{STATE}/done"
HOST_KEY = f"{DATA}/ssh/ssh_host_ed25519_key"
KEYS_OF_ROOT = f"{DATA}/ssh/authorized_keys/root"
WIFI = f"{DATA}/etc/wifi.conf"
NETWORKS = f"{DATA}/etc/network"
VERSIONS = f"{DATA}/opt/edged/versions"
CURRENT = f"{DATA}/opt/edged/current"
FACTORY = "/usr/lib/edged/versions"
NAMES = ("edged.toml", "edged.toml.txt")  # the second is what Notepad makes of the first
DEFAULT_NAME = "edged"


@dataclass(frozen=True, slots=True)
class JoinFile:
    name: str
    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a look at the board says.

    :ivar no_data: why there is no data partition; "" = there is one.
    :ivar grow: (disk, number) of the data partition if there is room behind it.
    :ivar etc: where host name and time zone are kept: /etc, or on the data partition under a read-only root.
    :ivar join_files: those of NAMES that are on the boot partition.
    :ivar example_edited: somebody wrote into the example instead of copying it.
    :ivar wiping: the mark's content: SHA-256 of the file that was being wiped; "" = none was.
    :ivar zones: whether a time zone of that name is on the board, for the one that is asked for.
    :ivar node_wrong: what the daemon's own tool says against token and [node]; "" = nothing.
    :ivar node: NODE's content: the name and settings that were given before.
    :ivar joined: there is a node.toml.
    """

    no_data: str = ""
    grow: tuple[str, int] | None = None
    etc: str = f"{DATA}/etc"
    machine_id: str = ""
    machine_id_kept: bool = True
    hostname: str = DEFAULT_NAME
    host_key: bool = True
    factory: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    current: bool = True
    join_files: tuple[JoinFile, ...] = ()
    example_edited: bool = False
    wiping: str = ""
    zone_exists: bool = True
    node_wrong: str = ""
    node: Mapping[str, Any] = field(default_factory=dict)
    joined: bool = False
    done: bool = True


def digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def half_wiped(file: JoinFile, facts: Facts) -> bool:
    """The same file, untouched yet, or one that the wipe has come to: a text has no run of NULs, in UTF-16 neither."""
    return bool(facts.wiping) and (digest(file.raw) == facts.wiping or not file.raw or b"\0" * 8 in file.raw)


def asked(facts: Facts) -> Settings | tuple[Problem, ...] | None:
    """What the join file says; None where there is none to read."""
    new = [f for f in facts.join_files if not half_wiped(f, facts)]
    if not new:
        return None
    if len(new) > 1:
        names = " and ".join(f.name for f in new)
        return (Problem(0, "", f"there are {names} on the boot partition; remove the one that isn't meant"),)
    return read(new[0].raw)


def decide(facts: Facts) -> tuple[Step, ...]:
    if facts.no_data:
        return (Tell("error", files.no_data(facts.no_data)),)
    return (*_always(facts), *_finish_wipe(facts), *_file(facts), *_done(facts))


def _always(facts: Facts) -> Iterator[Step]:
    """What a board needs whoever it is. The growing first: the rest is to have room."""
    if facts.grow:
        yield Grow(*facts.grow, DATA)
    if not facts.machine_id_kept and facts.machine_id:
        yield Put(f"{facts.etc}/machine-id", f"{facts.machine_id}\n".encode(), 0o444)
    if not facts.host_key:
        yield MakeHostKey(HOST_KEY)
    for version in facts.factory:
        if version not in facts.versions:
            yield Link(f"{VERSIONS}/{version}", f"{FACTORY}/{version}")
    if not facts.current and facts.factory:
        yield Link(CURRENT, f"versions/{facts.factory[-1]}")
    settings = asked(facts)
    named = isinstance(settings, Settings) and settings.hostname is not None and not against(settings, facts)
    if facts.hostname == DEFAULT_NAME and facts.machine_id and not named:
        yield from hostname(facts, default_name(facts.machine_id))


def default_name(machine_id: str) -> str:
    """A name that no other board in the network has, until somebody gives one."""
    return f"{DEFAULT_NAME}-{machine_id[:6]}"


def hostname(facts: Facts, name: str) -> Iterator[Step]:
    yield Put(f"{facts.etc}/hostname", f"{name}\n".encode())
    yield SetHostname(name)


def _finish_wipe(facts: Facts) -> Iterator[Step]:
    if not facts.wiping:
        return
    for file in facts.join_files:
        if half_wiped(file, facts):
            yield Wipe(file.name)
    yield Scrub()
    yield Remove(WIPING)


def _file(facts: Facts) -> Iterator[Step]:
    settings = asked(facts)
    if settings is None:
        if facts.example_edited and not facts.joined and not facts.wiping:
            yield Tell("error", files.example_edited())
        return
    problems = settings if isinstance(settings, tuple) else against(settings, facts)
    name = next(f.name for f in facts.join_files if not half_wiped(f, facts))
    if problems:
        yield Tell("error", files.problems(name, problems))
        return
    assert isinstance(settings, Settings)
    yield from _apply(settings, facts)
    raw = next(f.raw for f in facts.join_files if f.name == name)
    yield Put(WIPING, digest(raw).encode(), 0o600)
    yield Tell("error")
    yield Wipe(name)
    yield Scrub(settings.secrets)
    yield Remove(WIPING)
    yield Tell("joined", files.done(settings, facts.hostname))


def against(settings: Settings, facts: Facts) -> tuple[Problem, ...]:
    """What only this board can know to be wrong."""
    found = []
    if not facts.zone_exists:
        found.append(Problem(0, "timezone", f'there is no "{settings.timezone}"; names are as in "Europe/Berlin"'))
    if facts.node_wrong:
        found.append(Problem(0, "", facts.node_wrong))
    for_node = settings.node is not None or settings.watchdog is not None
    if for_node and settings.token is None and facts.joined:
        what = "this board has joined already, with its settings; change /etc/edged/node.toml over ssh, or give a token"
        found.append(Problem(0, "node", what))
    return tuple(found)


def _apply(settings: Settings, facts: Facts) -> Iterator[Step]:
    if settings.hostname is not None:
        yield from hostname(facts, settings.hostname)
    if settings.timezone is not None:
        yield Link(f"{facts.etc}/localtime", f"/usr/share/zoneinfo/{settings.timezone}")
    if settings.ssh_authorized_keys is not None:
        lines = "".join(f"{key}\n" for key in settings.ssh_authorized_keys)
        yield Put(KEYS_OF_ROOT, lines.encode(), 0o600)
    if settings.wifi is not None:
        yield Put(WIFI, files.wpa_supplicant(settings.wifi).encode(), 0o600)
    if settings.network is not None:
        yield from _network(settings.network, settings.wifi)
    if settings.node is not None or settings.hostname is not None or settings.watchdog is not None:
        yield Put(NODE, json.dumps(_node(settings, facts.node), indent=1).encode(), 0o600)
    if settings.token is not None:
        yield Put(TOKEN, f"{settings.token}\n".encode(), 0o600)


def _node(settings: Settings, before: Mapping[str, Any]) -> dict[str, Any]:
    """What `edgectl join` will be told."""
    name = settings.name or settings.hostname or before.get("name", "")
    node = dict(before.get("settings", {}) if settings.node is None else settings.node)
    return {"name": name, "settings": node | watchdog(settings)}


def watchdog(settings: Settings) -> dict[str, Any]:
    """It is the node's, like others; in the first part of the file because a person looks for it there."""
    return {} if settings.watchdog is None else {"hardware_watchdog": settings.watchdog}


def _network(network: Network, wifi: Wifi | None) -> Iterator[Step]:
    link = network.link or ("wifi" if wifi else "wired")
    path = f"{NETWORKS}/50-edged-{link}.network"
    yield Put(path, files.networkd(network, link).encode()) if network.addresses else Remove(path)


def _done(facts: Facts) -> Iterator[Step]:
    if not facts.done:
        yield Put(DONE, b"")
