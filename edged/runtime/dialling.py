"""TCP connections from inside of a pod's network namespace, so that what listens only on loopback is reached."""

from __future__ import annotations

import asyncio
import functools
import os
import socket

from edged.errors import RetryError
from edged.runtime import mounts

PATIENCE = 10.0  # seconds; on loopback the answer is there at once, unless the queue of who listens is full
LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


async def dial(netns: str, port: int) -> socket.socket:
    """A socket belongs to the namespace that it was made in: only that is done there.

    :param netns: path; "" = the machine's own. :raises RetryError: nobody listens, with the kernel's word for it.
    """
    loop = asyncio.get_running_loop()
    why = ""
    for family, address in LOOPBACKS:
        try:
            connection = mounts.in_network(netns, functools.partial(_made, family)) if netns else _made(family)
        except OSError as e:
            why = why or e.strerror or str(e)
            continue
        try:
            async with asyncio.timeout(PATIENCE):
                await loop.sock_connect(connection, (address, port))
            return connection
        except TimeoutError:
            connection.close()
            why = why or f"no answer within {PATIENCE:g} s"
        except OSError as e:
            connection.close()
            why = why or (os.strerror(e.errno) if e.errno else str(e))  # asyncio has a word of its own for all of them
        except BaseException:
            connection.close()
            raise
    raise RetryError(f"port {port} of the pod can't be connected to: {why}")


def _made(family: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setblocking(False)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made
