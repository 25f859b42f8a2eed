"""Containers: from a spec to a running process, what is to be seen of it, and its end.

    nothing --record--> STARTING --conmon, crun create, crun start--> RUNNING --> EXITED --remove--> nothing

Whoever dies in between, the record, the pid files, crun's fifo, conmon's exit file and /proc tell where it stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from edged.config import PolicyConfig
from edged.errors import EdgedError, PermanentError, RetryError
from edged.model import Container, ContainerPhase, ContainerState, Image, Material, Pod, container_identity
from edged.runtime import attaching, bundle, inside, last_words, monitor, mounts, process
from edged.runtime.blueprint import Drawing, Sandbox, own_capabilities
from edged.runtime.cgroup import Cgroups, Mode
from edged.runtime.containerlogs import ContainerLogs
from edged.runtime.crun import Creation, Crun
from edged.runtime.given_devices import GivenDevices
from edged.runtime.inside import Inside
from edged.runtime.records import ContainerRecord, Places, container_id, parse_id, read_number
from edged.runtime.sight import Sight
from edged.runtime.stop_signal import stop_signal

__all__ = ["Containers", "Sandbox", "remove_tree"]

KILL_PATIENCE = 10.0  # seconds for killed processes to be gone


class Containers:
    """All containers of one node. Owned by PodRuntime; one loop."""

    def __init__(
        self,
        places: Places,
        cgroups: Cgroups,
        logs: ContainerLogs,
        policy: PolicyConfig,
        devices: GivenDevices,
        crun: Crun | None = None,
    ) -> None:
        self._places = places
        self._cgroups = cgroups
        self._logs = logs
        self._crun = crun or Crun(places.crun, cgroups.hidden)
        self._watches: dict[str, monitor.Watch] = {}
        self._starting: set[str] = set()
        self._on_exit: Callable[[str], None] | None = None
        self._drawing = Drawing(places, self._crun, policy, devices)
        self._sight = Sight(places, cgroups, self._crun, self._starting)

    # ------------------------------------------------------------ life

    def open(self, on_exit: Callable[[str], None]) -> None:
        """Re-attach to everything that runs; touch nothing."""
        self._on_exit = on_exit
        self._sight.writes = True
        with contextlib.suppress(OSError):
            mounts.become_subreaper()
        for folder in (self._places.crun, self._places.logs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            last_words.open_folder(self._places.messages)
        except OSError as e:
            raise RetryError(f"{self._places.messages} can't be made: {e}; edged needs root", after=10.0) from e
        self._logs.open()
        self._drawing.held = own_capabilities()
        self._drawing.machine = bundle.Machine(
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
            swap_space=self._cgroups.swap_space,
        )
        for record in self._places.containers():
            state = self.look(record)
            inside.sweep(self._places.container(record.id), self._processes_of(record.id))
            self._logs.adopt(record, runs=state.pid > 0)
            if state.pid:
                with contextlib.suppress(ProcessLookupError):  # it ends this moment; the next look tells
                    self._watch(self._sight.with_pids(record))

    def close(self) -> None:
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()
        self._logs.close()
        self._on_exit = None
        self._sight.writes = False

    # ------------------------------------------------------------ seeing

    def observe(self, pod_uid: str | None = None) -> Iterator[ContainerState]:
        for record in self._places.containers(pod_uid):
            yield self.look(record)

    def inspect(self, container: str) -> ContainerState | None:
        if not self._places.container(container).is_dir():
            return None
        return self.look(self._places.record(container))

    def look(self, record: ContainerRecord) -> ContainerState:
        return self._sight.look(record)

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
        design = self._drawing.design(pod, container, image, material, sandbox)
        if known is not None:
            await self.remove(name)
        self._starting.add(name)
        try:
            record = self._new_record(name, pod, container, image, attempt, crashes)
            record = replace(record, devices=design.devices)
            try:
                creation = self._drawing.lay_out(record, pod, container, image, sandbox, design)
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

    def _new_record(
        self, name: str, pod: Pod, container: Container, image: Image, attempt: int, crashes: int
    ) -> ContainerRecord:
        return ContainerRecord(
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
            post_started=container.post_start is None,
            pre_stop=container.pre_stop,
            stop_signal=stop_signal(image.stop_signal),
            message_fallback=container.termination_message_fallback,
            sidecar=pod.sidecars.get(container.name, 0),
        )

    async def _bring_up(self, record: ContainerRecord, creation: Creation) -> None:
        """Create, watch, write down, start: in this order no end is missed, and half a start never passes for one."""
        self._logs.begin(record)
        pid, conmon = await self._crun.create(creation)
        self._crun.keep_compiled(creation.seccomp, record.id)
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
            self._sight.settle(self._places.record(name), code, seen=True)
            if self._on_exit is not None:
                self._on_exit(name)

        def orphaned() -> None:
            if self._on_exit is not None:
                self._on_exit(name)

        conmon = record.conmon if self._sight.is_conmon(record) else 0
        self._watches[name] = monitor.Watch(
            record.pid, conmon, record.pipes, self._logs.writer(record), ended, orphaned
        )

    # ------------------------------------------------------------ ending

    async def stop(self, container: str, reason: str) -> None:
        """With a preStop hook only the decision: `ask` comes when that is done."""
        record = self._note_stop(container, reason)
        if record is not None and record.pre_stop is None:
            self._ask(record)

    async def ask(self, container: str) -> None:
        """The stop signal, now that the preStop hook is done."""
        record = self._note_stop(container, "")
        if record is not None:
            self._ask(record)

    def _ask(self, record: ContainerRecord) -> None:
        """Send, then record: whoever is cut in between sends it once more rather than never."""
        self._send(record, record.stop_signal)
        if not record.signalled:
            self._places.write(replace(record, signalled=True))

    async def kill(self, container: str, reason: str) -> None:
        """Its first process is the init of its pid namespace: all others die with it."""
        record = self._note_stop(container, reason)
        if record is not None:
            record = self._send(record, signal.SIGKILL)
        if record is not None and not self._cgroups.owns(record.cgroup, record.pid):
            self._cgroups.kill(record.cgroup)  # half made
            if self._sight.is_conmon(record) and not self._sight.exit_file(record).exists() and not record.pid:
                await self._end_conmon(record)

    def _note_stop(self, container: str, reason: str) -> ContainerRecord | None:
        """Write down that its end is meant. None if there is nothing that could end."""
        if not self._places.container(container).is_dir():
            return None
        record = self._places.record(container)
        if record.finished_at:
            return None
        if not record.stop_requested_at:
            record = replace(record, stop_requested_at=time.clock_gettime(time.CLOCK_BOOTTIME), stop_reason=reason)
            self._places.write(record)
        return record

    def _send(self, record: ContainerRecord, number: int) -> ContainerRecord:
        found = self._sight.with_pids(record)
        if self._cgroups.owns(found.cgroup, found.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(found.pid, number)
        return found

    def note_post_started(self, container: str) -> None:
        """Nothing, where it is gone by now."""
        if not self._places.container(container).is_dir():
            return
        record = self._places.record(container)
        if not record.post_started:
            self._places.write(replace(record, post_started=True))

    async def remove(self, container: str) -> None:
        """Kill what is left of it and take everything away, the record last; repeatable."""
        folder, layer = self._places.container(container), self._places.layer(container)
        watch = self._watches.pop(container, None)
        if watch is not None:
            watch.bury()
        if not folder.exists() and not layer.exists():
            return
        record = self._sight.with_pids(self._places.record(container))
        await self._cgroups.remove(record.cgroup)
        await self._end_conmon(record)
        self._crun.forget(container)
        self._logs.remove(container)
        last_words.forget(self._places.message(container))
        await remove_tree(layer)
        shutil.rmtree(folder, ignore_errors=True)
        for empty in (folder.parent, layer.parent):
            with contextlib.suppress(OSError):
                empty.rmdir()

    async def _end_conmon(self, record: ContainerRecord) -> None:
        if not self._sight.is_conmon(record):
            return
        try:
            fd = os.pidfd_open(record.conmon)
        except ProcessLookupError:
            return
        try:
            if self._sight.is_conmon(record):
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
        self._check_runs(container)
        return await self._crun.exec(
            container,
            self._process_json(container, command),
            pid_file=self._places.container(container) / f"exec-{time.monotonic_ns()}",
            timeout=timeout,
            owned=self._owner(container),
        )

    @contextlib.asynccontextmanager
    async def enter(self, container: str, command: tuple[str, ...], wanted: inside.Wanted) -> AsyncIterator[Inside]:
        """A command that is talked to while it runs; it doesn't outlive the context.

        :raises PermanentError: the container does not run, or there is no command.
        """
        inside.check_command(command)
        self._check_runs(container)
        file = self._places.container(container) / f"exec-{time.monotonic_ns()}.pid"
        it = Inside(file, self._processes_of(container))
        try:
            await it.start(self._crun, container, self._process_json(container, command, wanted.tty), wanted)
            yield it
        finally:
            await asyncio.shield(asyncio.ensure_future(it.end()))

    def attach(self, container: str) -> socket.socket:
        """A connection to its conmon (packets, see edged.runtime.attaching). :raises PermanentError: it has none."""
        self._check_runs(container)
        return attaching.connect(self._places.container(container), container)

    def terminal_control(self, container: str) -> Path:
        """conmon's fifo for the size of the terminal of a container that has one."""
        return self._places.container(container) / "ctl"

    def _check_runs(self, container: str) -> None:
        state = self.inspect(container)
        if state is None or state.phase is not ContainerPhase.RUNNING:
            raise PermanentError(f"{container} does not run")

    def _owner(self, container: str) -> Callable[[int], bool]:
        """Whether a pid is this container's own."""
        path = self._cgroups.path(*parse_id(container))
        return lambda pid: self._cgroups.owns(path, pid)

    def _processes_of(self, container: str) -> Callable[[], set[int]]:
        return functools.partial(self._cgroups.processes, self._cgroups.path(*parse_id(container)))

    def _process_json(self, container: str, command: Sequence[str], terminal: bool = False) -> bytes:
        try:
            config = (self._places.container(container) / "config.json").read_bytes()
        except OSError as e:
            raise PermanentError(f"{container} can't be entered: its config.json: {e.strerror}") from e
        return bundle.process_json(config, command, terminal)


async def remove_tree(folder: Path) -> None:
    """Remove a folder that containers wrote to: of any size, so not in the loop. :raises RetryError: it stays."""
    for below in ("work/work", "work/incompat/volatile", "work/incompat", "work", "upper", ""):
        with contextlib.suppress(OSError):
            (folder / below).rmdir()  # most containers write nothing, and then this is all
    if not folder.exists():
        return
    await process.run(["rm", "-rf", "--one-file-system", "--", os.fspath(folder)], timeout=300.0)
