"""The disks that virtual machines boot: Debian, made once by mmdebstrap with this machine's apt sources.

Two kinds. `node` has what a node and its tests need, the Python packages by this machine's pip and its settings; the
project itself is not in it, so that a change of the code needs no new image. `stock` is what a person finds on a fresh
board: sshd, python3, sudo, an account `admin` with passwordless sudo beside root, nothing of ours. They are kept below
.cache/ under a hash of everything that goes in:

    .cache/vm/<hash>/{disk.img, vmlinuz, initrd.img, key}
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parent.parent.parent
CACHE = ROOT / ".cache" / "vm"
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "ssh": "openssh-client",
}
Kind = Literal["node", "stock"]
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
COMMON = (
    *("linux-image-cloud-amd64", "systemd", "systemd-sysv", "udev", "dbus", "openssh-server", "procps", "kmod"),
    *("python3", "iproute2", "util-linux", "zstd"),
)
PACKAGES: dict[Kind, tuple[str, ...]] = {
    "node": (*COMMON, "crun", "conmon", "nftables", "dnsmasq-base", "busybox-static", "skopeo", "e2fsprogs"),
    "stock": (*COMMON, "sudo", "ca-certificates", "python3-apt", "systemd-timesyncd", "e2fsprogs"),
}
# The node's own, pytest, and what the node's tests import. The versions are those of requirements.lock.
PYTHON = (
    *("msgspec", "pynacl", "cffi", "pycparser", "aiomqtt", "paho-mqtt", "zstandard", "psutil", "pyroute2"),
    *("pytest", "pytest-xdist", "execnet", "iniconfig", "packaging", "pluggy", "pygments"),
    *("hypothesis", "sortedcontainers", "cryptography", "typing-extensions"),
)
DISK_SIZE = "3G"  # sparse: a third of it is used
FORGOTTEN = 3 * 86400.0  # seconds after which an image that nobody boots is removed

# Only the cards that the board came with are networkd's: bridges and veths of pods are ours. No IPv6 and no waiting for
# it: QEMU's network has none that leads anywhere.
NETWORK = """[Match]
Name=eth*
[Network]
DHCP=ipv4
LinkLocalAddressing=no
IPv6AcceptRA=no
[DHCPv4]
UseHostname=no
"""
# What the disk and the network hang on, without a search for more: half the initrd, seconds less at each boot.
MODULES = "virtio_pci\nvirtio_blk\nvirtio_net\next4\n"
COMMON_STEPS = """
set -eu
rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap"
echo '/dev/vda / ext4 defaults 0 1' > "$1/etc/fstab"
cp network "$1/etc/systemd/network/eth.network"
cp modules "$1/etc/initramfs-tools/modules"
echo 'MODULES=list' > "$1/etc/initramfs-tools/conf.d/vm"
mkdir -p "$1/root/.ssh"
cp key.pub "$1/root/.ssh/authorized_keys"
echo 'UseDNS no' > "$1/etc/ssh/sshd_config.d/vm.conf"
chroot "$1" systemctl -q enable systemd-networkd ssh
chroot "$1" systemctl -q mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer
chroot "$1" systemctl -q mask fstrim.timer e2scrub_all.timer e2scrub_reap.service
chroot "$1" update-initramfs -u >/dev/null
cp "$1"/boot/vmlinuz-* vmlinuz
cp "$1"/boot/initrd.img-* initrd.img
"""
STEPS: dict[Kind, str] = {
    "node": """
echo edged-vm > "$1/etc/hostname"
chroot "$1" systemd-machine-id-setup >/dev/null
mkdir -p "$1/opt/edged/src"
chroot "$1" python3 -m venv --without-pip /opt/edged/current
packages="$(echo "$1"/opt/edged/current/lib/python3*/site-packages)"
cp -r site/. "$packages"
echo /opt/edged/src > "$packages/edged.pth"
chroot "$1" /opt/edged/current/bin/python -m compileall -q /opt/edged/current/lib
""",
    "stock": """
echo board > "$1/etc/hostname"
printf '127.0.0.1 localhost\\n127.0.1.1 board\\n' > "$1/etc/hosts"
chroot "$1" systemd-machine-id-setup >/dev/null
chroot "$1" useradd --create-home --shell /bin/bash admin
mkdir -p "$1/home/admin/.ssh"
cp key.pub "$1/home/admin/.ssh/authorized_keys"
chroot "$1" chown -R admin:admin /home/admin/.ssh
echo 'admin ALL=(ALL) NOPASSWD:ALL' > "$1/etc/sudoers.d/admin"
printf 'nameserver 10.0.2.3\\n' > "$1/etc/resolv.conf"
""",
}


@dataclass(frozen=True)
class Image:
    """What a machine boots from. `disk` is a pattern: machines write into a layer of their own over it.

    :ivar kernel: given to the emulator; None where the disk boots by itself. :ivar root: for the kernel's root=.
    """

    disk: Path
    key: Path
    kernel: Path | None = None
    initrd: Path | None = None
    root: str = "/dev/vda"

    @classmethod
    def at(cls, folder: Path) -> Image:
        """As `build` lays it out."""
        return cls(folder / "disk.img", folder / "key", folder / "vmlinuz", folder / "initrd.img")


def missing_tools() -> list[str]:
    """Debian packages that must be installed first."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return sorted(package for tool, package in TOOLS.items() if shutil.which(tool, path=path) is None)


def build(kind: Kind = "node", release: str = "") -> Image:
    """The image, from the cache if nothing has changed; two minutes otherwise. Needs root, apt and pip.

    :param release: "bookworm" or "trixie"; "" = what EDGED_VM_RELEASE says, else this machine's own.
    """
    release = release or default_release()
    requirements = locked_requirements() if kind == "node" else ""
    place = CACHE / cache_key(kind, release, requirements)
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f".{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes second finds it made
        if not place.exists():
            _make(kind, release, requirements, place)
    os.utime(place)
    _forget_unused()
    return Image.at(place)


def _make(kind: Kind, release: str, requirements: str, place: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="build-", dir=CACHE) as name:
        folder = Path(name)
        _prepare(folder, release, requirements)
        tree = folder / "tree"
        (folder / "customize").write_text(COMMON_STEPS + STEPS[kind])
        _run(
            folder,
            *("mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(PACKAGES[kind])}"),
            *("--aptopt=apt.conf", "--aptopt=APT::Install-Recommends false", "--dpkgopt=path-exclude=/usr/share/doc/*"),
            *('--customize-hook=sh customize "$1"', "--skip=check/empty"),
            *(release, os.fspath(tree), "debian.sources"),
        )
        _run(folder, "mke2fs", "-q", "-t", "ext4", "-d", os.fspath(tree), "disk.img", DISK_SIZE)
        shutil.rmtree(tree)
        shutil.rmtree(folder / "site", ignore_errors=True)
        folder.chmod(0o755)
        done = CACHE / f"done-{os.getpid()}"
        folder.rename(done)
    done.rename(place)


def _forget_unused() -> None:
    """Images that no run has used for a while; not the others: two checkouts may share a cache."""
    for old in CACHE.iterdir():
        if re.fullmatch(r"[0-9a-f]{16}", old.name) and time.time() - old.stat().st_mtime > FORGOTTEN:
            shutil.rmtree(old)


def cache_key(kind: Kind, release: str, requirements: str) -> str:
    """Of everything that goes into the image; Debian's point releases are not in it: remove .cache/vm for those."""
    parts = (kind, release, requirements, COMMON_STEPS, STEPS[kind], NETWORK, MODULES, DISK_SIZE)
    return hashlib.sha256("\0".join((*parts, *PACKAGES[kind])).encode()).hexdigest()[:16]


def locked_requirements() -> str:
    """The part of requirements.lock that PYTHON names, hashes included."""
    entries = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text())
    wanted = [e for e in entries if re.split(r"[=\s]", e, maxsplit=1)[0] in PYTHON]
    return "\n".join(wanted) + "\n"


def _prepare(folder: Path, release: str, requirements: str) -> None:
    """What the customize hook copies in."""
    (folder / "network").write_text(NETWORK)
    (folder / "modules").write_text(MODULES)
    (folder / "debian.sources").write_text(apt_sources(release))
    acquire = _output("apt-config", "dump", "Acquire").splitlines()
    (folder / "apt.conf").write_text("\n".join(line for line in acquire if "IndexTargets" not in line) + "\n")
    _run(folder, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "vm", "-f", "key")
    if requirements:
        (folder / "requirements").write_text(requirements)
        pip = (sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--require-hashes")
        other = ("--python-version", PYTHONS[release], "--only-binary=:all:") if release != own_release() else ()
        _run(folder, *pip, "--no-deps", *other, "--target", "site", "-r", "requirements")


def default_release() -> str:
    """Of boards where a test doesn't care. An error for one that we know nothing of."""
    release = os.environ.get("EDGED_VM_RELEASE") or own_release()
    assert release in PYTHONS, f"EDGED_VM_RELEASE is {release!r}; it must be {' or '.join(PYTHONS)}"
    return release


def own_release() -> str:
    """This machine's release: its apt sources fit, and its Python's wheels."""
    text = Path("/etc/os-release").read_text()
    found = re.search(r"^VERSION_CODENAME=(\w+)$", text, re.MULTILINE)
    assert found, "/etc/os-release names no VERSION_CODENAME: the image needs a Debian release to copy"
    return found[1]


def apt_sources(release: str) -> str:
    """Debian's own with the release put in place of this machine's; third parties' stay out."""
    new = Path("/etc/apt/sources.list.d/debian.sources")
    text = (new if new.exists() else Path("/etc/apt/sources.list")).read_text()
    return re.sub(rf"\b{own_release()}\b", release, text)


def _run(folder: Path, *argv: str) -> None:
    environment = os.environ | {"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
    done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout[-2000:]}{done.stderr[-6000:]}"


def _output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    print(build().disk.parent)
