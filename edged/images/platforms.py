"""Which of a multi-platform image's manifests this machine should run. Pure but for `this_machine`.

Names are Go's (GOOS, GOARCH, GOARM), as OCI's image index uses them; what an architecture can run besides its own
follows containerd's rules: 64-bit ARM runs 32-bit ARM programs, and each ARM version the earlier ones.
"""

from __future__ import annotations

import os

from edged.errors import PermanentError
from edged.images.oci import Descriptor, Platform

_MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv8l": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", ""),
}
_DEFAULT_VARIANTS = {"arm64": "v8", "arm": "v7"}  # what a missing variant means
_ARM_VERSIONS = ("v8", "v7", "v6", "v5")


def this_machine() -> Platform:
    machine = os.uname().machine
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    return Platform("linux", architecture, variant)


def parse_platform(text: str) -> Platform:
    """ "linux/arm/v7" or "arm64"; PermanentError for anything else."""
    parts = text.split("/")
    if parts[0] != "linux":
        parts.insert(0, "linux")
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise PermanentError(f"platform {text!r} is not of the form linux/ARCHITECTURE[/VARIANT], like linux/arm/v7")
    return Platform(*parts)


def runnable(machine: Platform) -> tuple[Platform, ...]:
    """What the machine can run, the best first; every variant written out."""
    variant = machine.variant or _DEFAULT_VARIANTS.get(machine.architecture, "")
    own = Platform(machine.os, machine.architecture, variant)
    if machine.architecture == "amd64":
        return (own, Platform(machine.os, "386"))
    if machine.architecture in ("arm64", "arm"):
        versions = _ARM_VERSIONS[_ARM_VERSIONS.index(variant) :] if variant in _ARM_VERSIONS else ()
        arm = tuple(Platform(machine.os, "arm", version) for version in versions)
        return arm if machine.architecture == "arm" and arm else (own, *arm)
    return (own,)


def rank(offered: Platform, machine: Platform) -> int | None:
    """0 for the best fit, None for what can't run. A missing architecture is taken at its word: anything goes."""
    if not offered.architecture:
        return 0
    variant = offered.variant or _DEFAULT_VARIANTS.get(offered.architecture, "")
    if offered.architecture == "amd64" and variant == "v1":
        variant = ""
    written_out = Platform(offered.os, offered.architecture, variant)
    choices = runnable(machine)
    return choices.index(written_out) if written_out in choices else None


def choose(candidates: tuple[Descriptor, ...], machine: Platform, what: str) -> Descriptor:
    """The manifest to run. Attestations and other things that say "unknown" are never chosen.

    :raises PermanentError: nothing fits; the sentence lists what there is.
    """
    ranked = []
    for position, candidate in enumerate(candidates):
        place = 0 if candidate.platform is None else rank(candidate.platform, machine)
        if place is not None:
            ranked.append((place, position, candidate))
    if ranked:
        return min(ranked, key=lambda r: r[:2])[2]
    there = ", ".join(sorted({str(c.platform) for c in candidates})) or "nothing"
    raise PermanentError(f"{what} has no image for {machine}, only for: {there}")
