"""Containers: from a spec to a running process, what is to be seen of it, and its end.

    nothing --record--> STARTING --conmon, crun create, crun start--> RUNNING --> EXITED --remove--> nothing

Whoever dies in between, the record, the pid files, crun's fifo, conmon's exit file and /proc tell where it stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from edged.errors import EdgedError, PermanentError, RetryError
from edged.model import Container, ContainerPhase, ContainerState, Image, Material, Pod, Value, container_identity
from edged.runtime import bundle, environment, monitor, mounts, process, resources, seccomp
from edged.runtime.cgroup import Cgroups, Mode
from edged.runtime.containerlogs import ContainerLogs
from edged.runtime.crun import Creation, Crun
from edged.runtime.records import ContainerRecord, Places, container_id, parse_id, read_number
from edged.runtime.users import resolve_user
from edged.runtime.volumes import Volumes

KILL_PATIENCE = 10.0  # seconds for killed processes to be gone


class Sandbox(Value, frozen=True):
    """What a container needs of its pod's sandbox.

    :ivar netns: "" with `host_network`.
    :ivar ipcns, shm: of a pod whose containers share them; "" = each container has its own.
    :ivar ip: the pod's address, or the node's own with `host_network`.
    :ivar users: first host uid and gid of the pod's own 64 Ki; 0 = the host's users.
    """

    netns: str
    mounts: tuple[bundle.BindMount, ...] = ()
    ipcns: str = ""
    shm: str = ""
    host_network: bool = False
    ip: str = ""
    users: int = 0


class Containers:
    """All containers of one node. Owned by PodRuntime; one loop."""

    def __init__(self, places: Places, cgroups: Cgroups, logs: ContainerLogs) -> None:
        self._places = places
        self._cgroups = cgroups
        self._logs = logs
        self._crun = Crun(places.crun, cgroups.hidden)
        self._watches: dict[str, monitor.Watch] = {}
        self._starting: set[str] = set()
        self._on_exit: Callable[[str], None] | None = None
        self._machine = bundle.Machine()

    # ------------------------------------------------------------ life

    def open(self, on_exit: Callable[[str], None]) -> None:
        """Re-attach to everything that runs; touch nothing."""
        self._on_exit = on_exit
        with contextlib.suppress(OSError):
            mounts.become_subreaper()
        for folder in (self._places.crun, self._places.logs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._logs.open()
        self._machine = bundle.Machine(
            unified=self._cgroups.mode is Mode.UNIFIED,
            memory=self._cgroups.memory,
            swap=self._cgroups.swap,
            cpu=self._cgroups.cpu,
            pids=self._cgroups.pids,
            devices=self._cgroups.devices,
            memory_total=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            oom_floor=-1000
            if self._cgroups.may_lower_oom_score
            else read_number(Path("/proc/self/oom_score_adj")) or 0,
            seccomp=seccomp.profile(os.uname().machine),
            swap_space=self._cgroups.swap_space,
        )
        for record in self._places.containers():
            state = self.look(record)
            self._logs.adopt(record, runs=state.pid > 0)
            if state.pid:
                with contextlib.suppress(ProcessLookupError):  # it ends this moment; the next look tells
                    self._watch(self._with_pids(record))

    def close(self) -> None:
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()
        self._logs.close()
        self._on_exit = None

    # ------------------------------------------------------------ seeing

    def observe(self, pod_uid: str | None = None) -> Iterator[ContainerState]:
        for record in self._places.containers(pod_uid):
            yield self.look(record)

    def inspect(self, container: str) -> ContainerState | None:
        if not self._places.container(container).is_dir():
            return None
        return self.look(self._places.record(container))

    def look(self, record: ContainerRecord) -> ContainerState:
        """One container, read afresh. An end that is seen for the first time is written down."""
        if record.finished_at:
            return _ended_state(record)
        record = self._with_pids(record)
        monitored = self._is_conmon(record)
        if self._cgroups.owns(record.cgroup, record.pid):
            waiting = not record.started_at or self._crun.waits_for_start(record.id)
            return record.state(ContainerPhase.STARTING if waiting else ContainerPhase.RUNNING, monitored)
        if record.id in self._starting or (monitored and not record.pid):
            return record.state(ContainerPhase.STARTING, monitored)
        if monitored and not self._exit_file(record).exists():  # it is about to be written
            return record.state(ContainerPhase.RUNNING, monitored)
        return _ended_state(self._settle(record, None))

    def _with_pids(self, record: ContainerRecord) -> ContainerRecord:
        """Where a start was cut short, crun and conmon may have got further than the record."""
        if record.pid and record.conmon:
            return record
        folder = self._places.container(record.id)
        return replace(
            record,
            cgroup=record.cgroup or self._cgroups.path(record.pod_uid, record.name, record.attempt),
            pid=record.pid or read_number(folder / "pid") or 0,
            conmon=record.conmon or read_number(folder / "conmon") or 0,
        )

    def _is_conmon(self, record: ContainerRecord) -> bool:
        """By its command line, which names the bundle: pids are reused."""
        try:
            with open(f"/proc/{record.conmon}/cmdline", "rb", buffering=0) as f:  # noqa: PTH123 (a hot path)
                return b"\0%b\0" % os.fsencode(self._places.folder_of(record)) in f.read()
        except OSError:
            return False

    def _exit_file(self, record: ContainerRecord) -> Path:
        return Path(self._places.folder_of(record), record.id)

    def _settle(self, record: ContainerRecord, code: int | None, seen: bool = False) -> ContainerRecord:
        """The end, as conmon wrote it down or as `code` says; while cgroup and exit file are still there.

        :param seen: it has ended just now; else the exit file's age tells when.
        """
        file = self._exit_file(record)
        told = read_number(file)
        now, wall = time.clock_gettime(time.CLOCK_BOOTTIME), time.time()
        finished_wall = wall
        if told is not None:
            code = told
            with contextlib.suppress(OSError):
                finished_wall = wall if seen else file.stat().st_mtime
        oom = self._cgroups.oom_kills(record.cgroup) > 0 and code != 0
        ended = replace(
            record,
            exit_code=137 if oom and code is None else code,
            oom_killed=oom,
            finished_at=min(max(now - (wall - finished_wall), record.started_at), now),
            finished_wall=finished_wall,
        )
        if self._on_exit is not None:  # only the daemon itself writes; `edged plan` only looks
            with contextlib.suppress(EdgedError):
                self._places.write(ended)
        return ended

    # ------------------------------------------------------------ starting

    async def start(
        self,
        pod: Pod,
        container: Container,
        image: Image,
        material: Material,
        attempt: int,
        crashes: int,
        sandbox: Sandbox,
    ) -> ContainerState:
        """See api.Runtime. An attempt that was started before is not started twice."""
        name = container_id(pod.uid, container.name, attempt)
        known = self.inspect(name)
        if known is not None and known.started_at and known.phase is not ContainerPhase.STARTING:
            return known
        own = environment.resolve_env(pod, container, material)
        args = environment.arguments(container, image, own)
        user = resolve_user(image)
        if known is not None:
            await self.remove(name)
        self._starting.add(name)
        try:
            record = ContainerRecord(
                id=name,
                pod_uid=pod.uid,
                name=container.name,
                attempt=attempt,
                identity=container_identity(pod, container),
                crashes=crashes,
                image_id=image.id,
                cgroup=self._cgroups.path(pod.uid, container.name, attempt),
                pod=pod.title,
                log_half=self._logs.next_half(),
                log_target=pod.log_target,
            )
            try:
                creation = self._lay_out(record, pod, container, image, sandbox, own, args, user)
                await self._bring_up(record, creation)
            except OSError as e:
                raise RetryError(f"{name} can't be started: {e}") from e
        except BaseException:
            with contextlib.suppress(EdgedError):
                await self.remove(name)
            raise
        finally:
            self._starting.discard(name)
        return self.look(self._places.record(name))

    def _lay_out(
        self,
        record: ContainerRecord,
        pod: Pod,
        container: Container,
        image: Image,
        sandbox: Sandbox,
        own: dict[str, str],
        args: Sequence[str],
        user: bundle.User,
    ) -> Creation:
        """The bundle and the writable layer."""
        folder, layer = self._places.container(record.id), self._places.layer(record.id)
        rootfs = folder / "rootfs"
        for made in (rootfs, layer / "upper", layer / "work"):
            made.mkdir(parents=True)
        (layer / "upper").chmod(0o755)  # becomes the container's "/", whatever the daemon's umask is
        self._places.write(record)
        volumes = Volumes(pod, self._places.pod(pod.uid) / "volumes", self._places.scratch(pod.uid) / "volumes")
        inside = volumes.mounts_of(container, folder / "mounts", own)
        taken = {m.path for m in inside.binds}
        hostname = bundle.hostname_of(pod)
        spec = bundle.ContainerSpec(
            args=tuple(args),
            env=environment.full_env(image, hostname, own),
            rootfs=os.fspath(rootfs),
            hostname=hostname,
            netns=sandbox.netns,
            cgroup=record.cgroup,
            limits=container.limits,
            mounts=(*(m for m in sandbox.mounts if m.path not in taken), *inside.binds),
            user=user,
            working_dir=container.working_dir or image.working_dir or "/",
            oom_score_adj=resources.oom_score_adj(pod, container.limits, self._machine.memory_total),
        )
        machine = replace(self._machine, seccomp_bpf=self._crun.compiled(self._machine.seccomp))
        (folder / "config.json").write_bytes(bundle.config_json(spec, machine))
        overlay = mounts.Overlay(image.layers, f"{layer}/upper", f"{layer}/work", os.fspath(rootfs))
        return Creation(
            id=record.id,
            bundle=os.fspath(folder),
            log=os.fspath(self._places.log(record.id)),
            log_bytes=record.log_half,
            contents=(overlay, *inside.staged),
        )

    async def _bring_up(self, record: ContainerRecord, creation: Creation) -> None:
        """Create, watch, write down, start: in this order no end is missed, and half a start never passes for one."""
        self._logs.begin(record)
        pid, conmon = await self._crun.create(creation)
        self._crun.keep_compiled(self._machine.seccomp, record.id)
        record = replace(
            record,
            pid=pid,
            conmon=conmon,
            pipes=monitor.pipe_inodes(pid),
            started_at=time.clock_gettime(time.CLOCK_BOOTTIME),
            started_wall=time.time(),
        )
        try:
            self._watch(record)
        except ProcessLookupError as e:
            raise RetryError(f"{record.id} ended before it was started") from e
        self._places.write(record)
        await self._crun.start(record.id)

    def _watch(self, record: ContainerRecord) -> None:
        name = record.id

        def ended(code: int | None) -> None:
            self._watches.pop(name, None)
            self._logs.end(name)
            if name in self._starting:
                return  # whoever starts it looks for itself
            self._settle(self._places.record(name), code, seen=True)
            if self._on_exit is not None:
                self._on_exit(name)

        def orphaned() -> None:
            if self._on_exit is not None:
                self._on_exit(name)

        conmon = record.conmon if self._is_conmon(record) else 0
        self._watches[name] = monitor.Watch(
            record.pid, conmon, record.pipes, self._logs.writer(record), ended, orphaned
        )

    # ------------------------------------------------------------ ending

    async def stop(self, container: str, reason: str) -> None:
        self._signal(container, signal.SIGTERM, reason)

    async def kill(self, container: str, reason: str) -> None:
        """Its first process is the init of its pid namespace: all others die with it."""
        record = self._signal(container, signal.SIGKILL, reason)
        if record is not None and not self._cgroups.owns(record.cgroup, record.pid):
            self._cgroups.kill(record.cgroup)  # half made
            if self._is_conmon(record) and not self._exit_file(record).exists() and not record.pid:
                await self._end_conmon(record)

    def _signal(self, container: str, number: signal.Signals, reason: str) -> ContainerRecord | None:
        """Write down that it is meant, then send it. None if there is nothing to signal."""
        if not self._places.container(container).is_dir():
            return None
        record = self._places.record(container)
        if record.finished_at:
            return None
        if not record.stop_requested_at:
            record = replace(record, stop_requested_at=time.clock_gettime(time.CLOCK_BOOTTIME), stop_reason=reason)
            self._places.write(record)
        record = self._with_pids(record)
        if self._cgroups.owns(record.cgroup, record.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(record.pid, number)
        return record

    async def remove(self, container: str) -> None:
        """Kill what is left of it and take everything away, the record last; repeatable."""
        folder, layer = self._places.container(container), self._places.layer(container)
        watch = self._watches.pop(container, None)
        if watch is not None:
            watch.bury()
        if not folder.exists() and not layer.exists():
            return
        record = self._with_pids(self._places.record(container))
        await self._cgroups.remove(record.cgroup)
        await self._end_conmon(record)
        self._crun.forget(container)
        self._logs.remove(container)
        await remove_tree(layer)
        shutil.rmtree(folder, ignore_errors=True)
        for empty in (folder.parent, layer.parent):
            with contextlib.suppress(OSError):
                empty.rmdir()

    async def _end_conmon(self, record: ContainerRecord) -> None:
        if not self._is_conmon(record):
            return
        try:
            fd = os.pidfd_open(record.conmon)
        except ProcessLookupError:
            return
        try:
            if self._is_conmon(record):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(record.conmon, signal.SIGKILL)  # a crun that hangs is in its session
            async with asyncio.timeout(KILL_PATIENCE):
                await process.readable(fd)
            process.reap(fd)
        except ProcessLookupError:
            pass
        except TimeoutError as e:
            raise RetryError(f"conmon {record.conmon} of {record.id} does not die within {KILL_PATIENCE:g} s") from e
        finally:
            os.close(fd)

    # ------------------------------------------------------------ exec

    async def exec(self, container: str, command: Sequence[str], timeout: float) -> process.Completed:
        """:raises PermanentError: it does not run; RetryError: the command took too long."""
        state = self.inspect(container)
        if state is None or state.phase is not ContainerPhase.RUNNING:
            raise PermanentError(f"{container} does not run")
        uid, name, attempt = parse_id(container)
        path = self._cgroups.path(uid, name, attempt)
        return await self._crun.exec(
            container,
            command,
            pid_file=self._places.container(container) / f"exec-{time.monotonic_ns()}",
            timeout=timeout,
            owned=lambda pid: self._cgroups.owns(path, pid),
        )


async def remove_tree(folder: Path) -> None:
    """Remove a folder that containers wrote to: of any size, so not in the loop. :raises RetryError: it stays."""
    for below in ("work/work", "work/incompat/volatile", "work/incompat", "work", "upper", ""):
        with contextlib.suppress(OSError):
            (folder / below).rmdir()  # most containers write nothing, and then this is all
    if not folder.exists():
        return
    await process.run(["rm", "-rf", "--one-file-system", "--", os.fspath(folder)], timeout=300.0)


def _ended_state(record: ContainerRecord) -> ContainerState:
    known = record.exit_code is not None
    return record.state(ContainerPhase.EXITED if known else ContainerPhase.UNKNOWN, monitored=True)
