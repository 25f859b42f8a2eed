"""Run on the hub's machine by its own Python: what the role has to know of it, in one round trip, as JSON."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path


def said_by(*command: str) -> str:
    """What a program says; nothing where there is none."""
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # RFC 5737: only the routing table is asked
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def first(pattern: str, told: str) -> str:
    found = re.search(pattern, told, re.MULTILINE)
    return found[1] if found else ""


release = text("/etc/os-release")
opt = os.statvfs("/opt" if Path("/opt").is_dir() else "/")
current = Path("/opt/edged-hub/current")
names = ("ca-certificates", "mosquitto", "openssl", "postgresql")
packages = said_by("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *names)
facts = {
    "arch": said_by("dpkg", "--print-architecture").strip(),
    "os": first(r"^ID=\"?([^\"\n]+)", release),
    "os_name": first(r"^PRETTY_NAME=\"?([^\"\n]+)", release) or "an unknown system",
    "os_version": int(first(r"^VERSION_ID=\"?(\d+)", release) or 0),
    "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
    "systemd": int(first(r"^systemd (\d+)", said_by("systemctl", "--version")) or 0),
    "memory_mb": int(first(r"^MemTotal:\s+(\d+)", text("/proc/meminfo")) or 0) >> 10,
    "disk_mb": opt.f_bavail * opt.f_frsize >> 20,
    "address": own_address(),
    "packages": [line.split()[0] for line in packages.splitlines() if line.endswith(" installed")],
    "current": current.readlink().name if current.is_symlink() else "",
    "has_hub": Path("/var/lib/edged-hub/ca/ca.key").exists(),
    "database": first(r'^database = "([^"]*)"$', text("/etc/edged/hub.toml")),
}
sys.stdout.write(json.dumps(facts))
