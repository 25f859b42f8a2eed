"""The roles pass ansible-lint's strictest profile; offline, as it needs nothing but built-in modules and our own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

COLLECTION = Path(__file__).parent.parent / "ansible"
BIN = Path(sys.executable).parent


def run(tmp_path: Path, *command: str) -> str:
    environment = {**os.environ, "HOME": str(tmp_path), "ANSIBLE_HOME": str(tmp_path), "NO_COLOR": "1"}
    environment |= {"PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=COLLECTION, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def test_ansible_lint_finds_nothing_in_its_production_profile(tmp_path: Path) -> None:
    run(tmp_path, str(BIN / "ansible-lint"), "--offline", "--strict")


def test_the_playbook_is_understood_with_the_example_inventory(tmp_path: Path) -> None:
    run(tmp_path, str(BIN / "ansible-playbook"), "--syntax-check", "-i", "inventory.example.yml", "site.yml")
