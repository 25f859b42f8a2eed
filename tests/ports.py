"""Ports for what a test listens on. Needs nothing but Python: the runtime's suites run inside of nodes, too."""

from __future__ import annotations

import random
import socket

# Below those that the kernel gives to outgoing connections (32768 and up, ip(7)): a port from up there may be taken by
# one of them between here and the process that is to listen on it.
LOWEST, HIGHEST = 20000, 32000


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Nobody's on this machine, as it seems now."""
    while True:
        port = random.randint(LOWEST, HIGHEST)
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
