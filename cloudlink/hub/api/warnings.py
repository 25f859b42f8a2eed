"""Warning headers (RFC 7234, code 299): what a client should hear although its request was done. kubectl shows them.

As kube-apiserver's: each text once, quoted, and bounded; a header that is too long would cost the whole answer.
"""

from __future__ import annotations

from collections.abc import Iterable

from cloudlink.kube.errors import printable

MAX_TOTAL = 4096  # characters of all texts together; beyond that they are cut to MAX_EACH, and then left out
MAX_EACH = 256


def headers(texts: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """As pairs for an Answer; header values are Latin-1 there, so that UTF-8 goes as its bytes."""
    told = list(dict.fromkeys(printable(text) for text in texts if text))
    if sum(map(len, told)) > MAX_TOTAL:
        told = [t if len(t) <= MAX_EACH else f"{t[: MAX_EACH - 3]}..." for t in told][: MAX_TOTAL // MAX_EACH]
    return tuple(("warning", header(text)) for text in told)


def header(text: str) -> str:
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'299 - "{quoted}"'.encode().decode("latin-1")
