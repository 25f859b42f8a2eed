"""A folder of files that changes all at once, in Kubernetes' layout (pkg/volume/util/atomic_writer.go):

    <folder>/..2/app.conf           the content, a new folder for each change
    <folder>/..data -> ..2          replaced by rename
    <folder>/app.conf -> ..data/app.conf

Whoever is cut off in between leaves the old content in place, and the next one tidies up.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from edged.runtime.volumes.content import File

GROUP_MAY_READ = 0o440  # as in Kubernetes: the pod's fs_group may read what is its own


def write_files(folder: Path, files: Mapping[str, File], group: int | None = None) -> bool:
    """Make `folder` show exactly these files, all changing at once. False if it does already.

    :param files: relative path -> content. :param group: owns them, and may read them; None = root's, as they are.
    :raises OSError: no room; what was there stays.
    """
    if group is not None:
        files = {path: File(file.content, file.mode | GROUP_MAY_READ) for path, file in files.items()}
    folder.mkdir(parents=True, exist_ok=True)
    _give(folder, group)
    current = folder / "..data"
    shown = current.readlink().name if current.is_symlink() else ""
    others = [n for n in _versions(folder) if n != shown]
    fresh = shown != "" and _read_files(current, group) == dict(files)
    if not fresh:
        newest = max((int(n[2:]) for n in (*others, shown or "..0")), default=0)
        _switch(folder, files, group, f"..{newest + 1}")
        others = [*others, shown] if shown else others
    _link_names(folder, {path.split("/", 1)[0] for path in files})
    for name in others:
        shutil.rmtree(folder / name, ignore_errors=True)
    return not fresh


def _switch(folder: Path, files: Mapping[str, File], group: int | None, version: str) -> None:
    new, link = folder / version, folder / "..data_tmp"
    try:
        new.mkdir(mode=0o755)
        _give(new, group)
        for path, file in files.items():
            target = new / path
            for above in reversed(target.relative_to(new).parents[:-1]):
                (new / above).mkdir(mode=0o755, exist_ok=True)
                _give(new / above, group)
            target.write_bytes(file.content)
            if group is not None:
                os.chown(target, -1, group)
            target.chmod(file.mode)
        link.unlink(missing_ok=True)
        link.symlink_to(version)
        link.rename(folder / "..data")
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        raise


def _give(folder: Path, group: int | None) -> None:
    """Whatever our umask is."""
    if group is not None:
        os.chown(folder, -1, group)
    folder.chmod(0o755 if group is None else 0o2755)


def _versions(folder: Path) -> list[str]:
    return [e.name for e in folder.iterdir() if e.name.startswith("..") and e.name[2:].isdecimal()]


def _link_names(folder: Path, names: set[str]) -> None:
    """The names that users see: one link for each, and none for what is gone."""
    for entry in folder.iterdir():
        if not entry.name.startswith("..") and entry.name not in names:
            entry.unlink(missing_ok=True)
    for name in names:
        with contextlib.suppress(FileExistsError):
            (folder / name).symlink_to(f"..data/{name}")


def _read_files(folder: Path, group: int | None) -> dict[str, File] | None:
    """None if somebody else owns one of them, or it can't be read."""
    found = {}
    try:
        for file in _plain_files(folder):
            seen = file.stat()
            if group is not None and seen.st_gid != group:
                return None
            found[os.fspath(file.relative_to(folder))] = File(file.read_bytes(), stat.S_IMODE(seen.st_mode))
    except OSError:
        return None
    return found


def _plain_files(folder: Path) -> Iterator[Path]:
    """The link ..data itself is followed."""
    for below, _, names in os.walk(os.fspath(folder) + "/"):
        yield from (Path(below) / name for name in names)
