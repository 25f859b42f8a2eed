"""NFS exports as volumes, mounted by mount.nfs(8) of Debian's nfs-common.

A server that doesn't answer makes everything that touches its mount wait, possibly for ever (mounts are `hard`, as in
Kubernetes). So this process never touches one: mounting is a child's work and has a time limit, whether something is
mounted is read from /proc, and unmounting is lazy and a child's work too: the last unmount says farewell to the server
and waits for its answer.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path

from edged.errors import PermanentError, RetryError
from edged.model import NfsMount
from edged.runtime import mounts, process

HELPER = "mount.nfs"
PATIENCE = 30.0  # seconds for a server to answer; the pod waits, the node doesn't
FAREWELL = 5.0  # seconds for a server to answer the last unmount; what is mounted is detached before that
INSTALL = 60.0  # seconds until a missing helper is looked for again
SERVER = re.compile(r"[A-Za-z0-9_\[][A-Za-z0-9_.:%\]-]*")
# nosuid, nodev: as for every other volume. retry=0: mount.nfs would go on trying for two minutes by itself.
OPTIONS = ("nosuid", "nodev", "retry=0")


async def mount(what: str, export: NfsMount, target: Path, helper: str = HELPER) -> None:
    """Mount it at `target` unless something is mounted there.

    :param what: the volume, for sentences.
    :raises RetryError: nfs-common is missing, the server doesn't answer or refuses; with what mount.nfs said.
    :raises PermanentError: server or path can't be meant.
    """
    if not SERVER.fullmatch(export.server):
        raise PermanentError(f"{what}: nfs server {export.server!r} is neither a host name nor an address")
    if not export.path.startswith("/") or "\0" in export.path:
        raise PermanentError(f"{what}: nfs path {export.path!r} must be absolute")
    if any(p.path == os.fspath(target) for p in mounts.mount_points()):
        return
    target.mkdir(parents=True, exist_ok=True)
    if shutil.which(helper, path=process.SAFE_PATH) is None:
        raise RetryError(f"{what} is an nfs export, and {helper} is not here: apt-get install nfs-common", INSTALL)
    server = f"[{export.server}]" if ":" in export.server and "[" not in export.server else export.server
    options = ",".join((*OPTIONS, "ro" if export.read_only else "rw"))
    argv = [helper, f"{server}:{export.path}", os.fspath(target), "-o", options]
    try:
        done = await process.run(argv, timeout=PATIENCE, check=False)
    except RetryError as e:
        raise RetryError(f"{what}: nfs server {export.server} did not answer within {PATIENCE:g} s", 10.0) from e
    if done.code != 0:
        raise RetryError(f"{what} can't be mounted: {done.describe()}", 10.0)


async def unmount_below(folder: Path, kinds: Collection[str] = ("nfs", "nfs4")) -> None:
    """Detach the exports that are mounted below `folder`. :raises RetryError: one stays."""
    top = os.path.realpath(folder)
    there = [p.path for p in mounts.mount_points() if p.fstype in kinds and p.path.startswith(f"{top}/")]
    for path in reversed(there):
        with contextlib.suppress(RetryError):  # it was detached, and goes on saying farewell by itself
            await process.run(["umount", "-i", "-c", "-l", path], timeout=FAREWELL, check=False)
    left = {p.path for p in mounts.mount_points()} & set(there)
    if left:
        raise RetryError(f"{min(left)}, an nfs export, can't be unmounted; is `umount -l` possible by hand?", 10.0)
