"""What a container's processes may do: capabilities, kernel parameters, and what only the node's policy opens (pure).

The rules are Kubernetes': the default capabilities of containerd and Docker, then `add`, then `drop`; "ALL" in `add`
starts from every capability, "ALL" in `drop` from none. As there, what is added reaches root at once and other users
only through programs that have it as a file capability: Kubernetes sets no ambient capabilities, so neither do we.
"""

from __future__ import annotations

from collections.abc import Collection

from edged.config import PolicyConfig
from edged.errors import PermanentError
from edged.model import Container, HostPath, Image, Pod, Security
from edged.runtime.bundle import CAPABILITIES, User
from edged.runtime.sysctls import path_of, split

IN_ORDER = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
ALL_CAPABILITIES = tuple(f"CAP_{name}" for name in IN_ORDER.split())  # the position is the number: linux/capability.h
SAFE_SYSCTLS = frozenset(  # Kubernetes': they can't harm another pod or the node
    (
        "kernel/shm_rmid_forced",
        "net/ipv4/ip_local_port_range",
        "net/ipv4/ip_local_reserved_ports",
        "net/ipv4/ip_unprivileged_port_start",
        "net/ipv4/ping_group_range",
        "net/ipv4/tcp_fin_timeout",
        "net/ipv4/tcp_keepalive_intvl",
        "net/ipv4/tcp_keepalive_probes",
        "net/ipv4/tcp_keepalive_time",
        "net/ipv4/tcp_rmem",
        "net/ipv4/tcp_syncookies",
        "net/ipv4/tcp_wmem",
    )
)


def held_capabilities(mask: int) -> frozenset[str]:
    """Those whose bits are set in `mask`, as in CapEff of /proc/self/status."""
    return frozenset(name for number, name in enumerate(ALL_CAPABILITIES) if mask >> number & 1)


def check_policy(pod: Pod, container: Container, policy: PolicyConfig) -> None:
    """:raises PermanentError: the pod asks for what this node's settings don't allow, or for what makes no sense."""
    where = f'container "{container.name}" of pod {pod.title}'
    if pod.share_processes:
        raise PermanentError(
            f"the containers of pod {pod.title} can't share their processes here; remove shareProcessNamespace"
        )
    if container.security.privileged and not policy.privileged:
        raise PermanentError(
            f"{where} wants to be privileged, which this node's policy doesn't allow; give it the capabilities and"
            " devices that it needs, or set privileged = true below [policy] in the node's settings"
        )
    if pod.host_network and not policy.host_network:
        raise PermanentError(
            f"pod {pod.title} wants the node's own network, which this node's policy doesn't allow; remove hostNetwork,"
            " or set host_network = true below [policy] in the node's settings"
        )
    used = {m.volume for m in container.mounts}
    for volume in pod.volumes:
        if isinstance(volume.source, HostPath) and volume.name in used and not policy.host_path:
            raise PermanentError(
                f"volume '{volume.name}' of pod {pod.title} is a hostPath, which this node's policy doesn't allow; use"
                " another volume, or set host_path = true below [policy] in the node's settings"
            )
    check_sysctls(pod, policy)


def check_sysctls(pod: Pod, policy: PolicyConfig) -> None:
    """:raises PermanentError: one that isn't the pod's own, or not safe and not allowed by name."""
    parts = split(pod.sysctls)
    if parts.other:
        raise PermanentError(
            f"sysctl {parts.other[0][0]} of pod {pod.title} belongs to the whole machine, not to a pod; only net.*,"
            " kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.* can be set for a pod"
        )
    if parts.net and pod.host_network:
        raise PermanentError(
            f"sysctl {parts.net[0][0]} of pod {pod.title} would change the node's own network; remove it or hostNetwork"
        )
    for name, _ in pod.sysctls:
        path = path_of(name)
        if path not in SAFE_SYSCTLS and not _allowed(path, policy.unsafe_sysctls):
            raise PermanentError(
                f"sysctl {name} of pod {pod.title} is one that Kubernetes calls unsafe; list it in unsafe_sysctls below"
                " [policy] in the node's settings to allow it here"
            )


def _allowed(path: str, patterns: Collection[str]) -> bool:
    """Names, or beginnings that end in "*", as kubelet's --allowed-unsafe-sysctls has them."""
    for pattern in patterns:
        if pattern.endswith("*"):
            if path.startswith(pattern[:-1].replace(".", "/")):
                return True
        elif path_of(pattern) == path:
            return True
    return False


def check_non_root(pod: Pod, container: Container, image: Image, user: User) -> None:
    """Kubernetes' words for what it calls CreateContainerConfigError. :raises PermanentError:"""
    if not container.security.non_root:
        return
    where = f"(pod: {pod.title}, container: {container.name})"
    if container.security.user is not None:
        if container.security.user == 0:
            raise PermanentError(f"container's runAsUser breaks non-root policy {where}; set another runAsUser")
        return
    name = image.user.partition(":")[0]
    if name and not name.isdecimal():
        raise PermanentError(
            f"container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
            f" {where}; set runAsUser"
        )
    if user.uid == 0:
        raise PermanentError(f"container has runAsNonRoot and image will run as root {where}; set runAsUser")


def bounding_set(
    security: Security, where: str, held: Collection[str] = ALL_CAPABILITIES, mknod: bool = True
) -> tuple[str, ...]:
    """The capabilities that the container's root has and others may gain, in the kernel's order.

    :param held: those that we have and so can give.
    :param mknod: False where access to devices can't be limited: then device files may be made only by who asks.
    :raises PermanentError: a name that is none, or a capability that this node can't give.
    """
    add = {capability(name, where) for name in security.add if name.upper() != "ALL"}
    drop = {capability(name, where) for name in security.drop if name.upper() != "ALL"}
    if security.privileged:
        return tuple(c for c in ALL_CAPABILITIES if c in held)
    start = {c for c in CAPABILITIES if mknod or c != "CAP_MKNOD"}
    if any(name.upper() == "ALL" for name in security.add):
        start = set(ALL_CAPABILITIES)
    if any(name.upper() == "ALL" for name in security.drop):
        start = set()
    missing = sorted((add - drop) - set(held))
    if missing:
        raise PermanentError(
            f"{where} asks for {', '.join(missing)}, which this node doesn't have itself; remove it from"
            " capabilities.add"
        )
    wanted = (start | add) - drop
    return tuple(c for c in ALL_CAPABILITIES if c in wanted and c in held)


def capability(name: str, where: str) -> str:
    """The full name of what a manifest may write with or without CAP_, in any case. :raises PermanentError:"""
    full = f"CAP_{name.upper().removeprefix('CAP_')}"
    if full not in ALL_CAPABILITIES:
        raise PermanentError(f"{where} names capability {name!r}, which does not exist; see capabilities(7)")
    return full
