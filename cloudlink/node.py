"""A connected node: its identity on disk, the link that the daemon asks for, and how it joins a fleet.

    identity/
        seal.key    X25519, 32 raw bytes: opens secrets        } made here, once; never leave the board
        tls.key     EC P-256, PEM: who we are to the broker    }
        node.json   all that the hub gave: its CA, our certificate, its signing key, our name; one atomic file
        node.pem    our certificate out of node.json, for OpenSSL, which wants a file
        floor       the newest time the hub has signed

node.toml names `cloudlink.node:connect` as its uplink factory; the daemon calls it and knows no more. Joining runs in a
process that ends (`edgectl join`): only there are `cryptography` and HTTP loaded.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from cloudlink import link, trust, wire
from edged.config import NodeConfig
from edged.errors import PermanentError, RetryError

if TYPE_CHECKING:
    import http.client

FACTORY = "cloudlink.node:connect"
MAX_ANSWER = 256 << 10  # bytes that a hub may answer with; a join's answer has 3 kB
LATER = 5.0  # seconds before joining is worth another try, unless the hub says otherwise


class Membership(msgspec.Struct, frozen=True):
    """node.json: what a fleet's hub told its node at joining. `ca` and `certificate` are PEM, `verify_key` Ed25519."""

    node: str
    fleet: str
    broker_host: str
    broker_port: int
    ca: str
    certificate: str
    verify_key: bytes


# ---------------------------------------------------------------- the daemon's link


def connect(config: NodeConfig) -> link.MqttUplink:
    """The uplink of a node that has joined. Options in node.toml, [uplink.options], all of them optional:

    identity (default <state_dir>/identity), host and port of the broker (default: as the hub said at joining).

    :raises PermanentError: this machine has not joined, or its identity is damaged or another node's.
    """
    options = config.uplink.options
    folder = Path(options.get("identity") or config.state / "identity")
    member = load_membership(folder)
    if (member.node, member.fleet) != (config.name, config.fleet):
        raise PermanentError(
            f"{folder} belongs to node {member.node!r} of fleet {member.fleet!r}, but node.toml says "
            f"{config.name!r} of {config.fleet!r}; correct node.toml, or `edgectl join` under that name"
        )
    files = folder / "node.pem", folder / "tls.key"
    if not files[0].exists() or files[0].read_text() != member.certificate:
        trust.write_file(files[0], member.certificate.encode(), 0o644)
    place = link.Place(
        host=options.get("host") or member.broker_host,
        port=_port(options.get("port") or str(member.broker_port)),
        fleet=member.fleet,
        node=member.node,
    )
    return link.MqttUplink(
        place,
        tls=functools.partial(link.hub_context, member.ca, files),
        verify_key=member.verify_key,
        private_key=trust.load_key(folder / "seal.key"),
        floor=link.TimeFloor(folder / "floor"),
    )


def settings(member: Membership, identity: Path) -> dict[str, Any]:
    """What node.toml must say (edged.config.NodeConfig's shape) for the daemon to find its hub by `connect`."""
    uplink = {"factory": FACTORY, "options": {"identity": str(identity.absolute())}}
    return {"name": member.node, "fleet": member.fleet, "uplink": uplink}


def load_membership(folder: Path) -> Membership:
    """PermanentError if this machine has not joined, or the file is damaged."""
    file = folder / "node.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=Membership)
    except FileNotFoundError as e:
        raise PermanentError(f"this machine has joined no fleet ({file} is missing); run `edgectl join <token>`") from e
    except (OSError, msgspec.MsgspecError, ValueError) as e:
        raise PermanentError(f"{file} can't be read: {e}; run `edgectl join` with a new token") from e


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise PermanentError(f"node.toml: uplink.options.port: {text!r} is no port between 1 and 65535")
    return int(text)


# ---------------------------------------------------------------- joining


def join(
    token: str,
    identity: Path,
    node: str = "",
    facts: Mapping[str, str] | None = None,
    timeout: float = 30.0,
) -> Membership:
    """Become a node of the fleet that the token is for. Blocks; for a process that ends.

    Our keys are made first and kept, so that a join whose answer got lost can be repeated with the same token, and
    joining again is the same node. All that the hub says is written as one file: joined or not, never half.

    :param identity: the identity folder, made where it is missing.
    :param node: the name to ask for; "" = the one that the token was made for.
    :param facts: what people may want to know of the board; board_facts() by default.
    :param timeout: seconds for each step on the network.
    :raises PermanentError: the token is damaged, used or expired, the name is taken, the hub is another than the
        token's; says what to do.
    :raises RetryError: the hub can't be reached now.
    """
    from cloudlink import certs  # 13 MB that a resident node must not carry

    known = trust.parse_token(token)
    if node and not wire.valid_name(node):
        raise PermanentError(
            f"node name {node[:80]!r} is not a DNS-1123 label (a-z, 0-9, -, 63 at most); choose another"
        )
    identity.mkdir(parents=True, exist_ok=True, mode=0o700)
    seal_key = trust.load_or_create_key(identity / "seal.key")
    tls_key = identity / "tls.key"
    if not tls_key.exists():
        trust.write_file(tls_key, certs.make_key())
    asked = {
        "secret": base64.b64encode(known.secret).decode(),
        "name": node,
        "csr": certs.make_csr(tls_key.read_bytes(), "node").decode(),
        "public_key": base64.b64encode(trust.public_key_of(seal_key)).decode(),
        "facts": dict(facts if facts is not None else board_facts()),
    }
    ca = _fetch_ca(known, timeout)
    # Dates don't count: a new board's clock says 1970 until somebody tells it the time.
    context = link.hub_context(ca, check_time=False)
    answer = _call(known.url, "POST", "/enroll/v1/join", context, timeout, json.dumps(asked).encode())
    member = _membership(answer, known, ca, tls_key)
    if node and member.node != node:
        raise PermanentError(f"asked to be {node!r}, the hub made us {member.node!r}; use a token for the right name")
    trust.write_file(identity / "node.pem", member.certificate.encode(), 0o644)
    trust.write_file(identity / "node.json", msgspec.json.encode(member))
    return member


def _fetch_ca(known: trust.JoinToken, timeout: float) -> str:
    """The hub's CA, from a connection that proves nothing: only the fingerprint in the token makes it believable."""
    from cloudlink import certs

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    ca = _call(known.url, "GET", "/enroll/v1/ca", context, timeout)
    if certs.fingerprint(ca) != known.fingerprint:
        raise PermanentError(
            f"{known.url} is not the hub that the token is from: its CA has another fingerprint. Somebody may be in "
            "between; or the hub was set up anew, then make a new token"
        )
    return ca.decode("ascii")


def _membership(answer: bytes, known: trust.JoinToken, ca: str, tls_key: Path) -> Membership:
    """Check everything that we were given before any of it is written."""
    try:
        given = msgspec.json.decode(answer, type=Membership)
    except (msgspec.MsgspecError, ValueError) as e:
        raise PermanentError(f"{known.url} gave an answer to our joining that can't be read: {e}") from e
    if not wire.valid_name(given.node) or not wire.valid_name(given.fleet):
        raise PermanentError(f"{known.url} gave us a name that is none: {given.node[:80]!r} of {given.fleet[:80]!r}")
    if len(given.verify_key) != trust.KEY_BYTES:
        raise PermanentError(f"{known.url} gave a signing key of {len(given.verify_key)} bytes instead of 32")
    member = msgspec.structs.replace(
        given,
        broker_host=given.broker_host or urlsplit(known.url).hostname or "",
        broker_port=_port(str(given.broker_port)),
        ca=ca,
    )
    part = tls_key.with_name(".node.pem.new")
    try:
        trust.write_file(part, member.certificate.encode())
        link.hub_context(ca, (part, tls_key))
    except (ssl.SSLError, ValueError) as e:
        raise PermanentError(f"{known.url} gave a certificate that doesn't fit our key: {e}") from e
    finally:
        part.unlink(missing_ok=True)
    return member


def _call(
    url: str, method: str, path: str, context: ssl.SSLContext, timeout: float, body: bytes | None = None
) -> bytes:
    """One HTTPS request; the body of a 200. Other answers are errors with the hub's own sentence."""
    import http.client

    parts = urlsplit(url)
    connection = http.client.HTTPSConnection(parts.hostname or "", parts.port or 443, timeout=timeout, context=context)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body is not None else {})
        response = connection.getresponse()
        content = response.read(MAX_ANSWER + 1)
    except ssl.SSLCertVerificationError as e:
        raise PermanentError(f"{url} can't prove to be the token's hub: {e.verify_message}") from e
    except (OSError, http.client.HTTPException, ValueError) as e:
        raise RetryError(f"can't reach the hub at {url}: {e}; is it running, and reachable from here?", LATER) from e
    finally:
        connection.close()
    if len(content) > MAX_ANSWER:
        raise PermanentError(f"{url}{path} answered with more than {MAX_ANSWER} bytes; is this a hub?")
    if response.status == 200:
        return content
    raise _error(url, response, content)


def _error(url: str, response: http.client.HTTPResponse, content: bytes) -> PermanentError | RetryError:
    try:
        said: Any = json.loads(content)
        detail = said.get("detail") or said.get("message")
    except (ValueError, AttributeError):
        detail = None
    sentence = f"{url} answered {response.status}: {str(detail or response.reason)[:500]}"
    if response.status != 429 and response.status < 500:
        return PermanentError(sentence)
    wait = response.headers.get("Retry-After", "")
    return RetryError(sentence, float(wait) if wait.isdigit() else LATER)


def board_facts() -> dict[str, str]:
    """What a person would look for on a board's label."""
    system = os.uname()
    facts = {"hostname": system.nodename, "architecture": system.machine, "kernel": system.release}
    facts["cpus"] = str(os.cpu_count() or 1)
    facts["memory"] = str(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for name, file in (("model", "/proc/device-tree/model"), ("serial", "/proc/device-tree/serial-number")):
        try:
            facts[name] = Path(file).read_text(errors="replace").rstrip("\0\n")[:200]
        except OSError:
            continue  # not a board with a device tree
    return facts
