"""Persistent volumes of this node: which go, because nothing on the node or in the document needs them; which grow."""

from __future__ import annotations

from collections.abc import Collection

from edged.decide.attempts import Found
from edged.decide.steps import CLAIMS, RemoveClaim, ResizeClaim
from edged.model import ClaimFiles, Desired, Observed


def settle(desired: Desired, observed: Observed, present: Collection[str], now: float) -> Found:
    """:param present: uids of pods of which anything is on the machine.

    A pod that is leaving may still use a volume that the document lists no longer, and nothing says which: while one
    is there no volume is deleted.
    """
    if CLAIMS in observed.busy:
        return
    setback = observed.setbacks.get(CLAIMS)
    if setback is not None and setback.retry_at > now:
        yield setback.retry_at
        return
    for claim in desired.claims:
        if claim.uid in observed.claims and observed.claim_sizes.get(claim.uid, 0) < claim.size:
            yield ResizeClaim(claim, "its claim asks for more, or nobody has looked since the node came up")
    pods = {pod.uid for pod in desired.pods}
    if any(uid not in pods for uid in present):
        return
    used = {v.source.uid for pod in desired.pods for v in pod.volumes if isinstance(v.source, ClaimFiles)}
    for uid in sorted(observed.claims - used - {claim.uid for claim in desired.claims}):
        yield RemoveClaim(uid, "its claim was deleted")
