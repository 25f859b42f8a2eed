"""Kubernetes quantities ("64Mi", "1e3", "100m", 2): exact arithmetic, rounded up, and their canonical text.

Follows apimachinery's resource.Quantity: <number><suffix>, where the suffix is binary (Ki..Ei), decimal
(n, u, m, k..E) or an exponent (e3, E3). Values are rounded up where the unit asked for is too coarse, as there.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_SYNTAX = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(?:([KMGTPE]i|[numkMGTPE]|)|[eE]([+-]?\d{1,3}))", re.ASCII)
_MAX_TEXT = 64  # longer than any number that means something; bounds the arithmetic below
_MAX = (1 << 63) - 1  # Kubernetes caps there as well

BINARY_SUFFIXES = tuple(_BINARY)


class QuantityError(ValueError):
    """The text is not a quantity; the message names it."""


@lru_cache(maxsize=4096)
def _split(text: str) -> tuple[Fraction, str]:
    """Value (a multiple of 1n) and the family of its suffix: "binary", "decimal" or "exponent"."""
    match = _SYNTAX.fullmatch(text) if len(text) <= _MAX_TEXT else None
    if match is None:
        shown = text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "..."
        raise QuantityError(
            f'"{shown}" is not a quantity; write a number with an optional suffix, such as "64Mi", "0.5" or "100m"'
        )
    sign, number, suffix, exponent = match.groups()
    value = Fraction(number if number[-1] != "." else number[:-1])
    if exponent is not None:
        family = "exponent"
        value *= Fraction(10) ** int(exponent)
    elif suffix in _BINARY:
        family = "binary"
        value *= 1 << _BINARY[suffix]
    else:
        family = "decimal"
        value *= Fraction(10) ** _DECIMAL[suffix]
    if value > _MAX:
        value = Fraction(_MAX)
    value = Fraction(_ceil(value * 10**9), 10**9)  # nothing is finer than nano; the rest is rounded up
    return (-value if sign == "-" else value), family


def _ceil(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)


def _text(quantity: str | int | float) -> str:
    if isinstance(quantity, str):
        return quantity
    if isinstance(quantity, bool) or not isinstance(quantity, int | float):
        raise QuantityError(f'{quantity!r} is not a quantity; write a number or a text such as "64Mi"')
    return repr(quantity).replace("e+", "e")


def exact(quantity: str | int | float) -> Fraction:
    """The value itself. QuantityError names the text."""
    return _split(_text(quantity))[0]


def to_int(quantity: str | int | float) -> int:
    """Whole units (bytes, pods), rounded up: "1.5Gi" -> 1610612736. QuantityError names the text."""
    return _ceil(exact(quantity))


def to_milli(quantity: str | int | float) -> int:
    """Thousandths (of a core), rounded up: "0.5" -> 500; at most what 63 bits hold. QuantityError names the text."""
    return max(-_MAX, min(_ceil(exact(quantity) * 1000), _MAX))


@lru_cache(maxsize=4096)
def _canonical(text: str) -> str:
    value, family = _split(text)
    if family == "binary" and (abs(value) >= 1024 and value.denominator == 1):
        number = value.numerator
        for suffix, power in reversed(_BINARY.items()):
            if number % (1 << power) == 0:
                return f"{number >> power}{suffix}"
        return str(number)
    nano = value.numerator * (10**9 // value.denominator)
    if nano == 0:
        return "0"
    power = -9
    while power < 18 and nano % 1000 == 0:
        nano //= 1000
        power += 3
    if family == "exponent":
        return f"{nano}e{power}" if power else str(nano)
    return f"{nano}{next(s for s, p in _DECIMAL.items() if p == power)}"


def canonical(quantity: str | int | float) -> str:
    """The text Kubernetes would show: no fraction, the largest suffix of the same family that stays exact.

    "0.5" -> "500m", "1024Mi" -> "1Gi", 2 -> "2", "1000m" -> "1". QuantityError names the text.
    """
    return _canonical(_text(quantity))


def format_bytes(number: int) -> str:
    """Bytes as a canonical quantity: 67108864 -> "64Mi", 1000 -> "1000"."""
    for suffix, power in reversed(_BINARY.items()):
        if number and number % (1 << power) == 0:
            return f"{number >> power}{suffix}"
    return str(number)


def format_milli(milli: int) -> str:
    """Thousandths as a canonical quantity: 500 -> "500m", 2000 -> "2"."""
    return str(milli // 1000) if milli % 1000 == 0 else f"{milli}m"
