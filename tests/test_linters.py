"""Linters are tests: one command, and nobody has to remember a second one."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(p for d in ("edged", "cloudlink") for p in (ROOT / d).rglob("*.py"))
# What brings the house onto machines: scripts and plugins, no packages of ours.
ROAD = sorted(p for d in ("ansible", "images", "systemd", "tools") for p in (ROOT / d).rglob("*.py"))
BIN = Path(sys.executable).parent


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def test_ruff_finds_nothing() -> None:
    run(str(BIN / "ruff"), "check", ".")


def test_the_code_is_formatted() -> None:
    run(str(BIN / "ruff"), "format", "--check", ".")


def test_mypy_strict_finds_nothing() -> None:
    run(sys.executable, "-m", "mypy")


def test_mypy_strict_finds_nothing_in_what_is_flashed_and_built() -> None:
    for names in (["--explicit-package-bases", "images"], ["systemd"], ["tools"]):
        run(sys.executable, "-m", "mypy", "--strict", *names)


def test_the_layers_of_the_house_hold() -> None:
    run(str(BIN / "lint-imports"))


def test_shell_scripts_parse() -> None:
    for script in [ROOT / "tools/setup.sh", ROOT / ".ci/run"]:
        run("bash", "-n", str(script))


LARGER_FOR_A_REASON = {
    "systemd/edged_version.py": "is copied to a board and works there alone, also where every version is broken",
    "ansible/plugins/modules/edged_board.py": "runs on a board by itself, before anything of ours is there",
}


@pytest.mark.parametrize("path", SOURCES + ROAD, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_is_larger_than_400_lines_without_a_written_reason(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400 or path.relative_to(ROOT).as_posix() in LARGER_FOR_A_REASON


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text())
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("path", SOURCES + ROAD, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_function_is_longer_than_60_lines(path: Path) -> None:
    long = [f.name for f in functions(path) if (f.end_lineno or 0) - f.lineno >= 60]
    assert not long


def test_everything_that_grows_is_bounded() -> None:
    """No deque() or Queue() without a size."""
    unbounded = re.compile(r"\b(deque|Queue|SimpleQueue|LifoQueue)\(\s*\)")
    found = [
        f"{p.relative_to(ROOT)}: {line}"
        for p in SOURCES
        for line in p.read_text().splitlines()
        if unbounded.search(line)
    ]
    assert not found


def test_every_package_says_what_it_is_for() -> None:
    for package in [p for p in SOURCES if p.name == "__init__.py"]:
        assert ast.get_docstring(ast.parse(package.read_text())), f"{package.relative_to(ROOT)} has no docstring"


def test_the_deciding_modules_have_no_async_functions() -> None:
    for path in SOURCES:
        if "edged/decide/" in path.as_posix() or "hub/controllers/" in path.as_posix():
            assert not [f.name for f in functions(path) if isinstance(f, ast.AsyncFunctionDef)]


def test_no_unit_test_patches_anything() -> None:
    for path in (ROOT / "tests/unit").rglob("*.py"):
        assert not re.search(r"\bpatch\(|monkeypatch|MagicMock", path.read_text()), path


def test_every_test_name_is_a_sentence() -> None:
    for path in (ROOT / "tests").rglob("test_*.py"):
        names = [f.name for f in functions(path) if f.name.startswith("test_")]
        assert not [n for n in names if n.count("_") < 3], path
