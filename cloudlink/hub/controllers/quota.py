"""ResourceQuota: its status says what is used of it. Pure.

Creations count themselves (see `quotas.Ledger`); this counts anew when something ends, grows, or the quota changes.
"""

from __future__ import annotations

from cloudlink.hub import quotas
from cloudlink.hub.changes import UpdateStatus
from cloudlink.hub.decision import NEVER, Decision
from cloudlink.hub.objects import seconds
from cloudlink.kube.catalogue import Catalogue
from cloudlink.kube.quotas import ResourceQuota


def reconcile(quota: ResourceQuota, listed: quotas.Listed, catalogue: Catalogue, now: float) -> Decision:
    """What is used now; looked at again when a pod that is to end has had its time. `now` in seconds since 1970."""
    after = quotas.with_used(quota, quotas.count(quota, listed, catalogue, now))
    ending = (
        seconds(p.metadata.deletion_timestamp)
        for p in listed("Pod", quota.metadata.namespace)
        if p.metadata.deletion_timestamp
    )
    wake_at = min((at + 1 for at in ending if at >= now), default=NEVER)
    return Decision((UpdateStatus(after),) if after.status != quota.status else (), wake_at=wake_at)
