"""How long pods wait for a lost node, unless they say otherwise."""

from __future__ import annotations

from typing import NamedTuple


class Patience(NamedTuple):
    """Seconds; what kube-apiserver's --default-not-ready-toleration-seconds and --default-unreachable-... say there."""

    not_ready: int = 300
    unreachable: int = 300


DEFAULT_PATIENCE = Patience()  # Kubernetes' own
