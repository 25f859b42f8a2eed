"""The texts of the files that the first boot writes. Pure."""

from __future__ import annotations

from .checks import Network, Wifi
from .settings import Problem, Settings

WRITTEN = "# Written by the first boot from edged.toml; put another one on the boot partition to change it.\n"


def wpa_supplicant(wifi: Wifi) -> str:
    """wpa_supplicant.conf(5). An SSID without quotes is hex: no character in it means anything."""
    lines = [f"country={wifi.country}", "p2p_disabled=1", "network={", f"    ssid={wifi.ssid.encode().hex()}"]
    if wifi.key:
        # The second is what access points with management frame protection ask for.
        lines += [f"    psk={wifi.key}", "    key_mgmt=WPA-PSK WPA-PSK-SHA256", "    ieee80211w=1"]
    else:
        lines.append("    key_mgmt=NONE")
    if wifi.hidden:
        lines.append("    scan_ssid=1")
    return WRITTEN + "\n".join([*lines, "}"]) + "\n"


def networkd(network: Network, link: str) -> str:
    """systemd.network(5); in place of the image's own file of that name, whose reasons are in there."""
    match = "Type=wlan" if link == "wifi" else "Type=ether\nKind=!*"
    lines = [f"Address={a}" for a in network.addresses] + [f"Gateway={g}" for g in network.gateways]
    lines += [f"DNS={d}" for d in network.dns]
    return (
        f"{WRITTEN}[Match]\n{match}\n\n[Network]\n" + "\n".join(lines) + "\nMulticastDNS=yes\n\n"
        "[Link]\nRequiredForOnline=no\n"
    )


# ---------------------------------------------------------------- for people; CRLF, as Windows' oldest editors want it


def _lines(*lines: str) -> str:
    return "".join(f"{line}\r\n" for line in lines)


def problems(name: str, found: tuple[Problem, ...]) -> str:
    return _lines(
        f"{name} could not be used, and nothing of it was. It is still there: mend it and start the board again.",
        "",
        *(f"- {problem}" for problem in found),
        "",
        "edged.toml.example shows how each line is written.",
    )


def example_edited() -> str:
    return _lines(
        "edged.toml.example was changed, but it is only an example and is not read.",
        "",
        'Save it under the name "edged.toml" (not "edged.toml.example"), beside it, and start the board again.',
    )


def no_data(why: str) -> str:
    return _lines(
        "The data partition (the last one on the card, edged-data) can't be used, so nothing runs:",
        "",
        f"- {why}",
        "",
        "Start the board again. If this text comes back, check the card (e2fsck -f elsewhere) or flash it anew.",
    )


def refused(said: str) -> str:
    return _lines(
        "The board could not join its fleet, and needs a new token:",
        "",
        f"- {said}",
        "",
        'Make one with `edgehub token create` on the hub, write it into a new edged.toml here (token = "..." will do,',
        "everything else was kept), and start the board again.",
    )


def waiting(said: str) -> str:
    return _lines(
        "The board has not joined its fleet yet, and goes on trying. The last answer was:",
        "",
        f"- {said}",
        "",
        "Network and Wi-Fi can be changed by a new edged.toml.",
    )


TO_JOIN = "- a token to join a fleet with, which it tries as soon as it has a network"


def done(settings: Settings, hostname: str) -> str:
    """No secret is in it."""
    lines = ["edged.toml was used and wiped. What was done:", ""]
    if settings.hostname:
        lines.append(f"- host name {settings.hostname}")
    if settings.ssh_authorized_keys is not None:
        count = len(settings.ssh_authorized_keys)
        lines.append(f"- {count} ssh key(s) may log in: ssh root@{settings.hostname or hostname}.local")
    if settings.timezone:
        lines.append(f"- time zone {settings.timezone}")
    if settings.watchdog:
        lines.append(f"- watchdog {settings.watchdog}")
    if settings.wifi:
        lines.append(f"- Wi-Fi {settings.wifi.ssid} ({settings.wifi.country})")
    if settings.network:
        lines.append(f"- address {', '.join(settings.network.addresses) or 'by DHCP'}")
    if settings.node:
        lines.append(f"- the node's settings: {', '.join(sorted(settings.node))}")
    if settings.token:
        lines.append(TO_JOIN)
    return _lines(*lines)


def joined(told: str, node: str, fleet: str, hostname: str) -> str:
    """:param told: the text of `done`, whose last line comes true."""
    line = f"- joined: this board is the node {node} of fleet {fleet}; its host name is {hostname}"
    return told.replace(TO_JOIN, line) if TO_JOIN in told else _lines(line.removeprefix("- ").capitalize())
