"""The hub's settings: one TOML file, or flags of the same names; every default with its reason."""

from __future__ import annotations

import ipaddress
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from cloudlink.hub.patience import DEFAULT_PATIENCE, Patience
from cloudlink.hub.schedule.seats import Policy
from cloudlink.wire import valid_name
from edged.errors import PermanentError

DEFAULT_FILE = Path("/etc/edged/hub.toml")


class HubConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that differs between two hubs."""

    data_dir: str = "/var/lib/edged-hub"  # database, CA, keys, admin token, broker: losing it is losing the fleet
    fleet: str = "default"  # part of every topic and of every signature; can't be changed while nodes are joined
    host: str = "0.0.0.0"  # where the API listens: nodes and people come from elsewhere, over TLS, with a secret
    port: int = 6443  # where people expect a Kubernetes API
    broker_host: str = "0.0.0.0"  # likewise; clients need a certificate of this fleet
    broker_port: int = 8883  # IANA's secure-mqtt
    broker_hub_port: int = 0  # the hub's own way to its broker, on loopback; 0 = any free one
    broker_url: str = (
        ""  # "mqtts://host:port": a broker that is there already, as hubs reach it; "" = the hub starts one
    )
    advertise: str = ""  # name or address that tokens and kubeconfigs carry; "" = this machine's own address
    names: tuple[str, ...] = ()  # further names and addresses for the API's certificate
    database: str = ""  # "postgresql://user:password@host/name", for several hubs; "" = an SQLite file in data_dir
    service_network: str = "10.96.0.0/16"  # Services get their addresses out of it; as kubeadm's
    # "tight" fills boards one after the other and keeps large holes for large pods; "spread" takes the emptiest board.
    scheduling_policy: Policy = "tight"
    # Seconds that nodes get to speak once the broker was reached: a board waits up to 60 between two attempts.
    node_monitor_grace_period: int = 150
    # How long pods that don't say otherwise stay bound to a node that isn't ready, or is lost.
    default_not_ready_toleration_seconds: int = DEFAULT_PATIENCE.not_ready
    default_unreachable_toleration_seconds: int = DEFAULT_PATIENCE.unreachable
    node_eviction_rate: float = 0.1  # lost nodes a second whose pods begin to run out of patience, as in Kubernetes
    unhealthy_zone_threshold: float = 0.55  # share of lost nodes from which on nobody is evicted, as in Kubernetes
    audit: str = ""  # where is written who asked what of the API; "" = audit/audit.log in data_dir, "off" = nowhere
    audit_size: int = 32  # MiB of one file: some 40,000 requests
    audit_files: int = 4  # kept, the newest among them; an SD card has room for 128 MiB

    @property
    def data(self) -> Path:
        return Path(self.data_dir).absolute()

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.data / 'hub.db'}"

    @property
    def patience(self) -> Patience:
        return Patience(self.default_not_ready_toleration_seconds, self.default_unreachable_toleration_seconds)

    @property
    def audit_file(self) -> Path:
        return Path(self.audit).absolute() if self.audit else self.data / "audit" / "audit.log"

    @property
    def reachable_at(self) -> str:
        """The host part of the hub's URL, as others can dial it."""
        if self.advertise:
            return self.advertise
        return own_address() if ipaddress_is_any(self.host) else self.host

    @property
    def url(self) -> str:
        host = self.reachable_at
        return f"https://[{host}]:{self.port}" if ":" in host else f"https://{host}:{self.port}"

    @property
    def broker_seen_at(self) -> str:
        """The broker's host for nodes; "" = the one under which they found the hub."""
        if not ipaddress_is_any(self.broker_host):
            return self.broker_host
        return self.external_broker[0] if self.external_broker else ""

    @property
    def external_broker(self) -> tuple[str, int] | None:
        """Host and port of `broker_url`. ValueError where it is none."""
        if not self.broker_url:
            return None
        parts = urlsplit(self.broker_url)
        if parts.scheme != "mqtts" or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError('broker_url must look like "mqtts://host:port": the hub speaks TLS with its broker')
        return parts.hostname, parts.port or 8883

    @property
    def certificate_names(self) -> tuple[str, ...]:
        """What the API's certificate has to cover."""
        found = {"localhost", "127.0.0.1", "::1", self.reachable_at, *self.names}
        if not ipaddress_is_any(self.host):
            found.add(self.host)
        return tuple(sorted(found))


def load(path: Path | None, flags: Mapping[str, Any]) -> HubConfig:
    """The file's settings (DEFAULT_FILE if it exists, when none is named), with flags on top.

    :raises PermanentError: names the file or flag, and the field.
    """
    settings: dict[str, Any] = {}
    where = "settings"
    if path is not None or DEFAULT_FILE.exists():
        file = path or DEFAULT_FILE
        where = str(file)
        try:
            settings = tomllib.loads(file.read_text())
        except FileNotFoundError as e:
            raise PermanentError(f"{file} does not exist; write one, or leave --config out for the defaults") from e
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
            raise PermanentError(f"{file}: {e}") from e
    try:
        config = msgspec.convert(settings | dict(flags), HubConfig)
        ipaddress.IPv4Network(config.service_network)
        _ = config.external_broker
    except (msgspec.ValidationError, ValueError) as e:
        raise PermanentError(f"{where}: {e}") from e
    if not valid_name(config.fleet):
        raise PermanentError(f"{where}: fleet {config.fleet[:80]!r} is not a DNS-1123 label (a-z, 0-9, -, 63 at most)")
    for name in ("port", "broker_port", "broker_hub_port"):
        if not 0 <= getattr(config, name) < 1 << 16:
            raise PermanentError(f"{where}: {name} {getattr(config, name)} is no TCP port")
    _check_node_life(config, where)
    for name in ("audit_size", "audit_files"):
        if not 1 <= getattr(config, name) <= 1 << 16:
            raise PermanentError(f"{where}: {name} {getattr(config, name)} must be between 1 and 65536")
    return config


def _check_node_life(config: HubConfig, where: str) -> None:
    for name in ("default_not_ready_toleration_seconds", "default_unreachable_toleration_seconds"):
        if not 0 <= getattr(config, name) < 1 << 31:
            raise PermanentError(f"{where}: {name} {getattr(config, name)} must be a number of seconds from 0 on")
    if not 1 <= config.node_monitor_grace_period <= 86400:
        raise PermanentError(
            f"{where}: node_monitor_grace_period {config.node_monitor_grace_period} must be between 1 and 86400 seconds"
        )
    if not 0 <= config.node_eviction_rate <= 1000:
        raise PermanentError(f"{where}: node_eviction_rate {config.node_eviction_rate} must be between 0 and 1000")
    if not 0 < config.unhealthy_zone_threshold <= 1:
        raise PermanentError(
            f"{where}: unhealthy_zone_threshold {config.unhealthy_zone_threshold} must be above 0, and 1 at most"
        )


def ipaddress_is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def own_address() -> str:
    """The address that this machine would use towards others; loopback where it has none. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1, RFC 5737: only the routing table is asked
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
