"""The daemon's byte code is compiled once for each version."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
COMPILE = "from edged import bytecode; bytecode.compile_first({config!r}, '')"


def compile_first(tmp_path: Path, config: Path) -> list[Path]:
    """The caches' files after it."""
    script = COMPILE.format(config=str(config))
    env = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": ""}
    subprocess.run([sys.executable, "-OO", "-c", script], cwd=CHECKOUT, env=env, check=True)
    return sorted((tmp_path / "cache").rglob("*edged/*"))


def test_byte_code_is_compiled_by_a_process_that_ends_and_only_once(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text('name = "n"\n')
    first = compile_first(tmp_path, config)
    assert any(file.name.startswith("daemon.") for file in first)
    (stamp,) = (file for file in first if file.suffix == ".stamp")
    daemon = next(file for file in first if file.name.startswith("daemon."))
    daemon.unlink()  # the stamp says that it is there, so nobody looks
    assert daemon not in compile_first(tmp_path, config)
    stamp.write_text("of another version")
    assert daemon in compile_first(tmp_path, config)


def test_a_settings_file_that_can_not_be_read_is_left_to_whoever_needs_it(tmp_path: Path) -> None:
    assert compile_first(tmp_path, tmp_path / "missing") is not None
