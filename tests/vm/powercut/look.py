"""Runs on the board after the cut, with the node's own interpreter: waits for the pods and says what it sees, as JSON.

    look.py '{"ran": [uids], "images": [references], "known": [diff_ids], "versions": [names],
            "patience": seconds}'

It only looks, but for one thing: at the end it enters the image store as any writer does, who must clean up.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from edged.control import ControlClient
from edged.decide.pulls import BACKOFF, ERR_PULL
from edged.errors import EdgedError
from edged.images.store import ImageStore, layer_name
from edged.images.writer import StoreWriter
from edged.model import Desired, PodStatus
from edged.store import StateStore

STATE, RUN = Path("/var/lib/edged"), Path("/run/edged")
CGROUPS = Path("/sys/fs/cgroup/system.slice/edged-pods.service")
VERSIONS = Path("/opt/edged/versions")
TICKS = os.sysconf("SC_CLK_TCK")
EXECUTED = 15.0  # seconds within which a process that was told to execute its program has done so, on a slow board


def main() -> None:
    asked = json.loads(sys.argv[1])
    store = StateStore(STATE)
    saved = store.load()
    desired = saved.desired if saved else Desired("", "", 0)
    must = due(desired, set(asked["ran"]), set(asked["images"]))
    snapshot, waited = asyncio.run(wait_for(must, desired.generation, asked["patience"]))
    found = {
        "generation": desired.generation,
        "wanted": {p.uid: p.title for p in desired.pods},
        "must": sorted(must),
        "damaged": store.damaged,
        "snapshot": msgspec.to_builtins(snapshot) if snapshot else None,
        "waited": waited,
        "containers": containers(),
        "images": images(set(asked["known"])),
        "kernel": kernel(),
        "leftovers": leftovers({p.uid for p in desired.pods}),
        "versions": versions(set(asked["versions"])),
        "files": sorted(e.name for e in STATE.iterdir()),
        "uptime": time.clock_gettime(time.CLOCK_BOOTTIME),
    }
    print(json.dumps(found))


def due(desired: Desired, ran: set[str], images: set[str]) -> set[str]:
    """Pods that must run with no network: they ran before, or all that they are made of did."""
    return {p.uid for p in desired.pods if p.uid in ran or {c.image for c in p.all_containers} <= images}


async def wait_for(must: set[str], generation: int, patience: float) -> tuple[Any, float]:
    """The snapshot in which all of them run and no other pod is on its way, or the last one there was; and how long it
    took. A pod whose image was through when the power went, unknown to anybody else, starts later than the others."""
    began = time.monotonic()
    client, last = ControlClient(RUN / "control.sock", 30.0), None
    while time.monotonic() < began + patience:
        try:
            last = await client.status()
            running = {p.uid for p in last.status.pods if p.phase == "Running" and p.ready}
            underway = [p for p in last.status.pods if p.uid not in running and not waits_for_image(p)]
            if last.status.generation == generation and must <= running and not underway:
                break
        except EdgedError:
            pass
        await asyncio.sleep(0.3)
    return last, time.monotonic() - began


def waits_for_image(pod: PodStatus) -> bool:
    return any(c.reason in (ERR_PULL, BACKOFF) for c in pod.containers)


def containers() -> list[dict[str, Any]]:
    found = []
    for file in RUN.glob("pods/*/containers/*/*/pid"):
        uid, _, name, attempt = file.parts[-5:-1]
        try:
            process = Path("/proc") / file.read_text().strip()
            started = int((process / "stat").read_text().rpartition(")")[2].split()[19]) / TICKS
            revision = variables(process).get("REVISION", "")
            folder = process / "root" / "secret"
            secret = {e.name: e.read_text().split()[0] for e in folder.glob("key*")} if folder.is_dir() else {}
        except OSError:
            continue
        found.append(
            {
                "pod": uid,
                "name": name,
                "attempt": int(attempt),
                "started": started,
                "revision": revision,
                "secret": secret,
            }
        )
    return found


def variables(process: Path) -> dict[str, str]:
    """Those of the container's own program; each pod here has a REVISION.

    A container is running as soon as its runtime has told it to execute its program (OCI runtime specification,
    start). Until the kernel is through with that, its variables are the runtime's, or none (proc_pid_environ(5)).
    """
    deadline = time.monotonic() + EXECUTED
    while True:
        found = dict(v.split("=", 1) for v in (process / "environ").read_text().split("\0") if "=" in v)
        if "REVISION" in found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


# ---------------------------------------------------------------- images


def images(known: set[str]) -> dict[str, Any]:
    store = ImageStore(STATE / "images")
    stale = strays(store)
    try:
        with StoreWriter(store.root):
            pass
        trouble = ""
    except EdgedError as e:
        trouble = str(e)
    index = store.read_index()
    blobs = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() == f.name for f in store.blobs.glob("*")}
    layers = {d: tree(store.layers / layer_name(d)) for d in index.layers if d not in known}
    return {
        "references": sorted(index.images),
        "damage": [*store.damage, *([trouble] if trouble else [])],
        "wrong_blobs": sorted(name for name, right in blobs.items() if not right),
        "layers": layers,
        "strays_before": stale,
        "strays": strays(store),
        "partial": sorted(f.name for f in (store.root / "partial").glob("*") if re.fullmatch("[0-9a-f]{64}", f.name)),
    }


def strays(store: ImageStore) -> list[str]:
    listed = {layer_name(d) for d in store.read_index().layers}
    inside = [f"{f.parent.name}/{f.name}" for d in (store.layers, store.lists) for f in d.glob("*")]
    known = {"index.json", "lock", "blobs", "lists", "layers", "tmp", "partial", "boot.json", "heads.json"}
    return sorted(
        [name for name in inside if name.rpartition("/")[2] not in listed]
        + [f"tmp/{f.name}" for f in (store.root / "tmp").glob("*")]
        + [f.name for f in store.root.iterdir() if f.name not in known]
    )


def tree(folder: Path) -> dict[str, str]:
    """Path -> what it is, as home.contents has it."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                what = "d"
            elif stat.S_ISLNK(mode):
                what = f"l {path.readlink()}"
            elif stat.S_ISREG(mode):
                what = f"f {hashlib.sha256(path.read_bytes()).hexdigest()}"
            else:
                what = "?"
            found[os.fspath(path.relative_to(folder))] = what
    return found


# ---------------------------------------------------------------- what may have been left behind


def kernel() -> dict[str, Any]:
    said = subprocess.run(["dmesg"], capture_output=True, text=True).stdout
    overlays = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "mountinfo").read_text()
        except OSError:
            continue
        overlays |= set(re.findall(r"upperdir=(\S*?),", text))
    conmons = subprocess.run(["pgrep", "-c", "-x", "conmon"], capture_output=True, text=True).stdout
    return {
        "errors": [
            line
            for line in said.splitlines()
            if re.search(r"EXT4-fs (error|warning)|I/O error|JBD2: .*(fail|corrupt)", line)
        ],
        "cgroups": sorted(e.name for e in CGROUPS.iterdir() if e.is_dir()) if CGROUPS.is_dir() else [],
        "conmons": int(conmons or 0),
        "overlays": sorted(overlays),
        "namespaces": sorted(e.name for e in (RUN / "netns").glob("*")),
        "failed": subprocess.run(
            ["systemctl", "--failed", "--plain", "--no-legend"], capture_output=True, text=True
        ).stdout.split("\n")[:-1],
    }


def leftovers(wanted: set[str]) -> list[str]:
    """Folders of pods that nobody wants, on the disk and in memory."""
    places = (STATE / "rw", RUN / "pods")
    return sorted(f"{p.name}/{e.name}" for p in places if p.is_dir() for e in p.iterdir() if e.name not in wanted)


def versions(known: set[str]) -> dict[str, Any]:
    """What edged-version says, and whose files are not those that pip wrote."""
    said = subprocess.run(["/opt/edged/bin/edged-version", "list", "--json"], capture_output=True, text=True)
    listed: dict[str, Any] = json.loads(said.stdout)
    whole = [v["version"] for v in listed["versions"] if v["whole"]]
    return listed | {"damaged": [fault for v in whole if v not in known for fault in faults(VERSIONS / v)]}


def faults(version: Path) -> list[str]:
    """By the RECORD of each package (recording installed projects, packaging.python.org)."""
    found = []
    for record in version.glob("lib/python3*/site-packages/*.dist-info/RECORD"):
        for line in record.read_text().splitlines():
            name, _, digest = line.rsplit(",", 1)[0].rpartition(",sha256=")
            file = record.parent.parent / name
            if not name or not digest or "/bin/" in name:
                continue
            try:
                right = base64.urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest()).rstrip(b"=").decode()
            except OSError:
                right = "missing"
            if right != digest:
                found.append(f"{version.name}: {name}")
    return found


main()
