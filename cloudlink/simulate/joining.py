"""How simulated nodes become nodes: each joins as a real one does, with a token of its own, and keeps its identity.

A fleet's folder has one identity folder a node (cloudlink.node), so the same fleet can come back to the same hub.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from cloudlink import node
from cloudlink.node import Membership
from cloudlink.simulate.boards import Board
from edged.errors import PermanentError, RetryError

AT_ONCE = 4  # joins under way; each is mostly the hub's signature and a few small files
TRIES = 40  # of one node, while the hub says "later"
LONGEST_WAIT = 10.0  # seconds between them

Tokens = Callable[[str], str]
"""Gives a join token for a node's name; blocks, as long as a request takes."""


def name_of(number: int) -> str:
    return f"sim-{number:04d}"


async def join_all(
    names: Sequence[str],
    boards: Sequence[Board],
    folder: Path,
    tokens: Tokens,
    joined: Callable[[int], None] = lambda count: None,
) -> list[Membership]:
    """All nodes, those that have joined before as they are. In the order of `names`.

    :param joined: told how many there are, now and then.
    :raises PermanentError: the hub doesn't want one of them; the sentence says what to do.
    """
    slots, done = asyncio.Semaphore(AT_ONCE), 0

    async def one(name: str, board: Board) -> Membership:
        nonlocal done
        async with slots:
            found = await asyncio.to_thread(_known, folder / name, name) or await _join(folder / name, name, board)
        done += 1
        joined(done)
        return found

    async def _join(identity: Path, name: str, board: Board) -> Membership:
        facts = {"hostname": name, "architecture": board.architecture, "model": board.model, "simulated": "true"}
        for attempt in range(1, TRIES + 1):
            try:
                token = await asyncio.to_thread(tokens, name)
                return await asyncio.to_thread(node.join, token, identity, name, facts)
            except RetryError as e:
                if attempt == TRIES:
                    raise PermanentError(f"node {name} could not join: {e}") from e
                await asyncio.sleep(min(e.after or LONGEST_WAIT, LONGEST_WAIT))
        raise AssertionError("not reached")

    tasks = [asyncio.create_task(one(n, b), name=f"joining {n}") for n, b in zip(names, boards, strict=True)]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


def _known(identity: Path, name: str) -> Membership | None:
    """Of a node that has joined before under this name."""
    if not (identity / "node.json").exists():
        return None
    member = node.load_membership(identity)
    if member.node != name:
        raise PermanentError(f"{identity} belongs to node {member.node}; give the fleet another folder")
    return member
