"""How full the nodes are, in the scheduler's own numbers, and how few of them could hold it all. Pure."""

from __future__ import annotations

import numpy as np

from cloudlink.hub.schedule.fleet import Fleet
from cloudlink.kube.fits import FitNode

_SHOWN = ("memory", "cpu", "pods")


def rows(before: Fleet, after: Fleet) -> tuple[FitNode, ...]:
    """Each node of `before`, with what its pods take there and what they take more afterwards."""
    found: list[FitNode] = []
    for row, node in enumerate(before.map.nodes):
        told: dict[str, int] = {}
        then = after.map.rows.get(node.metadata.name)
        for resource in _SHOWN:
            whole, left = int(before.whole[resource][row]), int(before.free[resource][row])
            told[resource] = whole
            told[f"{resource}_used"] = whole - left
            told[f"{resource}_new"] = left - int(after.free[resource][then]) if then is not None else left - whole
        found.append(FitNode(name=node.metadata.name, ready=bool(before.ready[row] and before.open[row]), **told))
    return tuple(found)


def occupied(fleet: Fleet) -> int:
    """Nodes with pods that ask for memory or CPU."""
    taken = np.zeros(len(fleet), np.bool_)
    for resource in ("memory", "cpu"):
        taken |= fleet.free[resource] < fleet.whole[resource]
    return int(taken.sum())


def needed(fleet: Fleet) -> int:
    """Fewer nodes can't hold what all of the pods ask for: the largest ones, filled to the last byte.

    By total, resource by resource (the L1 bound for bins of different sizes); and since two pods of more than half of
    the largest node can't share one, by their number.
    """
    tenants = fleet.tenants.values()
    least = 0
    for resource in ("memory", "cpu"):
        whole = np.sort(fleet.whole[resource])[::-1]
        asked = np.array([t.wants.amount(resource) for t in tenants], np.int64)
        total = int(asked.sum()) if len(asked) else 0
        if not total or not len(whole):
            continue
        enough = np.searchsorted(np.cumsum(whole), total) + 1
        large = int((asked * 2 > whole[0]).sum())
        least = max(least, min(int(enough), len(whole)), min(large, len(whole)))
    return least
