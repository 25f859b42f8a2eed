"""The hub put together: the only place that knows all of its rooms.

    folder -> store -> { HTTPS, following; while this hub leads: broker, exchange, manager } until SIGTERM or SIGINT

Several hubs may share a PostgreSQL and a broker: all of them answer, one of them leads (docs/hub.md).

Containers and nodes depend on nothing here: killed at any moment, the hub comes back to what it had committed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hmac
import logging
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import uvicorn
from fastapi import FastAPI

from cloudlink import link, trust
from cloudlink.hub import admission, enroll
from cloudlink.hub import broker as brokers
from cloudlink.hub.api import create_app, listen
from cloudlink.hub.api.protocol import Protocol
from cloudlink.hub.auth.access import Keys
from cloudlink.hub.auth.audit import Audit, AuditLog, NoAudit
from cloudlink.hub.auth.authority import bootstrap
from cloudlink.hub.changes import Create
from cloudlink.hub.config import HubConfig
from cloudlink.hub.controllers.node_life import Knobs
from cloudlink.hub.exchange import Exchange, Link
from cloudlink.hub.following import Following
from cloudlink.hub.foresight import Foresight
from cloudlink.hub.listening import Listening
from cloudlink.hub.lives import Lives
from cloudlink.hub.manager import Manager
from cloudlink.hub.premises import USER, Premises
from cloudlink.hub.remote import Remote
from cloudlink.hub.service import tell_systemd
from cloudlink.hub.store import Store
from cloudlink.hub.streams import Streams
from cloudlink.kube.core import Node
from cloudlink.kube.meta import KubeObject, ObjectMeta
from edged.errors import EdgedError, PermanentError

log = logging.getLogger(__name__)

NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL, for which the ssl module has no name
FAREWELL = 2  # seconds that requests get to end when the hub stops
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm"}  # as Kubernetes calls them


class _Server(uvicorn.Server):
    """uvicorn, with signals left to us (the hub ends as a whole), and watches ended before it waits for them."""

    def __init__(self, config: uvicorn.Config, end_watches: Callable[[], None]) -> None:
        super().__init__(config)
        self._end_watches = end_watches

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._end_watches()
        await super().shutdown(sockets)


class Hub:
    """One hub. `run` once."""

    def __init__(self, config: HubConfig) -> None:
        self.config = config
        self._stop = asyncio.Event()

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        """Until `stop`.

        :raises PermanentError: a port is taken, the folder is another hub's, mosquitto is missing; a sentence each.
        """
        premises = Premises.enter(self.config)
        try:
            await self._run(premises)
        finally:
            os.close(premises.lock)

    async def _run(self, premises: Premises) -> None:
        config = self.config
        door = _listen(config.host, config.port, "port")
        store = Store.open(config.database_url, secret_key=premises.secrets_key)
        audit = _audit(config)
        try:
            premises.check_identity(store)
            bootstrap(store)
            gc.collect()
            gc.freeze()  # what is there now stays; looking through all of it for garbage would hold everybody up
            following = Following(store)
            broker = await self._broker(premises) if self.config.external_broker is None else None
            streams = Streams(
                config.fleet, self._link(premises, broker), premises.signing_key, lambda node: _node_key(store, node)
            )
            server = _server(premises, self._app(premises, store, audit, streams), store.close)

            def serves() -> bool:
                return server.started and _speaks(store, broker)

            async with asyncio.TaskGroup() as tasks:
                around = [
                    tasks.create_task(following.run(), name="following"),
                    tasks.create_task(_after(broker.ready if broker is not None else None, streams), name="streams"),
                    tasks.create_task(self._lead(premises, store, broker, following), name="leading"),
                    tasks.create_task(tell_systemd(serves, config.fleet), name="systemd"),
                ]
                http = tasks.create_task(server.serve([door]), name="http")
                log.info("fleet %s: API at %s, broker at port %d", config.fleet, config.url, config.broker_port)
                await self._stop.wait()
                log.info("stopping")
                for task in reversed(around):
                    task.cancel()
                server.should_exit = True
                await http
        finally:
            door.close()
            store.close()
            audit.close()

    async def _lead(
        self, premises: Premises, store: Store, broker: brokers.Broker | None, following: Following
    ) -> None:
        """Whenever it is this hub's turn: what only one hub may do."""
        while True:
            term = await following.term()
            async with asyncio.TaskGroup() as tasks:
                leading = tasks.create_task(self._term(premises, store.for_leader(term), broker), name=f"term {term}")
                await following.over(term)
                leading.cancel()

    async def _term(self, premises: Premises, store: Store, broker: brokers.Broker | None) -> None:
        """Decide and speak with nodes until cancelled. All commits through this store end with the term."""
        listening = Listening(float(self.config.node_monitor_grace_period))
        knobs = Knobs(self.config.node_eviction_rate, self.config.unhealthy_zone_threshold)
        exchange = Exchange(
            store,
            self.config.fleet,
            self._link(premises, broker),
            premises.signing_key,
            lambda node: _node_key(store, node),
            on_change=broker.save if broker is not None else lambda: None,
            listening=listening,
        )

        def on_join(node: str) -> None:  # in the middle of the commit that says so
            asyncio.get_running_loop().call_soon(exchange.rekeyed, node)

        forget = store.on_record(enroll.NODES, on_join)
        try:
            async with asyncio.TaskGroup() as tasks:
                if broker is not None:
                    tasks.create_task(broker.run(), name="broker")
                tasks.create_task(_after(broker.ready if broker is not None else None, exchange), name="exchange")
                manager = Manager(
                    store,
                    lives=Lives(knobs, listening),
                    patience=self.config.patience,
                    policy=self.config.scheduling_policy,
                )
                tasks.create_task(manager.run(), name="manager")
        finally:
            forget()

    def _link(self, premises: Premises, broker: brokers.Broker | None) -> Link:
        """How this hub reaches the broker."""
        place = self.config.external_broker or ("127.0.0.1", broker.hub_port if broker is not None else 0)
        return Link(*place, lambda: _tls(premises))

    async def _broker(self, premises: Premises) -> brokers.Broker:
        """The broker, not yet started; its ports are known to be free."""
        config = self.config
        folder = premises.folder / "broker"
        await brokers.end_leftovers(folder / "mosquitto.conf")
        _listen(config.broker_host, config.broker_port, "broker_port").close()
        own = _listen("127.0.0.1", config.broker_hub_port, "broker_hub_port")
        hub_port = int(own.getsockname()[1])
        own.close()
        listener = brokers.Listener(config.broker_host, config.broker_port, hub_port)
        identity = brokers.Identity(premises.ca_file, *premises.server_files)
        return brokers.Broker(folder, config.fleet, listener, identity)

    def _app(self, premises: Premises, store: Store, audit: Audit, remote: Remote) -> FastAPI:
        def on_join(node: str, facts: Mapping[str, str]) -> None:
            _add_node(store, node, facts)

        def admit(obj: KubeObject, old: KubeObject | None) -> None:
            admission.check_size(obj, old, store.list("Node"))

        enrollment = enroll.Enrollment(
            store,
            premises.authority,
            self.config.fleet,
            trust.verify_key_of(premises.signing_key),
            self.config.url,
            enroll.Broker(self.config.broker_seen_at, self.config.broker_port),
            on_join,
        )
        return create_app(
            store,
            lambda token: USER if hmac.compare_digest(token.encode(), premises.admin_token.encode()) else None,
            [enroll.make_router(enrollment)],
            admit=admit,
            service_network=self.config.service_network,
            keys=Keys(premises.accounts_key, premises.authority.pem, premises.users),
            audit=audit,
            remote=remote,
            patience=self.config.patience,
            policy=self.config.scheduling_policy,
            foresee=Foresight(),
        )


def run(config: HubConfig) -> None:
    """Run a hub in the foreground until SIGTERM or SIGINT; EdgedError says in one sentence why it can't."""

    async def main() -> None:
        hub = Hub(config)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, hub.stop)
        await hub.run()

    try:
        asyncio.run(main())
    except BaseExceptionGroup as group:
        ours, rest = group.split(EdgedError)
        if rest is not None or ours is None:
            raise
        raise _first(ours) from group


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@contextlib.asynccontextmanager
async def running(config: HubConfig) -> AsyncIterator[Hub]:
    """A hub inside of somebody else's loop (tests)."""
    hub = Hub(config)
    task = asyncio.create_task(hub.run(), name="hub")
    try:
        yield hub
    finally:
        hub.stop()
        await task


async def _after(ready: asyncio.Event | None, speaker: Exchange | Streams) -> None:
    if ready is not None:
        await ready.wait()
    await speaker.run()


def _speaks(store: Store, broker: brokers.Broker | None) -> bool:
    """Whether nodes can reach the broker that this hub starts; a hub that waits for the lead starts none."""
    return broker is None or broker.ready.is_set() or (store.database.shared and not store.database.term)


def _listen(host: str, port: int, setting: str) -> socket.socket:
    try:
        return listen(host, port)
    except OSError as e:
        raise PermanentError(f"can't listen on {host}:{port}: {e.strerror}; choose another `{setting}`") from e


def _server(premises: Premises, app: FastAPI, end_watches: Callable[[], None]) -> _Server:
    certificate, key = premises.server_files
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        ssl_ca_certs=str(premises.clients_file),
        ssl_cert_reqs=ssl.CERT_OPTIONAL,  # who has a token needs none
        timeout_graceful_shutdown=FAREWELL,
    )
    config.load()
    assert config.ssl is not None
    # An expired certificate comes through, so that its owner is told what is wrong instead of losing the connection.
    config.ssl.verify_flags |= NO_CHECK_TIME
    return _Server(config, end_watches)


def _audit(config: HubConfig) -> Audit:
    if config.audit == "off":
        return NoAudit()
    return AuditLog(config.audit_file, config.audit_size << 20, config.audit_files)


def _tls(premises: Premises) -> link.HubContext:
    return link.hub_context(premises.authority.pem.decode(), premises.client_files)


def _node_key(store: Store, node: str) -> bytes | None:
    record = enroll.node_record(store, node)
    return record.public_key if record is not None else None


def _add_node(store: Store, node: str, facts: Mapping[str, str]) -> None:
    """A Node object for a machine that has joined, so that it is seen before it speaks for the first time."""
    if store.get("Node", None, node) is not None:
        return
    labels = {"kubernetes.io/hostname": node, "kubernetes.io/os": "linux"}
    if machine := facts.get("architecture"):
        labels["kubernetes.io/arch"] = ARCHITECTURES.get(machine, machine)
    store.commit([Create(Node(metadata=ObjectMeta(name=node, labels=labels)))])
