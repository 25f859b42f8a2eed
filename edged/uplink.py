"""Where desired state comes from and where status goes: the Uplink protocol, its inbox, and the local one.

An uplink may do what it likes with networks; the daemon only ever sees the newest document it accepted, and what it is
asked in conversations (edged.model.remote).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from edged.errors import PermanentError
from edged.model import Desired, HubLink, NodeStatus
from edged.model.remote import AnyRequest, End

LONG_AGO = 1_735_689_600.0  # 2025-01-01: before this software was written


class Inbox:
    """A slot of size 1 between an uplink and the daemon: the newest accepted document wins.

    Invariant: `generation` never goes down while the daemon runs; it starts with the stored one.

    :ivar heard: a document has come that was not refused, be it the one that was here already.
    :ivar past: a moment (seconds since 1970) that is certainly past; a clock that says less is wrong.
    """

    def __init__(self, wake: Callable[[], None], generation: int = 0, digest: bytes = b"") -> None:
        self._wake = wake
        self._newest: Desired | None = None
        self.generation = generation
        self.digest = digest
        self.heard = False
        self.refusals = 0
        self.last_refusal = ""
        self.refused_generation = 0
        self.past = LONG_AGO

    def offer(self, desired: Desired, digest: bytes = b"") -> bool:
        """Take a verified document; False if it is the one we already have. Older ones are refused aloud."""
        if desired.generation == self.generation and digest == self.digest:
            if not self.heard:
                self.heard = True
                self._wake()
            return False
        if desired.generation <= self.generation:
            kind = "other content for" if desired.generation == self.generation else "an older"
            reason = f"{kind} generation {desired.generation}; this node has {self.generation}"
            self.refuse(reason, desired.generation)
            return False
        self.generation, self.digest, self._newest, self.heard = desired.generation, digest, desired, True
        self._wake()
        return True

    def refuse(self, reason: str, generation: int = 0) -> None:
        """Count a document that must not be taken, and make the node's status say so. `generation` 0 = unknown."""
        self.refusals += 1
        self.last_refusal, self.refused_generation = reason, generation
        self._wake()

    def take(self) -> Desired | None:
        newest, self._newest = self._newest, None
        return newest


class Talk(Protocol):
    """The node's end of one conversation. Bounded both ways: nobody can make the other side keep more than a little."""

    async def send(self, channel: int, data: bytes) -> None:
        """Waits until the other side has taken most of what was sent before. Larger bodies than MAX_FRAME are cut."""

    async def receive(self) -> tuple[int, bytes]:
        """(channel, body) of the next frame; an empty body on STDIN: there will be no more. Waits for ever where none
        comes: who answers is cancelled when the other side goes away."""


class Asked(Protocol):
    """What a node can be asked from far away."""

    async def answer(self, request: AnyRequest, talk: Talk) -> End:
        """Carry it out; how it ended. Cancelled when nobody is interested any more: whatever was started for it is
        then ended too. May raise PermanentError or RetryError, which become an End with the same sentence."""


class Silent:
    """An `Asked` that can't be asked anything."""

    async def answer(self, request: AnyRequest, talk: Talk) -> End:
        return End(reason="Refused", message="this node can't be asked anything")


class Uplink(Protocol):
    """What the daemon needs from whoever knows about a hub."""

    async def run(self, inbox: Inbox, asked: Asked) -> None:
        """Deliver documents, and what is asked, until cancelled. Survives any outage by itself."""

    @property
    def state(self) -> HubLink:
        """How things stand with the hub."""

    def report(self, status: NodeStatus) -> None:
        """Remember the newest status and send it when possible. Never blocks, never raises."""

    def unseal(self, name: str, sealed: bytes) -> Mapping[str, bytes]:
        """Open one secret. PermanentError if it was not sealed for this node."""


class LocalUplink:
    """No hub: one compiled document in a folder, read at start and again at each SIGHUP (`reload`).

    The file is `desired.json`, a `Desired` as JSON with base64 bytes; secrets there are plain JSON objects of
    key -> base64 packed as bytes, protected by the file's own permissions.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "desired.json"
        self._again = asyncio.Event()

    @property
    def state(self) -> HubLink:
        return HubLink()

    def reload(self) -> None:
        self._again.set()

    async def run(self, inbox: Inbox, asked: Asked) -> None:
        while True:
            self._again.clear()
            try:
                raw = self._file.read_bytes()
                inbox.offer(msgspec.json.decode(raw, type=Desired), raw)
            except FileNotFoundError:
                pass
            except (msgspec.DecodeError, OSError) as e:
                inbox.refuse(f"{self._file}: {e}")
            await self._again.wait()

    def report(self, status: NodeStatus) -> None:
        """Nobody to tell: the control socket serves the status to whoever asks."""

    def unseal(self, name: str, sealed: bytes) -> Mapping[str, bytes]:
        try:
            return msgspec.json.decode(sealed, type=dict[str, bytes])
        except msgspec.DecodeError as e:
            raise PermanentError(
                f"secret {name} in the local document is not a JSON object of base64 values: {e}"
            ) from e
