"""The same contract with cgroup v2 alone: on a hybrid machine in a mount namespace that has nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edged.runtime.cgroup import Cgroups, Mode

ROOT = Path(__file__).parents[2]
INSIDE = 'umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'


@pytest.mark.root
def test_the_contract_holds_on_cgroup_v2_too() -> None:
    if Cgroups("edged").mode is Mode.UNIFIED:
        return  # then test_runtime_contract has shown it
    contract = Path(__file__).with_name("test_runtime_contract.py")
    # usage needs the memory controller, which a hybrid machine has given to v1
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(contract), "-k", "real and not usage"]
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", INSIDE, "sh", *tests],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
