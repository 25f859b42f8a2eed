"""What is wrong with an object: every cause at once, in the words of Kubernetes' metav1.StatusCause."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edged.errors import PermanentError

Reason = Literal[
    "FieldValueInvalid",  # present, but not acceptable
    "FieldValueRequired",  # absent, and must not be
    "FieldValueNotSupported",  # Kubernetes knows it, or lists alternatives; this version does not
    "FieldValueDuplicate",  # a second one where names must be unique
    "FieldValueForbidden",  # not allowed together with something else
    "FieldValueTooLong",
    "FieldValueTooMany",
    "FieldValueTypeInvalid",  # a number where a string belongs, and the like
    "FieldManagerConflict",  # somebody else owns it
    "FieldValueNotFound",  # refers to something that isn't there
    "ResourceVersionTooLarge",  # a reader has seen more than there is here
    "DisruptionBudget",  # an eviction that a PodDisruptionBudget doesn't allow now
]

MAX_CAUSES = 100  # a person can't use more; bounds the answer to a hostile document


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that is wrong.

    :ivar field: path in the names people write, e.g. `spec.template.spec.containers[0].image`; "" = the whole.
    :ivar message: a sentence without the path.
    """

    field: str
    reason: Reason
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class Invalid(PermanentError):  # noqa: N818 - Kubernetes' own word (StatusReasonInvalid)
    """An object that can't be accepted.

    :ivar causes: all that is wrong, at most MAX_CAUSES, in the order of the document as far as possible.
    :ivar kind: of the object, "" where unknown; `name` likewise.
    """

    def __init__(self, causes: Sequence[Cause], kind: str = "", name: str = "") -> None:
        left_out = len(causes) - MAX_CAUSES
        self.causes: tuple[Cause, ...] = tuple(
            Cause(printable(c.field), c.reason, printable(c.message)) for c in causes[:MAX_CAUSES]
        )
        if left_out > 0:
            self.causes += (Cause("", "FieldValueInvalid", f"and {left_out} more errors"),)
        self.kind = kind
        self.name = printable(name)
        text = "; ".join(map(str, self.causes))
        super().__init__(f'{kind} "{self.name}" is invalid: {text}' if kind else text)


def printable(text: str) -> str:
    """What came from outside, fit for a terminal, a log and UTF-8: control characters and the like as escapes."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
