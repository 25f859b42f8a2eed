"""Header blocks of HTTP/2 (RFC 7541), as much of them as one question and its answer need. Pure.

A peer that was told to keep no dynamic table (SETTINGS_HEADER_TABLE_SIZE 0) refers to the static one only; of that
one only `:status` matters here, so the other names are left out, and so are the long codes of characters that no
header of an answer has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

STATUS = {8: "200", 9: "204", 10: "206", 11: "304", 12: "400", 13: "404", 14: "500"}  # of the static table
# RFC 7541's Huffman code is canonical: lengths alone determine it. Bits -> characters, in their order.
LENGTHS = {
    5: "012aceiost",
    6: " %-./3456789=A_bdfghlmnpru",
    7: ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: "&*,;XZ",
    10: '!"()?',
    11: "'+|",
    12: "#>",
    13: "\0$@[]~",
    14: "^}",
    15: "<`{",
}


def _codes() -> Iterator[tuple[tuple[int, int], str]]:
    code, before = 0, 0
    for length, characters in LENGTHS.items():
        code <<= length - before
        before = length
        for character in characters:
            yield (length, code), character
            code += 1


CODES = dict(_codes())


def encode(headers: Iterable[tuple[str, str]]) -> bytes:
    """Each one literally, without indexing, without Huffman's code."""
    block = bytearray()
    for name, value in headers:
        block.append(0)
        for text in (name.encode(), value.encode()):
            block += _integer(len(text), 7) + text
    return bytes(block)


def decode(block: bytes) -> list[tuple[str, str]]:
    """(name, value) in order; "" where either is not known here. :raises ValueError: it is no header block."""
    headers, at = [], 0
    try:
        while at < len(block):
            first = block[at]
            if first & 0x80:  # indexed
                index, at = _read_integer(block, at, 7)
                headers.append((":status" if index in STATUS else "", STATUS.get(index, "")))
            elif first & 0xE0 == 0x20:  # size of the dynamic table
                _, at = _read_integer(block, at, 5)
            else:  # literal, to be indexed or not
                index, at = _read_integer(block, at, 6 if first & 0x40 else 4)
                name = ":status" if index in STATUS else ""
                if index == 0:
                    name, at = _read_text(block, at)
                value, at = _read_text(block, at)
                headers.append((name, value))
    except IndexError as e:
        raise ValueError("a header block of HTTP/2 ends in the middle") from e
    return headers


def _integer(number: int, bits: int) -> bytes:
    most = (1 << bits) - 1
    if number < most:
        return bytes([number])
    rest, out = number - most, bytearray([most])
    while rest >= 0x80:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*out, rest])


def _read_integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    most = (1 << bits) - 1
    number = block[at] & most
    at += 1
    if number < most:
        return number, at
    for shift in range(0, 28, 7):
        number += (block[at] & 0x7F) << shift
        at += 1
        if not block[at - 1] & 0x80:
            return number, at
    raise ValueError("a number in a header block of HTTP/2 is too long")


def _read_text(block: bytes, at: int) -> tuple[str, int]:
    coded = block[at] & 0x80
    length, at = _read_integer(block, at, 7)
    text = block[at : at + length]
    if len(text) < length:
        raise IndexError
    return (_unhuffman(text) if coded else text.decode("latin-1")), at + length


def _unhuffman(text: bytes) -> str:
    """ "" for a text with a character that isn't known here."""
    out, code, length = [], 0, 0
    for byte in text:
        for shift in range(7, -1, -1):
            code, length = code << 1 | byte >> shift & 1, length + 1
            character = CODES.get((length, code))
            if character is not None:
                out.append(character)
                code = length = 0
            elif length > 30:
                return ""
    return "" if length > 7 else "".join(out)
