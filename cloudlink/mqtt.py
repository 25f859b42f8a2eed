"""aiomqtt, adapted to a process that is counted in megabytes and has to end when it is told to. Knows no content.

Import aiomqtt and paho through here: the names in __all__ are what the link uses of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import logging
import sys
import types
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any


@contextlib.contextmanager
def _without_urllib_request() -> Iterator[None]:
    """Keep paho from loading urllib.request (with http.client and email: 2 MB of a daemon's 30).

    It looks there for a proxy, and only where PySocks is installed; then nothing is kept from it.
    """
    name = "urllib.request"
    if name in sys.modules or importlib.util.find_spec("socks") is not None:
        yield
        return
    sys.modules[name] = types.ModuleType(name)
    try:
        yield
    finally:
        del sys.modules[name]  # whoever else wants it gets the real one


with _without_urllib_request():
    import aiomqtt
    from aiomqtt import MqttError, ProtocolVersion, Will
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

__all__ = [
    "Client",
    "MqttError",
    "NewestQueue",
    "PacketTypes",
    "Properties",
    "ProtocolVersion",
    "Will",
    "heed_cancellation",
]

_log = logging.getLogger(__name__)

END_SECONDS = 2.0  # how long a clean farewell may take
UNWRITTEN = 16  # messages that wait for a slow connection before `roomy` waits too


class NewestQueue(asyncio.Queue[aiomqtt.Message]):
    """Full, it drops the oldest message; aiomqtt alone would drop the newest, the only one that matters."""

    def put_nowait(self, item: aiomqtt.Message) -> None:
        if self.full():
            self.get_nowait()
        super().put_nowait(item)


class Client(aiomqtt.Client):
    """aiomqtt's client, with four habits changed, and a way for messages that are many and small.

    :ivar aside: gets the messages whose topic has `mark` in it, as (topic, body), instead of the queue: at once, and as
        many as there are. It must neither wait nor raise.
    """

    misc_seconds = 1.0
    aside: Callable[[str, bytes], None] | None = None
    mark = "\0"

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._roomy = asyncio.Event()
        self._roomy.set()

    def post(self, topic: str, body: bytes, properties: Properties | None = None) -> None:
        """Publish with QoS 0, without waiting and without being told: lost where there is no connection."""
        if self._disconnected.done():
            return
        self._client.publish(topic, body, 0, False, properties)
        if len(self._client._out_packet) > UNWRITTEN:
            self._roomy.clear()

    async def roomy(self) -> None:
        """Until what was posted has gone into the connection, save for a little."""
        await self._roomy.wait()

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        if self.aside is not None and self.mark in (topic := message.topic):
            self.aside(topic, message.payload)
        else:
            super()._on_message(client, userdata, message)

    def _on_socket_unregister_write(self, client: Any, userdata: Any, sock: Any) -> None:
        super()._on_socket_unregister_write(client, userdata, sock)
        self._roomy.set()

    async def _misc_loop(self) -> None:
        """Keepalive is looked after four times in its period instead of once a second: idle means idle."""
        with contextlib.suppress(asyncio.CancelledError):
            while self._client.loop_misc() == 0:  # noqa: ASYNC110 (nobody but the clock tells when to send a ping)
                await asyncio.sleep(self.misc_seconds)

    def _on_publish(
        self, client: Any, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        """A broker may acknowledge and yet decline (not authorized, quota); aiomqtt takes that for success."""
        if reason_code.is_failure:
            _log.warning("the broker declined what we published: %s", reason_code)
        super()._on_publish(client, userdata, mid, reason_code, properties)

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason_code: ReasonCode, *rest: Any) -> None:
        """A broker that hangs up on our certificate is an answer; aiomqtt alone would wait for one until time is up."""
        if not self._connected.done():
            hint = "the broker hung up on us; has this node left the fleet? (`edgectl join` again)"
            self._connected.set_exception(MqttError(f"{hint}: {reason_code}"))
        super()._on_disconnect(client, userdata, flags, reason_code, *rest)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave "with will message" (MQTT 5, 3.14.2.1, 0x04): unless we are soon back, the broker says offline."""
        self._roomy.set()
        self.timeout = END_SECONDS
        farewell = ReasonCode(PacketTypes.DISCONNECT, identifier=4)
        self._client.disconnect = functools.partial(  # type: ignore[method-assign]
            self._client.disconnect, reasoncode=farewell
        )
        # An error here must never hide why we leave, cancellation least of all.
        with contextlib.suppress(MqttError, asyncio.InvalidStateError):
            await super().__aexit__(kind, error, trace)


def heed_cancellation() -> None:
    """To be called after awaiting aiomqtt: before Python 3.12 its asyncio.wait_for may swallow a cancellation that
    comes at the moment of the answer (python/cpython#86296), and a daemon would never end."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
