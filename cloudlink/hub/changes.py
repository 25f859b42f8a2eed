"""What may be asked of the store in one commit: small frozen values, so that deciding code can return them.

Identity (`uid`, `creationTimestamp`), `resourceVersion`, `generation` and deletion marks belong to the store:
what a caller puts there is checked (uid) or replaced.
"""

from __future__ import annotations

from dataclasses import dataclass

from cloudlink.kube.meta import KubeObject, ManagedFieldsEntry


@dataclass(frozen=True, slots=True)
class Create:
    """A new object. AlreadyExists, NotFound (its namespace) or Terminating refuse the commit; an Event whose
    namespace is gone is dropped in silence instead: it must not hold up what it tells about."""

    object: KubeObject


@dataclass(frozen=True, slots=True)
class Update:
    """Replace everything but `.status` (which kinds with one keep) and what belongs to the store.

    :ivar expect: resourceVersion that the stored object must have; None = whatever it is.
    """

    object: KubeObject
    expect: str | None = None


@dataclass(frozen=True, slots=True)
class UpdateStatus:
    """Replace `.status` and nothing else.

    :ivar managed: metadata.managedFields after that; None = as they are (who writes isn't tracked).
    """

    object: KubeObject
    expect: str | None = None
    managed: tuple[ManagedFieldsEntry, ...] | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove for good; where finalizers hold it, mark it with a grace period of 0: it goes with the last of them.

    `uid` and `expect` (a resourceVersion) guard against removing its successor.
    """

    kind: str
    namespace: str | None
    name: str
    uid: str | None = None
    expect: str | None = None


@dataclass(frozen=True, slots=True)
class MarkDeleted:
    """Set deletionTimestamp (now + grace) and deletionGracePeriodSeconds; a second mark can only shorten them.

    :ivar grace: seconds.
    :ivar uid: as with Delete; `expect` likewise.
    :ivar finalizers: what holds it from now on, e.g. with `foregroundDeletion`; None = what held it before.
    """

    kind: str
    namespace: str | None
    name: str
    grace: int
    uid: str | None = None
    expect: str | None = None
    finalizers: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class PutRecord:
    """Remember some bytes that are no API object, in the same transaction as the rest."""

    bucket: str
    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class DeleteRecord:
    """Forget a record; harmless where there is none."""

    bucket: str
    key: str


ObjectChange = Create | Update | UpdateStatus | Delete | MarkDeleted
RecordChange = PutRecord | DeleteRecord
Change = ObjectChange | RecordChange
