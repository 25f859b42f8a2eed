"""`python -m edged.dashboard --config node.toml`: the page's process, from its first request to its idle end."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from pathlib import Path

import msgspec
import uvicorn

from edged import config as settings
from edged.config import NodeConfig
from edged.control import ControlClient
from edged.dashboard.access import base_url, load_token, token_file
from edged.dashboard.app import make_app
from edged.dashboard.feed import Feed
from edged.dashboard.guard import Guard
from edged.errors import EdgedError, PermanentError

log = logging.getLogger("edged.dashboard")

CONNECTIONS = 64  # beyond these uvicorn answers 503; a page holds two or three
FIRST_ACTIVATED = 3  # SD_LISTEN_FDS_START (sd_listen_fds(3))
PRIVATE_DOMAINS = ("local", "lan", "home.arpa", "internal", "localdomain")
DEAD_VIEWER_MS = 30_000  # a phone that left the house says no goodbye; TCP gives up on it after this


class _Server(uvicorn.Server):
    """uvicorn, but open streams are ended first: it would otherwise wait for them until it must kill them."""

    def __init__(self, config: uvicorn.Config, feed: Feed) -> None:
        super().__init__(config)
        self._feed = feed

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._feed.close()
        await super().shutdown(sockets)


class _Idle:
    """When somebody last looked (a request let in, or an open stream)."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._last = time.monotonic()

    def touch(self) -> None:
        self._last = time.monotonic()

    async def passed(self, seconds: float) -> None:
        """Returns once nobody has looked for so long."""
        while (left := self._last + seconds - time.monotonic()) > 0:
            await asyncio.sleep(left)
            if self._feed.viewers:
                self.touch()


def listen(host: str, port: int) -> socket.socket:
    """The socket that systemd hands over (edged-dashboard.socket), or our own; PermanentError if it can't be had."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS") == "1":
        listener = socket.socket(fileno=FIRST_ACTIVATED)
    else:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = socket.socket(family, kind, protocol)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(64)
        except OSError as e:
            raise PermanentError(
                f"cannot listen on {host} port {port}: {e}; choose others with --host and --port or in [dashboard]"
            ) from e
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_VIEWER_MS)  # accepted sockets inherit it
    return listener


def _names(host: str) -> frozenset[str]:
    """Names this node answers to beside its addresses and localhost.

    The machine's own name alone and below domains that nobody can register (RFC 6762, RFC 8375, ICANN's .internal,
    and routers' .lan): below any other, the name could be an attacker's.
    """
    own = socket.gethostname().lower().partition(".")[0]
    return frozenset({host.lower(), own, *(f"{own}.{domain}" for domain in PRIVATE_DOMAINS)})


async def _serve(config: NodeConfig, token: str, listener: socket.socket) -> None:
    client = ControlClient(config.control_socket)
    feed = Feed(config.name, client, time.time)
    idle = _Idle(feed)
    app = Guard(
        make_app(client, feed), name=config.name, token=token, hosts=_names(config.dashboard.host), clock=time.time,
        touch=idle.touch,
    )  # fmt: skip
    server = _Server(
        uvicorn.Config(
            app, loop="none", http="h11", ws="none", lifespan="off", interface="asgi3", workers=1, log_config=None,
            access_log=False,  # request lines may hold the token
            proxy_headers=False,  # else anybody on this machine could choose the address that is throttled
            server_header=False, limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=5,
        ),
        feed,
    )  # fmt: skip
    async with asyncio.TaskGroup() as tasks:
        if config.dashboard.idle_seconds > 0:
            watcher = tasks.create_task(_end_when_idle(idle, config.dashboard.idle_seconds, server), name="idle")
        await server.serve([listener])
        if config.dashboard.idle_seconds > 0:
            watcher.cancel()


async def _end_when_idle(idle: _Idle, seconds: float, server: uvicorn.Server) -> None:
    await idle.passed(seconds)
    log.info("nobody has looked for %.0f s; the page's process ends", seconds)
    server.should_exit = True


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m edged.dashboard", description="The node's local web page.")
    parser.add_argument("--config", type=Path, default=settings.DEFAULT_FILE, help="node.toml (%(default)s)")
    parser.add_argument("--host", help="address to listen on, instead of [dashboard] host")
    parser.add_argument("--port", type=int, help="port to listen on, instead of [dashboard] port")
    parser.add_argument(
        "--idle-seconds", type=float, help="end after so long without a viewer (0: never), instead of the setting"
    )
    parser.add_argument("--token-file", type=Path, help="instead of dashboard.token in state_dir")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    args = _arguments(argv)
    try:
        config = settings.load(args.config)
        given = {"host": args.host, "port": args.port, "idle_seconds": args.idle_seconds}
        chosen = msgspec.structs.replace(config.dashboard, **{k: v for k, v in given.items() if v is not None})
        config = msgspec.structs.replace(config, dashboard=chosen)
        token_path = args.token_file or token_file(config)
        token = load_token(token_path)
        listener = listen(config.dashboard.host, config.dashboard.port)
    except EdgedError as e:
        log.error("%s", e)
        return 1
    host, port = listener.getsockname()[:2]
    log.info("%s serves %s; the token is in %s", config.name, base_url(host, port), token_path)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(config, token, listener))
    return 0


if __name__ == "__main__":
    sys.exit(main())
