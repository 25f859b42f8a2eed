"""The three files below /etc that every pod gets: written into its folder, bind-mounted into its containers."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from edged.model import Dns, Pod
from edged.runtime.bundle import hostname_of
from edged.runtime.names import NamePolicy, hosts_file, is_loopback, parse_resolv_conf, policy_of, resolv_conf

NAMES = ("hosts", "hostname", "resolv.conf")
HOSTS = Path("/etc/hosts")
# systemd-resolved's real servers are in the second one: the first then names only its stub, which listens on loopback
RESOLV_CONF = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))


def write(folder: Path, pod: Pod, ip: str, nameserver: str, domain: str) -> None:
    """All three. :raises OSError:"""
    machines_own = ""
    if pod.host_network:
        with contextlib.suppress(OSError):
            machines_own = HOSTS.read_text(errors="replace")
    _overwrite(folder / "hosts", hosts_file(pod, ip, domain, machines_own))
    _overwrite(folder / "hostname", (os.uname().nodename if pod.host_network else hostname_of(pod)) + "\n")
    write_resolv_conf(folder, pod.namespace, policy_of(pod), nameserver, domain)


def write_resolv_conf(folder: Path, namespace: str, names: NamePolicy, nameserver: str, domain: str) -> None:
    """That one alone, as the machine's name servers and ours are now. :raises OSError:"""
    text = resolv_conf(namespace, names, nameserver, domain, machines_dns(names.host_network))
    _overwrite(folder / "resolv.conf", text)


def machines_dns(loopback: bool = False) -> Dns:
    """What the machine itself asks.

    :param loopback: servers on loopback can be asked too.
    """
    for file in RESOLV_CONF:
        with contextlib.suppress(OSError):
            found = parse_resolv_conf(file.read_text(errors="replace"))
            if any(loopback or not is_loopback(s) for s in found.nameservers):
                return found
    return Dns()


def _overwrite(file: Path, text: str) -> None:
    """In place, for it is bind-mounted: a renamed file would not be seen inside."""
    with contextlib.suppress(FileNotFoundError):
        if file.read_text() == text:
            return
    file.write_text(text)
    file.chmod(0o644)
