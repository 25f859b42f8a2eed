"""The second net under a power cut: files are compared with what they should be, and only what is broken goes.

The first net is the order of writing (edged.images.writer): nothing is in the index before it has reached the disk. But
cards acknowledge flushes they have not done, and kernels have had bugs; people then find files of length zero in images
that their runtime believes in. So:

- A layer written in an earlier boot is compared once, before it is used: in the minutes before a cut is where such
  losses happen, and nobody knows how many minutes those were, on a board without a clock that survives. A boot in which
  nothing was pulled leaves nothing to compare, so the usual boot after a power cut waits for nothing.
- All other layers are compared in the background after an unclean boot, with the lowest priority, the ones that pods
  need first: a card may lose old blocks too when it is cut off while it moves them about.

A layer that is not as it was is dropped from the index. Its images don't resolve then, the node pulls them, and a pull
fetches what is missing: that one layer.

Roads not taken. Comparing everything before the first start: 20 pods' images are a gigabyte, half a minute on a card,
for a loss that hardly ever happens. Times and sizes only: a lost block leaves both as they were. fs-verity, dm-verity:
not in every board's kernel, and not on every file system.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

from edged.errors import PermanentError
from edged.images import filelist
from edged.images.store import ImageStore, layer_name
from edged.images.writer import StoreWriter
from edged.model import Value

TELL_BYTES = 16 << 20  # between two words of progress


class Finding(Value, frozen=True, omit_defaults=True):
    """:ivar event: "verifying" (`fetched` bytes so far), "broken" (`reason` says what), or "verified" at the end."""

    event: str
    digest: str = ""
    fetched: int = 0
    reason: str = ""
    layers: int = 0


def settle(root: Path, diff_ids: Iterable[str], tell: Callable[[Finding], None] = lambda _: None) -> frozenset[str]:
    """Compare these layers, in their order, and write down what came of it; returns those that are broken.

    The store is not held meanwhile: this may take long. A layer without a list (of a version that made none) is taken
    at its word.

    :raises RetryError, PermanentError: the index can't be written.
    """
    store = ImageStore(root)
    index = store.read_index()
    wanted, unsettled = [d for d in dict.fromkeys(diff_ids) if d in index.layers], index.unsettled
    whole: dict[str, tuple[int, int]] = {}
    broken: dict[str, tuple[int, int]] = {}
    read = told = 0

    def progress(size: int) -> None:
        nonlocal read, told
        read += size
        if read - told >= TELL_BYTES:
            told = read
            tell(Finding("verifying", fetched=read))

    for diff_id in wanted:
        folder, listing = store.layers / layer_name(diff_id), store.lists / layer_name(diff_id)
        which = _identity(folder)
        if wrong := _wrong(folder, listing, diff_id in unsettled, progress):
            broken[diff_id] = which
            tell(Finding("broken", diff_id, reason=f"layer {diff_id} was damaged on the disk: {wrong}"))
        else:
            whole[diff_id] = which
    tell(Finding("verified", fetched=read, layers=len(wanted)))
    index = store.read_index()
    if not broken and index.unsettled.keys().isdisjoint(whole):
        return frozenset()
    with StoreWriter(root) as writer:
        # Of those that were brought anew or removed in between, nothing is known.
        same = {d for d, which in (whole | broken).items() if _identity(store.layers / layer_name(d)) == which}
        writer.settle(whole.keys() & same, broken.keys() & same)
        return frozenset(broken.keys() & same)


def _wrong(folder: Path, listing: Path, has_list: bool, progress: Callable[[int], None]) -> str:
    if not folder.is_dir():
        return "it is gone"
    if not has_list and not listing.exists():
        return ""
    return filelist.compare(folder, listing, progress)


def in_order(store: ImageStore, wanted: Iterable[str]) -> list[str]:
    """Every layer of the store, those of the `wanted` references first."""
    first = [diff_id for reference in wanted for diff_id in store.layers_of(reference)]
    with contextlib.suppress(PermanentError):
        return list(dict.fromkeys([*first, *store.read_index().layers]))
    return first


def _identity(folder: Path) -> tuple[int, int]:
    """Which folder this is: inode numbers are used again, and soon."""
    try:
        s = folder.stat()
    except OSError:
        return 0, 0
    return s.st_ino, s.st_ctime_ns
