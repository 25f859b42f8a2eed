"""Files and folders of the machine itself that pods name: Kubernetes' hostPath types."""

from __future__ import annotations

import stat
from pathlib import Path

from edged.errors import PermanentError, RetryError

KINDS = {  # that check: what stat() must say
    "Directory": stat.S_ISDIR,
    "DirectoryOrCreate": stat.S_ISDIR,
    "File": stat.S_ISREG,
    "FileOrCreate": stat.S_ISREG,
    "Socket": stat.S_ISSOCK,
    "CharDevice": stat.S_ISCHR,
    "BlockDevice": stat.S_ISBLK,
}


def check_host_path(what: str, path: str, kind: str) -> None:
    """Make it where its type says so, and see that it is what its type says.

    :param what: the volume, for sentences.
    :raises OSError: it can't be made.
    """
    host = Path(path)
    if not host.is_absolute() or ".." in host.parts or "\0" in path:
        raise PermanentError(f"{what}: hostPath {path!r} must be absolute and without '..'")
    if kind and kind not in KINDS:
        raise PermanentError(f"{what}: hostPath type {kind!r} is not one of {', '.join(KINDS)}")
    if kind == "DirectoryOrCreate" and not host.exists():
        host.mkdir(mode=0o755, parents=True)
    elif kind == "FileOrCreate" and not host.exists():
        host.touch(0o644)
    try:
        mode = host.stat().st_mode
    except OSError as e:
        raise RetryError(
            f"{what}: hostPath {path} can't be used: {e.strerror}; make it, or give its type as"
            " DirectoryOrCreate or FileOrCreate",
            after=5.0,
        ) from e
    if kind and not KINDS[kind](mode):
        raise RetryError(f"{what}: hostPath {path} is there, but not a {kind}", after=5.0)
