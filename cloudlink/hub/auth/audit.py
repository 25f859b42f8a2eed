"""The audit log: who asked what of the hub, when, from where, and what came of it (audit.k8s.io/v1, level Metadata).

    data_dir/audit/audit.log      newest; audit.log.1 the one before it, and so on

One JSON document a line. Bodies are never in it, nor tokens. Requests don't wait for the disk: a thread writes what was
said in the last moments; a hub that is killed loses those (GATHER), a disk that is full loses lines, which are counted.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec

from cloudlink.hub.auth.rbac import Verdict
from cloudlink.hub.auth.requests import Request
from cloudlink.hub.auth.users import User

log = logging.getLogger(__name__)

GATHER = 0.05  # seconds: one write for all that comes within
WAITING = 20_000  # events that wait for the disk at most
AT_ONCE = 64 << 10  # bytes that are written together, or not at all
MAX_URI = 2048  # characters; likewise below: hostile clients don't fill the disk
MAX_AGENT = 256
_SECRET = re.compile(r"([?&][^=&?]*(?:token|secret|password|signature)[^=&?]*=)[^&]*", re.IGNORECASE)

_encode = msgspec.json.Encoder().encode


class Entry(msgspec.Struct):
    """What is known of one request; grows while it is answered.

    :ivar user: None where nobody was recognised.
    :ivar acting: whom `user` asked to be taken for.
    :ivar code: HTTP status; 0 = not answered yet.
    """

    id: str
    received: float
    method: str
    uri: str
    source: str
    agent: str
    request: Request
    user: User | None = None
    acting: User | None = None
    verdict: Verdict | None = None
    code: int = 0
    message: str = ""
    name: str = ""


def document(entry: Entry, stage: str, now: float) -> dict[str, Any]:
    """audit.k8s.io/v1 Event. Pure."""
    status: dict[str, Any] = {"metadata": {}, "code": entry.code}
    if entry.message:
        status |= {"status": "Failure", "message": entry.message}
    event: dict[str, Any] = {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "Metadata",
        "auditID": entry.id,
        "stage": stage,
        "requestURI": without_secrets(entry.uri)[:MAX_URI],
        "verb": entry.request.verb,
        "user": entry.user.info() if entry.user is not None else {},
        "sourceIPs": [entry.source],
        "userAgent": entry.agent[:MAX_AGENT],
        "responseStatus": status,
        "requestReceivedTimestamp": micro_time(entry.received),
        "stageTimestamp": micro_time(now),
    }
    if entry.acting is not None:
        event["impersonatedUser"] = entry.acting.info()
    if entry.request.of_resource:
        event["objectRef"] = _reference(entry)
    if entry.verdict is not None:
        event["annotations"] = {
            "authorization.k8s.io/decision": "allow" if entry.verdict.allowed else "forbid",
            "authorization.k8s.io/reason": entry.verdict.reason,
        }
    return event


def _reference(entry: Entry) -> dict[str, str]:
    r = entry.request
    parts = {
        "resource": r.resource,
        "namespace": r.namespace,
        "name": r.name or entry.name,
        "apiGroup": r.group,
        "apiVersion": r.version,
        "subresource": r.subresource,
    }
    return {key: value[:253] for key, value in parts.items() if value}


def without_secrets(uri: str) -> str:
    """Values of parameters that sound like secrets are left out."""
    return _SECRET.sub(r"\1***", uri) if "=" in uri else uri


def micro_time(seconds: float) -> str:
    """metav1.MicroTime."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# ---------------------------------------------------------------- writing


class Audit(Protocol):
    def tell(self, entry: Entry, stage: str) -> None:
        """Write down what is known now. Never blocks, never raises."""

    def close(self) -> None: ...


class NoAudit:
    """Where nothing is to be written down."""

    def tell(self, entry: Entry, stage: str) -> None:
        pass

    def close(self) -> None:
        pass


class AuditLog:
    """:param most: bytes of one file; then it is put aside.
    :param kept: files in all, the newest among them.
    """

    def __init__(self, file: Path, most: int, kept: int, now: Callable[[], float] = time.time) -> None:
        self._file, self._most, self._kept, self._now = file, most, max(kept, 1), now
        self._waiting: queue.Queue[bytes | None] = queue.Queue(WAITING)
        self._overrun = 0  # events that came faster than the disk takes them; the loop's own number
        self.lost = 0  # events that are in no file
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name="audit log", daemon=True)
        self._thread.start()

    def tell(self, entry: Entry, stage: str) -> None:
        try:
            self._waiting.put_nowait(_encode(document(entry, stage, self._now())) + b"\n")
        except queue.Full:
            self._overrun += 1

    def close(self) -> None:
        """What was told is on disk after this, as far as the disk takes it."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=1.0)
        self._thread.join(timeout=5.0)

    # ------------------------------------------------------------ in the thread

    def _run(self) -> None:
        while True:
            lines = [self._waiting.get()]
            if lines[0] is not None:
                time.sleep(GATHER)
            with contextlib.suppress(queue.Empty):
                while len(lines) < WAITING:
                    lines.append(self._waiting.get_nowait())
            batch = [line for line in lines if line is not None]
            self._write(batch)
            if len(batch) < len(lines):
                return

    def _write(self, lines: list[bytes]) -> None:
        overrun, self._overrun = self._overrun, 0
        self.lost += overrun
        for part in _parts(lines, min(self._most, AT_ONCE)):
            try:
                self._append(b"".join(part))
            except OSError as e:
                self.lost += len(part)
                if not self._trouble:
                    log.error("%s: %s; the hub goes on, its audit log has a gap until this is mended", self._file, e)
                self._trouble = str(e)
            else:
                if self._trouble:
                    log.warning("%s is written again; %d events are lost", self._file, self.lost)
                self._trouble = ""

    def _append(self, content: bytes) -> None:
        """All of it or, as far as we can tell, nothing: half a line would spoil the next one."""
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        size = self._file.stat().st_size if self._file.exists() else 0
        if size and size + len(content) > self._most:
            self._put_aside()
            size = 0
        out = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if os.write(out, content) != len(content):
                raise OSError(errno.ENOSPC, "no room for the whole of it")
        except OSError:
            os.ftruncate(out, size)
            raise
        finally:
            os.close(out)

    def _put_aside(self) -> None:
        """audit.log becomes audit.log.1 and so on; the oldest is overwritten."""
        names = [self._file, *(self._file.with_name(f"{self._file.name}.{n}") for n in range(1, self._kept))]
        if self._kept == 1:
            self._file.unlink()
        for older, newer in reversed(list(zip(names[1:], names[:-1], strict=True))):
            if newer.exists():
                newer.replace(older)


def _parts(lines: Iterable[bytes], most: int) -> Iterator[list[bytes]]:
    """The lines in groups of so many bytes at most; a longer line alone."""
    part: list[bytes] = []
    size = 0
    for line in lines:
        if part and size + len(line) > most:
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line)
    if part:
        yield part
