"""core/v1: what a pod's processes are and may."""

from __future__ import annotations

from typing import ClassVar, Literal

from cloudlink.kube.meta import Many, Model


class Capabilities(Model):
    """Names with or without "CAP_"; ALL stands for all of them. `drop` comes first, then `add`."""

    add: Many[str] = ()
    drop: Many[str] = ()


class SeccompProfile(Model):
    """RuntimeDefault is also what a container gets that says nothing (unless it is privileged).

    :ivar localhost_profile: for Localhost only: a file below the node's own folder of profiles.
    """

    type: Literal["RuntimeDefault", "Unconfined", "Localhost"]
    localhost_profile: str = ""


class Sysctl(Model):
    name: str
    value: str


_ELSEWHERE = {
    "seLinuxOptions": "no board's system here has SELinux; remove it",
    "appArmorProfile": "containers are confined by seccomp, capabilities and namespaces; remove it",
    "windowsOptions": "nodes run Linux; remove it",
}


class SecurityContext(Model):
    """A container's; what it says wins over the pod's.

    :ivar allow_privilege_escalation: off unless asked for, other than in Kubernetes: who needs set-uid programs or
        file capabilities says so. On for privileged containers and those with SYS_ADMIN, as in Kubernetes.
    :ivar privileged: only where the node's own policy says so too.
    :ivar run_as_non_root: the container isn't started as uid 0.
    """

    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    capabilities: Capabilities | None = None
    read_only_root_filesystem: bool = False
    allow_privilege_escalation: bool | None = None
    privileged: bool = False
    seccomp_profile: SeccompProfile | None = None
    proc_mount: Literal["Default"] | None = None

    unsupported: ClassVar = frozenset({"appArmorProfile", "seLinuxOptions", "windowsOptions"})
    why_not: ClassVar = _ELSEWHERE


class PodSecurityContext(Model):
    """For all containers of the pod.

    :ivar fs_group: owns the pod's volumes that can be owned, and every process is in it.
    :ivar fs_group_change_policy: Always gives the files to it at each start, OnRootMismatch only where the volume's
        top folder isn't its own.
    :ivar sysctls: kernel parameters that belong to a namespace: net.*, kernel.shm*, kernel.msg*, kernel.sem,
        fs.mqueue.*.
    """

    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    fs_group: int | None = None
    fs_group_change_policy: Literal["Always", "OnRootMismatch"] | None = None
    supplemental_groups: Many[int] = ()
    supplemental_groups_policy: Literal["Merge"] | None = None
    seccomp_profile: SeccompProfile | None = None
    sysctls: Many[Sysctl] = ()

    unsupported: ClassVar = frozenset({"appArmorProfile", "seLinuxChangePolicy", "seLinuxOptions", "windowsOptions"})
    why_not: ClassVar = _ELSEWHERE | {"seLinuxChangePolicy": _ELSEWHERE["seLinuxOptions"]}
