"""Machines that end with what they were made for, whatever happened; where it failed, their consoles stay."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm import image
from tests.vm.hardware import Hardware
from tests.vm.image import Image
from tests.vm.machine import Machine

NOTES = pytest.StashKey[list[str]]()


def notes_of(request: pytest.FixtureRequest) -> list[str]:
    """Sentences with measured numbers, printed at the end of the run."""
    return request.config.stash[NOTES]


@contextlib.contextmanager
def a_machine(
    request: pytest.FixtureRequest, base: Image | None = None, hardware: Hardware | None = None, name: str = "vm"
) -> Iterator[Machine]:
    """A machine that is not switched on yet. For a fixture of any scope.

    :param base: None = the node image. :param name: for its folder, which is named in the notes where a test failed.
    """
    missing = image.missing_tools()
    assert not missing, f"needs Debian packages: apt-get install --no-install-recommends {' '.join(missing)}"
    folder = Path(tempfile.mkdtemp(prefix=f"edged-{name}-"))
    failed = request.session.testsfailed
    machine = None
    try:
        machine = Machine(base or image.build(), folder, hardware)
        yield machine
    finally:
        if machine is not None:
            machine.cut_power()
        if request.session.testsfailed == failed:
            shutil.rmtree(folder)
        else:
            for disk in folder.glob("*.qcow2"):
                disk.unlink()
            notes_of(request).append(f"console of {name}: {folder}/console.log")
