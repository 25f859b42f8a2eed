"""Which objects to look at, and when: each at most once in the queue, failing ones later and later.

After client-go's rate-limiting work queue, without its threads; time is an argument.
"""

from __future__ import annotations

from typing import NamedTuple

FIRST_DELAY = 0.1  # seconds after the first failure; doubled with each
LONGEST_DELAY = 60.0


class Task(NamedTuple):
    """One object and the controller that is to look at it. Bounded by the number of objects there are."""

    controller: str
    kind: str
    namespace: str
    name: str


class WorkQueue:
    def __init__(self) -> None:
        self._due: dict[Task, float] = {}
        self._failures: dict[Task, int] = {}
        self._resting: dict[Task, float] = {}

    def add(self, task: Task, at: float = 0.0) -> None:
        """Look at it at second `at`, or earlier if that was wanted before. A task that failed keeps its delay."""
        if task in self._failures and at < self._due.get(task, 0.0):
            return
        at = max(at, self._resting.get(task, 0.0))
        self._due[task] = min(at, self._due.get(task, at))

    def rest(self, task: Task, until: float) -> None:
        """Don't look at it again before that second, whoever wants it."""
        self._resting[task] = until

    def take(self, now: float) -> list[Task]:
        """Everything that is due, in the order in which it was added."""
        if self._resting:
            self._resting = {task: until for task, until in self._resting.items() if until > now}
        due = [task for task, at in self._due.items() if at <= now]
        for task in due:
            del self._due[task]
        return due

    def failed(self, task: Task, now: float) -> float:
        """Put it back, later than the last time; the delay in seconds."""
        count = self._failures.get(task, 0)
        self._failures[task] = count + 1
        delay = min(FIRST_DELAY * 2.0 ** min(count, 32), LONGEST_DELAY)
        self._due[task] = now + delay
        return delay

    def succeeded(self, task: Task) -> None:
        self._failures.pop(task, None)

    def next_at(self) -> float:
        """When something is due; infinity where nothing waits."""
        return min(self._due.values(), default=float("inf"))
