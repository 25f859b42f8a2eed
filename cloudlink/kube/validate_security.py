"""What is wrong with securityContexts, the pod's and the containers'. Rules: see `validate`."""

from __future__ import annotations

import re

from cloudlink.kube.findings import Findings
from cloudlink.kube.pod import PodSpec
from cloudlink.kube.security import SeccompProfile, SecurityContext, Sysctl
from cloudlink.kube.validate_volumes import local_descending_path

MAX_ID = 2**31 - 1
_SYSCTL = re.compile(r"([a-z0-9]([-_a-z0-9]*[a-z0-9])?[./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?", re.ASCII)
_SYSCTL_MAX = 253
_VALUE_MAX = 4096  # bytes; the kernel takes one page
# Which namespace a kernel parameter belongs to (component-helpers/node/util/sysctl).
_OF_IPC = ("kernel.shm", "kernel.msg", "fs.mqueue.")
_OF_NET = ("net.",)
# linux/capability.h, up to the last one that any kernel has
# fmt: off
CAPABILITIES = frozenset({
    "AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF", "CHECKPOINT_RESTORE", "CHOWN",
    "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "IPC_LOCK", "IPC_OWNER", "KILL", "LEASE",
    "LINUX_IMMUTABLE", "MAC_ADMIN", "MAC_OVERRIDE", "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE", "NET_BROADCAST",
    "NET_RAW", "PERFMON", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_ADMIN", "SYS_BOOT", "SYS_CHROOT",
    "SYS_MODULE", "SYS_NICE", "SYS_PACCT", "SYS_PTRACE", "SYS_RAWIO", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG",
    "SYSLOG", "WAKE_ALARM",
})
# fmt: on


def pod_security(spec: PodSpec, path: str, found: Findings) -> None:
    context, path = spec.security_context, f"{path}.securityContext"
    if context is None:
        return
    _id(f"{path}.fsGroup", context.fs_group, found)
    _ids(context.run_as_user, context.run_as_group, path, found)
    for i, group in enumerate(context.supplemental_groups):
        _id(f"{path}.supplementalGroups[{i}]", group, found)
    _seccomp(context.seccomp_profile, f"{path}.seccompProfile", found)
    seen: set[object] = set()
    for i, sysctl in enumerate(context.sysctls):
        _sysctl(sysctl, spec.host_network, f"{path}.sysctls[{i}]", seen, found)


def container_security(context: SecurityContext | None, path: str, found: Findings) -> None:
    if context is None:
        return
    _ids(context.run_as_user, context.run_as_group, path, found)
    _seccomp(context.seccomp_profile, f"{path}.seccompProfile", found)
    if context.capabilities is not None:
        for field, listed in (("add", context.capabilities.add), ("drop", context.capabilities.drop)):
            for i, name in enumerate(listed):
                _capability(f"{path}.capabilities.{field}[{i}]", name, found)
    if context.allow_privilege_escalation is False:
        why = "cannot set `allowPrivilegeEscalation` to false and "
        if context.privileged:
            found.hidden(path, why + "`privileged` to true")
        if context.capabilities is not None and {"SYS_ADMIN", "CAP_SYS_ADMIN"} & set(context.capabilities.add):
            found.hidden(path, why + "`capabilities.add` CAP_SYS_ADMIN")


def _capability(path: str, name: str, found: Findings) -> None:
    """Kubernetes leaves the names to the runtime; a misspelt one would fail, or drop nothing, much later."""
    if name != "ALL" and name.removeprefix("CAP_") not in CAPABILITIES:
        found.invalid(path, name, "no such capability; names are those of capabilities(7), such as NET_BIND_SERVICE")


def _ids(user: int | None, group: int | None, path: str, found: Findings) -> None:
    _id(f"{path}.runAsUser", user, found)
    _id(f"{path}.runAsGroup", group, found)


def _id(path: str, number: int | None, found: Findings) -> None:
    if number is not None and not 0 <= number <= MAX_ID:
        found.invalid(path, number, f"must be between 0 and {MAX_ID}, inclusive")


def _seccomp(profile: SeccompProfile | None, path: str, found: Findings) -> None:
    if profile is None:
        return
    here = f"{path}.localhostProfile"
    if profile.type == "Localhost":
        if not profile.localhost_profile:
            found.required(here, "must be set when seccomp type is Localhost")
        else:
            local_descending_path(here, profile.localhost_profile, found)
    elif profile.localhost_profile:
        found.invalid(here, profile.localhost_profile, "can only be set when seccomp type is Localhost")


def _sysctl(sysctl: Sysctl, host_network: bool, path: str, seen: set[object], found: Findings) -> None:
    here, name = f"{path}.name", sysctl.name.replace("/", ".")
    if not name:
        found.required(here)
    elif len(name) > _SYSCTL_MAX or not _SYSCTL.fullmatch(sysctl.name):
        found.invalid(here, sysctl.name, f"must be a sysctl's name of at most {_SYSCTL_MAX} characters")
    elif name != "kernel.sem" and not name.startswith(_OF_IPC + _OF_NET):
        # Kubernetes leaves it to the kubelet, which refuses the pod on its node.
        found.invalid(here, sysctl.name, "belongs to the whole machine, not to a namespace; set it on the board")
    elif host_network and name.startswith(_OF_NET):
        found.invalid(here, sysctl.name, "may not be specified when 'hostNetwork' is true")
    found.unique(here, name, seen)
    if "\0" in sysctl.value or len(sysctl.value) > _VALUE_MAX:
        found.invalid(f"{path}.value", sysctl.value, f"must be text of at most {_VALUE_MAX} characters")
