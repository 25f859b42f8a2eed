"""A container as OCI's config.json (runtime-spec 1.0.2): values in, bytes out (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from edged.errors import PermanentError
from edged.model import Limits, Pod, Propagation, Value
from edged.runtime.resources import Swap, resources

OCI_VERSION = "1.0.2"
SECCOMP_BPF = "run.oci.seccomp_bpf_data"  # crun(1): the compiled filter, so that it isn't compiled each time
USERS_OF_A_POD = 1 << 16  # uids and gids in a user namespace, as in Kubernetes
SHM_SIZE = 64 << 20  # bytes of /dev/shm at most; what is used counts as the container's memory

CAPABILITIES = (  # Docker's and Kubernetes' default set
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


class User(Value, frozen=True):
    """Who the first process is, in numbers."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()


class BindMount(Value, frozen=True):
    """A file or folder of the host (`source`) at `path` in the container.

    :ivar whole: read-only goes for what is mounted below `source` too (Linux 5.12).
    """

    source: str
    path: str
    read_only: bool = False
    propagation: Propagation = Propagation.NONE
    whole: bool = False


class Device(Value, frozen=True):
    """A device file inside the container; `kind` is "c" or "b"."""

    path: str
    kind: str
    major: int
    minor: int
    mode: int = 0o666
    uid: int = 0
    gid: int = 0


class DeviceRule(Value, frozen=True):
    """Character devices that the container may open, beside those of every container; minor None = all of them."""

    major: int
    minor: int | None = None


class Machine(Value, frozen=True):
    """What this machine can enforce.

    :ivar unified: cgroup v2.
    :ivar memory, swap, cpu, pids: whether such limits can be set.
    :ivar devices: whether access to devices can be limited.
    :ivar memory_total: bytes of RAM, for oom_score_adj.
    :ivar oom_floor: the lowest oom_score_adj that we may give.
    :ivar swap_space: what pods may use of it.
    """

    unified: bool = True
    memory: bool = True
    swap: bool = True
    cpu: bool = True
    pids: bool = True
    devices: bool = True
    memory_total: int = 0
    oom_floor: int = -1000
    swap_space: Swap = Swap()


class ContainerSpec(Value, frozen=True):
    """One container with everything resolved.

    :ivar netns: path of the pod's network namespace; "" = a new one, unless `host_network`.
    :ivar ipcns, shm: of the pod; "" = the container's own.
    :ivar users: first host uid and gid of 64 Ki that are 0 to 65535 inside; 0 = no user namespace.
    :ivar sysfs: a mount of it to show at /sys; "" = a new one, which the kernel refuses where there are `users`.
    :ivar capabilities: full names; what root has, and others may gain.
    :ivar privileged: sees and reaches all that the machine has.
    :ivar seccomp: JSON of linux.seccomp; b"null" for none.
    :ivar seccomp_bpf: the same compiled, base64; "" where it isn't known yet.
    :ivar sysctls: names with dots; those that no namespace of the pod has been given already.
    """

    args: tuple[str, ...]
    env: Mapping[str, str]
    rootfs: str
    hostname: str
    netns: str
    cgroup: str
    limits: Limits = Limits()
    mounts: tuple[BindMount, ...] = ()
    user: User = User()
    working_dir: str = "/"
    oom_score_adj: int = 0
    annotations: Mapping[str, str] = {}
    host_network: bool = False
    ipcns: str = ""
    shm: str = ""
    users: int = 0
    sysfs: str = ""
    capabilities: tuple[str, ...] = CAPABILITIES
    escalation: bool = False
    privileged: bool = False
    read_only_root: bool = False
    seccomp: bytes = b"null"
    seccomp_bpf: str = ""
    sysctls: tuple[tuple[str, str], ...] = ()
    devices: tuple[Device, ...] = ()
    device_rules: tuple[DeviceRule, ...] = ()
    terminal: bool = False


def config_json(spec: ContainerSpec, machine: Machine) -> bytes:
    """The bundle's config.json."""
    annotations = dict(spec.annotations)
    if spec.seccomp_bpf:
        annotations[SECCOMP_BPF] = spec.seccomp_bpf
    config: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": spec.terminal,
            "user": user(spec.user),
            "args": spec.args,
            "env": [f"{name}={value}" for name, value in spec.env.items()],
            "cwd": spec.working_dir,
            "capabilities": capabilities(spec.user, spec.capabilities),
            "noNewPrivileges": not spec.escalation,
            "oomScoreAdj": max(spec.oom_score_adj, machine.oom_floor),
        },
        "root": {"path": spec.rootfs, "readonly": spec.read_only_root},
        "hostname": spec.hostname,
        "mounts": [*system_mounts(spec, machine), *(bind_mount(m) for m in spec.mounts)],
        "annotations": annotations,
        "linux": linux(spec, machine),
    }
    return msgspec.json.encode(config)


def user(who: User) -> dict[str, Any]:
    """The primary group is among the others too, or a program could give it up and pass what denies it (as containerd,
    CVE-2022-2995)."""
    return {"uid": who.uid, "gid": who.gid, "additionalGids": list(dict.fromkeys((who.gid, *who.groups)))}


def linux(spec: ContainerSpec, machine: Machine) -> dict[str, Any]:
    """The part that is the kernel's."""
    made: dict[str, Any] = {
        "namespaces": namespaces(spec, machine.unified),
        "cgroupsPath": spec.cgroup,
        "resources": resources(spec.limits, machine),
        "maskedPaths": () if spec.privileged else MASKED_PATHS,
        "readonlyPaths": () if spec.privileged else READONLY_PATHS,
    }
    if spec.privileged and machine.devices:
        made["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
    elif machine.devices:
        made["resources"]["devices"] += [device_rule(r) for r in spec.device_rules]
    if spec.users:
        made["uidMappings"] = made["gidMappings"] = [{"containerID": 0, "hostID": spec.users, "size": USERS_OF_A_POD}]
    if spec.sysctls:
        made["sysctl"] = dict(spec.sysctls)
    if spec.devices:
        made["devices"] = [device(d) for d in spec.devices]
    if travel := root_propagation(spec.mounts):
        made["rootfsPropagation"] = travel
    if spec.seccomp != b"null":
        made["seccomp"] = msgspec.Raw(spec.seccomp)
    return made


class _Config(msgspec.Struct):
    process: dict[str, Any]


def process_json(config: bytes, command: Sequence[str], terminal: bool = False) -> bytes:
    """`process` for a further command in the container of that config.json: same user, groups, capabilities and
    environment, in the same folder. At a terminal TERM is set, as the CRI's runtimes do it."""
    made = msgspec.json.decode(config, type=_Config).process | {"args": command, "terminal": terminal}
    if terminal and not any(word.startswith("TERM=") for word in made["env"]):
        made["env"] = [*made["env"], "TERM=xterm"]
    return msgspec.json.encode(made)


def capabilities(user: User, bounding: Sequence[str] = CAPABILITIES) -> dict[str, Sequence[str]]:
    """A user other than root gets none that work, but may gain them where a file has them (bounding set).

    No ambient ones: Kubernetes gives none, so images don't expect them.
    """
    own: Sequence[str] = bounding if user.uid == 0 else ()
    return {"bounding": bounding, "effective": own, "permitted": own, "inheritable": (), "ambient": ()}


def namespaces(spec: ContainerSpec, unified: bool) -> list[dict[str, str]]:
    """In the host's network a container still has its own host name (uts), so that nobody changes the machine's."""
    kinds = ["pid", "mount", "uts"] + (["cgroup"] if unified else []) + (["user"] if spec.users else [])
    made = [{"type": kind} for kind in kinds]
    made.append({"type": "ipc", "path": spec.ipcns} if spec.ipcns else {"type": "ipc"})
    if not spec.host_network:
        made.append({"type": "network", "path": spec.netns} if spec.netns else {"type": "network"})
    return made


def device(one: Device) -> dict[str, Any]:
    return {
        "path": one.path,
        "type": one.kind,
        "major": one.major,
        "minor": one.minor,
        "fileMode": one.mode,
        "uid": one.uid,
        "gid": one.gid,
    }


def device_rule(rule: DeviceRule) -> dict[str, Any]:
    which = {"major": rule.major} | ({} if rule.minor is None else {"minor": rule.minor})
    return {"allow": True, "type": "c", "access": "rw"} | which


def system_mounts(spec: ContainerSpec, machine: Machine) -> list[dict[str, Any]]:
    """Those of every container."""
    cgroup = "cgroup2" if machine.unified else "cgroup"
    access = "rw" if spec.privileged else "ro"

    def mount(destination: str, fstype: str, *options: str) -> dict[str, Any]:
        return {"destination": destination, "type": fstype, "source": fstype, "options": options}

    return [
        mount("/proc", "proc", "nosuid", "noexec", "nodev"),
        mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        bind_mount(BindMount(spec.shm, "/dev/shm"))
        if spec.shm
        else mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", f"size={SHM_SIZE}"),
        mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        bind_mount(BindMount(spec.sysfs, "/sys", read_only=True))
        if spec.sysfs
        else mount("/sys", "sysfs", "nosuid", "noexec", "nodev", access),
        mount("/sys/fs/cgroup", cgroup, "nosuid", "noexec", "nodev", "relatime", access),
    ]


PROPAGATION = {  # as crun(1) takes them
    Propagation.NONE: "rprivate",
    Propagation.HOST_TO_CONTAINER: "rslave",
    Propagation.BIDIRECTIONAL: "rshared",
}


def bind_mount(mount: BindMount) -> dict[str, Any]:
    """rprivate, unless the pod asks for more: what the container mounts stays inside, later mounts of the host out."""
    access = ("rro" if mount.whole else "ro") if mount.read_only else "rw"
    return {
        "destination": mount.path,
        "type": "bind",
        "source": mount.source,
        "options": ["rbind", PROPAGATION[mount.propagation], access, "nosuid", "nodev"],
    }


def root_propagation(mounts: Sequence[BindMount]) -> str:
    """linux.rootfsPropagation: mounts can travel no further than their root does; "" = crun's default, not at all."""
    kinds = {m.propagation for m in mounts} - {Propagation.NONE}
    if not kinds:
        return ""
    return PROPAGATION[Propagation.BIDIRECTIONAL if Propagation.BIDIRECTIONAL in kinds else kinds.pop()]


def hostname_of(pod: Pod) -> str:
    """At most 63 characters, as the kernel and DNS want them."""
    return (pod.hostname or pod.name)[:63].rstrip("-.")


def check_mount_path(path: str, what: str) -> str:
    """:raises PermanentError: not an absolute path without "..", or one that would hide the container's own parts."""
    parts = path.split("/")
    if not path.startswith("/") or ".." in parts or "\0" in path:
        raise PermanentError(f"{what} is {path!r}; give an absolute path without '..'")
    clean = "/" + "/".join(p for p in parts if p not in ("", "."))
    if clean in ("/", "/proc", "/sys", "/dev") or clean.startswith("/proc/"):
        raise PermanentError(f"{what} is {path!r}, which the container itself needs; mount it elsewhere")
    return clean
