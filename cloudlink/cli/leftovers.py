"""What is still there of a demo: found by its own folder's path, so that nothing of anybody else's is touched."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import psutil


def processes(folder: Path) -> dict[int, str]:
    """Pid -> command line of every process that names `folder` in it, except ourselves and our parents.

    Also by its relative name, where the process was started beside it (a hub restarted by hand, say).
    """
    ourselves = psutil.Process()
    mine = {ourselves.pid, *(p.pid for p in ourselves.parents())}
    found = {}
    for process in psutil.process_iter():
        try:
            words, place = process.cmdline(), process.cwd()
        except (psutil.Error, OSError):  # it ends this moment: psutil lets the kernel's own words through
            continue
        line = " ".join(words)
        beside = place == os.fspath(folder.parent)
        relative = beside and any(w.removeprefix("./").startswith(f"{folder.name}/") for w in words)
        if process.pid not in mine and (f"{folder}/" in f"{line} " or relative):
            found[process.pid] = line
    return found


def end(pids: list[int], patience: float = 5.0) -> None:
    """SIGTERM, wait, SIGKILL what is left, wait."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    for number, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        _, found = psutil.wait_procs(found, timeout=wait)


def alive(pid: int) -> bool:
    """A zombie is not: it has ended, whether or not its parent cares."""
    with contextlib.suppress(ChildProcessError):  # if it is a child of ours, its end is ours to collect
        os.waitpid(pid, os.WNOHANG)
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def mounts(folder: Path) -> list[str]:
    """Mount points below the folder, innermost first (proc(5), mountinfo)."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    plain = [p.replace("\\040", " ") for p in points]
    return sorted((p for p in plain if Path(p).is_relative_to(folder)), key=len, reverse=True)


def unmount(points: list[str]) -> None:
    for point in points:
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)


def cgroups(name: str) -> list[str]:
    """Folders of that name at the top of any cgroup hierarchy."""
    root = Path("/sys/fs/cgroup")
    candidates = [root / name, *(d / name for d in root.iterdir() if d.is_dir())] if root.is_dir() else []
    return [str(c) for c in candidates if c.is_dir()]


def links(bridge: str) -> list[str]:
    """The bridge, and interfaces that are plugged into it."""
    base = Path("/sys/class/net")
    return [n.name for n in base.iterdir() if n.name == bridge or (n / f"upper_{bridge}").exists()]


def tables(name: str) -> list[str]:
    """nftables tables of that name or with it as their prefix."""
    try:
        done = subprocess.run(["nft", "list", "tables"], check=False, capture_output=True, text=True)
    except FileNotFoundError:
        return []
    return [line for line in done.stdout.splitlines() if line.split()[-1:] and line.split()[-1].startswith(name)]


def report(folder: Path, bridge: str, table: str, cgroup: str) -> dict[str, list[str]]:
    """Everything that should not be there after the demo; all empty is the goal."""
    return {
        "processes": [f"{pid} {line}" for pid, line in processes(folder).items()],
        "mounts and network namespaces": mounts(folder),
        "interfaces": links(bridge),
        "nftables tables": tables(table),
        "cgroups": cgroups(cgroup),
        "files": [str(folder)] if folder.exists() else [],
    }


def forget_memory(run_dir: Path, bridge: str, table: str, cgroup: str) -> None:
    """What a power cut does to a node, for tests: all that lives in memory is gone, what is on the card stays."""
    unmount(mounts(run_dir))
    subprocess.run(["find", os.fspath(run_dir), "-mindepth", "1", "-delete"], check=False, capture_output=True)
    for name in links(bridge):
        subprocess.run(["ip", "link", "delete", name], check=False, capture_output=True)
    for line in tables(table):
        subprocess.run(["nft", "delete", *line.split()], check=False, capture_output=True)
    for folder in cgroups(cgroup):
        subprocess.run(["find", folder, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"], check=False)
