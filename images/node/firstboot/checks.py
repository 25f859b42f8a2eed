"""The fields of edged.toml, one by one: a value as TOML gives it to what the board needs, or WrongError. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import re
from dataclasses import dataclass, field
from typing import Any

WATCHDOG = ("automatic", "required", "off")
KEY_TYPES = (
    *("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa"),
    *("sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"),
)
MAX_KEYS = 100


class WrongError(Exception):
    """What is wrong with a value and what to write instead. :ivar field: below the checked one; "" = itself."""

    def __init__(self, what: str, field: str = "") -> None:
        super().__init__(what)
        self.field = field


@dataclass(frozen=True, slots=True)
class Wifi:
    """:ivar key: 64 hex digits, the network's pairwise master key; "" = an open network."""

    ssid: str
    country: str
    key: str = field(repr=False)
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Network:
    """:ivar addresses: with their prefix lengths; empty = DHCP. :ivar link: "wired", "wifi", "" = not said."""

    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    link: str = ""


def text(value: Any, field: str = "") -> str:
    if not isinstance(value, str):
        raise WrongError(f"must be text in quotes, not {_kind(value)}", field)
    return value


def flag(value: Any, field: str = "") -> bool:
    if not isinstance(value, bool):
        raise WrongError("must be true or false, without quotes", field)
    return value


def _kind(value: Any) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "a table"}
    return kinds.get(type(value), "a date")


def token(value: Any) -> str:
    """Only what a slip of the hand does to it; the daemon's own tool knows its form."""
    found = "".join(text(value).split())
    if not re.fullmatch(r"[A-Za-z0-9._=-]{20,2000}", found):
        raise WrongError("is no join token: paste the whole line that `edgehub token create` printed")
    return found


def hostname(value: Any, field: str = "") -> str:
    name = text(value, field)
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
        near = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")[:63].strip("-")
        hint = f', such as "{near}"' if near else ""
        raise WrongError(f'"{name[:80]}" is no host name: a-z, 0-9 and "-" only, 63 at most{hint}', field)
    return name


def ssh_keys(value: Any) -> tuple[str, ...]:
    keys = [value] if isinstance(value, str) else value
    if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys):
        raise WrongError('must be a list of texts: ["ssh-ed25519 AAAA... me@laptop"]')
    lines = tuple(line.strip() for key in keys for line in key.splitlines() if line.strip())
    if len(lines) > MAX_KEYS:
        raise WrongError(f"{len(lines)} keys; at most {MAX_KEYS} are taken")
    for number, line in enumerate(lines, 1):
        _check_key(line, number)
    return lines


def _check_key(line: str, number: int) -> None:
    if "PRIVATE KEY" in line:
        raise WrongError(
            "this is a PRIVATE key, which belongs on no card: make a new pair, and paste the .pub file here"
        )
    found = re.search(rf"(?:^|\s)({'|'.join(re.escape(t) for t in KEY_TYPES)})\s+(\S+)", line)
    if not found:
        raise WrongError(
            f"key {number} is no public key of ssh: paste the whole line of the .pub file (ssh-ed25519 AAAA...)"
        )
    try:
        blob = base64.b64decode(found[2], validate=True)
    except (binascii.Error, ValueError):
        blob = b""
    size = int.from_bytes(blob[:4], "big")
    if blob[4 : 4 + size] != found[1].encode() or len(blob) < 32 + size:
        raise WrongError(f"key {number} ({found[1]}) is damaged or cut short: paste the whole line of the .pub file")


def timezone(value: Any) -> str:
    zone = text(value)
    if not re.fullmatch(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}", zone):
        raise WrongError(f'"{zone[:80]}" is no time zone; they are written like "Europe/Berlin" or "UTC"')
    return zone


def watchdog(value: Any) -> str:
    if (policy := text(value)) not in WATCHDOG:
        raise WrongError(f'"{policy[:40]}" is none of {", ".join(WATCHDOG)}')
    return policy


def wifi(value: dict[str, Any]) -> Wifi:
    for name in ("ssid", "country"):
        if name not in value:
            hint = " (two letters, such as DE: which channels may be used depends on it)" if name == "country" else ""
            raise WrongError(f"{name} is missing{hint}")
    ssid, country = text(value["ssid"], "ssid"), text(value["country"], "country").upper()
    if not 1 <= len(ssid.encode()) <= 32:
        raise WrongError(f"has {len(ssid.encode())} bytes; the name of a network has 1 to 32", "ssid")
    if not re.fullmatch(r"[A-Z]{2}", country):
        raise WrongError(f'"{country[:40]}" is no country; write its two letters, such as "DE" (ISO 3166)', "country")
    ways = [key for key in ("password", "psk", "open") if value.get(key, False) is not False]
    if len(ways) != 1:
        raise WrongError(
            f"{' and '.join(ways)}: write one of them"
            if ways
            else "needs password or psk; or open = true if it has none"
        )
    key = ""
    if "psk" in ways:
        key = text(value["psk"], "psk").lower()
        if not re.fullmatch(r"[0-9a-f]{64}", key):
            raise WrongError("must have 64 hex digits; what you type on a phone goes into password", "psk")
    elif "password" in ways:
        key = _psk(text(value["password"], "password"), ssid)
    else:
        flag(value["open"], "open")
    return Wifi(ssid, country, key, flag(value.get("hidden", False), "hidden"))


def _psk(password: str, ssid: str) -> str:
    """IEEE 802.11i, annex H.4: so that nobody reads the password itself off the card."""
    if not 8 <= len(password) <= 63 or not all(32 <= ord(c) < 127 for c in password):
        raise WrongError("must have 8 to 63 characters, letters without accents, digits and signs", "password")
    return hashlib.pbkdf2_hmac("sha1", password.encode(), ssid.encode(), 4096, 32).hex()


def network(value: dict[str, Any]) -> Network:
    link = text(value.get("link", ""), "link")
    if link not in ("", "wired", "wifi"):
        raise WrongError(f'"{link[:40]}" is neither "wired" nor "wifi"', "link")
    if "address" not in value:
        raise WrongError('address is missing; write one such as "192.168.1.50/24", or "dhcp"')
    if value["address"] == "dhcp":
        if value.keys() - {"address", "link"}:
            raise WrongError("with DHCP, gateway and dns come from there; remove them", "address")
        return Network(link=link)
    addresses = tuple(_interface(a) for a in _list(value["address"], "address"))
    if not addresses:
        raise WrongError('there is none; write one such as "192.168.1.50/24", or "dhcp"', "address")
    gateways = tuple(_address(a, "gateway") for a in _list(value.get("gateway", []), "gateway"))
    for gateway in gateways:
        if not gateway.is_link_local and not any(
            gateway in a.network for a in addresses if a.version == gateway.version
        ):
            raise WrongError(f"{gateway} is not in the network of {' or '.join(map(str, addresses))}", "gateway")
    dns = tuple(str(_address(a, "dns")) for a in _list(value.get("dns", []), "dns"))
    # A router answers for names, too, as a rule; without any server, no hub is found by its name.
    return Network(tuple(map(str, addresses)), tuple(map(str, gateways)), dns or tuple(map(str, gateways)), link)


def _list(value: Any, field: str) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values) or len(values) > 16:
        raise WrongError("must be a text or a list of texts", field)
    return values


def _interface(value: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    if "/" not in value:
        raise WrongError(
            f'"{value[:60]}" has no prefix length; write it behind the address, mostly {value[:60]}/24', "address"
        )
    try:
        return ipaddress.ip_interface(value)
    except ValueError:
        raise WrongError(
            f'"{value[:60]}" is no address with a prefix length, such as "192.168.1.50/24"', "address"
        ) from None


def _address(value: str, field: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(value)
    except ValueError:
        raise WrongError(f'"{value[:60]}" is no address, such as "192.168.1.1"', field) from None


def plain(value: Any) -> dict[str, Any]:
    """A table of what JSON has as well."""
    if not isinstance(value, dict):
        raise WrongError("must be a table: [node] on a line of its own, its fields below")

    def look(part: Any, where: str) -> None:
        if isinstance(part, dict):
            for key, inner in part.items():
                look(inner, f"{where}.{key}".lstrip("."))
        elif isinstance(part, list):
            for inner in part:
                look(inner, where)
        elif not isinstance(part, str | int | float | bool) or part != part or part in (float("inf"), float("-inf")):
            raise WrongError("must be text, a number, true or false", where)

    look(value, "")
    return dict(value)
