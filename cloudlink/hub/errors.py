"""What the store may answer instead of doing it. All name the object, so that a caller can tell which of many."""

from __future__ import annotations

from edged.errors import EdgedError, PermanentError, RetryError


class StoreError(EdgedError):
    """Base of the answers below; nothing of the commit has happened.

    :ivar kind: Kubernetes kind of the object in question, "" where none is.
    :ivar namespace: "" for objects of the whole cluster.
    """

    def __init__(self, message: str, kind: str = "", namespace: str | None = "", name: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.namespace = namespace or ""
        self.name = name


def _title(kind: str, namespace: str | None, name: str) -> str:
    return f'{kind} "{namespace}/{name}"' if namespace else f'{kind} "{name}"'


class NotFound(StoreError):  # noqa: N818  (Kubernetes' own reason words, as are the ones below)
    """There is no such object."""

    def __init__(self, kind: str, namespace: str | None, name: str) -> None:
        super().__init__(f"{_title(kind, namespace, name)} not found", kind, namespace, name)


class AlreadyExists(StoreError):  # noqa: N818
    """An object of that kind has that name in that namespace."""

    def __init__(self, kind: str, namespace: str | None, name: str) -> None:
        super().__init__(f"{_title(kind, namespace, name)} already exists", kind, namespace, name)


class Conflict(StoreError):  # noqa: N818
    """The object isn't the one the caller read: read it again and decide again."""

    def __init__(self, kind: str, namespace: str | None, name: str, why: str) -> None:
        super().__init__(f"{_title(kind, namespace, name)}: {why}", kind, namespace, name)


class Terminating(Conflict):
    """The namespace is being deleted; nothing new may be made in it."""

    def __init__(self, kind: str, namespace: str | None, name: str) -> None:
        super().__init__(
            kind, namespace, name, f'namespace "{namespace}" is being deleted, nothing new may be made in it'
        )


class Gone(StoreError):  # noqa: N818
    """The history doesn't reach that far (or this reader fell behind): list again, then watch from there."""


class NotLeader(RetryError):  # noqa: N818
    """This hub no longer leads: what it decided as the leader is not done. Its successor decides anew."""


class Forbidden(PermanentError):  # noqa: N818
    """An object may not be made, or not become what it is to be, because of others that are there; the message says
    why, in Kubernetes' words (HTTP 403)."""
