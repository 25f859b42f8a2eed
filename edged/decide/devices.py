"""Devices that containers claim: who waits for one, and who is to be given one that came back."""

from __future__ import annotations

from edged.decide.attempts import Found
from edged.decide.steps import GiveDevices
from edged.model import Container, ContainerPhase, ContainerState, Observed

NOT_FOUND = "DeviceNotFound"


def missing(container: Container, observed: Observed) -> tuple[str, ...]:
    """Claimed, but not plugged in now."""
    return tuple(name for name in container.devices if name not in observed.devices)


def not_found(names: tuple[str, ...]) -> str:
    """A sentence for people."""
    what = ", ".join(f'"{name}"' for name in names)
    return (
        f"{'device' if len(names) == 1 else 'devices'} {what} not found on this node; plug in or enable what is meant"
    )


def give(container: Container, state: ContainerState, observed: Observed) -> Found:
    """What a running container has is made what is plugged in. A device that left ends nothing."""
    if state.phase is not ContainerPhase.RUNNING or not (container.devices or state.devices):
        return
    there = [name for name in container.devices if name in observed.devices]
    wanted = {f"{name}={observed.devices[name]}" for name in there}
    has = set(state.devices)
    if wanted == has:
        return
    came = sorted(entry.partition("=")[0] for entry in wanted - has)
    left = sorted(entry.partition("=")[0] for entry in has - wanted if entry.partition("=")[0] not in there)
    said = [f"{', '.join(came)} came"] * bool(came) + [f"{', '.join(left)} left"] * bool(left)
    yield GiveDevices(state, tuple(there), " and ".join(said))
