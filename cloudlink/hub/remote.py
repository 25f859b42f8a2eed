"""Conversations with a node, as the API's doors (kubectl logs, exec, attach, port-forward, top) see them.

The doors know nothing of MQTT; `cloudlink.hub.streams` carries these over it, encrypted between hub and node. The
fake of it (tests/fakes) passes the same contract.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from edged.model.remote import AnyRequest, End


class Frame(NamedTuple):
    """Some bytes on one of the request's channels (edged.model.remote). Empty on STDIN: there will be no more."""

    channel: int
    data: bytes


class Conversation(Protocol):
    """One request under way. Bounded both ways: `send` waits until the other side has taken what was sent before."""

    async def send(self, frame: Frame) -> None:
        """Larger bodies than MAX_FRAME are cut. Silently dropped once the conversation has ended."""

    async def receive(self) -> Frame | End:
        """The next frame; after End there is none. Never raises for what goes wrong far away: that is an End."""

    async def close(self) -> None:
        """Let go of it: the node ends what it does for it. Harmless when it has ended; call it always."""


class Remote(Protocol):
    """The way to the nodes."""

    async def open(self, node: str, request: AnyRequest) -> Conversation:
        """Ask a node. RetryError where it can't be reached now (offline, no answer in time), with a sentence."""
