"""Fetches blobs over links that break: goes on where it ended, waits, tries the next mirror, and knows when to stop.

An attempt counts as failed only if not one new byte came. As long as bytes come, however slowly and in however many
pieces, the fetch goes on.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable
from typing import TypeVar

from edged.errors import PermanentError, RetryError
from edged.images import oci
from edged.images.partial import Partial
from edged.images.registry import Endpoint
from edged.images.settings import PullConfig
from edged.images.space import DiskError
from edged.images.transport import CHUNK, Response
from edged.model import Value

LONGEST_PAUSE = 30.0  # seconds between two attempts
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
T = TypeVar("T")


class Retrying(Value, frozen=True):
    """News for whoever watches: something failed and is tried again in `after` seconds."""

    what: str
    reason: str
    after: float


class Fetcher:
    """Asks the endpoints of one repository; shared by the threads of one pull.

    :param endpoints: mirrors in their order, the registry last; the one that answers is preferred from then on.
    :param tell: called for each retry, from any thread.
    :param dice: gives [0, 1) for jitter.
    """

    def __init__(
        self,
        endpoints: list[Endpoint],
        config: PullConfig,
        cancelled: threading.Event,
        tell: Callable[[Retrying], None] = lambda _: None,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._endpoints, self._config, self._cancelled = endpoints, config, cancelled
        self._tell, self._dice = tell, dice
        self._registry = endpoints[-1]
        self._lock = threading.Lock()
        self.received = 0  # bytes of blobs that came over the network

    def ask(self, what: str, question: Callable[[Endpoint], T]) -> T:
        """A small request: each endpoint in turn, then again after a pause."""
        return self._persist(what, question, lambda: 0)

    def document(self, descriptor: oci.Descriptor, what: str) -> bytes:
        """A config: whole, in memory, verified."""
        oci.hex_of(descriptor.digest, what)
        if not 0 <= descriptor.size <= oci.LARGEST_DOCUMENT:
            raise PermanentError(f"{what} has {descriptor.size} bytes; at most {oci.LARGEST_DOCUMENT} are read")

        def read(endpoint: Endpoint) -> bytes:
            with endpoint.blob(descriptor.digest) as response:
                raw = response.read_all(descriptor.size, what)
            if len(raw) != descriptor.size or oci.digest_of(raw) != descriptor.digest:
                raise RetryError(f"{what} came with other content than its digest {descriptor.digest} says")
            return raw

        return self.ask(what, read)

    def layer(self, partial: Partial, what: str, progress: Callable[[], None]) -> None:
        """Fetch what is missing of `partial` and verify the whole; what doesn't fit its digest is thrown away.

        :param progress: called after every piece.
        :raises RetryError: nothing comes any more, or the disk is full; what came is kept.
        :raises PermanentError: no endpoint has it, or all have something else.
        """
        wrong = 0
        while True:
            if not partial.complete:
                self._persist(what, lambda e: self._fetch(e, partial, what, progress), lambda: partial.length)
            if partial.is_right():
                return
            inherited = partial.inherited
            partial.restart()
            if not inherited:  # else the fault may lie in what an earlier run left; that is no one's fault
                wrong += 1
                self._prefer_another()
            if wrong > len(self._endpoints):
                raise PermanentError(f"{what}: what the registry sends doesn't have this digest; push the image again")
            self._tell(Retrying(what, "the content doesn't have the digest; fetching it anew", 0.0))

    def _fetch(self, endpoint: Endpoint, partial: Partial, what: str, progress: Callable[[], None]) -> None:
        offset = partial.length
        with endpoint.blob(partial.digest, offset) as response:
            if response.status == 416:
                partial.restart()
                raise RetryError(
                    f"{what}: {response.url.netloc} refuses to go on at byte {offset}; starting again", 0.0
                )
            self._skip(response, offset, partial.size, what)
            while not partial.complete:
                if self._cancelled.is_set():
                    raise RetryError("the pull ends")
                data = response.read1(min(CHUNK, partial.size - partial.length))
                if not data:
                    raise RetryError(f"{what}: {response.url.netloc} ended it after {partial.length} bytes")
                self._count(len(data))
                partial.append(data)
                progress()

    def _skip(self, response: Response, offset: int, size: int, what: str) -> None:
        """Bring the answer to byte `offset`: some servers ignore Range, and send everything again."""
        behind = offset
        if response.status == 206:
            found = _CONTENT_RANGE.fullmatch(response.header("Content-Range").strip())
            if found is None or int(found.group(1)) > offset or found.group(3) not in ("*", str(size)):
                raise RetryError(f"{what}: {response.url.netloc} sent another range than the one asked for")
            behind = offset - int(found.group(1))
        while behind:
            data = response.read1(min(CHUNK, behind))
            if not data or self._cancelled.is_set():
                raise RetryError(f"{what}: {response.url.netloc} ended it before byte {offset}")
            self._count(len(data))
            behind -= len(data)

    def _count(self, size: int) -> None:
        with self._lock:
            self.received += size

    def _persist(self, what: str, attempt: Callable[[Endpoint], T], position: Callable[[], int]) -> T:
        """Repeat `attempt` until it succeeds or `attempts` in a row brought `position` nowhere."""
        failures, hopeless = 0, dict[int, PermanentError]()
        turn = 0
        while True:
            with self._lock:
                possible = [e for e in self._endpoints if id(e) not in hopeless]
            endpoint = possible[turn % len(possible)]
            before = position()
            try:
                result = attempt(endpoint)
            except PermanentError as e:
                hopeless[id(endpoint)] = e
                if len(possible) == 1:
                    raise hopeless.get(id(self._registry), e) from e  # its word counts more than a mirror's
                self._tell(Retrying(what, str(e), 0.0))
                continue
            except RetryError as e:
                if self._cancelled.is_set() or isinstance(e, DiskError):
                    raise
                failures = 0 if position() > before else failures + 1
                turn += 1 if failures else 0
                if failures >= self._config.attempts * len(possible):
                    raise RetryError(
                        f"{what}: gave up for now after {failures} attempts: {e}", max(e.after, 10.0)
                    ) from e
                self._pause(what, e, failures, len(possible))
                continue
            self._prefer(endpoint)
            return result

    def _pause(self, what: str, e: RetryError, failures: int, endpoints: int) -> None:
        """A ladder per round of all endpoints, with half of it left to chance so that a fleet doesn't march in step."""
        rung = self._config.backoff_seconds * 2.0 ** min((failures - 1) // endpoints, 10)
        if not failures:
            rung = self._config.backoff_seconds / 5  # bytes came: the link works, however badly
        seconds = min(rung, LONGEST_PAUSE) * (0.5 + self._dice() / 2)
        if e.after > 1.0:  # the registry has asked for it
            seconds = max(seconds, e.after)
        self._tell(Retrying(what, str(e), round(seconds, 3)))
        if self._cancelled.wait(seconds):
            raise RetryError("the pull ends") from e

    def _prefer(self, endpoint: Endpoint) -> None:
        with self._lock:
            self._endpoints.sort(key=lambda e: e is not endpoint)

    def _prefer_another(self) -> None:
        with self._lock:
            self._endpoints.append(self._endpoints.pop(0))
