"""The node's settings: one TOML file, every number with its unit and the reason for its default."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from edged.errors import PermanentError

DEVICE_ALIAS = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
DEV_OF_EVERY_CONTAINER = (
    *("null", "zero", "full", "random", "urandom", "tty", "console", "pts", "ptmx", "shm", "mqueue", "fd", "core"),
    *("stdin", "stdout", "stderr", "termination-log"),
)
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


class RegistryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to reach one registry: [images.registries."docker.io"]; docs/images.md has examples."""

    mirrors: tuple[str, ...] = ()  # asked first, in this order: "host:port" or a URL, which may have a path
    insecure: bool = False  # plain HTTP will do, and no certificate is checked; always so on loopback, as with Docker
    ca: str = ""  # file with the CA certificates to trust besides the system's


class ImagesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How images come to this node, and when they may go."""

    registries: dict[str, RegistryConfig] = {}  # by the name that references use, or by a mirror's "host:port"
    ca: str = ""  # CA file for every registry that names none of its own
    docker_config: str = "/etc/edged/docker/config.json"  # the node's own logins; need not exist
    parallel: int = 3  # layers fetched at once, 1 to 8: one connection seldom fills a link, many starve a slow one
    attempts: int = 5  # how often in a row nothing at all may arrive before a pull is put off
    stall_seconds: float = 30.0  # a connection that sends nothing for so long is given up
    patience_seconds: float = (
        600.0  # a puller that gets nowhere at all is killed: an SD card's worst flush takes minutes
    )
    partial_bytes: int = 1 << 30  # what half-fetched layers of other images may keep on the disk
    memory_limit: int = 64 << 20  # bytes, of the cgroup that pulls run in, files' cache included
    gc_start_percent: int = 85  # of the disk used: images that nothing needs go (kubelet's default)
    gc_target_percent: int = 80  # until so much is used (kubelet's default)
    gc_min_free: int = 256 << 20  # bytes; likewise go where less is free: 15 % of a small card is too little to live on
    pinned: tuple[str, ...] = ()  # references that are never collected, whether needed or not

    def __post_init__(self) -> None:
        if not 1 <= self.parallel <= 8:
            raise ValueError(f"parallel is {self.parallel}; it must be 1 to 8")
        if self.attempts < 1 or self.stall_seconds <= 0 or self.patience_seconds <= self.stall_seconds:
            raise ValueError("attempts and stall_seconds must be above 0, and patience_seconds above stall_seconds")
        if not 0 < self.gc_target_percent <= self.gc_start_percent <= 100:
            raise ValueError("gc_target_percent must be above 0 and at most gc_start_percent, which is at most 100")
        if self.memory_limit < 48 << 20:
            raise ValueError(f"memory_limit is {self.memory_limit}; a puller needs 48 MiB (50331648) at least")


class PolicyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What pods may ask of this node, whatever their manifests say. Both must agree."""

    privileged: bool = False  # containers that could take over the node
    host_network: bool = True
    host_path: bool = True
    unsafe_sysctls: tuple[str, ...] = ()  # names ("net.core.somaxconn") or beginnings ("net.ipv4.*"), as kubelet's


class UsersConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Host user ids for pods in user namespaces (hostUsers: false): `pods` ranges of 65,536 from `first` on.

    The default lies above what systemd gives to anything (its UIDS-GIDS document) and below 2^31, which some tools
    take for a negative number.
    """

    first: int = 0x7000_0000
    pods: int = 1024


class StorageConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Persistent volumes (docs/storage.md)."""

    claims: str = (
        "auto"  # "quota": folders with a project quota; "image": files with an ext4; "auto": quota, else image
    )
    keep_free: int = 64 << 20  # bytes of state_dir that no new volume may take: what state.db and an update need

    def __post_init__(self) -> None:
        if self.claims not in ("auto", "quota", "image"):
            raise ValueError(f'claims is "{self.claims}"; it must be "auto", "quota" or "image"')


class DevicesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Devices that pods may claim, beside those that are found (docs/devices.md).

    :ivar aliases: name -> a stable name, or a path below /dev: modbus = "serial/by-id/usb-FTDI_..."
    :ivar share: name -> how many containers may have it; unnamed ones: 100 for buses and chips, else 1.
    """

    aliases: dict[str, str] = {}
    share: dict[str, int] = {}

    def __post_init__(self) -> None:
        for alias, target in self.aliases.items():
            if not DEVICE_ALIAS.fullmatch(alias) or alias in DEV_OF_EVERY_CONTAINER:
                raise ValueError(
                    f'alias "{alias}" can\'t name a device: use at most 63 letters, digits, "-", "_" and ".", and none'
                    f" of {', '.join(DEV_OF_EVERY_CONTAINER)}"
                )
            if ".." in target.split("/") or (target.startswith("/") and not target.startswith("/dev/")):
                raise ValueError(
                    f'alias "{alias}" stands for "{target}", which is neither a name nor a path below /dev'
                )
        if bad := sorted(name for name, count in self.share.items() if count < 1):
            raise ValueError(f"share of {bad[0]} must be 1 or more")


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    fleet: str = "default"
    state_dir: str = "/var/lib/edged"  # survives power cuts: state.db, identity/, images/, rw/
    run_dir: str = "/run/edged"  # memory: pods/, logs/, control.sock; gone after a reboot, by design
    # below each controller's mount (v1) or the unified one (v2); the default's reason is in systemd/edged-pods.service
    cgroup_parent: str = "system.slice/edged-pods.service"
    memory_allocatable: int = 0  # bytes for pods; 0 = total minus the two reserves and a margin (host.capacity)
    # bytes left to the OS and sshd; -1 = an eighth of the board, 96 to 256 MiB (below 480 MiB a fifth, at least 64):
    # Debian with sshd idles at 50 to 100 MB
    system_reserve: int = -1
    own_reserve: int = 48 << 20  # bytes for us: the daemon's budget is 30 MB, that of its helpers 15 MB with 20 pods
    storage_reserve: int = -1  # bytes of state_dir's disk that are not for pods; -1 = a tenth, as the kubelet's
    pids_reserve: int = 1024  # processes and threads that pods leave to the system; Debian with sshd has about 150
    swap: str = "zram"  # who may swap: "none"; "limited" = Burstable pods, as Kubernetes' LimitedSwap; "zram" = that,
    # but only where all swap is zram: swapping to an SD card wears it out and stalls the board
    pressure_period: float = 60.0  # seconds that a node condition outlasts its cause; the kubelet's 300 s make flapping
    # rare on a server, but keep a board that has room again empty for five minutes
    log_bytes: int = 256 << 10  # per container, in memory; the older half goes first
    log_node_bytes: int = 16 << 20  # of all containers together, in memory: 3 % of a 512 MB board
    log_disk_bytes: int = 8 << 20  # per container whose pod asks for its logs on disk, before compression
    log_disk_node_bytes: int = 128 << 20  # of all logs on disk, those of pods that are gone included
    # who resets a board whose kernel hangs: "required", "automatic" or "off" (edged.board_watchdog)
    hardware_watchdog: str = "automatic"
    # seconds for which, after a boot, pods that the hub may have moved meanwhile wait for its word (docs/nodes.md);
    # 0 = they start at once. Emulated boards with a line had heard their hub 2 to 7 s after the daemon's start
    hub_wait: float = 10.0
    labels: dict[str, str] = {}
    network: NetworkConfig = NetworkConfig()
    uplink: UplinkConfig = UplinkConfig()
    dashboard: DashboardConfig = DashboardConfig()
    images: ImagesConfig = ImagesConfig()
    policy: PolicyConfig = PolicyConfig()
    users: UsersConfig = UsersConfig()
    storage: StorageConfig = StorageConfig()
    devices: DevicesConfig = DevicesConfig()

    def __post_init__(self) -> None:
        if self.hardware_watchdog not in ("required", "automatic", "off"):
            raise ValueError(
                f'hardware_watchdog is "{self.hardware_watchdog}"; it must be "required", "automatic" or "off"'
            )
        if not self.hub_wait >= 0:  # this way round for nan, with which the waiting would never end
            raise ValueError(f"hub_wait is {self.hub_wait}; it must be 0 or more seconds")

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
