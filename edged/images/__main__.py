"""`edged image import|list|remove|prune|pull|verify`, and `python -m edged.images` with the same words, and one more.

A process of its own: what it loads (tar, zstd, ctypes) never gets into the resident daemon.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from edged.errors import PermanentError, RetryError
from edged.images import commands, manners
from edged.images.space import NoSpaceError

DEFAULT_ROOT = Path("/var/lib/edged/images")
TRY_LATER, PERMANENT, NO_SPACE = 3, 4, 5


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 could not (the reason is on stderr), 2 wrong usage, 130 interrupted.

    `pull`, and whatever works for a daemon (--parent), have three in place of 1: 3 try again later (it goes on where it
    stopped), 4 trying again can't help, 5 there is no space left.
    """
    args = _parser().parse_args(argv)
    try:
        if args.parent:
            manners.serve(args.parent)
        args.do(args)
    except (RetryError, PermanentError) as e:
        sys.stderr.write(f"edged image: {e}\n")
        if args.do is not commands.pull and not args.parent:
            return 1
        if isinstance(e, NoSpaceError):
            return NO_SPACE
        return TRY_LATER if isinstance(e, RetryError) else PERMANENT
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edged image", description="The images that this node has.")
    adding = parser.add_subparsers(required=True, metavar="import|list|remove|prune|pull|verify")

    def command(name: str, do: Callable[[argparse.Namespace], None], about: str) -> argparse.ArgumentParser:
        one: argparse.ArgumentParser = adding.add_parser(name, help=about, description=about)
        one.set_defaults(do=do)
        one.add_argument("--root", type=Path, default=DEFAULT_ROOT, metavar="DIR", help=f"default: {DEFAULT_ROOT}")
        one.add_argument("--job-fd", type=int, default=-1, help=argparse.SUPPRESS)
        one.add_argument("--parent", type=int, default=0, help=argparse.SUPPRESS)
        return one

    importing = command("import", commands.import_, "take images from an OCI layout or a docker save archive")
    importing.add_argument("files", nargs="+", type=Path, metavar="FILE", help="folder, .tar or .tar.gz")
    importing.add_argument("--name", metavar="REF", help="the reference to give, instead of those in FILE")

    command("list", commands.list_, "what is there")

    removing = command("remove", commands.remove, "forget images and free what only they used")
    removing.add_argument("references", nargs="+", metavar="REF")
    removing.add_argument("--force", action="store_true", help="even those that a container runs from")

    pruning = command("prune", commands.prune, "remove every image that no pod of this node needs")
    pruning.add_argument("--dry-run", action="store_true", help="only say what would be removed")

    pulling = command("pull", commands.pull, "fetch an image from its registry; goes on where it was interrupted")
    pulling.add_argument("reference", metavar="REFERENCE")
    pulling.add_argument("--config", type=Path, metavar="FILE", help="mirrors, insecure registries, CA files, as JSON")
    pulling.add_argument("--auth", type=Path, metavar="FILE", help="logins, as docker's config.json")
    pulling.add_argument("--plain", action="store_true", help="say how it goes in words, not as a line of JSON each")

    for one in (importing, pulling):
        one.add_argument("--platform", metavar="OS/ARCH[/VARIANT]", help="default: this machine's")

    collecting = command("collect", commands.collect, "what the daemon asks for when the disk is full")
    collecting.add_argument("references", nargs="*")
    verifying = command("verify", commands.verify, "compare the files of all layers with what they should be")
    verifying.add_argument("--idle", action="store_true", help="only while nobody else wants the disk")
    verifying.add_argument("--young", action="store_true", help="only what must be compared before it is used")
    return parser


if __name__ == "__main__":
    sys.exit(main())
