"""What systemd-analyze says of our units, and which of their lines nobody has explained."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

SYSTEMD = Path(__file__).parent.parent / "systemd"


def analyze(*words: str) -> str:
    """All that it says; fails where it finds something, and where it isn't installed."""
    program = shutil.which("systemd-analyze")
    assert program is not None, "NOTHING WAS CHECKED: systemd-analyze is missing here; apt-get install systemd"
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def exposure(unit: str) -> tuple[float, str]:
    """systemd-analyze's score, 0 (safe) to 10, and the table that it comes from."""
    told = analyze("security", "--offline=true", "--no-pager", str(SYSTEMD / unit))
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", told)
    assert found, told
    return float(found[1]), told


def unexplained(unit: str, obvious: tuple[str, ...]) -> list[str]:
    """Settings in blocks that no comment stands before; what only says who and what it is needs none."""
    explained, bare = False, []
    for line in (SYSTEMD / unit).read_text().splitlines():
        if line.startswith("#"):
            explained = True
        elif not line or line.startswith("["):
            explained = False
        elif not explained and not line.startswith(obvious):
            bare.append(line)
    return bare
