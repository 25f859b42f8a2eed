"""Image references: what people write, brought to one canonical form. Pure.

The grammar is the distribution project's (github.com/distribution/reference), the short forms are Docker's:

    busybox                          docker.io/library/busybox:latest
    grafana/grafana:11.0.0           docker.io/grafana/grafana:11.0.0
    localhost/demo:1                 localhost/demo:1
    host:5000/a/b@sha256:<64 hex>    itself
    host/a:1@sha256:<64 hex>         host/a@sha256:<64 hex>     (the digest decides, the tag is only a comment)
"""

from __future__ import annotations

import re
from functools import lru_cache

from edged.errors import PermanentError
from edged.model import Value

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
LONGEST_NAME = 255  # registry and repository together, the distribution project's limit

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]{{1,5}})?")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Reference(Value, frozen=True):
    """A parsed reference. Invariant: exactly one of `tag` and `digest` is not empty.

    :ivar registry: host, with its port if one was given; "docker.io" where none was.
    :ivar repository: path on the registry, "library/busybox" for "busybox".
    :ivar digest: "sha256:<64 hex>" of a manifest or index.
    """

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        return f"{self.registry}/{self.repository}"

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"


@lru_cache(maxsize=256)  # the daemon asks for the same few again and again
def parse(text: str) -> Reference:
    """Read a reference in any form that Docker accepts.

    :raises PermanentError: a sentence that quotes the reference and names the part that is wrong.
    """
    if not text:
        raise PermanentError("image reference is empty; write something like docker.io/library/busybox:1.36")
    if len(text) > 2 * LONGEST_NAME + 128:
        raise PermanentError(f"image reference {text[:60]!r}... is {len(text)} characters long; nothing real is")
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise PermanentError(f"image reference {text!r}: the digest {digest!r} is not sha256: and 64 hex digits")
    name, tag = _split_tag(rest)
    if tag is not None and not _TAG.fullmatch(tag):
        raise PermanentError(
            f"image reference {text!r}: the tag {tag!r} is not 1 to 128 letters, digits, '_', '.' or '-' "
            "(not starting with '.' or '-')"
        )
    registry, repository = _split_registry(name)
    _check_name(text, registry, repository)
    if digest:
        return Reference(registry, repository, digest=digest)
    return Reference(registry, repository, tag=DEFAULT_TAG if tag is None else tag)


def normalise(text: str) -> str:
    """The canonical form of `text`; raises as `parse` does. Idempotent."""
    return str(parse(text))


def _split_tag(rest: str) -> tuple[str, str | None]:
    """A colon after the last slash starts a tag; one before it starts a port."""
    colon = rest.rfind(":")
    if colon <= rest.rfind("/"):
        return rest, None
    return rest[:colon], rest[colon + 1 :]


def _split_registry(name: str) -> tuple[str, str]:
    """The first component is a host only if it looks like one; that is Docker's rule."""
    first, slash, remainder = name.partition("/")
    looks_like_host = "." in first or ":" in first or first == "localhost" or first != first.lower()
    if not slash or not looks_like_host:
        first, remainder = DEFAULT_REGISTRY, name
    if first in ("index.docker.io", DEFAULT_REGISTRY):
        first = DEFAULT_REGISTRY
        if remainder and "/" not in remainder:
            remainder = f"library/{remainder}"
    return first, remainder


def _check_name(text: str, registry: str, repository: str) -> None:
    if not _REGISTRY.fullmatch(registry):
        raise PermanentError(f"image reference {text!r}: {registry!r} is not a host name with an optional port")
    if not repository:
        raise PermanentError(f"image reference {text!r} names no repository")
    for component in repository.split("/"):
        if component != component.lower():
            raise PermanentError(f"image reference {text!r}: repository names are lower case, {component!r} is not")
        if not _COMPONENT.fullmatch(component):
            raise PermanentError(
                f"image reference {text!r}: {component!r} is not letters and digits with single '.', '_', '__' or "
                "'-' between them"
            )
    if re.fullmatch(r"[0-9a-f]{64}", text):
        raise PermanentError(f"image reference {text!r} is a bare image id; give the image's name")
    if len(registry) + 1 + len(repository) > LONGEST_NAME:
        raise PermanentError(f"image reference {text!r}: the name is longer than {LONGEST_NAME} characters")
