"""What travels in a conversation once it is open: frames as msgpack arrays, each sealed and counted. Pure.

    count u64 | ChaCha20-Poly1305-IETF(key of this direction, nonce = count, frame)

The count stands in the clear, so that one message that somebody made up, or sent again, can be told from one that is
missing: the former are ignored, the latter ends the conversation.
"""

from __future__ import annotations

import struct

import msgspec
import nacl.bindings
from nacl.exceptions import CryptoError

from cloudlink.wire import Refused
from edged.model.remote import MAX_FRAME, AnyRequest, End

HEAD = struct.Struct(">Q")
NONCE = struct.Struct(">IQ")
TAG = 16  # bytes of the authenticator
MAX_SEALED = 64 << 10  # bytes of one message; the longest are requests with a long command line


class Frame(msgspec.Struct, frozen=True, array_like=True, tag_field="k", forbid_unknown_fields=True):
    """Base of the frames; the first item of the array tells which."""


class Accept(Frame, frozen=True, tag=0):
    """Node to hub, first: `window` bytes may be under way to it."""

    window: int


class Ask(Frame, frozen=True, tag=1):
    """Hub to node, first: what is asked, and how much may be under way to the hub."""

    request: AnyRequest
    window: int


class Data(Frame, frozen=True, tag=2):
    """:ivar channel: one of edged.model.remote."""

    channel: int
    body: bytes


class Credit(Frame, frozen=True, tag=3):
    """So much of what was under way has been taken (flow.cost)."""

    amount: int


class Beat(Frame, frozen=True, tag=4):
    """I am still here."""


class Finish(Frame, frozen=True, tag=5):
    """Node to hub, last."""

    end: End


class LetGo(Frame, frozen=True, tag=6):
    """Nobody is interested any more; last of its direction."""


AnyFrame = Accept | Ask | Data | Credit | Beat | Finish | LetGo

_decoder = msgspec.msgpack.Decoder(AnyFrame)
_encode = msgspec.msgpack.Encoder().encode


class Sealer:
    """One direction's sending end."""

    __slots__ = ("_count", "_key")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._count = 0

    def seal(self, frame: AnyFrame) -> bytes:
        """:raises Refused: it is larger than anybody would take."""
        plain = _encode(frame)
        if len(plain) > MAX_SEALED - HEAD.size - TAG:
            raise Refused(f"what is asked has {len(plain)} bytes, {MAX_SEALED - HEAD.size - TAG} are allowed")
        count = self._count
        self._count += 1
        nonce = NONCE.pack(0, count)
        return HEAD.pack(count) + nacl.bindings.crypto_aead_chacha20poly1305_ietf_encrypt(plain, None, nonce, self._key)


class Opener:
    """One direction's receiving end.

    :ivar ignored: messages that were none of the other side's, or came a second time.
    """

    __slots__ = ("_count", "_key", "ignored")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._count = 0
        self.ignored = 0

    def open(self, raw: bytes) -> AnyFrame | None:
        """The next frame; None for what must be ignored.

        :raises Refused: frames before this one are missing, or it is none although the other side sealed it.
        """
        if not HEAD.size + TAG < len(raw) <= MAX_SEALED:
            self.ignored += 1
            return None
        (count,) = HEAD.unpack_from(raw)
        if count < self._count:
            self.ignored += 1
            return None
        try:
            plain = nacl.bindings.crypto_aead_chacha20poly1305_ietf_decrypt(
                raw[HEAD.size :], None, NONCE.pack(0, count), self._key
            )
        except CryptoError:
            self.ignored += 1
            return None
        if count > self._count:
            raise Refused(f"{count - self._count} messages of the conversation were lost on their way")
        self._count += 1
        try:
            frame: AnyFrame = _decoder.decode(plain)
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as e:
            raise Refused(f"the other side speaks otherwise: {e}; upgrade the older one") from e
        if isinstance(frame, Data) and len(frame.body) > MAX_FRAME:
            raise Refused(f"a frame has {len(frame.body)} bytes, {MAX_FRAME} are allowed")
        return frame
