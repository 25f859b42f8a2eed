"""What the commands of `python -m edged.images` do. Arguments are as its parser gives them."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys

import msgspec

from edged.errors import PermanentError
from edged.images import manners, partial
from edged.images import verify as comparing
from edged.images.importer import import_file
from edged.images.platforms import parse_platform
from edged.images.reference import normalise
from edged.images.settings import Job, PullConfig
from edged.images.store import ImageStore
from edged.images.writer import StoreWriter
from edged.model import Image


def import_(args: argparse.Namespace) -> None:
    machine = parse_platform(args.platform) if args.platform else None
    for file in args.files:
        for image in import_file(args.root, file, args.name, machine, waiting=_say_waiting):
            sys.stdout.write(f"imported {image.reference}  {_short(image)}  {_layers(image)}, {_size(image.size)}\n")


def list_(args: argparse.Namespace) -> None:
    store = ImageStore(args.root)
    images = store.list()
    rows = [("REFERENCE", "IMAGE ID", "LAYERS", "SIZE")]
    rows += [(i.reference, _short(i), str(len(i.layers)), _size(i.size)) for i in images]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        sys.stdout.write("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() + "\n")
    for sentence in store.damage:
        sys.stderr.write(f"edged image: {sentence}\n")
    if not store.damage:
        sys.stdout.write(f"on disk: {_size(store.disk_usage())}\n")


def remove(args: argparse.Namespace) -> None:
    store = ImageStore(args.root)
    for reference in args.references:
        before = store.disk_usage()
        with StoreWriter(args.root) as writer:
            writer.remove_image(normalise(reference), args.force)
        sys.stdout.write(f"removed {reference}, {_size(before - store.disk_usage())} freed\n")


def prune(args: argparse.Namespace) -> None:
    """Everything that the job doesn't want, half-fetched layers included; imported images too, since a person asks."""
    if args.job_fd < 0:
        raise PermanentError("what this node's pods need is known to `edged image prune`; use that, or name images")
    wanted = frozenset(_job(args).wanted)
    store = ImageStore(args.root)
    unwanted = [i for i in store.list() if i.reference not in wanted and i.id not in wanted]
    before, half = store.disk_usage(), partial.unwanted_bytes(args.root / "partial", wanted)
    sizes = store.read_index().layers
    kept = {d for d, reference in store.read_index().pending.items() if reference in wanted}
    kept |= {layer for i in store.list() if i not in unwanted for layer in store.layers_of(i.reference)}
    if args.dry_run:
        for image in unwanted:
            sys.stdout.write(f"would remove {image.reference}, {_size(image.size)}\n")
        free = sum(size for layer, size in sizes.items() if layer not in kept) + half
        sys.stdout.write(f"would free {_size(free)}\n")
        return
    half = partial.discard_unwanted(args.root / "partial", wanted)
    with StoreWriter(args.root) as writer:
        for image in unwanted:
            writer.remove_image(image.reference, force=True)
            sys.stdout.write(f"removed {image.reference}\n")
        writer.sweep(wanted)
    sys.stdout.write(f"{_size(before - store.disk_usage() + half)} freed\n")


def collect(args: argparse.Namespace) -> None:
    """The daemon has decided; what is gone already is no error, and what a newer document wants by now stays.
    Half-fetched layers that nobody wants go first: they are the cheapest to do without."""
    wanted = frozenset(_job(args).wanted)
    freed = partial.discard_unwanted(args.root / "partial", wanted)
    store = ImageStore(args.root)
    before = store.disk_usage()
    with StoreWriter(args.root) as writer:
        there = writer.references()
        for reference in args.references:
            if reference in there and reference not in wanted:
                writer.remove_image(reference, force=True)
        writer.sweep(wanted)
    sys.stdout.write(f"{_size(before - store.disk_usage() + freed)} freed\n")


def pull(args: argparse.Namespace) -> None:
    """Each event is one line of JSON on stdout. If nobody reads them any more, the pull still goes on."""
    from edged.images import auth  # TLS and HTTP: 6 MB that the other commands don't need
    from edged.images.events import Event
    from edged.images.pull import pull

    def tell(event: Event) -> None:
        line = words(event) if args.plain else msgspec.json.encode(event).decode()
        if line:
            with contextlib.suppress(OSError):
                os.write(1, f"{line}\n".encode())

    job = _job(args)
    config = PullConfig.read(args.config) if args.config else job.config
    keyring = auth.Keyring(job.secrets, job.docker_config)
    logins = auth.Logins.read(args.auth) if args.auth else keyring
    machine = parse_platform(args.platform) if args.platform else None
    try:
        wanted = frozenset(job.wanted) or None
        pull(args.root, args.reference, config, logins, machine, tell, wanted=wanted)
    except PermanentError as e:
        if complaints := dict.fromkeys(keyring.complaints):
            raise PermanentError(f"{e}; besides, {'; '.join(complaints)}") from e
        raise


def words(event: object) -> str:
    """An event for people; "" for those that are of no interest to them."""
    from edged.images.events import Event

    assert isinstance(event, Event)
    match event.event:
        case "resolved":
            there = f", {_size(event.fetched)} of it here" if event.fetched else ""
            return f"{event.reference}: {event.layers} layers to fetch, {_size(event.total)}{there}"
        case "progress":
            return f"{_size(event.fetched)} of {_size(event.total)}"
        case "verifying" if not event.fetched:
            return "comparing what is here with what it should be"
        case "retry":
            return f"{event.reason}; trying again"
        case "broken":
            return event.reason
        case "done":
            how = "was here" if event.present else f"is here, {_size(event.received)} came over the network"
            return f"{event.reference} {how}"
    return ""


def verify(args: argparse.Namespace) -> None:
    if args.idle:
        manners.be_idle()
    store = ImageStore(args.root)

    def tell(finding: comparing.Finding) -> None:
        if args.parent:
            sys.stdout.write(msgspec.json.encode(finding).decode() + "\n")
            sys.stdout.flush()
        elif finding.event == "broken":
            sys.stdout.write(finding.reason + "\n")
        elif finding.event == "verified":
            sys.stdout.write(f"{finding.layers} layers compared, {_size(finding.fetched)}\n")

    layers = comparing.in_order(store, _job(args).wanted)
    comparing.settle(args.root, [d for d in layers if not args.young or d in store.all_doubtful], tell)


def _job(args: argparse.Namespace) -> Job:
    if args.job_fd < 0:
        return Job()
    with open(args.job_fd, "rb") as file:  # noqa: PTH123 (a descriptor)
        file.seek(0)
        return msgspec.msgpack.decode(file.read(), type=Job)


def _say_waiting() -> None:
    sys.stderr.write("edged image: another import is under way; waiting for it\n")


def _short(image: Image) -> str:
    return image.id.removeprefix("sha256:")[:12]


def _layers(image: Image) -> str:
    return f"{len(image.layers)} layer{'' if len(image.layers) == 1 else 's'}"


def _size(size: int) -> str:
    if size < 1000:
        return f"{size} B"
    value = float(size)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.5 or unit == "TB":
            break
    return f"{value:.1f} {unit}"
