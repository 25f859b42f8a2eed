"""What comes in, bounded: the body of one request, all bodies together, how many at once, and for how long.

Beyond a bound a request is refused with what its sender can do about it (413, 408, 429 with Retry-After); the hub's
memory doesn't depend on how many clients there are, or on how slow they are.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from starlette.requests import Request

from cloudlink.hub.api.answers import ApiError

MAX_BODY = 3 << 20  # bytes, as kube-apiserver's --max-request-bytes
MAX_BODIES = 32 << 20  # bytes of all bodies that are being read or worked on
MAX_REQUESTS = 400  # at once, watches and conversations apart; as kube-apiserver's --max-requests-inflight
SECONDS = 60.0  # for a body to arrive, as kube-apiserver's --request-timeout


class Intake:
    """:ivar requests: being read or worked on now; `bytes` those of their bodies."""

    def __init__(
        self, most: int = MAX_REQUESTS, body: int = MAX_BODY, bodies: int = MAX_BODIES, seconds: float = SECONDS
    ) -> None:
        self._most, self._body, self._bodies, self._seconds = most, body, bodies, seconds
        self.requests = 0
        self.bytes = 0

    @contextlib.contextmanager
    def seat(self) -> Iterator[Seat]:
        """A place for one request, until it has been worked on. ApiError 429 where all are taken."""
        if self.requests >= self._most:
            raise _too_many()
        seat = Seat(self)
        self.requests += 1
        try:
            yield seat
        finally:
            self.requests -= 1
            self.bytes -= seat.size

    def check(self, size: int) -> None:
        if size > self._body:
            message = f"Request entity too large: limit is {self._body}: a request may have that many bytes; split it"
            raise ApiError(413, "RequestEntityTooLarge", message)

    def room_for(self, size: int) -> None:
        if self.bytes + size > self._bodies:
            raise _too_many()
        self.bytes += size

    @property
    def seconds(self) -> float:
        return self._seconds


class Seat:
    """:ivar size: bytes of this request's body that are in memory."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self.size = 0

    async def body(self, request: Request) -> bytes:
        """The whole body.

        :raises ApiError: 413 (also when only its length says so), 429, 408.
        """
        length = request.headers.get("content-length", "")
        if length.isascii() and length.isdigit():
            self._intake.check(int(length[:18]))
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(self._intake.seconds):
                async for chunk in request.stream():
                    self._intake.check(self.size + len(chunk))
                    self._intake.room_for(len(chunk))
                    self.size += len(chunk)
                    chunks.append(chunk)
        except TimeoutError:
            message = f"the request's body did not arrive within {self._intake.seconds:g} s"
            raise ApiError(408, "Timeout", message, hang_up=True) from None
        return b"".join(chunks)


def _too_many() -> ApiError:
    return ApiError(429, "TooManyRequests", "too many requests, please try again later", retry_after=1)
