"""What is known of each pod and container, as files in memory; whoever starts next reads them and is up to date.

    run_dir/pods/<uid>/sandbox                             SandboxRecord, msgpack
    run_dir/pods/<uid>/etc/{hosts,hostname,resolv.conf}    bind-mounted into every container of the pod
    run_dir/pods/<uid>/volumes/<name>/                     configs, secrets, memory-backed scratch
    run_dir/pods/<uid>/{ipc,shm}                           what several containers share, see edged.runtime.ipc
    run_dir/pods/<uid>/containers/<name>/<attempt>/        one attempt: the OCI bundle and
        record         ContainerRecord, msgpack, replaced by rename
        config.json    the bundle; rootfs/ and mounts/ are filled in the container's own view only
        pid, conmon    pids, by crun and conmon
        <id>           the exit code, by conmon at the end
    run_dir/logs/<id>.log                                  CRI form, bounded
    run_dir/crun/                                          crun's own state
    run_dir/messages/<id>                                  termination messages, see edged.runtime.last_words
    state_dir/logs/                                        copies of logs, see edged.runtime.logcopy
    state_dir/rw/<uid>/volumes/<name>/                     emptyDir on disk
    state_dir/rw/<uid>/<name>-<attempt>/{upper,work}       what a container wrote to its root (one that can't write
                                                           there has layer/ beside its record instead)

Nothing here is flushed: a power cut empties run_dir, and what is in state_dir/rw without a record is swept.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from edged.errors import PermanentError, RetryError
from edged.model import ContainerPhase, ContainerState, Hook, SandboxState, Value
from edged.runtime.names import NamePolicy

UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

T = TypeVar("T")


class SandboxRecord(Value, frozen=True):
    """:ivar pod: "namespace/name".
    :ivar created_at: CLOCK_BOOTTIME second of its first preparation since the machine started.
    :ivar names: how its resolv.conf is made, and whether it has a network of its own at all.
    :ivar users: first host uid and gid of its own 64 Ki (user_namespaces(7)); 0 = it has the host's users.
    :ivar shares_ipc: its containers share an IPC namespace and /dev/shm.
    """

    pod_uid: str
    pod: str
    termination_grace: float
    ip: str = ""
    memory_request: int = 0
    material: str = ""
    created_at: float = 0.0
    evicted: str = ""
    evicted_message: str = ""
    names: NamePolicy = NamePolicy()
    shares_ipc: bool = False
    users: int = 0


class ContainerRecord(Value, frozen=True):
    """What can't be read from the kernel. Times as in ContainerState.

    :ivar pipes: inode numbers of the container's stdout and stderr, so that they are found again.
    :ivar stop_signal: number of what asks it to end.
    :ivar message_fallback: the end of its log stands in for a termination message that it didn't leave.
    :ivar finished_at: 0 until the end was seen; exit_code, oom_killed and message mean nothing before.
    :ivar pod: "namespace/name".
    :ivar log_half: bytes after which its log is turned over; 0 = half of the node's log_bytes.
    :ivar log_target: a LogTarget.
    :ivar sidecar: as ContainerState.sidecar.
    """

    id: str
    pod_uid: str
    name: str
    attempt: int
    identity: str = ""
    crashes: int = 0
    image_id: str = ""
    cgroup: str = ""
    pid: int = 0
    conmon: int = 0
    pipes: tuple[int, ...] = ()
    started_at: float = 0.0
    started_wall: float = 0.0
    stop_requested_at: float = 0.0
    stop_reason: str = ""
    finished_at: float = 0.0
    finished_wall: float = 0.0
    exit_code: int | None = None
    oom_killed: bool = False
    signalled: bool = False
    post_started: bool = True
    pre_stop: Hook | None = None
    devices: tuple[str, ...] = ()
    message: str = ""
    stop_signal: int = int(signal.SIGTERM)
    message_fallback: bool = False
    pod: str = ""
    log_half: int = 0
    log_target: str = ""
    sidecar: int = 0

    def state(self, phase: ContainerPhase, monitored: bool) -> ContainerState:
        ended = phase in (ContainerPhase.EXITED, ContainerPhase.UNKNOWN)
        return ContainerState(
            id=self.id,
            pod_uid=self.pod_uid,
            name=self.name,
            attempt=self.attempt,
            identity=self.identity,
            phase=phase,
            crashes=self.crashes,
            pid=0 if ended else self.pid,
            started_at=self.started_at,
            started_wall=self.started_wall,
            finished_at=self.finished_at if ended else 0.0,
            finished_wall=self.finished_wall if ended else 0.0,
            exit_code=self.exit_code if ended else None,
            oom_killed=self.oom_killed and ended,
            monitored=monitored,
            image_id=self.image_id,
            stop_requested_at=self.stop_requested_at,
            stop_reason=self.stop_reason,
            signalled=self.signalled,
            post_started=self.post_started,
            pre_stop=self.pre_stop,
            devices=self.devices,
            message=self.message if ended else "",
            sidecar=self.sidecar,
        )


def container_id(pod_uid: str, name: str, attempt: int) -> str:
    return f"{pod_uid}.{name}.{attempt}"


def parse_id(text: str) -> tuple[str, str, int]:
    """(pod uid, container name, attempt). :raises PermanentError: it is not the id of a container."""
    parts = text.rsplit(".", 2)
    if len(parts) != 3 or not UID.fullmatch(parts[0]) or not LABEL.fullmatch(parts[1]) or not parts[2].isdecimal():
        raise PermanentError(f"{text!r} is not a container id (<pod uid>.<container name>.<attempt>)")
    return parts[0], parts[1], int(parts[2])


class Places:
    """Where everything is. Names are checked here, so none can lead out of the folders."""

    def __init__(self, run: Path, state: Path) -> None:
        self.run = run.absolute()
        self.state = state.absolute()
        self.pods = self.run / "pods"
        self.logs = self.run / "logs"
        self.crun = self.run / "crun"
        self.messages = self.run / "messages"
        self.writable = self.state / "rw"
        self.disk_logs = self.state / "logs"

    def pod(self, uid: str) -> Path:
        if not UID.fullmatch(uid):
            raise PermanentError(f"pod uid {uid!r} can't name a folder; use letters, digits, '.', '_' and '-'")
        return self.pods / uid

    def scratch(self, uid: str) -> Path:
        """The pod's part of the disk."""
        self.pod(uid)
        return self.writable / uid

    def container(self, container: str) -> Path:
        uid, name, attempt = parse_id(container)
        return self.pods / uid / "containers" / name / str(attempt)

    def folder_of(self, record: ContainerRecord) -> str:
        """`container` for a record that was read: its names are known to be good."""
        return f"{self.pods}/{record.pod_uid}/containers/{record.name}/{record.attempt}"

    def layer(self, container: str) -> Path:
        """Holds upper/ and work/ of one attempt."""
        uid, name, attempt = parse_id(container)
        return self.writable / uid / f"{name}-{attempt}"

    def log(self, container: str) -> Path:
        parse_id(container)
        return self.logs / f"{container}.log"

    def message(self, container: str) -> Path:
        """What it says at its end, see edged.runtime.last_words."""
        parse_id(container)
        return self.messages / container

    # ------------------------------------------------------------ reading and writing

    def sandboxes(self) -> Iterator[SandboxRecord]:
        for entry in _entries(self.pods):
            record = read(f"{entry.path}/sandbox", SandboxRecord)
            yield record or SandboxRecord(entry.name, entry.name, 0.0)

    def containers(self, pod_uid: str | None = None) -> Iterator[ContainerRecord]:
        """Every attempt there is a trace of; one whose record is missing or broken still has its name."""
        for uid in [pod_uid] if pod_uid is not None else [e.name for e in _entries(self.pods)]:
            for name in _entries(f"{self.pods}/{uid}/containers"):
                for attempt in _entries(name.path):
                    if attempt.name.isdecimal() and LABEL.fullmatch(name.name):
                        yield read(f"{attempt.path}/record", ContainerRecord) or ContainerRecord(
                            container_id(uid, name.name, int(attempt.name)), uid, name.name, int(attempt.name)
                        )

    def record(self, container: str) -> ContainerRecord:
        uid, name, attempt = parse_id(container)
        known = read(self.container(container) / "record", ContainerRecord)
        return known or ContainerRecord(container, uid, name, attempt)

    def write(self, record: ContainerRecord) -> None:
        write_atomically(self.container(record.id) / "record", msgspec.msgpack.encode(record))

    def write_sandbox(self, record: SandboxRecord) -> None:
        write_atomically(self.pod(record.pod_uid) / "sandbox", msgspec.msgpack.encode(record))


def sandbox_state(record: SandboxRecord, ready: bool) -> SandboxState:
    return SandboxState(
        pod_uid=record.pod_uid,
        pod=record.pod,
        ip=record.ip,
        ready=ready,
        termination_grace=record.termination_grace,
        memory_request=record.memory_request,
        created_at=record.created_at,
        material=record.material,
        evicted=record.evicted,
        evicted_message=record.evicted_message,
    )


def read(file: Path | str, kind: type[T]) -> T | None:
    """None where it is missing or not of that kind."""
    try:
        with open(file, "rb", buffering=0) as f:  # noqa: PTH123 (a hot path)
            return msgspec.msgpack.decode(f.read(), type=kind)
    except (OSError, msgspec.DecodeError):
        return None


def write_atomically(file: Path, data: bytes, mode: int = 0o600) -> None:
    """Whole or not at all; readers see the old or the new. :raises RetryError: no room, or the folder is gone."""
    new = file.with_name(f".{file.name}.new")
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            os.fchmod(fd, mode)
            os.write(fd, data)
        finally:
            os.close(fd)
        new.rename(file)
    except OSError as e:
        with contextlib.suppress(OSError):
            new.unlink()
        raise RetryError(f"{file} can't be written: {e.strerror}") from e


def read_number(file: Path) -> int | None:
    """None where it is missing or holds anything else."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [e for e in entries if not e.name.startswith(".")]
    except OSError:
        return []
