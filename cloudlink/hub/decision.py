"""What a controller answers: changes to make, things to tell people, and when to ask again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, assert_never

from cloudlink.hub.changes import Create, Delete, MarkDeleted, ObjectChange, Update, UpdateStatus
from cloudlink.kube.meta import KubeObject

NEVER = float("inf")

# Gives the random end of a generated name ("x7k2p"). An argument, so that tests know what comes.
Suffix = Callable[[], str]


@dataclass(frozen=True, slots=True)
class Note:
    """Something that a person may want to know about an object; becomes a core/v1 Event.

    :ivar component: who says it, as in Event.source.component; `host` is the node that it says it on.
    :ivar field_path: the part of the object that is meant, e.g. `spec.containers{web}`.
    """

    about: KubeObject
    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    component: str
    host: str = ""
    field_path: str = ""

    def describe(self) -> str:
        return f"{self.about.kind} {self.about.title}: {self.reason}: {self.message}"


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of looking at one object.

    :ivar wake_at: wall-clock second at which to look again even if nothing changes; NEVER = only on changes.
    """

    changes: tuple[ObjectChange, ...] = ()
    notes: tuple[Note, ...] = ()
    wake_at: float = NEVER

    def describe(self) -> str:
        return "\n".join(describe(c) for c in self.changes) or "nothing to do"


def describe(change: ObjectChange) -> str:
    """One line for logs and test failures."""
    match change:
        case Create(object=o):
            return f"create {o.kind} {o.title or o.metadata.generate_name}"
        case Update(object=o):
            return f"update {o.kind} {o.title}"
        case UpdateStatus(object=o):
            return f"update status of {o.kind} {o.title}"
        case MarkDeleted():
            return f"ask {change.kind} {change.namespace or ''}/{change.name} to end within {change.grace} s"
        case Delete():
            return f"delete {change.kind} {change.namespace or ''}/{change.name}"
    assert_never(change)
