"""`edged image import|list|remove|pull`, and `python -m edged.images` with the same words.

A process of its own: what it loads (tar, zstd, ctypes) never gets into the resident daemon.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edged.errors import PermanentError, RetryError
from edged.images.importer import import_file
from edged.images.platforms import parse_platform
from edged.images.store import ImageStore
from edged.model import Image

DEFAULT_ROOT = Path("/var/lib/edged/images")
TRY_LATER, PERMANENT = 3, 4


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 could not (the reason is on stderr), 2 wrong usage, 130 interrupted.

    `pull` has two in place of 1: 3 try again later (it goes on where it stopped), 4 trying again can't help.
    """
    args = _parser().parse_args(argv)
    try:
        args.do(args)
    except (RetryError, PermanentError) as e:
        sys.stderr.write(f"edged image: {e}\n")
        if args.do is not _pull:
            return 1
        return TRY_LATER if isinstance(e, RetryError) else PERMANENT
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edged image", description="The images that this node has.")
    commands = parser.add_subparsers(required=True, metavar="import|list|remove|pull")

    importing = commands.add_parser("import", help="take images from an OCI layout or a docker save archive")
    importing.add_argument("files", nargs="+", type=Path, metavar="FILE", help="folder, .tar or .tar.gz")
    importing.add_argument("--name", metavar="REF", help="the reference to give, instead of those in FILE")
    importing.add_argument("--platform", metavar="OS/ARCH[/VARIANT]", help="default: this machine's")
    importing.set_defaults(do=_import)

    listing = commands.add_parser("list", help="what is there")
    listing.set_defaults(do=_list)

    removing = commands.add_parser("remove", help="forget images and free what only they used")
    removing.add_argument("references", nargs="+", metavar="REF")
    removing.set_defaults(do=_remove)

    pulling = commands.add_parser("pull", help="fetch an image from its registry; goes on where it was interrupted")
    pulling.add_argument("reference", metavar="REFERENCE")
    pulling.add_argument("--config", type=Path, metavar="FILE", help="mirrors, insecure registries, CA files, as JSON")
    pulling.add_argument("--auth", type=Path, metavar="FILE", help="logins, as docker's config.json")
    pulling.add_argument("--platform", metavar="OS/ARCH[/VARIANT]", help="default: this machine's")
    pulling.set_defaults(do=_pull)

    for command in (importing, listing, removing, pulling):
        command.add_argument("--root", type=Path, default=DEFAULT_ROOT, metavar="DIR", help=f"default: {DEFAULT_ROOT}")
    return parser


def _import(args: argparse.Namespace) -> None:
    machine = parse_platform(args.platform) if args.platform else None
    for file in args.files:
        for image in import_file(args.root, file, args.name, machine, waiting=_say_waiting):
            sys.stdout.write(f"imported {image.reference}  {_short(image)}  {_layers(image)}, {_size(image.size)}\n")


def _list(args: argparse.Namespace) -> None:
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


def _remove(args: argparse.Namespace) -> None:
    store = ImageStore(args.root)
    for reference in args.references:
        before = store.disk_usage()
        store.remove(reference)
        sys.stdout.write(f"removed {reference}, {_size(before - store.disk_usage())} freed\n")


def _pull(args: argparse.Namespace) -> None:
    """Each event is one line of JSON on stdout. If nobody reads them any more, the pull still goes on."""
    from edged.images import auth, registry  # TLS and HTTP: 6 MB that the other commands don't need
    from edged.images.pull import Event, pull

    def tell(event: Event) -> None:
        with contextlib.suppress(OSError):
            os.write(1, msgspec.json.encode(event) + b"\n")

    config = registry.PullConfig.read(args.config) if args.config else registry.PullConfig()
    logins = auth.Logins.read(args.auth) if args.auth else auth.Logins.none()
    machine = parse_platform(args.platform) if args.platform else None
    pull(args.root, args.reference, config, logins, machine, tell)


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


if __name__ == "__main__":
    sys.exit(main())
