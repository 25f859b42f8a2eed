"""What a caller can do about an error: give up and say so, or try again later.

Foreign errors are converted at the border where they appear (`raise ... from`). Everything else is a bug
and is allowed to travel up to the loop that logs it.
"""

from __future__ import annotations


class EdgedError(Exception):
    """Base of the two below. The message is a sentence for a person: what happened, where, what to do next."""


class PermanentError(EdgedError):
    """Trying the same thing again can't help; somebody has to change something."""


class RetryError(EdgedError):
    """It may work later.

    :ivar after: seconds to wait before the next try; the decider may wait longer, never less.
    """

    def __init__(self, message: str, after: float = 1.0) -> None:
        super().__init__(message)
        self.after = after
