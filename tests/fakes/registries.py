"""Registries for tests, all on loopback: the real docker-registry, a token server for it, a link that breaks, and a
scripted registry for what the real one never does."""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.server
import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.oci_layout import Layout, digest
from tests.ports import free_port

DEADLINE = 30.0
DISGUISE = "2130706433"  # 127.0.0.1 as one number: a name that is resolved to loopback everywhere
needs_registry = pytest.mark.skipif(
    shutil.which("docker-registry") is None or shutil.which("skopeo") is None,
    reason="needs the Debian packages docker-registry and skopeo (tools/setup.sh test)",
)


@contextlib.contextmanager
def docker_registry(
    folder: Path, auth: dict[str, Any] | None = None, tls: dict[str, str] | None = None
) -> Iterator[str]:
    """The real thing; yields "127.0.0.1:port". `auth` and `tls` go into its configuration as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(5):  # somebody else may take the port in between
        address = f"127.0.0.1:{free_port()}"
        config = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
            "http": {"addr": address, "secret": "x"} | ({"tls": tls} if tls else {}),
        } | ({"auth": auth} if auth else {})
        (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(["docker-registry", "serve", folder / "config.yml"], stdout=log, stderr=log)
        try:
            if _answers(process, address):
                yield address
                return
        finally:
            process.kill()
            process.wait()
    raise AssertionError(f"docker-registry does not start: {(folder / 'log').read_text()[-2000:]}")


def _answers(process: subprocess.Popen[bytes], address: str) -> bool:
    host, port = address.split(":")
    deadline = time.monotonic() + DEADLINE
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
            return True
        time.sleep(0.02)
    return False


def push(layout: Path, name: str, target: str, *options: str) -> None:
    """Copy an image of an OCI layout folder to "host:port/repository:tag" with skopeo."""
    command = [
        "skopeo",
        "copy",
        "-q",
        "--dest-tls-verify=false",
        *options,
        f"oci:{layout}:{name}",
        f"docker://{target}",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- a link that breaks


class Link:
    """A TCP proxy in front of `target`. Change its fields at any time; new connections follow them.

    :ivar cut_after: bytes of answers after which a connection is reset; None: never.
    :ivar per_second: bytes per second and connection; 0: as fast as it goes.
    :ivar rewrite: applied to what clients send.
    :ivar cuts: connections that were reset; `passed`: bytes of answers that came through.
    """

    def __init__(self, target: str) -> None:
        host, port = target.split(":")
        self._target = (host, int(port))
        self.cut_after: int | None = None
        self.per_second = 0
        self.silent = False  # connections stay open, and nothing comes
        self.rewrite: Callable[[bytes], bytes] = lambda data: data
        self.cuts = self.passed = self.connections = 0
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._accept, name="link")]
        self._threads[0].start()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,), name="link-connection")
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        self.connections += 1
        with client, contextlib.suppress(OSError), socket.create_connection(self._target) as server:
            upward = threading.Thread(target=self._upward, args=(client, server), name="link-up")
            upward.start()
            try:
                self._downward(client, server)
            finally:
                for end in (client, server):
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                upward.join()

    def _upward(self, client: socket.socket, server: socket.socket) -> None:
        try:
            client.settimeout(0.1)
            while not self._closing.is_set():
                try:
                    data = client.recv(65536)
                except TimeoutError:
                    continue
                if not data:
                    break
                server.sendall(self.rewrite(data))
        except OSError:
            pass  # a client that was killed resets the connection
        finally:  # in any case: whoever waits for the server's answer is to hear that it is over
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)

    def _downward(self, client: socket.socket, server: socket.socket) -> None:
        left = self.cut_after
        while not self._closing.is_set():
            data = server.recv(min(65536, self.per_second // 20 or 65536))
            if left is not None and len(data) >= left:
                self._send(client, data[:left])
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close means reset
                with self._lock:
                    self.cuts += 1
                return
            if not data:
                return
            while self.silent and not self._closing.wait(0.02):
                pass
            self._send(client, data)
            left = None if left is None else left - len(data)
            if self.per_second:
                self._closing.wait(len(data) / self.per_second)

    def _send(self, client: socket.socket, data: bytes) -> None:
        client.settimeout(DEADLINE)
        client.sendall(data)
        with self._lock:
            self.passed += len(data)


def without_range(data: bytes) -> bytes:
    return re.sub(rb"\r\nRange: [^\r]*", b"", data)


def with_impossible_range(data: bytes) -> bytes:
    return re.sub(rb"\r\nRange: [^\r]*", b"\r\nRange: bytes=999999999999-", data)


# ---------------------------------------------------------------- a scripted registry


class Request(http.server.BaseHTTPRequestHandler):
    """One request; scripts get it and may answer it themselves."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one packet, or the kernel waits 40 ms between them
    server: _Server

    def do_GET(self) -> None:
        self.server.owner._handle(self)

    do_HEAD = do_POST = do_GET  # noqa: N815 - http.server calls them so

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Server(http.server.ThreadingHTTPServer):
    owner: ScriptedRegistry
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass  # clients that hang up in the middle are what these tests are about


Script = Callable[[Request], bool]


class ScriptedRegistry:
    """Serves a layout's blobs and manifests under any repository name.

    :ivar script: asked first; True if it has answered.
    :ivar disguised: its address without looking like loopback, which is forgiven much.
    :ivar seen: (method, path, headers) of every request.
    """

    def __init__(self, layout: Layout | None = None, tls: Path | None = None) -> None:
        """:param tls: a folder to put a certificate into (cert.pem, its own CA); then it speaks only TLS."""
        self.layout = layout or Layout()
        self.tags: dict[str, tuple[bytes, str]] = {}
        self.script: Script = lambda _: False
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self._server = _Server(("127.0.0.1", 0), Request)
        self._server.owner = self
        if tls is not None:
            files = certificate_for_loopback(tls)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(files["certificate"], files["key"])
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        port = self._server.server_address[1]
        self.address = f"127.0.0.1:{port}"
        self.disguised = f"{DISGUISE}:{port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="scripted-registry")
        self._thread.start()

    def __enter__(self) -> ScriptedRegistry:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def tag(self, name: str, entry: dict[str, Any]) -> str:
        """Let tag `name` point to what `entry`, a descriptor of the layout, describes; returns the digest."""
        raw = self.layout.files[f"blobs/sha256/{entry['digest'][7:]}"]
        self.tags[name] = (raw, entry["mediaType"])
        self.tags[entry["digest"]] = (raw, entry["mediaType"])
        return digest(raw)

    def count(self, method: str, part: str) -> int:
        return sum(m == method and part in path for m, path, _ in self.seen)

    def _handle(self, request: Request) -> None:
        self.seen.append((request.command, request.path, {k.lower(): v for k, v in request.headers.items()}))
        if self.script(request):
            return
        if "/manifests/" in request.path:
            found = self.tags.get(request.path.rpartition("/")[2])
            if found is None:
                request.answer(404, b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "no such thing"}]}')
            else:
                request.answer(200, found[0], Content_Type=found[1], Docker_Content_Digest=digest(found[0]))
        else:
            self._blob(request)

    def _blob(self, request: Request) -> None:
        data = self.layout.files.get(f"blobs/sha256/{request.path.rpartition(':')[2]}")
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        if data is None:
            request.answer(404)
        elif wanted is None:
            request.answer(200, data)
        else:
            start = int(wanted.group(1))
            request.answer(206, data[start:], Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}")


# ---------------------------------------------------------------- tokens


class TokenServer(ScriptedRegistry):
    """Docker's token specification for one user, with the certificate that docker-registry trusts it by.

    :ivar life: seconds that its tokens say they live.
    """

    ISSUER, SERVICE = "test-issuer", "test-registry"

    def __init__(self, folder: Path, user: str, password: str) -> None:
        super().__init__()
        self.life = 300
        self._expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.certificate, self._key, self._der = _self_signed(folder)
        self.script = self._token

    @property
    def registry_auth(self) -> dict[str, Any]:
        return {
            "token": {
                "realm": f"http://{self.address}/token",
                "service": self.SERVICE,
                "issuer": self.ISSUER,
                "rootcertbundle": str(self.certificate),
            }
        }

    def _token(self, request: Request) -> bool:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(request.path).query)
        if request.headers.get("Authorization") != self._expected:
            request.answer(401)
            return True
        access = []
        for scope in query.get("scope", []):
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        token = self._sign(access)
        request.answer(200, json.dumps({"token": token, "expires_in": self.life}).encode())
        return True

    def _sign(self, access: list[dict[str, Any]]) -> str:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, utils

        now = int(time.time())
        head = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(self._der).decode()]}
        claims = {"iss": self.ISSUER, "sub": "u", "aud": self.SERVICE, "jti": "1", "access": access}
        claims |= {"exp": now + 300, "nbf": now - 60, "iat": now - 60}
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in (head, claims))
        r, s = utils.decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _self_signed(folder: Path) -> tuple[Path, Any, bytes]:
    """A certificate for 127.0.0.1 (also as PEM beside its key: cert.pem, key.pem), its key, and it as DER."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName(DISGUISE)]
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), False)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "cert.pem"
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return file, key, certificate.public_bytes(serialization.Encoding.DER)


def certificate_for_loopback(folder: Path) -> dict[str, str]:
    """For docker_registry's `tls`; the certificate is its own CA."""
    file, _, _ = _self_signed(folder)
    return {"certificate": str(file), "key": str(folder / "key.pem")}
