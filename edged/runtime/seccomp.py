"""The system calls that a container may use, as OCI's linux.seccomp.

An allow list in the spirit of the well-known default of Docker and Kubernetes (RuntimeDefault) for the capability set
in edged.runtime.bundle. What is known and withheld answers EPERM; what is unknown answers ENOSYS, so that a C library
newer than this list falls back as on an older kernel. io_uring is withheld as there. Namespaces can't be made inside:
clone's flags are checked, clone3's can't be, so it answers ENOSYS and C libraries use clone.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec

from edged.errors import PermanentError, RetryError
from edged.runtime.mounts import open_beneath

EPERM, EINVAL, ENOSYS = 1, 22, 38
NAMESPACE_FLAGS = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)  # Linux, Linux32, both with UNAME26, and the query
AF_VSOCK = 40  # would reach the hypervisor

ARCHITECTURES = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
    "armv7l": ("SCMP_ARCH_ARM",),
    "armv6l": ("SCMP_ARCH_ARM",),
    "riscv64": ("SCMP_ARCH_RISCV64",),
}

ALLOWED = """
_llseek _newselect accept accept4 access adjtimex alarm arch_prctl arm_fadvise64_64 arm_sync_file_range bind
breakpoint brk cacheflush cachestat capget capset chdir chmod chown chown32 chroot clock_adjtime clock_adjtime64
clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close
close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old
epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat
faccessat2 fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64
fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync
ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat get_robust_list
get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups
getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32
getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr
inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents
io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc kill landlock_add_rule
landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listxattr llistxattr
lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore
mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 modify_ldt mprotect mq_getsetattr mq_notify mq_open
mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv
msgsnd msync munlock munlockall munmap nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal
pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64
process_mrelease process_vm_readv process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 pwritev pwritev2 read
readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr
rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max
sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp
select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto
set_robust_list set_thread_area set_tid_address set_tls setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32
setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32
setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr shmat shmctl shmdt shmget shutdown
sigaction sigaltstack signal signalfd signalfd4 sigpending sigprocmask sigreturn sigsuspend socketcall socketpair
splice stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range sync_file_range2 syncfs sysinfo tee
tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64
ugetrlimit umask uname unlink unlinkat utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid
write writev
"""

WITHHELD = """
acct add_key bpf clock_settime clock_settime64 delete_module fanotify_init finit_module fsconfig fsmount fsopen
fspick get_mempolicy init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load
kexec_load keyctl lookup_dcookie mbind migrate_pages mount mount_setattr move_mount move_pages name_to_handle_at
open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root process_madvise quotactl quotactl_fd reboot
request_key set_mempolicy setdomainname sethostname setns settimeofday stime swapoff swapon sysfs syslog umount
umount2 unshare uselib userfaultfd ustat vhangup vm86 vm86old
"""

OPENED_BY = {  # withheld calls that go with a capability which a pod was given, as in containerd's default profile
    "CAP_SYS_ADMIN": (
        "bpf fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount"
        " name_to_handle_at open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog"
        " umount umount2 unshare"
    ),
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_MODULE": "delete_module finit_module init_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "CAP_SYS_RAWIO": "ioperm iopl",
    "CAP_SYS_TIME": "clock_settime clock_settime64 settimeofday stime",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy",
    "CAP_SYSLOG": "syslog",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
}
FILE_LIMIT = 1 << 20  # bytes of a profile; the well-known ones have some 15 KiB
WAIT_FOR_FILE = 10.0  # seconds until a missing profile is looked for again


def choose(wanted: str, machine: str, capabilities: Collection[str], folder: Path, where: str) -> bytes:
    """The JSON of linux.seccomp for what a pod says: RuntimeDefault, Unconfined, or Localhost/<file below `folder`>.

    :param machine: `uname -m`. :param where: whose it is, for the errors.
    :raises PermanentError: another word, or a file that is no profile. :raises RetryError: there is no such file.
    """
    if wanted == "Unconfined":
        return b"null"
    if wanted in ("RuntimeDefault", ""):
        return profile(machine, frozenset(c for c in capabilities if c in OPENED_BY))
    kind, _, name = wanted.partition("/")
    if kind != "Localhost" or not name:
        raise PermanentError(
            f"{where} wants seccomp profile {wanted!r}; use RuntimeDefault, Unconfined or Localhost with a file below"
            f" {folder}"
        )
    try:
        with open(open_beneath(os.fspath(folder), name, os.O_RDONLY | os.O_NONBLOCK), "rb") as f:  # noqa: PTH123
            content = f.read(FILE_LIMIT + 1)
    except OSError as e:
        raise RetryError(
            f"{where} wants seccomp profile {name}, which can't be read: {e.strerror}; put it below {folder}",
            after=WAIT_FOR_FILE,
        ) from e
    return _checked(content, f"seccomp profile {folder / name}")


def _checked(content: bytes, name: str) -> bytes:
    """As linux.seccomp, without what Docker's own profiles add to it for other tools."""
    try:
        made = msgspec.json.decode(content)
    except msgspec.DecodeError as e:
        raise PermanentError(f"{name} is not JSON: {e}") from e
    if len(content) > FILE_LIMIT or not isinstance(made, dict) or not str(made.get("defaultAction", "")):
        raise PermanentError(f"{name} is not an OCI seccomp profile: an object with defaultAction is expected")
    return msgspec.json.encode(made)


@functools.lru_cache(maxsize=8)
def profile(machine: str, capabilities: frozenset[str] = frozenset()) -> bytes:
    """The JSON of linux.seccomp for `uname -m`'s name of the machine; built once, kept as bytes.

    b"null" for a machine whose name is not known here.

    :param capabilities: those of the container that open more calls, see OPENED_BY.
    """
    architectures = ARCHITECTURES.get(machine)
    if architectures is None:
        return b"null"
    allow = "SCMP_ACT_ALLOW"
    opened = {call for capability in capabilities for call in OPENED_BY[capability].split()}
    namespaces = "CAP_SYS_ADMIN" in capabilities
    clone: dict[str, Any] = {"names": ["clone"], "action": allow}
    clone3: dict[str, Any] = {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}
    if namespaces:
        clone3 = {"names": ["clone3"], "action": allow}
    else:
        clone["args"] = [_argument(0, NAMESPACE_FLAGS, "MASKED_EQ", 0)]
    rules: list[dict[str, Any]] = [
        {"names": [*ALLOWED.split(), *sorted(opened)], "action": allow},
        {"names": [c for c in WITHHELD.split() if c not in opened], "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM},
        clone,
        clone3,
        {"names": ["socket"], "action": allow, "args": [_argument(0, AF_VSOCK, "NE")]},
        {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": EINVAL, "args": [_argument(0, AF_VSOCK, "EQ")]},
        *({"names": ["personality"], "action": allow, "args": [_argument(0, p, "EQ")]} for p in PERSONALITIES),
    ]
    return msgspec.json.encode(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": ENOSYS,
            "architectures": architectures,
            "syscalls": rules,
        }
    )


def _argument(index: int, value: int, operator: str, second: int | None = None) -> dict[str, Any]:
    rule: dict[str, Any] = {"index": index, "value": value, "op": f"SCMP_CMP_{operator}"}
    if second is not None:
        rule["valueTwo"] = second
    return rule
