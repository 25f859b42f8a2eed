"""Mount points that an image lacks, in memory: a layer between the image and what the container writes.

crun makes them where they are missing: in the writable layer on the disk, after a copy of each folder on the way. That
is a fifth of all that a start writes there (measured on ext4: 8 KB a folder, once in the journal, once in place).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence

ALWAYS = ("/proc", "/sys", "/dev")  # the runtime mounts there whatever the manifest says
PATHS_LENGTH = 2500  # bytes of all layers' paths that leave room in the one page that overlay takes its options from


def make(layers: Sequence[str], binds: Iterable[tuple[str, str]], folder: str) -> bool:
    """Make in `folder`, which doesn't exist yet, what `layers` (the lowest first) lack of each bind's (source, path).

    :returns: False where nothing was made. What isn't plainly missing (a link on the way, an entry that was deleted by
        a layer above, access lists) is left to crun.
    """
    if sum(map(len, layers)) > PATHS_LENGTH:
        return False
    wanted = [(path, True) for path in ALWAYS] + [(path, os.path.isdir(source)) for source, path in binds]  # noqa: PTH112
    made = False
    for path, is_folder in wanted:
        names = [name for name in path.split("/") if name]
        way = _way(layers, names)
        if way is None:
            continue
        made = True
        os.makedirs(folder, exist_ok=True)  # noqa: PTH103
        at = folder
        for name, like in zip(names, way, strict=False):
            at = f"{at}/{name}"
            if not os.path.isdir(at):  # noqa: PTH112
                _folder(at, like)
        if is_folder:
            os.makedirs(f"{folder}/{'/'.join(names)}", mode=0o755, exist_ok=True)  # noqa: PTH103
        else:
            os.close(os.open(f"{folder}/{'/'.join(names)}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
    return made


def _way(layers: Sequence[str], names: Sequence[str]) -> list[os.stat_result | None] | None:
    """The folders that lead to a missing entry, as the image has them or None; None as a whole where it isn't so."""
    if not names or ".." in names or any(os.path.lexists(f"{layer}/{'/'.join(names)}") for layer in layers):
        return None
    way: list[os.stat_result | None] = []
    for length in range(1, len(names)):
        part = "/".join(names[:length])
        found = next((f"{layer}/{part}" for layer in reversed(layers) if os.path.lexists(f"{layer}/{part}")), "")
        if not found:
            way.append(None)
            continue
        like = os.lstat(found)
        if not stat.S_ISDIR(like.st_mode) or any(not n.startswith("trusted.overlay.") for n in os.listxattr(found)):
            return None
        way.append(like)
    return way


def _folder(path: str, like: os.stat_result | None) -> None:
    os.mkdir(path, 0o755)  # noqa: PTH102
    if like is not None:
        os.chown(path, like.st_uid, like.st_gid)
        os.chmod(path, stat.S_IMODE(like.st_mode))  # noqa: PTH101
