"""What a board says of itself, as labels of its Node object. Pure.

A label that came from the board is remembered in an annotation, so that one which it no longer says goes again, and
one that somebody has changed at the hub since is left to them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from cloudlink.kube import names
from cloudlink.kube.core import Node

REMEMBERED = "edged.dev/labels-of-the-board"
MAX_LABELS = 64
# A board may say where and what it is; what Kubernetes' other labels say decides who may run where, and is the hub's
# to say (compare Kubernetes' NodeRestriction).
_OURS = ("kubernetes.io", "k8s.io")
_ITS_OWN = ("node.kubernetes.io", "topology.kubernetes.io")


def with_labels(node: Node, told: Mapping[str, str]) -> Node:
    """The Node with the labels that its board tells; the same Node where nothing changes."""
    meta, before = node.metadata, _remembered(node)
    wanted = dict([(k, v) for k, v in sorted(told.items()) if _acceptable(k, v)][:MAX_LABELS])
    # What is there now as the board said it is still the board's; anything else belongs to the hub.
    its = {k for k, v in before.items() if meta.labels.get(k) == v}
    labels = {k: v for k, v in meta.labels.items() if k not in its or k in wanted}
    mine = {k: v for k, v in wanted.items() if k in its or k not in meta.labels}
    labels |= mine
    annotations = {k: v for k, v in meta.annotations.items() if k != REMEMBERED}
    if mine:
        annotations[REMEMBERED] = json.dumps(mine, separators=(",", ":"), sort_keys=True)
    if labels == meta.labels and annotations == meta.annotations:
        return node
    return node.model_copy(update={"metadata": meta.model_copy(update={"labels": labels, "annotations": annotations})})


def _remembered(node: Node) -> dict[str, str]:
    try:
        said = json.loads(node.metadata.annotations.get(REMEMBERED, "{}"))
    except ValueError:
        return {}
    return {k: v for k, v in said.items() if isinstance(v, str)} if isinstance(said, dict) else {}


def _acceptable(key: str, value: str) -> bool:
    if names.label_key(key) or names.label_value(value):
        return False
    domain = key.rpartition("/")[0]
    if domain in _ITS_OWN:
        return True
    return not any(domain == d or domain.endswith(f".{d}") for d in _OURS)
