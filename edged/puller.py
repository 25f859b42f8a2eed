"""Brings images here and takes them away, each time in a process of its own that ends: `python -m edged.images`.

    daemon --- job (memfd: settings, logins) ---> worker, in the cgroup <cgroup_parent>/images: 64 MiB, low weights
           <-- events, a line of JSON each (stdout), the reason of a failure (stderr), exit code

One pull at a time: two would need twice the memory and share the same link. A worker dies with its daemon (prctl(2),
PR_SET_PDEATHSIG); what it had fetched stays, and the next pull goes on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import msgspec

from edged.config import ImagesConfig, NodeConfig
from edged.errors import PermanentError, RetryError
from edged.images.cage import ENTER, Cage
from edged.images.settings import Job, PullConfig, RegistryConfig
from edged.model import Value
from edged.runtime import process

log = logging.getLogger("edged.images")

TRY_LATER, PERMANENT, NO_SPACE = 3, 4, 5  # exit codes of `python -m edged.images`
LONGEST_LINE = 64 << 10  # bytes of one event; a longer one is no event of ours
STDERR_KEPT = 4 << 10  # bytes; the last line is the sentence
LAST_PATIENCE = 5.0  # seconds that a killed worker gets to be gone
AFTER_OOM = 60.0  # seconds; nothing gets better by trying at once
PASSED_ON = ("PATH", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE")

MakeRoom = Callable[[str], Awaitable[bool]]
"""Called with the sentence of a full disk; True if something was removed and trying again makes sense."""


class _News(Value, frozen=True):
    """What is of interest here of a worker's events (edged.images.pull.Event)."""

    event: str
    fetched: int = 0
    total: int = 0
    reason: str = ""
    present: bool = False


async def _no_room(sentence: str) -> bool:
    return False


class ImageWorker:
    """Implements edged.apply.Puller.

    :ivar wanted: references of the last accepted document; what is half-fetched of others goes with the next removal.
    :ivar make_room: asked once before a pull gives up for want of space.
    """

    def __init__(self, config: NodeConfig, cage: Cage | None = None) -> None:
        self._root = os.fspath(config.state / "images")
        self._settings = config.images
        self._cage = cage or Cage(config.cgroup_parent, config.images.memory_limit)
        self._swept = False
        self._one_pull, self._one_removal = asyncio.Lock(), asyncio.Lock()
        self._progress: dict[str, str] = {}
        self.wanted: frozenset[str] = frozenset()
        self.make_room: MakeRoom = _no_room

    @property
    def degraded(self) -> Sequence[str]:
        return self._cage.degraded

    def progress(self) -> Mapping[str, str]:
        """References that are being pulled -> how far it is: "12.3 of 48.0 MB"."""
        return dict(self._progress)

    async def pull(self, reference: str, logins: Sequence[Mapping[str, bytes]]) -> None:
        self._progress[reference] = "waits for another pull"
        try:
            async with self._one_pull:
                self._progress[reference] = "asking the registry"
                job = self._job(logins)
                try:
                    await self._work(["pull", reference], job, lambda news: self._note(reference, news))
                except _NoSpaceError as e:
                    if not await self.make_room(str(e)):
                        raise
                    await self._work(["pull", reference], job, lambda news: self._note(reference, news))
        finally:
            self._progress.pop(reference, None)

    async def remove(self, references: Sequence[str]) -> None:
        """Also deletes what is half-fetched of images that are not wanted (any more)."""
        async with self._one_removal:
            await self._work(["collect", *references], self._job())

    async def verify(self, young: bool = False) -> list[str]:
        """Compare the files of layers with what they should be (edged.images.verify); returns a sentence for each layer
        that is not whole. Those are dropped; a pull fetches them again.

        :param young: only those that must be compared before use; else all, while nobody else wants the disk.
        """
        async with self._one_removal:
            found: list[str] = []

            def note(news: _News) -> None:
                if news.event == "broken":
                    log.warning("%s", news.reason)
                    found.append(news.reason)

            await self._work(["verify", "--young" if young else "--idle"], self._job(), note)
            return found

    # ------------------------------------------------------------ one worker

    def _job(self, logins: Sequence[Mapping[str, bytes]] = ()) -> Job:
        return Job(
            config=pull_config(self._settings),
            docker_config=self._settings.docker_config,
            secrets=tuple(dict(login) for login in logins),
            wanted=tuple(sorted(self.wanted)),
        )

    def _note(self, reference: str, news: _News) -> None:
        if news.event in ("resolved", "progress") and news.total:
            self._progress[reference] = f"{news.fetched / 1e6:.1f} of {news.total / 1e6:.1f} MB"
        elif news.event == "unpacking":
            self._progress[reference] = f"{news.total / 1e6:.1f} MB are here, unpacking"
        elif news.event == "verifying":
            self._progress[reference] = "verifying what is here"
        elif news.event == "retry":
            self._progress[reference] = f"trying again: {news.reason}"

    async def _work(self, words: Sequence[str], job: Job, note: Callable[[_News], None] = lambda _: None) -> None:
        """:raises RetryError, PermanentError: the worker's own sentence."""
        places = self._cage.open()
        if not self._swept:
            self._swept = True
            if killed := self._cage.sweep():
                log.warning("%d image workers of an earlier daemon were still there and are killed", killed)
        kills = self._cage.oom_kills()
        worker = _Worker(self._argv(places, words), job, note)
        code, said = await worker.run(self._settings.patience_seconds)
        if code == 0:
            return
        sentence = said.strip().rpartition("\n")[2].removeprefix("edged image: ") or "it said nothing"
        what = " ".join(words[:2])
        if code == NO_SPACE:
            raise _NoSpaceError(sentence, after=60.0)
        if code == TRY_LATER:
            raise RetryError(sentence, after=5.0)
        if code == PERMANENT:
            raise PermanentError(sentence)
        if code == -signal.SIGKILL and self._cage.oom_kills() > kills:
            limit = self._settings.memory_limit >> 20
            raise RetryError(
                f"image {what} ran out of its {limit} MiB of memory and was killed; images.memory_limit sets more",
                after=AFTER_OOM,
            )
        if code < 0:
            raise RetryError(f"image {what} was killed by signal {-code}", after=5.0)
        raise RetryError(f"image {what} failed: {sentence}", after=60.0)

    def _argv(self, places: Iterable[str], words: Sequence[str]) -> list[str]:
        optimised = [f"-{'O' * sys.flags.optimize}"] if sys.flags.optimize else []
        worker = [sys.executable, *optimised, "-m", "edged.images", words[0], "--root", self._root]
        worker += ["--parent", str(os.getpid()), "--job-fd", "{job}", *words[1:]]
        return [*ENTER, " ".join(places), *worker]


class _NoSpaceError(RetryError):
    pass


class _Worker:
    """One run. `note` gets its events as they come."""

    def __init__(self, argv: Sequence[str], job: Job, note: Callable[[_News], None]) -> None:
        self._argv, self._job, self._note = argv, job, note
        self._loop = asyncio.get_running_loop()
        self._line, self._said = bytearray(), bytearray()
        self._heard = self._loop.time()

    async def run(self, patience: float) -> tuple[int, str]:
        """Until it ends: its exit code (minus the signal that killed it) and what it said on stderr.

        :param patience: seconds without any word from it after which it is killed.
        """
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        job = in_memory(self._job)
        try:
            argv = [word.replace("{job}", str(job)) if word == "{job}" else word for word in self._argv]
            environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
            environment |= {"MALLOC_ARENA_MAX": "2"}  # a few threads; an arena for each would be memory for nothing
            child = process.start(argv, env=environment, files={1: out_write, 2: err_write}, pass_fds=[job])
        except BaseException:
            os.close(out_read)
            os.close(err_read)
            raise
        finally:
            for fd in (out_write, err_write, job):
                os.close(fd)
        try:
            for fd, take in ((out_read, self._take_events), (err_read, self._take_words)):
                os.set_blocking(fd, False)
                self._loop.add_reader(fd, take, fd)
            code = await self._wait(child, patience)
            for fd, take in ((out_read, self._take_events), (err_read, self._take_words)):
                take(fd)
        finally:
            for fd in (out_read, err_read):
                self._loop.remove_reader(fd)
                os.close(fd)
            if child.code is None:
                child.abandon()
        return code, self._said.decode(errors="replace")

    async def _wait(self, child: process.Child, patience: float) -> int:
        while True:
            left = self._heard + patience - self._loop.time()
            if left <= 0:
                child.send(signal.SIGKILL)
                with contextlib.suppress(TimeoutError):  # one that waits for a dead disk can't even die
                    async with asyncio.timeout(LAST_PATIENCE):
                        await child.wait()
                raise RetryError(f"the image worker got nowhere for {patience:g} s and was killed", after=30.0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    return await child.wait()

    def _take_events(self, fd: int) -> None:
        piece = self._read(fd)
        self._line += piece
        *lines, rest = self._line.split(b"\n")
        self._line = bytearray(rest[:LONGEST_LINE])
        for line in lines:
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):  # a word for people
                self._note(msgspec.json.decode(bytes(line), type=_News))

    def _take_words(self, fd: int) -> None:
        self._said += self._read(fd)
        del self._said[:-STDERR_KEPT]

    def _read(self, fd: int) -> bytes:
        try:
            piece = os.read(fd, 64 << 10)
        except BlockingIOError:
            return b""
        if piece:
            self._heard = self._loop.time()
        else:
            self._loop.remove_reader(fd)
        return piece


def in_memory(job: Job) -> int:
    """A descriptor of a file that is in memory, has no name, and is gone with the last of us: a login never touches a
    disk, an argument or a variable (memfd_create(2))."""
    fd = os.memfd_create("edged-image-job", os.MFD_CLOEXEC)
    view = memoryview(msgspec.msgpack.encode(job))
    try:
        while view:
            view = view[os.write(fd, view) :]
    except BaseException:
        os.close(fd)
        raise
    return fd


def pull_config(settings: ImagesConfig) -> PullConfig:
    """The part of the settings that the worker needs."""
    return PullConfig(
        registries={
            name: RegistryConfig(one.mirrors, one.insecure, one.ca) for name, one in settings.registries.items()
        },
        ca=settings.ca,
        stall_seconds=settings.stall_seconds,
        attempts=settings.attempts,
        parallel=settings.parallel,
        partial_bytes=settings.partial_bytes,
    )
