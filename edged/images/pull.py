"""Pulls one image into the store. Runs in a process of its own that ends: `python -m edged.images pull`.

Layers are fetched several at a time into <root>/partial (edged.images.partial) without holding the store; whoever
imports or removes images meanwhile doesn't wait for a slow link. The store is entered for the time it takes to unpack
what is there. A layer is parsed only after its digest has been verified. What is in memory is a few buffers of 256 KiB
for each layer under way, whatever the image's size.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import queue
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edged.errors import EdgedError, PermanentError, RetryError
from edged.images import auth, filelist, oci, partial, platforms, space, verify
from edged.images.events import Event, Teller
from edged.images.fetch import Fetcher, Retrying
from edged.images.layerstream import LayerStream
from edged.images.partial import Partial
from edged.images.reference import Reference, parse
from edged.images.registry import endpoints
from edged.images.settings import PullConfig
from edged.images.store import ImageStore, layer_name
from edged.images.transport import Transport
from edged.images.unpack import Bounds, unpack_layer
from edged.images.wanted import Heads, Layer, Wanted, find
from edged.images.writer import StoreWriter
from edged.model import Image

LONGEST_BATCH = 20.0  # seconds of unpacking; then what there is is kept, whatever else has arrived
MOST_ROUNDS = 3  # how often layers may vanish under our hands (somebody else swept) before "later" is the answer


Arrived = tuple[Layer, Partial | BaseException | None]


def pull(
    root: Path,
    text: str,
    config: PullConfig | None = None,
    logins: auth.Keys | None = None,
    machine: oci.Platform | None = None,
    tell: Callable[[Event], None] = lambda _: None,
    bounds: Bounds | None = None,
    wanted: frozenset[str] | None = None,
) -> Image:
    """Bring `text`, a reference in any form, into the store at `root`; returns the image.

    :param wanted: references whose pulls may still come to their end; layers that came for others go. None = all may.
    :param tell: called for each noteworthy change, from any thread, one call at a time.
    :raises RetryError: the network or the disk; what has come is kept, and the next call goes on from there.
    :raises PermanentError: there is no such image for this machine, or we may not have it, or it is malformed.
    """
    one = _Pull(root, parse(text), config or PullConfig(), logins or auth.Logins.none(), machine, tell, bounds)
    return one.run(wanted)


@dataclass(frozen=True)
class _Unpacked:
    """A layer in a scratch folder, or in none if it was in the store already. `size`: bytes of its files."""

    layer: Layer
    file: Partial
    folder: Path | None
    size: int


class _Pull:
    def __init__(
        self,
        root: Path,
        reference: Reference,
        config: PullConfig,
        logins: auth.Keys,
        machine: oci.Platform | None,
        tell: Callable[[Event], None],
        bounds: Bounds | None,
    ) -> None:
        self._reference, self._config, self._bounds = reference, config, bounds or Bounds()
        self._machine = machine or platforms.this_machine()
        self._store = ImageStore(root)
        self._folder = self._store.root / "partial"
        self._heads = Heads(self._store.root)
        self._what = f"image {reference}"
        self._cancelled, self._hurry = threading.Event(), threading.Event()  # end at once; begin nothing new
        self._threads: list[threading.Thread] = []
        self._files: list[Partial] = []
        self._left = 0  # layers that no answer has come for
        self._later: RetryError | None = None
        self._ready = queue.SimpleQueue[Arrived]()
        self._teller = Teller(tell)
        self._transport = Transport(config.stall_seconds)
        self._fetcher = Fetcher(
            endpoints(reference, config, logins, self._transport), config, self._cancelled, self._tell_retry
        )

    def run(self, others: frozenset[str] | None) -> Image:
        try:
            return self._run(str(self._reference), others)
        except OSError as e:
            raise space.disk_error(self._folder, e) from e
        finally:
            self._end()

    def _run(self, name: str, others: frozenset[str] | None) -> Image:
        if self._compare(self._store.layers_of(name)):
            image = self._store.resolve(name)
            if image is not None:  # it was here all along: after a power cut nobody is asked for permission to go on
                return self._done(image, present=True)
        image = self._store.resolve(name)
        if image is not None and self._is_current(name):
            return self._done(image, present=True)
        wanted = find(self._fetcher, self._reference, self._machine, self._bounds.total_bytes)
        self._compare(wanted.diff_ids)
        present = image is not None and self._manifest_of(name) == oci.digest_of(wanted.manifest)
        self._store.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        with (self._folder / "pulls").open("wb") as pulls:
            fcntl.flock(pulls, fcntl.LOCK_SH)
            if not present:
                self._bring(name, wanted)
            self._tidy(wanted, pulls, others)
        self._remember(name, wanted)
        image = self._store.resolve(name)
        if image is None:
            raise RetryError(f"{self._what} was pulled, but is gone again; somebody removed it")
        return self._done(image, present)

    # ------------------------------------------------------------ what is here

    def _compare(self, diff_ids: Sequence[str]) -> bool:
        """Look at those layers that an earlier boot wrote and nobody has looked at since; whether there were any."""
        doubtful = [d for d in dict.fromkeys(diff_ids) if d in self._store.all_doubtful]
        if doubtful:
            self._teller.say(Event("verifying", layers=len(doubtful)))
            verify.settle(self._store.root, doubtful, self._tell_finding)
        return bool(doubtful)

    def _is_current(self, name: str) -> bool:
        """Whether the reference still points to what has its name here: one HEAD, or for a digest nothing at all.

        Only what a pull has brought and tidied up after counts; the rest is looked at more closely.
        """
        tag, manifest = self._reference.tag, self._manifest_of(name)
        known = self._heads.get(name, manifest, self._machine)
        if not tag:
            return self._reference.digest in (manifest, known)
        return bool(known) and self._fetcher.ask(str(self._reference), lambda e: e.head_manifest(tag)) == known

    def _manifest_of(self, name: str) -> str:
        entry = self._store.read_index().images.get(name)
        return entry.manifest if entry else ""

    def _remember(self, name: str, wanted: Wanted) -> None:
        known = frozenset(self._store.read_index().images)
        self._heads.put(name, oci.digest_of(wanted.manifest), self._machine, wanted.head, known)

    # ------------------------------------------------------------ fetch and unpack

    def _bring(self, name: str, wanted: Wanted) -> None:
        for _ in range(MOST_ROUNDS):
            self._bring_layers(name, wanted)
            with StoreWriter(self._store.root) as writer:
                if all(map(writer.has_layer, wanted.diff_ids)):
                    writer.add_image(name, wanted.manifest, wanted.config, wanted.diff_ids)
                    return
        raise RetryError(f"{self._what}: its layers are removed again and again while it is pulled", 30.0)

    def _tidy(self, wanted: Wanted, pulls: IO[bytes], others: frozenset[str] | None) -> None:
        """Delete what no image needs any more; also what a pull left that was cut between naming and tidying."""
        partial.discard(self._folder, frozenset(layer.descriptor.digest for layer in wanted.layers))
        with contextlib.suppress(BlockingIOError):  # the layers of other pulls belong to no image yet
            fcntl.flock(pulls, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with StoreWriter(self._store.root) as writer:
                writer.sweep(others)

    def _bring_layers(self, name: str, wanted: Wanted) -> None:
        """Fetch and unpack what is missing.

        Where one layer has to wait for later, those under way still go on for as long as bytes come, and are kept.
        """
        missing = self._missing(wanted)
        partial.sweep(self._folder, frozenset(m.descriptor.digest for m in missing), self._config.partial_bytes)
        self._announce(name, wanted, missing)
        todo = queue.SimpleQueue[Layer]()
        for layer in missing:
            todo.put(layer)
        for number in range(min(self._config.parallel, len(missing))):
            thread = threading.Thread(target=self._fetch_all, args=(todo,), name=f"fetch-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)
        self._left = len(missing)
        while self._left:
            if batch := self._receive(wait=True):
                self._unpack_all(batch)
        if self._later is not None:
            raise self._later

    def _receive(self, wait: bool) -> list[tuple[Layer, Partial]]:
        """The layers that have been fetched and wait to be unpacked; the first one is waited for, if so wanted."""
        arrived = [self._ready.get()] if wait else []
        with contextlib.suppress(queue.Empty):
            while True:
                arrived.append(self._ready.get_nowait())
        self._left -= len(arrived)
        batch = []
        for layer, result in arrived:
            if isinstance(result, RetryError):
                self._later = self._later or result
                self._hurry.set()
            elif isinstance(result, BaseException):
                raise result
            elif result is not None:
                batch.append((layer, result))
        return batch

    def _unpack_all(self, batch: list[tuple[Layer, Partial]]) -> None:
        """Unpack, and go on with what arrives meanwhile: forcing it all to the disk once is far cheaper than each."""
        failed: EdgedError | None = None
        done: list[_Unpacked] = []
        until = time.monotonic() + LONGEST_BATCH
        with StoreWriter(self._store.root) as writer:
            try:
                while batch:
                    done += [self._unpack(writer, layer, file) for layer, file in batch]
                    batch = self._receive(wait=False) if self._left and time.monotonic() < until else []
            except EdgedError as e:
                failed = e  # raised in here, it would make the writer sweep, and other pulls lose their layers
            for unpacked in done:
                self._keep(writer, unpacked)
        if failed is not None:
            raise failed

    def _missing(self, wanted: Wanted) -> list[Layer]:
        """Layers to fetch, each once, the largest first so that no thread is left alone with it at the end."""
        missing = {layer.diff_id: layer for layer in wanted.layers if not self._is_here(layer)}
        by_blob = {layer.descriptor.digest: layer for layer in missing.values()}
        if len(by_blob) != len(missing):
            raise PermanentError(f"{self._what}: its config says that one layer unpacks to different things")
        return sorted(missing.values(), key=lambda layer: -layer.descriptor.size)

    def _is_here(self, layer: Layer) -> bool:
        listed = layer.diff_id in self._store.read_index().layers
        return listed and (self._store.layers / layer_name(layer.diff_id)).is_dir()

    def _announce(self, name: str, wanted: Wanted, missing: list[Layer]) -> None:
        total, fetched = sum(layer.descriptor.size for layer in missing), 0
        for layer in missing:
            with contextlib.suppress(OSError):
                size = (self._folder / layer.descriptor.digest.removeprefix("sha256:")).stat().st_size
                fetched += min(size, layer.descriptor.size)
        if missing:
            space.require_space(self._store.root, total - fetched)
        self._teller.say(
            Event(
                "resolved",
                name,
                digest=oci.digest_of(wanted.manifest),
                layers=len(missing),
                fetched=fetched,
                total=total,
            )
        )
        self._teller.begin(total)  # what is here is counted as the files are opened

    def _fetch_all(self, todo: queue.SimpleQueue[Layer]) -> None:
        """One thread: layer after layer, until none is left. Every layer gets an answer."""
        while True:
            try:
                layer = todo.get_nowait()
            except queue.Empty:
                return
            try:
                if self._hurry.is_set():
                    raise RetryError(f"{self._what}: not begun, since others fail")
                self._ready.put((layer, self._fetch(layer)))
            except OSError as e:
                self._ready.put((layer, space.disk_error(self._folder, e)))
            except BaseException as e:  # noqa: BLE001 - the main thread raises it
                self._ready.put((layer, e))

    def _end(self) -> None:
        """Whatever happened: no thread, no open file, no lock stays."""
        self._cancelled.set()
        self._transport.abort()
        for thread in self._threads:
            thread.join(10.0)
        self._transport.close()
        for file in self._files:
            file.close()

    def _fetch(self, layer: Layer) -> Partial | None:
        """The whole layer, verified and locked; None if another pull has brought it while we waited for the lock."""
        descriptor = layer.descriptor
        name = str(self._reference)
        file = Partial(self._folder, descriptor.digest, descriptor.size, self._cancelled, name)
        self._files.append(file)
        if self._is_here(layer):
            file.delete()
            file.close()
            self._teller.fetched(descriptor.size)
            return None
        counted = file.length

        def progress() -> None:
            nonlocal counted
            self._teller.fetched(file.length - counted)
            counted = file.length

        try:
            self._teller.fetched(counted)
            self._fetcher.layer(file, f"layer {descriptor.digest}", progress)
        except BaseException:
            file.close()
            raise
        return file

    def _unpack(self, writer: StoreWriter, layer: Layer, file: Partial) -> _Unpacked:
        """Into a folder where nobody sees it; the first that is then kept brings all others to the disk with it."""
        folder, size = None, 0
        if not writer.has_layer(layer.diff_id):
            folder = writer.scratch()
            try:
                size = self._unpack_into(folder, layer, file)
            except EdgedError as e:
                shutil.rmtree(folder)  # the space may be what those that are unpacked already still need
                if isinstance(e, PermanentError):
                    file.delete()  # it has its digest, so fetching it again would bring the same
                raise
        if not file.noted:
            file.drop_content()  # fetched within seconds: not worth writing to flash, even if power fails now
        return _Unpacked(layer, file, folder, size)

    def _unpack_into(self, folder: Path, layer: Layer, file: Partial) -> int:
        with file.path.open("rb") as blob:
            stream = LayerStream(
                blob,
                digest=layer.descriptor.digest,
                size=layer.descriptor.size,
                diff_id=layer.diff_id,
                limit=self._bounds.total_bytes,
                what=f"{self._what}: layer {layer.descriptor.digest}",
                progress=lambda: self._teller.unpacking(layer.descriptor.digest),
            )
            return unpack_layer(stream, folder, self._bounds)

    def _keep(self, writer: StoreWriter, unpacked: _Unpacked) -> None:
        if unpacked.folder is not None:
            take = functools.partial(_move, unpacked.folder, unpacked.size)
            writer.add_layer(unpacked.layer.diff_id, take, str(self._reference))
        unpacked.file.delete()
        unpacked.file.close()
        self._teller.say(Event("unpacked", digest=unpacked.layer.descriptor.digest))

    # ------------------------------------------------------------ news

    def _tell_finding(self, news: verify.Finding) -> None:
        if news.event != "verified":
            self._teller.say(Event(news.event, digest=news.digest, fetched=news.fetched, reason=news.reason))

    def _tell_retry(self, news: Retrying) -> None:
        self._teller.say(Event("retry", digest=news.what, reason=news.reason, after=news.after))

    def _done(self, image: Image, present: bool) -> Image:
        self._teller.say(
            Event("done", image.reference, image=image.id, received=self._fetcher.received, present=present)
        )
        return image


def _move(folder: Path, size: int, target: Path) -> int:
    folder.rename(target)  # over the empty folder that is there
    filelist.beside(folder).rename(filelist.beside(target))
    return size
