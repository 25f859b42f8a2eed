"""What a full or failing disk means, in one place: the errors, the sentence, and the look before the leap."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from edged.errors import EdgedError, PermanentError, RetryError

MOST_RESERVE = 64 << 20  # bytes a fetch leaves free on the disk; on a small one a 20th of it
AFTER = 60.0  # seconds; a disk doesn't get emptier by itself
FULL = (errno.ENOSPC, errno.EDQUOT)
PASSING = (*FULL, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE)  # what may be gone at the next try


class DiskError(RetryError):
    """The disk is full or failing: asking the network again would not help."""


class NoSpaceError(DiskError):
    """It is full: removing something would help."""


def require_space(folder: Path, wanted: int) -> None:
    """:param wanted: further bytes that are about to be written.
    :raises NoSpaceError: they would leave less free than the node needs to live."""
    s = os.statvfs(folder)
    free, reserve = s.f_bavail * s.f_frsize, min(MOST_RESERVE, s.f_blocks * s.f_frsize // 20)
    if free - wanted < reserve:
        raise NoSpaceError(
            f"no space left: needs {wanted / 1e6:.1f} MB besides a reserve of {reserve / 1e6:.1f} MB, {free / 1e6:.1f} "
            f"MB free on {folder}; remove images (edged image prune) or give it a larger disk",
            AFTER,
        )


def disk_error(path: Path, e: OSError) -> EdgedError:
    """:param path: what was to be written."""
    if e.errno in FULL:
        return NoSpaceError(
            f"no space left: needs more than the {_free(path)} free on {path}; remove images (edged image prune) or "
            "give it a larger disk",
            AFTER,
        )
    sentence = f"cannot write {path}: {e.strerror}"
    return DiskError(sentence, AFTER) if e.errno in PASSING else PermanentError(sentence)


def _free(path: Path) -> str:
    for place in (path, *path.parents):
        try:
            s = os.statvfs(place)
        except OSError:
            continue
        return f"{s.f_bavail * s.f_frsize / 1e6:.1f} MB"
    return "nothing known to be"
