"""What the node asks of its network worker: the requests, the names they use, and the way they travel.

`network.Network` sends them, `networker` carries them out with pyroute2 in a process that ends. Everything here is
pure but `Worker`, the daemon's end of the socket.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import struct
import sys
from pathlib import Path

import msgspec

from edged.errors import EdgedError, PermanentError, RetryError
from edged.runtime import process

INTERFACE = "eth0"  # the pod's own name for its end of the veth
ALIAS = "edged "  # the beginning of the bridge's ifalias: marks it as ours; then what settings were before us
PACKET = 1 << 18  # bytes; far more than BATCH requests need
BATCH = 32  # requests a packet
WORKER_TIMEOUT = 30.0  # seconds for one request, the worker's start included


class PodRange(msgspec.Struct, frozen=True):
    """The addresses of one node's pods. IPv4 only; `ipaddress` is left out to save its memory in the daemon.

    :ivar base: the network's address as a number. The bridge has base + 1, pods the rest but the broadcast address.
    """

    cidr: str
    base: int
    prefix: int

    @classmethod
    def parse(cls, cidr: str) -> PodRange:
        """PermanentError unless it is an IPv4 network in CIDR form with room for at least one pod."""
        address, _, bits = cidr.partition("/")
        try:
            base, prefix = ip_number(address), int(bits)
        except (OSError, ValueError) as e:
            raise PermanentError(f"network.pod_cidr {cidr!r} is not an IPv4 network like 10.88.0.0/24") from e
        if not 8 <= prefix <= 29:
            raise PermanentError(f"network.pod_cidr {cidr!r}: the prefix must be between /8 and /29")
        if base & ((1 << (32 - prefix)) - 1):
            raise PermanentError(f"network.pod_cidr {cidr!r} has bits set behind its prefix; write its first address")
        return cls(cidr=cidr, base=base, prefix=prefix)

    @property
    def gateway(self) -> str:
        return ip_text(self.base + 1)

    @property
    def capacity(self) -> int:
        """How many pods can have an address."""
        return (1 << (32 - self.prefix)) - 3

    def pod_address(self, index: int) -> str:
        """The address of pod number `index`, counting from 0."""
        return ip_text(self.base + 2 + index)

    def index(self, ip: str) -> int | None:
        """The inverse of `pod_address`; None for any other text."""
        try:
            index = ip_number(ip) - self.base - 2
        except OSError:
            return None
        return index if 0 <= index < self.capacity else None


def ip_number(text: str) -> int:
    """OSError if `text` is not a dotted quad."""
    number: int = struct.unpack("!I", socket.inet_pton(socket.AF_INET, text))[0]
    return number


def ip_text(number: int) -> str:
    return socket.inet_ntop(socket.AF_INET, struct.pack("!I", number))


def veth_prefix(bridge: str) -> str:
    """What the host's ends of a bridge's veths begin with: short, and different for every node on a machine."""
    return "ve" + hashlib.blake2b(bridge.encode(), digest_size=3).hexdigest()


def veth_name(bridge: str, index: int) -> str:
    """Never longer than 15 characters (IFNAMSIZ): 8 + at most 6 hexadecimal digits of a /8."""
    return f"{veth_prefix(bridge)}{index:x}"


def bridge_mac(bridge: str) -> str:
    """A fixed address: left to the kernel it changes with every port, and pods would talk to a stale one."""
    return "02:" + hashlib.blake2b(bridge.encode(), digest_size=5).digest().hex(":")


# ---------------------------------------------------------------- requests


class EnsureBridge(msgspec.Struct, frozen=True, tag="ensure-bridge"):
    """The bridge, up, with the range's first address; ip_forward on. Fails if the range is somebody else's.

    :ivar veths: cables that belong into it, for somebody may have removed the bridge under them.
    """

    bridge: str
    pods: PodRange
    veths: tuple[str, ...] = ()

    def describe(self) -> str:
        return f"bridge {self.bridge}"


class Wire(msgspec.Struct, frozen=True, tag="wire"):
    """A new namespace pinned at `path`, joined to the bridge. Whatever is left there from before is removed first."""

    path: str
    ip: str
    gateway: str
    veth: str
    bridge: str

    def describe(self) -> str:
        return f"network namespace {self.path}"


class Unwire(msgspec.Struct, frozen=True, tag="unwire"):
    """No namespace at `path` and no `veth`; either may be "". Nothing happens where nothing is."""

    path: str
    veth: str

    def describe(self) -> str:
        return f"removal of network namespace {self.path or self.veth}"


class Tune(msgspec.Struct, frozen=True, tag="tune"):
    """Kernel parameters (net.*) of one pod's namespace, which is pinned at `path`."""

    path: str
    sysctls: tuple[tuple[str, str], ...]

    def describe(self) -> str:
        return f"sysctls of network namespace {self.path}"


class RemoveBridge(msgspec.Struct, frozen=True, tag="remove-bridge"):
    """No bridge; ip_forward as it was before the first node of this machine, once the last one goes."""

    bridge: str

    def describe(self) -> str:
        return f"removal of bridge {self.bridge}"


class ForgetFlows(msgspec.Struct, frozen=True, tag="forget-flows"):
    """UDP flows to `address` that go anywhere but to `keep` are decided anew with their next packet.

    TCP learns from a reset or a timeout that its other end is gone. UDP doesn't, and every packet that is sent makes
    the kernel remember the old way for longer.

    :ivar address: "" = all addresses of the machine itself.
    :ivar port: the port that was asked for; 0 = every one.
    """

    address: str
    keep: tuple[str, ...]
    port: int = 0

    def describe(self) -> str:
        return f"forgetting UDP flows to {self.address or 'the machine'}{f' port {self.port}' if self.port else ''}"


Request = EnsureBridge | Wire | Unwire | Tune | RemoveBridge | ForgetFlows


class Reply(msgspec.Struct, frozen=True):
    """The end of request number `id`. `error` is a sentence or ""; `degraded` what could not be had fully."""

    id: int
    error: str = ""
    permanent: bool = False
    degraded: str = ""


def encode_requests(requests: list[tuple[int, Request]]) -> bytes:
    return msgspec.msgpack.encode(requests)


def decode_requests(packet: bytes) -> list[tuple[int, Request]]:
    return msgspec.msgpack.decode(packet, type=list[tuple[int, Request]])


# ---------------------------------------------------------------- the daemon's end


class _WorkerGoneError(Exception):
    """The worker ended before it answered; every request may be sent again to another one."""


class Worker:
    """Starts the worker when there is something to do and sends it what has gathered, in batches.

    The worker ends by itself when idle, and when this process does. Requests are idempotent, so one whose worker
    was killed goes to the next.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket: socket.socket | None = None
        self._child: process.Child | None = None
        self._last_id = 0
        self._queue: list[tuple[int, Request]] = []  # bounded by its callers: one request per pod and spare at a time
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._flush_due = False

    @property
    def pid(self) -> int:
        """Of the running worker, else 0."""
        return self._child.pid if self._child is not None and self._socket is not None else 0

    async def call(self, request: Request) -> Reply:
        """Carry out one request.

        :raises PermanentError: as the worker says.
        :raises RetryError: as the worker says; or it was killed again and again, or did not answer in time.
        """
        for _ in range(3):
            try:
                async with asyncio.timeout(WORKER_TIMEOUT):
                    reply = await self._submit(request)
            except _WorkerGoneError:
                continue
            except TimeoutError as e:
                self._drop()
                raise RetryError(f"{request.describe()}: no answer in {WORKER_TIMEOUT:g} s; worker killed") from e
            if reply.error:
                kind: type[EdgedError] = PermanentError if reply.permanent else RetryError
                raise kind(f"{request.describe()}: {reply.error}")
            return reply
        raise RetryError(f"{request.describe()}: the network worker keeps ending before it answers")

    async def close(self) -> None:
        """Let the worker end, after the request it is at. Nobody may be waiting in `call`."""
        child, self._child = self._child, None
        self._drop()
        if child is not None:
            try:
                async with asyncio.timeout(WORKER_TIMEOUT):
                    await child.wait()
            finally:
                if child.code is None:
                    child.abandon()

    def _submit(self, request: Request) -> asyncio.Future[Reply]:
        loop = asyncio.get_running_loop()
        self._last_id += 1
        self._waiting[self._last_id] = future = loop.create_future()
        self._queue.append((self._last_id, request))
        if not self._flush_due:  # later in this turn of the loop: everything asked by then goes as one batch
            self._flush_due = True
            loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        self._flush_due = False
        if not self._queue:
            return
        try:
            if self._socket is None:
                self._start()
            assert self._socket is not None
            while self._queue:
                self._socket.send(encode_requests(self._queue[:BATCH]))
                del self._queue[:BATCH]
            asyncio.get_running_loop().remove_writer(self._socket)
        except BlockingIOError:
            assert self._socket is not None
            asyncio.get_running_loop().add_writer(self._socket, self._flush)
        except OSError:
            self._drop()
        except EdgedError as e:
            self._drop(e)

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        # -I: nothing of the caller's folder or environment. No -O: the library's byte code exists only without.
        argv = (sys.executable, "-I", "-m", "edged.runtime.networker", os.fspath(self._folder))
        try:
            with theirs:
                self._child = process.start(argv, files={0: theirs.fileno(), 2: 2})
        except BaseException:
            ours.close()
            raise
        self._socket = ours
        asyncio.get_running_loop().add_reader(ours, self._receive)

    def _receive(self) -> None:
        while self._socket is not None:
            try:
                packet = self._socket.recv(PACKET)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._drop()
                return
            try:
                reply = msgspec.msgpack.decode(packet, type=Reply)
            except msgspec.DecodeError:
                self._drop()
                return
            future = self._waiting.pop(reply.id, None)
            if future is not None and not future.done():
                future.set_result(reply)

    def _drop(self, error: EdgedError | None = None) -> None:
        """Forget this worker, which has ended or must; whoever waits is told `error`, or to ask again."""
        if self._socket is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket)
            loop.remove_writer(self._socket)
            self._socket.close()
            self._socket = None
        if self._child is not None:
            self._child.abandon()
            self._child = None
        self._queue.clear()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(error or _WorkerGoneError())
                future.add_done_callback(lambda f: f.cancelled() or f.exception())  # seen, even if its caller is gone
