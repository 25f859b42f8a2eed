"""How the API's doors get at a node: a conversation that is let go of whatever happens, and not too many at once."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from cloudlink.hub.remote import Conversation, Remote
from edged.errors import RetryError
from edged.model.remote import AnyRequest

MAX_CONVERSATIONS = 256  # under way through one hub; streams.py holds a window of bytes for each, and no more of them


class Ways:
    """Of one hub."""

    def __init__(self, remote: Remote, most: int = MAX_CONVERSATIONS) -> None:
        self._remote = remote
        self._most = most
        self._open = 0

    @contextlib.asynccontextmanager
    async def conversation(self, node: str, request: AnyRequest) -> AsyncIterator[Conversation]:
        """:raises RetryError: the node can't be reached now, or too much is under way already."""
        if self._open >= self._most:
            raise RetryError(f"{self._most} conversations with nodes are under way through this hub; end one")
        self._open += 1
        try:
            conversation = await self._remote.open(node, request)
            try:
                yield conversation
            finally:
                await conversation.close()
        finally:
            self._open -= 1


class Nowhere:
    """The `Remote` of an API that has no nodes (its own tests, say)."""

    async def open(self, node: str, request: AnyRequest) -> Conversation:
        raise RetryError(f"this API has no way to node {node}: it runs without a link to the fleet")
