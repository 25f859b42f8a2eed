"""The node's end of the wire: an Uplink over MQTT 5 and mutual TLS, outbound only.

    broker --desired--> verify (trust) --> inbox.offer            else inbox.refuse(reason)
    report(status) --> slot of size 1, newest wins --> status, retained, QoS 1, only when it differs
    connect --> presence online, retained; the broker itself publishes "offline" (last will) when we are gone
    req/... --> conversations (cloudlink.streams) --> asked.answer; they end with the connection

Documents are retained, so nothing here depends on the broker's memory of a session: after any outage, subscribing again
brings the newest document, and the newest status is sent again, for the broker may have lost it.

Resident on the node: no `cryptography`, one thread at most (aiomqtt connects in one), one CA instead of the system's
hundred and fifty.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cloudlink import mqtt, trust, wire
from cloudlink.mqtt import heed_cancellation as heed_cancellation
from cloudlink.streams import answering
from cloudlink.streams.line import Timing as TalkTiming
from edged.errors import PermanentError
from edged.model import HubLink, LinkState, NodeStatus
from edged.uplink import Asked, Inbox

_log = logging.getLogger(__name__)

QUEUED = 2  # documents received and not yet looked at; only the newest matters, and each may have 2 MB
UNACKNOWLEDGED_MS = 30_000  # without an acknowledgement for so long, the kernel gives up (TCP_USER_TIMEOUT)
FLOOR_STEP = 3600.0  # seconds by which the time floor must grow to be worth a write to flash

_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME (openssl/x509_vfy.h); the ssl module has no name for it
_TIME_ERRORS = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED


class Place(NamedTuple):
    """Where the broker is, and who we are there."""

    host: str
    port: int
    fleet: str
    node: str


class Timing(NamedTuple):
    """Seconds.

    :ivar keepalive: an idle node sends 2 bytes of MQTT as often, and is missed after one and a half times as long.
    :ivar will_delay: how long the broker waits before it says "offline"; a daemon that only restarts is back by then.
    :ivar session_expiry: as short as the will's delay allows with room: for nodes that stay away longer the broker
        would only pile up documents, where the retained newest one is all they want.
    :ivar first_retry, last_retry: bounds of the wait between connections; it doubles, and the dice shorten it, so
        that a fleet doesn't come back all at once.
    :ivar steady: a connection that held so long starts the next wait at the beginning.
    """

    keepalive: int = 60
    will_delay: int = 5
    session_expiry: int = 120
    first_retry: float = 0.5
    last_retry: float = 60.0
    steady: float = 30.0
    publish: float = 30.0


def retry_delay(failures: int, dice: float, timing: Timing) -> float:
    """Seconds to wait after that many failures in a row (1 for the first); `dice` is uniform in 0..1."""
    ceiling = min(timing.last_retry, timing.first_retry * 2.0 ** min(failures - 1, 32))
    return ceiling * (0.5 + 0.5 * dice)


# ---------------------------------------------------------------- time and TLS


class TimeFloor:
    """A moment that is certainly past: the newest time the hub has signed. Only moves forward; survives reboots.

    A board without a clock boots in 1970 (or wherever its last shutdown left it). When the clock says less than the
    floor, it is the clock that is wrong, and dates of certificates mean nothing.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self.value = float(file.read_text())
        except (OSError, ValueError):
            self.value = 0.0
        self._written = self.value

    def raise_to(self, moment: float) -> None:
        """Bad moments (the past, not a number, infinity) change nothing; a full disk is logged and survived."""
        if not self.value < moment < float("inf"):
            return
        self.value = moment
        if moment - self._written < FLOOR_STEP:
            return
        try:
            trust.write_file(self._file, f"{moment:.0f}\n".encode())
            self._written = moment
        except OSError as e:
            _log.warning("can't keep the time floor in %s: %s", self._file, e.strerror)


class HubContext(ssl.SSLContext):
    """TLS as a client of our hub: only the hub's CA counts, and the name is trust.HUB_TLS_NAME, not the address.

    Nothing of the system's certificate store is loaded: it has no say here, and costs a megabyte.
    """

    server_name = trust.HUB_TLS_NAME

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        kwargs["server_hostname"] = self.server_name
        return super().wrap_socket(*args, **kwargs)


def hub_context(ca: str, client: tuple[Path, Path] | None = None, check_time: bool = True) -> HubContext:
    """A context for a CA (PEM) and, for MQTT, our certificate and key files.

    :param check_time: False leaves out the dates of certificates, and those only: signature, purpose and name still
        count. That is safe here: who held an expired certificate of the hub could listen and delay, as the untrusted
        broker can anyway; documents are believed for their own signature.
    :raises ssl.SSLError, OSError, ValueError: the files are missing or damaged.
    """
    context = HubContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=ca)
    if client is not None:
        context.load_cert_chain(*client)
    if not check_time:
        context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    return context


# ---------------------------------------------------------------- the uplink


class MqttUplink:
    """Implements edged.uplink.Uplink. Constructing it does nothing; `run` connects, for ever.

    :param tls: makes the context for one connection; its argument tells whether the dates of certificates count.
    :param verify_key: the hub's Ed25519 key; documents signed by anybody else are refused.
    :param private_key: this node's X25519 key; opens secrets.
    :param wall: the wall clock, seconds since 1970; may be wrong by decades.
    :param dice: uniform random numbers in 0..1.
    :param client: makes the client for one connection, from aiomqtt's own arguments.
    """

    def __init__(
        self,
        place: Place,
        tls: Callable[[bool], ssl.SSLContext],
        verify_key: bytes,
        private_key: bytes,
        floor: TimeFloor,
        *,
        timing: Timing | None = None,
        talk_timing: TalkTiming | None = None,
        wall: Callable[[], float] = time.time,
        dice: Callable[[], float] = random.random,
        client: Callable[..., mqtt.Client] = mqtt.Client,
    ) -> None:
        self._place = place
        self._make_client = client
        self._tls = tls
        self._verify_key = verify_key
        self._private_key = private_key
        self._floor = floor
        self._timing = timing or Timing()
        self._talk_timing = talk_timing
        self._wall = wall
        self._dice = dice
        self._life = os.urandom(6).hex()
        self._connections = 0
        self._dates_doubtful = False
        self._newest: NodeStatus | None = None
        self._news = asyncio.Event()
        self._desired_topic = wire.desired_topic(place.fleet, place.node)
        self._status_topic = wire.status_topic(place.fleet, place.node)
        self._presence_topic = wire.presence_topic(place.fleet, place.node)
        self.connected = False
        self.trouble = "not connected yet"  # a sentence while we aren't connected, "" while we are
        self._since = wall()

    @property
    def state(self) -> HubLink:
        state = LinkState.CONNECTED if self.connected else LinkState.AWAY
        return HubLink(state, self._since, self.trouble)

    def report(self, status: NodeStatus) -> None:
        self._newest = status
        self._news.set()

    def unseal(self, name: str, sealed: bytes) -> Mapping[str, bytes]:
        return trust.unseal(self._private_key, self._place.node, name, sealed)

    async def run(self, inbox: Inbox, asked: Asked) -> None:
        """Connect, and again after every failure, until cancelled."""
        inbox.past = max(inbox.past, self._floor.value)
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            try:
                await self._session(inbox, asked)
            except Exception as e:  # noqa: BLE001 (outermost loop: no broker's whim may end the daemon)
                self._note(e)
            if self.connected:
                self.connected, self._since = False, self._wall()
            heed_cancellation()  # TaskGroup swallows one that comes while it ends for another reason (before 3.13)
            failures = 1 if loop.time() - began > self._timing.steady else failures + 1
            await asyncio.sleep(retry_delay(failures, self._dice(), self._timing))

    def _note(self, error: BaseException) -> None:
        """Say once what is wrong, and find out whether it is only our clock."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        cause = error if isinstance(error, ssl.SSLCertVerificationError) else error.__context__
        before = self.trouble
        self.trouble = f"no connection to {self._place.host}:{self._place.port}: {error}"
        if isinstance(cause, ssl.SSLCertVerificationError) and cause.verify_code in _TIME_ERRORS:
            self._dates_doubtful = True
            _log.warning(
                "%s; this board's clock may be wrong, so dates of certificates don't count any more", self.trouble
            )
        elif not isinstance(error, mqtt.MqttError | OSError):
            _log.error("%s", self.trouble, exc_info=error)
        elif self.trouble != before:
            _log.warning("%s", self.trouble)

    async def _session(self, inbox: Inbox, asked: Asked) -> None:
        """One connection, from its beginning to its end (an exception)."""
        presence = self._presence()
        async with self._client(presence) as client:
            await client.publish(self._presence_topic, wire.encode_presence(presence), qos=1, retain=True)
            async with asyncio.TaskGroup() as tasks:
                self._answer(client, asked, tasks)
                await client.subscribe(
                    [(self._desired_topic, 1), (wire.requests_to(self._place.fleet, self._place.node), 0)]
                )
                heed_cancellation()
                self.connected, self.trouble, self._since = True, "", self._wall()
                _log.info("connected to %s:%d", self._place.host, self._place.port)
                tasks.create_task(self._send(client), name="uplink status")
                async for message in client.messages:
                    if str(message.topic) == self._desired_topic and isinstance(message.payload, bytes):
                        known = not self._receive(message.payload, inbox)
                        if known and not message.retain:
                            # Said again while we listened: the hub has come back, and wants to know who is there.
                            client.post(self._presence_topic, wire.encode_presence(presence))

    def _answer(self, client: mqtt.Client, asked: Asked, tasks: asyncio.TaskGroup) -> None:
        """Let this connection carry conversations."""
        fresh = mqtt.Properties(mqtt.PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        fresh.MessageExpiryInterval = answering.EXPIRY
        trusted = answering.Trusted(self._place.fleet, self._place.node, self._verify_key, self._private_key)

        def post(topic: str, message: bytes) -> None:
            client.post(topic, message, fresh)

        talks = answering.Answering(trusted, asked, tasks, post, client.roomy, self._talk_timing)
        client.mark, client.aside = f"/{wire.REQUEST}/", talks.hear

    def _presence(self) -> wire.Presence:
        self._connections += 1
        return wire.Presence(online=True, epoch=f"{self._life}.{self._connections}", since=self._wall())

    def _client(self, presence: wire.Presence) -> mqtt.Client:
        timing, place = self._timing, self._place
        asked = mqtt.Properties(mqtt.PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        asked.SessionExpiryInterval = timing.session_expiry
        asked.MaximumPacketSize = wire.MAX_PACKET + 64 * 1024  # the broker then drops larger ones; we never see them
        asked.ReceiveMaximum = QUEUED
        later = mqtt.Properties(mqtt.PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]
        later.WillDelayInterval = timing.will_delay
        absence = wire.Presence(online=False, epoch=presence.epoch, since=presence.since)
        plausible = self._wall() >= self._floor.value and not self._dates_doubtful
        client = self._make_client(
            place.host,
            place.port,
            identifier=place.node,
            protocol=mqtt.ProtocolVersion.V5,
            will=mqtt.Will(self._presence_topic, wire.encode_presence(absence), qos=1, retain=True, properties=later),
            clean_start=False,
            keepalive=timing.keepalive,
            queue_type=mqtt.NewestQueue,
            max_queued_incoming_messages=QUEUED,
            properties=asked,
            tls_context=self._tls(plausible),
            socket_options=(
                (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
                (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS),
            ),
        )
        client.misc_seconds = timing.keepalive / 4
        return client

    def _receive(self, raw: bytes, inbox: Inbox) -> bool:
        """True if it is a document that we didn't have."""
        if not raw:
            return False  # the retained document was removed: nothing to believe, nothing to change
        try:
            opened = trust.open_envelope(raw, self._verify_key, self._place.fleet, self._place.node)
        except wire.Refused as e:
            _log.warning("refused: %s", e.reason)
            inbox.refuse(e.reason)
            return False
        self._floor.raise_to(opened.issued_at)
        inbox.past = max(inbox.past, self._floor.value)
        return inbox.offer(opened.desired, opened.digest)

    async def _send(self, client: mqtt.Client) -> None:
        """Publish the newest status whenever it differs from what this connection has had acknowledged."""
        acknowledged = b""
        if self._newest is not None:
            self._news.set()
        while True:
            await self._news.wait()
            self._news.clear()
            assert self._newest is not None
            try:
                body = wire.encode_status(self._newest)
            except PermanentError as e:
                _log.error("%s; the hub keeps the one before", e)
                continue
            if body != acknowledged:
                await client.publish(self._status_topic, body, qos=1, retain=True, timeout=self._timing.publish)
                heed_cancellation()
                acknowledged = body
