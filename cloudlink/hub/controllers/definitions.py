"""The objects of a CustomResourceDefinition that was asked to end go before it does (upstream's crdfinalizer)."""

from __future__ import annotations

from collections.abc import Sequence

from cloudlink.hub.changes import Update
from cloudlink.hub.controllers.garbage import AT_ONCE
from cloudlink.hub.decision import NEVER, Decision
from cloudlink.hub.deletion import deletion
from cloudlink.hub.objects import is_deleted, with_meta
from cloudlink.kube.definitions import CLEANUP, CustomResourceDefinition
from cloudlink.kube.meta import KubeObject


def cleanup(definition: CustomResourceDefinition, objects: Sequence[KubeObject], now: float) -> Decision:
    """:param objects: all that are there of its kind."""
    if not is_deleted(definition) or CLEANUP not in definition.metadata.finalizers:
        return Decision()
    if not objects:
        kept = tuple(f for f in definition.metadata.finalizers if f != CLEANUP)
        return Decision((Update(definition.model_copy(update=with_meta(definition, finalizers=kept))),))
    wanted = [o for o in objects if not is_deleted(o)]
    changes = tuple(c for o in wanted[:AT_ONCE] if (c := deletion(o, "Background")) is not None)
    return Decision(changes, wake_at=now if len(wanted) > AT_ONCE else NEVER)
