"""The node's settings: one TOML file, every number with its unit and the reason for its default."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from edged.errors import PermanentError

DEFAULT_FILE = Path("/etc/edged/node.toml")


class NetworkConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names are settings so that several nodes can live on one machine (tests, the demo)."""

    bridge: str = "edged0"  # at most 15 characters, the kernel's limit (IFNAMSIZ)
    pod_cidr: str = "10.88.0.0/24"  # the first address is the bridge's own
    nft_table: str = "edged"
    egress: bool = True  # masquerade pods that talk to the outside
    spares: int = 2  # namespaces kept ready, so that a start need not wait for the network worker
    cluster_domain: str = "cluster.local"


class UplinkConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`factory` is "package.module:function", called with (NodeConfig); "" means the local uplink.

    Named by a string so that this package needs no import of whoever knows about clouds.
    """

    factory: str = ""
    options: dict[str, str] = {}


class DashboardConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    host: str = "127.0.0.1"
    port: int = 8470
    idle_seconds: float = 600.0  # with nobody looking, the page's process ends; 0 = stay


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    fleet: str = "default"
    state_dir: str = "/var/lib/edged"  # survives power cuts: state.db, identity/, images/, rw/
    run_dir: str = "/run/edged"  # memory: pods/, logs/, control.sock; gone after a reboot, by design
    # below each controller's mount (v1) or the unified one (v2); the default's reason is in systemd/edged-pods.service
    cgroup_parent: str = "system.slice/edged-pods.service"
    memory_allocatable: int = 0  # bytes for pods; 0 = total minus system reserve
    system_reserve: int = 128 << 20  # bytes left to the OS and to us when memory_allocatable is 0
    log_bytes: int = 256 << 10  # per container, in memory; the older half goes first
    labels: dict[str, str] = {}
    network: NetworkConfig = NetworkConfig()
    uplink: UplinkConfig = UplinkConfig()
    dashboard: DashboardConfig = DashboardConfig()

    @property
    def state(self) -> Path:
        return Path(self.state_dir)

    @property
    def run(self) -> Path:
        return Path(self.run_dir)

    @property
    def control_socket(self) -> Path:
        return self.run / "control.sock"


def load(path: Path) -> NodeConfig:
    """Read and check the file; PermanentError names the file and the field."""
    try:
        raw: dict[str, Any] = tomllib.loads(path.read_text())
        return msgspec.convert(raw, NodeConfig)
    except FileNotFoundError as e:
        raise PermanentError(f"{path} does not exist; `edgectl join` writes it, or name another with --config") from e
    except OSError as e:
        raise PermanentError(f"{path} can't be read: {e.strerror}") from e
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as e:
        raise PermanentError(f"{path}: {e}") from e
