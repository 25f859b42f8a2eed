"""The hub's API alone, over real HTTPS on a loopback port, in a thread of the test's own process."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import os
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self, TypeVar

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloudlink.hub.api.protocol import Protocol
from cloudlink.hub.api.server import create_app, listen
from cloudlink.hub.manager import Manager
from cloudlink.hub.store import Store

T = TypeVar("T")

TOKEN = "token-of-the-test"
WAIT = 30.0


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Certificate (its own CA) and key for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test hub")])
    now = dt.datetime.now(dt.UTC)
    address = x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "hub.crt", folder / "hub.key"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key_file.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    return cert_file, key_file


class HubServer:
    """A context manager: the server runs inside, and nothing is left of it after.

    :ivar url: https://127.0.0.1:<port>
    :ivar kubeconfig: a file that makes kubectl talk to it.
    """

    def __init__(self, folder: Path, **options: object) -> None:
        self._folder = folder
        self._protocol = options.pop("protocol", Protocol)
        self._managed = bool(options.pop("manager", False))  # whether controllers and scheduler are at work, too
        self._options = options
        self._socket = listen("127.0.0.1", 0)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"
        self.certificate, self._key = self_signed(folder)
        self.kubeconfig = folder / "kubeconfig"
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="hub", daemon=True)

    def __enter__(self) -> Self:
        self.kubeconfig.write_text(
            f"""apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "{self.url}", certificate-authority: {self.certificate}}}}}]
users: [{{name: u, user: {{token: {TOKEN}}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"""
        )
        self._thread.start()
        assert self._ready.wait(WAIT), "the hub did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(WAIT)
        self._socket.close()
        assert not self._thread.is_alive(), "the hub did not stop"

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = Store.open(f"sqlite:///{self._folder}/hub.db")
        app = create_app(self._store, {TOKEN: "tester"}.get, **self._options)  # type: ignore[arg-type]
        config = uvicorn.Config(
            app,
            http=self._protocol,  # type: ignore[arg-type]
            ws="none",
            ssl_certfile=self.certificate,
            ssl_keyfile=self._key,
            log_level="warning",
            lifespan="off",
            timeout_graceful_shutdown=2,  # as the hub's own
        )
        self._server = uvicorn.Server(config)
        self._server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        self._loop.call_soon(self._ready.set)
        manager = asyncio.create_task(Manager(self._store).run(), name="manager") if self._managed else None
        await self._server.serve(sockets=[self._socket])
        if manager is not None:
            await manager  # it ends when the store is closed

    def _stop(self) -> None:
        self._server.should_exit = True
        self._store.close()  # ends the watches, which the server would wait for

    def do(self, deed: Callable[[Store], T]) -> T:
        """Run something with the store, in the hub's own thread."""

        async def run() -> T:
            return deed(self._store)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(WAIT)

    def environment(self) -> Mapping[str, str]:
        """For kubectl: its own home, so that no cache outlives the test."""
        return os.environ | {"KUBECONFIG": str(self.kubeconfig), "HOME": str(self._folder), "KUBE_EDITOR": "true"}

    def kubectl(
        self, *arguments: str, stdin: str = "", binary: str = "kubectl", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [binary, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            env={**self.environment(), **(env or {})},
            check=False,
        )
