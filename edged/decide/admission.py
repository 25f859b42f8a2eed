"""Which of the document's pods may be here at all: the budget's word, and one pod for each port of the machine."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from edged.decide import budget as budgets
from edged.decide.attempts import ENDED, by_pod, newest_of
from edged.decide.lifecycle import terminal
from edged.decide.services import TAKEN, port_conflicts
from edged.decide.turns import turns
from edged.model import ContainerState, Desired, Observed


def admission(
    desired: Desired,
    observed: Observed,
    budget: budgets.Budget,
    attempts: Mapping[str, list[ContainerState]] | None = None,
) -> budgets.Admission:
    """Pods that are over, or whose time hasn't come, have no part in the budget and hold no port. Of the others those
    with live containers come first, then those that have begun, then the document's own order decides: nobody is
    pushed out by a newcomer.

    :param attempts: `by_pod` of the observed containers, where it is known already.
    """
    attempts = by_pod(observed.containers) if attempts is None else attempts
    sandboxes = {s.pod_uid: s for s in observed.sandboxes}
    wanted = {p.uid for p in desired.pods}
    live = {c.pod_uid for c in observed.containers if c.phase not in ENDED}
    begun = set(sandboxes) | set(attempts)
    over = {
        p.uid
        for p in desired.pods
        if p.uid in begun
        and p.uid not in live
        and terminal(p, newest_of(attempts.get(p.uid, [])), sandboxes[p.uid].evicted if p.uid in sandboxes else "")
    }
    over |= {uid for uid in observed.ended if uid in wanted and uid not in begun}
    over |= turns(desired, observed, attempts).held.keys() - begun  # their time will come
    pods = sorted((p for p in desired.pods if p.uid not in over), key=lambda p: p.uid not in begun)
    leaving = sum(s.memory_request for s in observed.sandboxes if s.pod_uid not in wanted)
    told = budgets.admit(pods, live, budget, leaving, budgets.set_aside(desired))
    conflicts = port_conflicts(desired, {*told.refused, *over}, live)
    if not conflicts:
        return told
    return msgspec.structs.replace(
        told,
        refused={**told.refused, **conflicts},
        reasons={**told.reasons, **dict.fromkeys(conflicts, TAKEN)},
    )
