"""The project's own wheel, built from the checkout."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from tools import wheelhouse


def test_the_projects_wheel_is_the_same_to_the_byte_whatever_the_time_and_the_umask(tmp_path: Path) -> None:
    for name, umask in (("one", 0o022), ("two", 0o077)):
        (tmp_path / name).mkdir()
        before = os.umask(umask)
        try:
            wheelhouse.build_own(tmp_path / name)
        finally:
            os.umask(before)
    (one,), (two,) = ((tmp_path / name).glob("*.whl") for name in ("one", "two"))
    assert one.name == two.name
    assert one.read_bytes() == two.read_bytes()


def test_the_projects_wheel_holds_every_module_and_the_pages(tmp_path: Path) -> None:
    names = set(zipfile.ZipFile(wheelhouse.build_own(tmp_path)).namelist())
    wanted = {p.relative_to(wheelhouse.ROOT).as_posix() for p in wheelhouse.sources() if p.suffix in (".py", ".html")}
    assert wanted <= names
    assert wheelhouse.requires(next(tmp_path.glob("*.whl")))
