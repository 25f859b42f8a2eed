"""A card with the node's software on it, before it has joined anything: made once, and copied for each board."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.vm.hardware import Hardware
from tests.vm.image import Image
from tests.vm.node import Node
from tests.vm.powercut.board import Board

# The image has its packages in a plain folder, `current`. Here it becomes a version, and a second one is made of it, so
# that there is always another one to upgrade to. Both read the checkout's own sources.
VERSIONS = """
set -eu
cd /opt/edged
mkdir -p versions bin
install -m 755 src/systemd/edged_version.py bin/edged-version
mv current versions/source-1
cp -a versions/source-1 versions/source-2
touch versions/source-2/.whole versions/source-1/.whole
ln -s versions/source-1 current
"""


def prepare(image: Image, folder: Path, cores: int) -> Image:
    """The same image with a card that has all of it; `folder` is kept by the caller."""
    board = Board(image, folder, Hardware(cores=cores))
    try:
        board.switch_on()
        Node(board, []).install_daemon()
        board.run(VERSIONS, timeout=600.0)
        board.shut_down()
    finally:
        board.cut_power()
    return replace(image, disk=board.card)
