"""The hub as systemd's service (sd_notify(3)): READY=1 once it serves, and a sign of life from its loop alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edged import systemd

LOOK_EVERY = 0.1  # seconds, until it serves


async def tell_systemd(serves: Callable[[], bool], fleet: str) -> None:
    """Until cancelled. Sends READY=1 when `serves` says so for the first time.

    The watchdog is fed by a task of the loop that answers requests and speaks with nodes: a loop that hangs is a hub
    that is gone. A database or a broker that is away does not count; starting the hub again would not bring it back.
    """
    try:
        while not serves():  # noqa: ASYNC110 -- uvicorn has a flag for it, and no event
            await asyncio.sleep(LOOK_EVERY)
        systemd.notify(f"READY=1\nSTATUS=serving fleet {fleet}")
        interval = systemd.watchdog_interval()
        while interval:
            systemd.notify("WATCHDOG=1")
            await asyncio.sleep(interval)
        await asyncio.Event().wait()
    finally:
        systemd.notify("STOPPING=1")
