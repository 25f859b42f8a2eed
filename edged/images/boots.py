"""Whether the node's last boot ended as it should: <root>/boot.json. Loaded by the daemon, so it is small.

Written once when a boot begins and once when the daemon ends cleanly. Losing it costs one look at files in the
background (edged.images.verify), so nothing is forced to the disk for it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from edged.model import Value


class _Mark(Value, frozen=True):
    """:ivar clean: the daemon has ended cleanly in that boot, and has not been started since.
    :ivar compare: the boot before that one ended otherwise, and not everything has been compared since.
    """

    boot: str = ""
    clean: bool = False
    compare: bool = False


class BootMark:
    """:param boot: id of the boot that this is (edged.images.store.boot_id)."""

    def __init__(self, root: Path, boot: str) -> None:
        self._file, self._boot = root / "boot.json", boot

    def begin(self) -> bool:
        """The daemon starts. True if the files of images should be compared: the boot before this one did not end
        cleanly, or nobody knows how it ended."""
        last = self._read()
        compare = last.compare if last.boot == self._boot else not last.clean or last.compare
        self._write(_Mark(self._boot, False, compare))
        return compare

    def compared(self) -> None:
        """All of them have been."""
        self._write(_Mark(self._boot))

    def end(self) -> None:
        """The daemon ends, and so perhaps the boot."""
        self._write(_Mark(self._boot, True, self._read().compare))

    def _read(self) -> _Mark:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=_Mark)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return _Mark()

    def _write(self, mark: _Mark) -> None:
        if mark == self._read():
            return
        new = self._file.with_suffix(".new")
        with contextlib.suppress(OSError):  # a full disk must not keep a daemon from starting or ending
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            new.write_bytes(msgspec.json.encode(mark))
            new.replace(self._file)
