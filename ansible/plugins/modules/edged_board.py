#!/usr/bin/python
"""Looks at a board and says what is in the way of a node, in sentences. Changes nothing.

`observe` reads, `findings` decides: a pure function over what was read, so that boards we don't own can be tried out
in tests. Runs on the Python of releases that are too old for a node, too: how else could it say so?
"""

from __future__ import annotations

import datetime
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: edged_board
short_description: Say what is in the way of making a board a node
version_added: 0.1.0
description:
  - Reads a board's architecture, memory, kernel, memory cgroup, clock, disk, power and card, and what it has of edged.
  - Changes nothing, so it is the same in check mode.
options:
  packages: {description: Debian packages to look for., type: list, elements: str, default: []}
  memory_mib: {description: MiB of memory below which a board is too small., type: int, default: 200}
  disk_mib: {description: MiB that must be free on the disk where nothing is installed yet., type: int, default: 500}
  root: {description: Where the daemon's versions are., type: path, default: /opt/edged}
  state: {description: Where the node's state is., type: path, default: /var/lib/edged}
  config: {description: The node's settings., type: path, default: /etc/edged/node.toml}
author: The edged authors (@edged)
"""
EXAMPLES = r"""
- name: Look at the board
  edged_board:
    packages: [crun, conmon]
  register: board
"""
RETURN = r"""
errors: {description: Sentences; a node would not work here., type: list, elements: str, returned: always}
concerns: {description: Sentences; a node works but worse or not for long., type: list, elements: str, returned: always}
notes: {description: Sentences that are good to know., type: list, elements: str, returned: always}
facts: {description: What the other tasks need to know., type: dict, returned: always}
"""

ARCHITECTURES = {"amd64": "x86-64", "arm64": "64-bit ARM", "armhf": "32-bit ARMv7"}
PYTHONS = {"3.11": "Debian 12", "3.13": "Debian 13"}
MODULES = {"overlay": "containers' file systems", "veth": "pods' networks", "bridge": "pods' networks"}
MODULES.update({"nf_tables": "Services"})
OLDEST_KERNEL = (5, 15)  # cgroup.kill came with 5.14, and Raspberry Pi OS went from 5.10 to 5.15
MIB = 1 << 20
# The firmware's get_throttled: bits of now, and 16 higher of ever since the boot.
THROTTLED = {0: "under-voltage", 1: "the ARM's frequency is capped", 2: "throttled", 3: "the soft temperature limit"}
WORN = {0x02: "80 % of its reserved blocks are used", 0x03: "90 % of its reserved blocks are used"}
OFF = "the memory cgroup is off, so no pod's memory limit would hold"


# ---------------------------------------------------------------- deciding


def findings(seen: dict[str, Any], need: dict[str, Any]) -> dict[str, list[str]]:
    """{"errors": [...], "concerns": [...], "notes": [...]} from observe()'s value; pure."""
    told: dict[str, list[str]] = {"errors": [], "concerns": [], "notes": []}
    for judge in (_system, _kernel, _memory_cgroup, _room, _clock, _power, _cards):
        for level, sentence in judge(seen, need):
            told[level].append(sentence)
    return told


def _system(seen: dict[str, Any], need: dict[str, Any]) -> list[tuple[str, str]]:
    found = []
    arch, machine, python = seen["arch"], seen["machine"], seen["python"]
    if arch not in ARCHITECTURES:
        known = ", ".join(f"{a} ({what})" for a, what in ARCHITECTURES.items())
        found.append(("errors", f"its architecture is {arch}; edged comes for {known}"))
    elif arch == "armhf" and machine == "armv6l":
        found.append(("errors", "its processor is an ARMv6 (Pi 1, Pi Zero); edged needs an ARMv7 or newer"))
    if python not in PYTHONS:
        known = " or ".join(f"{v} ({what})" for v, what in PYTHONS.items())
        found.append(("errors", f"{seen['os']} has Python {python}; use a release with {known}"))
    if not seen["systemd"]:
        found.append(
            ("errors", "it was not booted with systemd, which runs the daemon; install systemd-sysv and reboot")
        )
    return found


def _kernel(seen: dict[str, Any], need: dict[str, Any]) -> list[tuple[str, str]]:
    found = []
    if kernel_version(seen["kernel"]) < OLDEST_KERNEL:
        oldest = ".".join(map(str, OLDEST_KERNEL))
        found.append(("errors", f"its kernel {seen['kernel']} is older than {oldest}; run apt full-upgrade and reboot"))
    for name, purpose in MODULES.items():
        if name in seen["missing_modules"]:
            text = f"its kernel {seen['kernel']} has no {name}, needed for {purpose}"
            if not seen["modules_of_kernel"]:
                text = f"/lib/modules has nothing for the running kernel {seen['kernel']}: it was upgraded; reboot"
            found.append(("errors", text))
            if not seen["modules_of_kernel"]:
                break
    if not seen["cgroup2"]:
        text = "it runs with cgroup v1; remove systemd.unified_cgroup_hierarchy=0 from the kernel's command line"
        found.append(("concerns", f"{text}: memory.high and pressure are only in v2"))
    return found


def _memory_cgroup(seen: dict[str, Any], need: dict[str, Any]) -> list[tuple[str, str]]:
    state, file = memory_cgroup(seen), seen["cmdline_file"]
    if state == "off":
        return [("concerns", f"{OFF}; the role adds cgroup_enable=memory to {file} and reboots the board once")]
    if state == "pending":
        return [("concerns", f"{OFF}; {file} has cgroup_enable=memory already, so it needs a reboot")]
    if state == "refused":
        text = "though the kernel was booted with cgroup_enable=memory: only Raspberry Pi's kernel knows that setting"
        return [("errors", f"{OFF}, {text}; install linux-image-rpi-v8 (or rpi-2712, rpi-v7) and reboot")]
    if state == "foreign":
        text = "remove cgroup_disable=memory from the kernel's command line (GRUB: /etc/default/grub, then update-grub)"
        return [("errors", f"{OFF}; {text} and reboot")]
    return []


def memory_cgroup(seen: dict[str, Any]) -> str:
    """on, off (a file of ours to change), pending (changed, not booted), refused (booted with it, in vain), foreign.

    A command line's later words win, and cmdline.txt comes after what the device tree says (Raspberry Pi's DTBs say
    cgroup_disable=memory). /proc/cgroups is no witness: since Linux 6.12 it may not name the controller at all.
    """
    if "memory" in seen["controllers"]:
        return "on"
    if not seen["cmdline_file"]:
        return "foreign"
    if not enables_memory(seen["cmdline_text"]):
        return "off"
    return "refused" if enables_memory(seen["cmdline"]) else "pending"


def enables_memory(command_line: str) -> bool:
    """Whether the last word about the memory controller turns it on."""
    last = ""
    for word in command_line.split():
        key, _, value = word.partition("=")
        if key in ("cgroup_enable", "cgroup_disable") and "memory" in value.split(","):
            last = key
    return last == "cgroup_enable"


def _room(seen: dict[str, Any], need: dict[str, Any]) -> list[tuple[str, str]]:
    found = []
    memory, disk = seen["memory"] // MIB, seen["disk"]
    if memory < need["memory_mib"]:
        found.append(
            ("errors", f"it has {memory} MiB of memory; {need['memory_mib']} MiB are the least for a few pods")
        )
    free = disk["free"] // MIB
    wanted = need["disk_mib"] if not seen["versions"] else need["disk_mib"] // 2
    if free < wanted:
        text = f"{disk['mount']} has {free} MiB free of {disk['size'] // MIB}; {wanted} MiB are needed"
        found.append(("errors", f"{text}: remove something, or grow the partition (raspi-config --expand-rootfs)"))
    elif free < 2 * wanted:
        found.append(("concerns", f"{disk['mount']} has only {free} MiB free: images need room, too"))
    if disk["inodes"] and disk["inodes_free"] < 20000:
        found.append(("concerns", f"{disk['mount']} has only {disk['inodes_free']} inodes free: each file takes one"))
    if disk["type"] not in ("ext4", "xfs", "btrfs", "f2fs"):
        found.append(("concerns", f"{disk['mount']} is {disk['type']}; overlayfs is known to work on ext4, xfs, btrfs"))
    return found


def _clock(seen: dict[str, Any], need: dict[str, Any]) -> list[tuple[str, str]]:
    found = []
    if seen["year"] < 2025:
        text = f"its clock says {seen['year']}: apt and TLS refuse that"
        found.append(
            ("errors", f"{text}; let it reach a time server (timedatectl set-ntp true), or set it with date -s")
        )
    if seen["clocksource"] in ("jiffies", "refined-jiffies"):
        found.append(("concerns", f"its kernel counts time by {seen['clocksource']}, which runs wrong under load"))
    if not seen["rtc"] and not seen["ntp"]:
        text = "it has no battery-backed clock and nothing that sets it from the network: events will have wrong times"
        found.append(("concerns", f"{text}; apt-get install systemd-timesyncd"))
    elif not seen["rtc"]:
        found.append(
            ("notes", "it has no battery-backed clock: after a power cut its time is wrong until the network is up")
        )
    return found


def _power(seen: dict[str, Any], need: dict[str, Any]) -> list[tuple[str, str]]:
    found, bits = [], seen["throttled"]
    advice = "use the official power supply and a short cable; brown-outs corrupt cards"
    if bits is not None:
        now = [text for bit, text in THROTTLED.items() if bits >> bit & 1]
        ever = [text for bit, text in THROTTLED.items() if bits >> (bit + 16) & 1 and text not in now]
        if now:
            found.append(("concerns", f"its power or cooling is short right now ({', '.join(now)}); {advice}"))
        if ever:
            found.append(("concerns", f"its power or cooling was short since the boot ({', '.join(ever)}); {advice}"))
    if seen["undervoltage"] and not (bits or 0) & 1:
        found.append(("concerns", f"its supply's voltage is too low ({seen['undervoltage']}); {advice}"))
    return found


def _cards(seen: dict[str, Any], need: dict[str, Any]) -> list[tuple[str, str]]:
    found = []
    for card in seen["cards"]:
        name = f"{card['device']} ({card['name']})"
        lived = max(card["life"], default=0)
        if card["pre_eol"] in WORN:
            found.append(
                (
                    "errors" if card["pre_eol"] == 3 else "concerns",
                    f"{name} is worn: {WORN[card['pre_eol']]}; replace it",
                )
            )
        elif lived >= 0x0B:
            found.append(("errors", f"{name} has outlived its rated writes; copy what matters and replace it"))
        elif lived >= 0x09:
            found.append(
                (
                    "concerns",
                    f"{name} has used {lived * 10 - 10} to {lived * 10} % of its rated writes; plan to replace it",
                )
            )
    for device, count in sorted(seen["ext4_errors"].items()):
        text = f"ext4 counted {count} errors on {device}: the card or its power is failing"
        found.append(("concerns", f"{text}; back it up, run e2fsck -f on it, and replace it if they come back"))
    for mount in seen["read_only"]:
        text = f"{mount} should be writable by /etc/fstab but is mounted read-only, as after an error of the disk"
        found.append(("errors", f"{text}; look at dmesg, then reboot with fsck.mode=force or replace the card"))
    return found


def kernel_version(release: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


# ---------------------------------------------------------------- looking


def observe(asked: dict[str, Any]) -> dict[str, Any]:
    """Plain values, whatever of it is missing on this board."""
    release, (file, text) = platform.release(), _cmdline_file()
    arch, python = _said("dpkg", "--print-architecture"), f"{sys.version_info[0]}.{sys.version_info[1]}"
    os_release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', _read("/etc/os-release"), re.MULTILINE))
    modules = Path("/lib/modules") / release
    memory = re.search(r"^MemTotal:\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return {
        "arch": arch,
        "target": f"{arch}-{python}",
        "bundle": f"{arch}-{os_release.get('VERSION_CODENAME', '')}",
        "machine": platform.machine(),
        "model": _read("/proc/device-tree/model").strip("\0\n"),
        "os": os_release.get("PRETTY_NAME", "this system"),
        "release": os_release.get("VERSION_CODENAME", ""),
        "python": python,
        "systemd": Path("/run/systemd/system").is_dir(),
        "kernel": release,
        "modules_of_kernel": modules.is_dir(),
        "missing_modules": [m for m in MODULES if not _kernel_has(m, modules)],
        "cgroup2": Path("/sys/fs/cgroup/cgroup.controllers").exists(),
        "controllers": _controllers(),
        "cmdline": _read("/proc/cmdline"),
        "cmdline_file": file,
        "cmdline_text": text,
        "memory": int(memory[1]) * 1024 if memory else 0,
        "disk": _disk(Path(asked["state"])),
        "year": datetime.datetime.now(datetime.timezone.utc).year,  # noqa: UP017  (no datetime.UTC before 3.11)
        "clocksource": _read("/sys/devices/system/clocksource/clocksource0/current_clocksource").strip(),
        "rtc": any(Path("/sys/class/rtc").glob("rtc*")),
        "ntp": _has_time_service(),
        "throttled": _throttled(),
        "undervoltage": _undervoltage(),
        "cards": _cards_seen(),
        "ext4_errors": _ext4_errors(),
        "read_only": read_only(_read("/etc/fstab"), _read("/proc/self/mounts")),
        "missing_packages": sorted(set(asked["packages"]) - installed(_read("/var/lib/dpkg/status"))),
        "versions": sorted(p.parent.name for p in Path(asked["root"]).glob("versions/*/.whole")),
        "fstab_saved": Path("/etc/fstab.before-edged").exists(),
        "other_zram": "/dev/zram" in _read("/proc/swaps")
        and not Path("/etc/systemd/system/edged-zram.service").exists(),
        "current": _link(Path(asked["root"]) / "current"),
        "joined": Path(asked["state"], "identity", "node.json").exists() and Path(asked["config"]).exists(),
    }


def installed(status: str) -> set[str]:
    """Names of the packages that dpkg's status file calls installed."""
    found = set()
    for paragraph in status.split("\n\n"):
        if "\nStatus: install ok installed\n" in paragraph + "\n":
            found.add(paragraph.split("\n", 1)[0].partition(": ")[2])
    return found


def read_only(fstab: str, mounts: str) -> list[str]:
    """Places that fstab wants writable and that are mounted read-only."""
    lines = [line.split() for line in fstab.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    wanted = {w[1] for w in lines if len(w) >= 4 and "ro" not in w[3].split(",")}
    now = {w[1]: w[3].split(",") for w in map(str.split, mounts.splitlines()) if len(w) >= 4}
    return sorted(m for m in wanted if "ro" in now.get(m, ()))


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _said(*argv: str) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _link(path: Path) -> str:
    try:
        return path.readlink().name
    except OSError:
        return ""


def _cmdline_file() -> tuple[str, str]:
    """The firmware's command line: bookworm and later have it in /boot/firmware, and a note in the old place."""
    for path in ("/boot/firmware/cmdline.txt", "/boot/cmdline.txt"):
        text = _read(path)
        if "root=" in text:
            return path, text
    return "", ""


def _controllers() -> list[str]:
    two = _read("/sys/fs/cgroup/cgroup.controllers").split()
    lines = [line.split() for line in _read("/proc/cgroups").splitlines()[1:]]
    return two or [w[0] for w in lines if len(w) == 4 and w[3] == "1"]


def _kernel_has(module: str, modules: Path) -> bool:
    if Path("/sys/module", module).exists():
        return True
    listed = _read(modules / "modules.dep") + _read(modules / "modules.builtin")
    return f"/{module}.ko" in listed or (module == "overlay" and "\toverlay\n" in _read("/proc/filesystems"))


def _disk(place: Path) -> dict[str, Any]:
    while not place.exists():
        place = place.parent
    facts = os.statvfs(place)
    mount = place.resolve()
    while not mount.is_mount():
        mount = mount.parent
    kinds = {w[1]: w[2] for w in map(str.split, _read("/proc/self/mounts").splitlines()) if len(w) >= 3}
    return {
        "mount": str(mount),
        "type": kinds.get(str(mount), "unknown"),
        "free": facts.f_bavail * facts.f_frsize,
        "size": facts.f_blocks * facts.f_frsize,
        "inodes": facts.f_files,
        "inodes_free": facts.f_favail,
    }


def _has_time_service() -> bool:
    names = ("systemd-timesyncd", "chrony", "ntpsec", "ntp", "openntpd")
    places = ("/etc/systemd/system", "/lib/systemd/system")
    return any(Path(place, f"{name}.service").exists() for place in places for name in names)


def _throttled() -> int | None:
    text = _read("/sys/devices/platform/soc/soc:firmware/get_throttled").strip()
    if not text and shutil.which("vcgencmd"):
        text = _said("vcgencmd", "get_throttled").partition("=")[2]
    try:
        return int(text, 16)
    except ValueError:
        return None


def _undervoltage() -> str:
    """The kernel's own alarm (rpi_volt, raspberrypi-hwmon)."""
    for name in Path("/sys/class/hwmon").glob("hwmon*/name"):
        if _read(name).strip() == "rpi_volt" and _read(name.parent / "in0_lcrit_alarm").strip() == "1":
            return "the kernel's rpi_volt alarm"
    return ""


def _cards_seen() -> list[dict[str, Any]]:
    """SD cards and eMMC; only eMMC tells how worn it is (JESD84: life_time, pre_eol_info)."""
    found = []
    for device in sorted(Path("/sys/block").glob("mmcblk[0-9]")):
        life = [int(word, 16) for word in _read(device / "device/life_time").split()]
        eol = _read(device / "device/pre_eol_info").strip()
        name = f"{_read(device / 'device/type').strip()} {_read(device / 'device/name').strip()}".strip()
        found.append({"device": device.name, "name": name, "life": life, "pre_eol": int(eol, 16) if eol else 0})
    return found


def _ext4_errors() -> dict[str, int]:
    counts = {p.parent.name: _read(p).strip() for p in Path("/sys/fs/ext4").glob("*/errors_count")}
    return {device: int(count) for device, count in counts.items() if count.isdigit() and count != "0"}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "default": []},
            "memory_mib": {"type": "int", "default": 200},
            "disk_mib": {"type": "int", "default": 500},
            "root": {"type": "path", "default": "/opt/edged"},
            "state": {"type": "path", "default": "/var/lib/edged"},
            "config": {"type": "path", "default": "/etc/edged/node.toml"},
        },
        supports_check_mode=True,
    )
    seen = observe(module.params)
    told = findings(seen, module.params)
    facts = {k: v for k, v in seen.items() if k not in ("cmdline", "cmdline_text")}
    module.exit_json(changed=False, facts={**facts, "memory_cgroup": memory_cgroup(seen)}, **told)


if __name__ == "__main__":
    main()
