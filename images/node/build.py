#!/usr/bin/env python3
"""Build the disk image of a node: written to a card as it is, it boots, joins and runs.

    python images/node/build.py --board rpi --output node.img
    python images/node/build.py --board qemu-amd64 --output vm.img --read-only-root --preload demo.tar

Beside FILE.img it writes FILE.vmlinuz, FILE.initrd and FILE.json (what the image is, the kernel's command line,
partitions, SHA-256): what an emulator needs that starts a kernel itself. README.md says what is in an image and how it
gets to a card. Runs as root: it works in a tree with chroot, whose files belong to root.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script: the checkout, not this folder

from images.node import settings
from images.node.boards import BOARDS, RELEASES, Board
from images.node.disks import clamp_times, content_bytes, make_disk
from images.node.furnish import PROJECT, Wanted, furnish
from images.node.layout import Layout, LayoutError, layout, names, parse_size
from images.node.programs import BuildError, missing, run
from images.node.tree import debian, unpack

CACHE = PROJECT / ".cache" / "node-image"
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}


def wheelhouse(board: Board, release: str, folder: Path) -> Path:
    """The daemon with what it needs, for the board."""
    own = PROJECT / ".venv" / "bin" / "python"
    python = os.fspath(own) if own.exists() else sys.executable
    script = os.fspath(PROJECT / "tools" / "wheelhouse.py")
    arguments = ("--arch", board.arch, "--python", PYTHONS[release], "--extra", "dashboard")
    run(python, script, "--output", os.fspath(folder), *arguments)
    return folder


def date_of_image(date_of_tree: int) -> int:
    """Seconds since 1970: SOURCE_DATE_EPOCH, or the newest of what goes in: Debian's archive and our last commit."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is not None:
        if not given.isdigit():
            raise BuildError(f"SOURCE_DATE_EPOCH is {given!r}, not a number of seconds since 1970")
        return int(given)
    command = ("git", "-C", os.fspath(PROJECT), "log", "-1", "--format=%ct")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return max(date_of_tree, int(done.stdout) if done.returncode == 0 else 0)


def build(args: argparse.Namespace) -> dict[str, object]:
    """The image and the files beside it; what FILE.json says."""
    board: Board = BOARDS[args.board]
    output: Path = args.output
    archives = tuple(args.preload)
    for archive in archives:
        if not archive.is_file():
            raise BuildError(f"--preload {archive}: there is no such file; build one with images/build.py")
    tree = debian(board, args.release, CACHE, args.fresh, time.time())
    epoch = date_of_image(tree.epoch)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as name:
        work = Path(name)
        rootfs = tuple(args.rootfs)
        wheels = args.wheels or wheelhouse(board, args.release, work / "wheels")
        wanted = Wanted(board, args.release, args.read_only_root, wheels, archives, rootfs, epoch)
        say(f"unpacking Debian {args.release} of {time.strftime('%Y-%m-%d', time.gmtime(tree.epoch))}")
        unpack(tree, work / "root")
        say("installing the daemon and what is ours")
        parts = furnish(work / "root", wanted, work)
        for folder in parts:
            clamp_times(folder, epoch)
        version = (wheels / "VERSION").read_text().strip()
        own = names(board, args.release, f"{version} {'ro' if args.read_only_root else 'rw'}")
        size = parse_size(args.size) if args.size else None
        plan = layout(board, own.disk, content_bytes(parts.root), content_bytes(parts.data), size)
        say("writing the file systems")
        image = work / "disk.img"
        make_disk(image, plan, own, *parts, epoch)
        about = describe(board, plan, image, json.loads((parts.root / "usr/lib/edged/image.json").read_text()))
        newest = sorted(parts.root.glob("boot/vmlinuz-*"))[-1]
        kernels = {".vmlinuz": newest, ".initrd": newest.with_name(newest.name.replace("vmlinuz", "initrd.img"))}
        for suffix, file in kernels.items():
            shutil.copyfile(file, work / f"x{suffix}")
            (work / f"x{suffix}").replace(output.with_suffix(suffix))
        (work / "about").write_text(json.dumps(about, indent=2) + "\n")
        (work / "about").replace(output.with_suffix(".json"))
        image.replace(output)
    return about


def describe(board: Board, plan: Layout, image: Path, about: dict[str, object]) -> dict[str, object]:
    with image.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    partitions = {name: {"start": p.start, "size": p.size} for name, p in plan._asdict().items() if hasattr(p, "start")}
    arguments = settings.kernel_arguments(board, bool(about["read_only_root"]))
    return about | {"sha256": digest, "size": plan.size, "partitions": partitions, "kernel_arguments": arguments}


def say(sentence: str) -> None:
    print(f"build.py: {sentence}", flush=True)


def options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="images/node/build.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--board", choices=sorted(BOARDS), required=True)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.img")
    parser.add_argument("--release", choices=RELEASES, default="bookworm", help="of Debian (%(default)s)")
    parser.add_argument("--read-only-root", action="store_true", help="only the data partition is written to")
    parser.add_argument("--preload", type=Path, action="append", default=[], metavar="IMAGE.tar", help="workload image")
    parser.add_argument("--size", help="of the whole image, like 4G; default: as small as it can be")
    parser.add_argument("--rootfs", type=Path, action="append", default=[], help="a folder of yours to copy into it")
    parser.add_argument("--wheels", type=Path, help="of tools/wheelhouse.py; default: made from this checkout")
    parser.add_argument("--fresh", action="store_true", help="ask Debian again, however young the tree in .cache is")
    args = parser.parse_args(argv)
    if args.output.suffix != ".img":
        parser.error(f"--output {args.output} must end with .img")
    return args


def main(argv: list[str] | None = None) -> int:
    args = options(argv)
    absent = missing(BOARDS[args.board].arch, platform.machine())
    if absent:
        say(f"needs Debian packages: apt-get install --no-install-recommends {' '.join(absent)}")
        return 1
    if os.geteuid() != 0:
        say("runs as root, since the files in an image belong to root: put sudo in front of it")
        return 1
    started = time.monotonic()
    try:
        about = build(args)
    except (BuildError, LayoutError, OSError) as e:
        say(str(e))
        return 1
    took = time.monotonic() - started
    say(f"{args.output}: edged {about['edged']} for {args.board}, {about['size']} bytes in {took:.0f} s")
    say(f"sha256 {about['sha256']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
