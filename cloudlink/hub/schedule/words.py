"""Why a pod has no node, as a sentence that its owner can act on. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from cloudlink.hub.schedule.fleet import Fleet, Mask
from cloudlink.hub.schedule.gates import Gate
from cloudlink.hub.schedule.wants import Wants
from cloudlink.kube.affinity import NodeSelectorTerm
from cloudlink.kube.quantity import format_milli

TERMS_MAX = 200  # characters of an affinity in a sentence


def sentence(wants: Wants, fleet: Fleet, gates: Iterable[Gate]) -> str:
    """Such as `0/2 nodes: 1 is offline, 1 lacks 4 GiB memory (largest free 900 MiB)`.

    Each node counts for the first gate that it doesn't pass; what is said first is said of the first node.
    """
    if not len(fleet):
        return "0/0 nodes: no node has joined this fleet yet"
    left = fleet.map.all()
    parts: list[tuple[int, str]] = []
    for gate in gates:
        stopped = left & ~gate.through
        left &= gate.through
        for detail, rows in _by_detail(gate, stopped, fleet):
            parts.append((int(rows[0]), f"{len(rows)} {_part(gate.kind, detail, rows, wants, fleet)}"))
    return f"0/{len(fleet)} nodes: {', '.join(text for _, text in sorted(parts, key=lambda p: p[0]))}"


def _by_detail(gate: Gate, stopped: Mask, fleet: Fleet) -> Iterable[tuple[str, np.ndarray]]:
    rows = np.flatnonzero(stopped)
    if not len(rows):
        return
    if gate.kind != "pods":
        yield gate.detail, rows
        return
    limits = fleet.whole["pods"][rows]
    for limit in np.unique(limits):
        yield str(limit), rows[limits == limit]


# kind of gate -> what is said of one node, and of several; the others are amounts
_SAID = {
    "ready": ("is not ready", "are not ready"),
    "cordoned": ("is cordoned", "are cordoned"),
    "selector": ("does not match nodeSelector {}", "do not match nodeSelector {}"),
    "affinity": ("does not match the pod's node affinity ({})", "do not match the pod's node affinity ({})"),
    "taint": ("has taint {} that the pod does not tolerate", "have taint {} that the pod does not tolerate"),
    "pods": ("has no room for another pod (limit {})", "have no room for another pod (limit {})"),
    "claim": ("does not have the volume of claim {}", "do not have the volume of claim {}"),
    "pressure": ("has {}", "have {}"),
    "port": ("has host port {} taken", "have host port {} taken"),
    "device": ("has no device {} free", "have no device {} free"),
    "shunned": (
        "has pods that keep this one away",
        "have pods that keep this one away",
    ),
    "anti-affinity": ("has pods that this one avoids (by {})", "have pods that this one avoids (by {})"),
    "company": (
        "has none of the pods near that this one needs (by {})",
        "have none of the pods near that this one needs (by {})",
    ),
    "spread": ("would make its pods too uneven (by {})", "would make its pods too uneven (by {})"),
}


def _part(kind: str, detail: str, rows: np.ndarray, wants: Wants, fleet: Fleet) -> str:
    said = _SAID.get(kind)
    if said is not None:
        detail = _terms(wants.terms or ()) if kind == "affinity" else detail
        return said[len(rows) > 1].format(detail)
    asked, free = wants.amount(kind), max(int(fleet.resource(kind)[rows].max()), 0)
    lacks = "lacks" if len(rows) == 1 else "lack"
    shown = format_milli if kind == "cpu" else in_bytes
    return f"{lacks} {shown(asked)} {kind} (largest free {shown(free)})"


def _terms(terms: Sequence[NodeSelectorTerm]) -> str:
    """One of them must hold: "zone In [attic, cellar] or gpu Exists"."""
    said = " or ".join(
        " and ".join(
            f"{r.key} {r.operator}" + (f" [{', '.join(r.values)}]" if r.values else "")
            for r in (*term.match_expressions, *term.match_fields)
        )
        or "an empty term, which no node matches"
        for term in terms
    )
    return said if len(said) <= TERMS_MAX else f"{said[: TERMS_MAX - 3]}..."


def in_bytes(number: int) -> str:
    """For people: 4294967296 -> "4 GiB", 943718400 -> "900 MiB", 966367641 -> "922 MiB"."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if number >= 1 << power:
            value = number / (1 << power)
            return f"{value:.0f} {unit}" if value >= 100 or value == int(value) else f"{value:.1f} {unit}"
    return f"{number} bytes"
