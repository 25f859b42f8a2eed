"""A card with the node's software on it, before it has joined anything: made once, and copied for each board."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.vm.hardware import Hardware
from tests.vm.image import Image
from tests.vm.node import Node
from tests.vm.powercut.board import Board

# The software becomes a version where the image has it in a plain folder, and a second one is made of it, so that there
# is always another one to upgrade to. Both read the checkout's own sources.
VERSIONS = """
set -eu
cd /opt/edged
mkdir -p versions bin
install -m 755 src/systemd/edged_version.py bin/edged-version
if [ ! -L current ]; then
    mv current versions/source
    ln -s versions/source current
fi
touch versions/source/.whole
cp -a versions/source versions/source-2
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
