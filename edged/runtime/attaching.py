"""conmon's attach socket: what a container says from now on, and the way to its stdin (conmon(8)).

Packets of one byte that tells the stream, and up to 8192 of it. A peer that doesn't read loses packets, never holds the
container up. What goes there is the container's stdin, where it was made with one.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from edged.errors import PermanentError
from edged.model.remote import STDERR, STDOUT, Size

PACKET = 8192  # bytes of content in one, at most
STREAMS = {2: STDOUT, 3: STDERR}


def connect(folder: Path, container: str) -> socket.socket:
    """:param folder: the container's bundle. :raises PermanentError: nobody is there."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    here = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        peer.setblocking(False)
        peer.connect(f"/proc/self/fd/{here}/attach")  # its name must be short, our folder's may not be
    except OSError as e:
        peer.close()
        raise PermanentError(f"{container} can't be attached to: its conmon is gone ({e.strerror})") from e
    finally:
        os.close(here)
    return peer


def unpack(packet: bytes) -> tuple[int, bytes]:
    """(channel, body)."""
    return STREAMS.get(packet[0], STDOUT), packet[1:]


def resize(control: Path, size: Size) -> None:
    """Tell the terminal of a container that has one. :raises OSError: nobody listens."""
    fd = os.open(control, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.write(fd, b"1 %d %d\n" % (min(size.height, 0xFFFF), min(size.width, 0xFFFF)))
    finally:
        os.close(fd)
