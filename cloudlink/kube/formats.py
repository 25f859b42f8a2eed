"""The formats that apiextensions checks in texts (k8s.io/kube-openapi/pkg/validation/strfmt). Pure."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import ipaddress
import re
import urllib.parse
import uuid
from collections.abc import Callable, Mapping

_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_DURATION = re.compile(
    r"[+-]?(\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h|d|w)((\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h))*"
)
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_HOST = re.compile(
    r"([A-Za-z0-9_]([-A-Za-z0-9_]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_]([-A-Za-z0-9_]{0,61}[A-Za-z0-9_])?\.?"
)
_MAC = re.compile(r"([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}")
_UUID = re.compile(r"[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?([0-9a-fA-F]{4})-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}")


def _parses(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def does(text: str) -> bool:
        try:
            parse(text)
        except (ValueError, binascii.Error):
            return False
        return True

    return does


def _matches(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: pattern.fullmatch(text) is not None


def _date_time(text: str) -> bool:
    if not _DATE_TIME.fullmatch(text):
        return False
    return _parses(dt.datetime.fromisoformat)(text.upper().replace(" ", "T")[:19])


def _uri(text: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(text)
    except ValueError:
        return False
    return bool(parts.scheme or text.startswith("/"))


_CHECKS: Mapping[str, Callable[[str], bool]] = {
    "date": lambda text: (
        re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII) is not None and _parses(dt.date.fromisoformat)(text)
    ),
    "date-time": _date_time,
    "datetime": _date_time,
    "duration": _matches(_DURATION),
    "byte": _parses(lambda text: base64.b64decode(text, validate=True)),
    "email": _matches(_EMAIL),
    "hostname": _matches(_HOST),
    "ipv4": _parses(ipaddress.IPv4Address),
    "ipv6": _parses(ipaddress.IPv6Address),
    "cidr": _parses(ipaddress.ip_interface),
    "mac": _matches(_MAC),
    "uri": _uri,
    "uuid": lambda text: _UUID.fullmatch(text) is not None and _parses(uuid.UUID)(text),
}


def is_of_format(wanted: str, text: str) -> bool:
    """True for formats that nobody knows, as upstream."""
    known = _CHECKS.get(wanted)
    return known is None or known(text)
