"""A folder of backups: each named after its fleet and moment, the oldest given up when there are enough.

hub-<fleet>-20261127T101500Z.backup      as archive.backup makes it: whole or not there, mode 0600
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from pathlib import Path

from cloudlink import trust
from edged.errors import PermanentError

MAX_KEPT = 10_000


def file_name(fleet: str, now: float) -> str:
    """:param now: wall clock, seconds."""
    return f"hub-{fleet}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}.backup"


def superseded(names: Collection[str], made: str, fleet: str, keep: int) -> list[str]:
    """Which of a folder's files go, oldest first.

    Never `made`, the one that is certainly good: on a board that woke up in 1970 it looks like the oldest. Nothing that
    `file_name` would not have called so, and nothing of another fleet.

    :param keep: how many stay, `made` among them.
    """
    ours = re.compile(rf"hub-{re.escape(fleet)}-\d{{8}}T\d{{6}}Z\.backup")
    others = sorted(n for n in names if ours.fullmatch(n) and n != made)
    return others[: max(len(others) - (keep - 1), 0)]


def drafts(names: Collection[str], fleet: str) -> list[str]:
    """What a power cut left of backups that were being written (archive writes to `.NAME.PID` first)."""
    ours = re.compile(rf"\.hub-{re.escape(fleet)}-\d{{8}}T\d{{6}}Z\.backup\.\d+")
    return sorted(n for n in names if ours.fullmatch(n))


def tidy(folder: Path, made: str, fleet: str, keep: int) -> list[str]:
    """Remove what is not to be kept; what was removed. Call it only when `made` is on disk.

    :raises PermanentError: the folder can't be changed.
    """
    try:
        names = [entry.name for entry in folder.iterdir()]
        gone = superseded(names, made, fleet, keep)
        for name in (*gone, *drafts(names, fleet)):
            (folder / name).unlink(missing_ok=True)
        trust.sync_folder(folder)
    except OSError as e:
        raise PermanentError(f"can't remove old backups in {folder}: {e.strerror}") from e
    return gone
