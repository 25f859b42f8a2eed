"""Requests that are left to what nodes learn. Annotations of pods, and so of the templates that they are made of. Pure.

edged.dev/requests: learned                  memory requests follow what the containers really use, when pods are made
edged.dev/requests-bound: "16Mi-256Mi"       but never below or above this, each container; without it, half to twice
                                             of what the container declares
edged.dev/requests-given: "main=48Mi ..."    written by the hub on the pod: what it was given instead
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cloudlink.kube.container import Container
from cloudlink.kube.findings import Findings
from cloudlink.kube.pod import PodSpec
from cloudlink.kube.quantity import QuantityError, to_int

REQUESTS = "edged.dev/requests"
BOUND = "edged.dev/requests-bound"
GIVEN = "edged.dev/requests-given"
LEARNED = "learned"


@dataclass(frozen=True, slots=True)
class Wish:
    """:ivar bound: bytes, at least and at most; None = half to twice of what is declared."""

    bound: tuple[int, int] | None = None

    def clamped(self, amount: int, container: Container) -> int:
        """An amount of memory as this container may ask for it: within the bound, and never more than its limit."""
        declared = declared_memory(container)
        low, high = self.bound or (declared // 2, declared * 2)
        limit = to_int(container.resources.limits.get("memory", "0"))
        amount = min(max(amount, low), high)
        return min(amount, limit) if limit else amount


def declared_memory(container: Container) -> int:
    """Bytes; who names only a limit asks for that, as in Kubernetes."""
    resources = container.resources
    return to_int(resources.requests.get("memory") or resources.limits.get("memory", "0"))


def wish_of(annotations: Mapping[str, str]) -> Wish | None:
    """None for a pod that asks for what it declares. What isn't understood was refused when it was written."""
    if annotations.get(REQUESTS) != LEARNED:
        return None
    text = annotations.get(BOUND)
    try:
        return Wish(_bound(text) if text is not None else None)
    except ValueError:
        return None


def _bound(text: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    try:
        found = to_int(low.strip()), to_int(high.strip())
    except QuantityError:
        found = 0, 0
    if not dash or not 0 < found[0] <= found[1]:
        raise ValueError('must be two quantities of memory, the smaller one first, such as "16Mi-256Mi"')
    return found


def check(annotations: Mapping[str, str], spec: PodSpec, path: str, found: Findings) -> None:
    """What is wrong with them; `path` is that of the annotations."""
    wanted, text = annotations.get(REQUESTS), annotations.get(BOUND)
    for key, value in annotations.items():
        if key.startswith(REQUESTS[:-1]) and key not in (REQUESTS, BOUND, GIVEN):
            found.invalid(f"{path}[{key}]", value, f"no such annotation; there are {REQUESTS} and {BOUND}")
    if wanted is not None and wanted != LEARNED:
        found.unsupported(f"{path}[{REQUESTS}]", wanted, [LEARNED])
    if text is not None:
        try:
            _bound(text)
        except ValueError as e:
            found.invalid(f"{path}[{BOUND}]", text, str(e))
        if wanted is None:
            found.required(f"{path}[{REQUESTS}]", f"there is a {BOUND} and nothing that it bounds (write: {LEARNED})")
    elif wanted == LEARNED:
        silent = [c.name for c in spec.containers if not _says_memory(c)]
        if silent:
            why = f"container {silent[0]} declares no memory, so nothing bounds what it may be given (e.g. 16Mi-256Mi)"
            found.required(f"{path}[{BOUND}]", why)


def _says_memory(container: Container) -> bool:
    return "memory" in container.resources.requests or "memory" in container.resources.limits
