"""The disk that the virtual machine boots: Debian of this machine's own release, with what a node and its tests need.

Built once by mmdebstrap with this machine's apt sources and by pip with its settings, and kept below .cache/ under a
hash of everything that goes in. The project itself is not in it, so that a change of the code needs no new image.

    .cache/vm/<hash>/{disk.img, vmlinuz, initrd.img, key}
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
CACHE = ROOT / ".cache" / "vm"
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "qemu-system-x86_64": "qemu-system-x86",
    "ssh": "openssh-client",
}
PACKAGES = (
    *("linux-image-cloud-amd64", "systemd", "systemd-sysv", "udev", "dbus", "openssh-server", "procps", "kmod"),
    *("python3", "crun", "conmon", "nftables", "dnsmasq-base", "busybox-static", "iproute2", "util-linux", "skopeo"),
)
# The node's own, pytest, and what the node's tests import. The versions are those of requirements.lock.
PYTHON = (
    *("msgspec", "pynacl", "cffi", "pycparser", "aiomqtt", "paho-mqtt", "zstandard", "psutil", "pyroute2"),
    *("pytest", "pytest-xdist", "execnet", "iniconfig", "packaging", "pluggy", "pygments"),
    *("hypothesis", "sortedcontainers", "cryptography", "typing-extensions"),
)
DISK_SIZE = "3G"  # sparse: a third of it is used
FORGOTTEN = 3 * 86400.0  # seconds after which an image that nobody boots is removed

# Only eth0 is networkd's: bridges and veths of pods are ours.
NETWORK = "[Match]\nName=eth0\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\nDNS=10.0.2.3\n"
CUSTOMIZE = """
set -eu
rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap"
echo edged-vm > "$1/etc/hostname"
echo '/dev/vda / ext4 defaults 0 1' > "$1/etc/fstab"
cp network "$1/etc/systemd/network/eth0.network"
mkdir -p "$1/root/.ssh" "$1/opt/edged/src"
cp key.pub "$1/root/.ssh/authorized_keys"
echo 'UseDNS no' > "$1/etc/ssh/sshd_config.d/vm.conf"
chroot "$1" systemctl -q enable systemd-networkd ssh
chroot "$1" systemctl -q mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer
chroot "$1" systemctl -q mask fstrim.timer e2scrub_all.timer
chroot "$1" systemd-machine-id-setup >/dev/null
chroot "$1" python3 -m venv --without-pip /opt/edged/current
packages="$(echo "$1"/opt/edged/current/lib/python3*/site-packages)"
cp -r site/. "$packages"
echo /opt/edged/src > "$packages/edged.pth"
chroot "$1" /opt/edged/current/bin/python -m compileall -q /opt/edged/current/lib
cp "$1"/boot/vmlinuz-* vmlinuz
cp "$1"/boot/initrd.img-* initrd.img
"""


class Image(NamedTuple):
    """Files of a built image; `disk` is a pattern: copy it before booting."""

    folder: Path

    @property
    def disk(self) -> Path:
        return self.folder / "disk.img"

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd.img"

    @property
    def key(self) -> Path:
        return self.folder / "key"


def missing_tools() -> list[str]:
    """Debian packages that must be installed first."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return sorted(package for tool, package in TOOLS.items() if shutil.which(tool, path=path) is None)


def build() -> Image:
    """The image, from the cache if nothing has changed; three minutes otherwise. Needs root, apt and pip."""
    requirements = locked_requirements()
    image = Image(CACHE / cache_key(requirements))
    if image.disk.exists():
        os.utime(image.folder)
        return image
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=CACHE) as name:
        folder = Path(name)
        _prepare(folder, requirements)
        tree = folder / "tree"
        (folder / "customize").write_text(CUSTOMIZE)
        _run(
            folder,
            *("mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
            *("--aptopt=apt.conf", "--aptopt=APT::Install-Recommends false", "--dpkgopt=path-exclude=/usr/share/doc/*"),
            *('--customize-hook=sh customize "$1"', "--skip=check/empty"),
            *(_release(), os.fspath(tree), _apt_sources()),
        )
        _run(folder, "mke2fs", "-q", "-t", "ext4", "-d", os.fspath(tree), "disk.img", DISK_SIZE)
        shutil.rmtree(tree)
        shutil.rmtree(folder / "site")
        folder.chmod(0o755)
        done = CACHE / f"done-{os.getpid()}"
        folder.rename(done)
    done.rename(image.folder)
    _forget_unused()
    return image


def _forget_unused() -> None:
    """Images that no run has used for a while; not the others: two checkouts may share a cache."""
    for old in CACHE.iterdir():
        if re.fullmatch(r"[0-9a-f]{16}", old.name) and time.time() - old.stat().st_mtime > FORGOTTEN:
            shutil.rmtree(old)


def cache_key(requirements: str) -> str:
    """Of everything that goes into the image; Debian's point releases are not in it: remove .cache/vm for those."""
    parts = (requirements, CUSTOMIZE, NETWORK, DISK_SIZE, _release(), " ".join(PACKAGES))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def locked_requirements() -> str:
    """The part of requirements.lock that PYTHON names, hashes included."""
    entries = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text())
    wanted = [e for e in entries if re.split(r"[=\s]", e, maxsplit=1)[0] in PYTHON]
    return "\n".join(wanted) + "\n"


def _prepare(folder: Path, requirements: str) -> None:
    """What the customize hook copies in."""
    (folder / "requirements").write_text(requirements)
    (folder / "network").write_text(NETWORK)
    acquire = _output("apt-config", "dump", "Acquire").splitlines()
    (folder / "apt.conf").write_text("\n".join(line for line in acquire if "IndexTargets" not in line) + "\n")
    _run(folder, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "vm", "-f", "key")
    pip = (sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--require-hashes", "--no-deps")
    _run(folder, *pip, "--target", "site", "-r", "requirements")


def _release() -> str:
    """This machine's release, so that its apt sources and its Python's wheels fit."""
    text = Path("/etc/os-release").read_text()
    found = re.search(r"^VERSION_CODENAME=(\w+)$", text, re.MULTILINE)
    assert found, "/etc/os-release names no VERSION_CODENAME: the image needs a Debian release to copy"
    return found[1]


def _apt_sources() -> str:
    """Debian's own; third parties' stay out."""
    new = Path("/etc/apt/sources.list.d/debian.sources")
    return os.fspath(new if new.exists() else Path("/etc/apt/sources.list"))


def _run(folder: Path, *argv: str) -> None:
    environment = os.environ | {"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
    done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout[-2000:]}{done.stderr[-6000:]}"


def _output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    print(build().folder)
