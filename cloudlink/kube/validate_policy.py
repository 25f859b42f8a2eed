"""Rules for PodDisruptionBudgets, PriorityClasses and Leases. See `validate`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from cloudlink.kube import policy, scheduling
from cloudlink.kube.findings import Findings
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.validate_meta import selector, share_of_all

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)


def _budget(obj: policy.PodDisruptionBudget, found: Findings) -> None:
    spec = obj.spec
    if spec.min_available is not None and spec.max_unavailable is not None:
        found.invalid("spec", {}, "minAvailable and maxUnavailable cannot be both set")
    if spec.min_available is not None:
        share_of_all(spec.min_available, "spec.minAvailable", found)
    if spec.max_unavailable is not None:
        share_of_all(spec.max_unavailable, "spec.maxUnavailable", found)
    selector(spec.selector, "spec.selector", found)


def _priority_class(obj: scheduling.PriorityClass, found: Findings) -> None:
    name = obj.metadata.name
    if name.startswith(scheduling.SYSTEM_PREFIX):
        known = {c.metadata.name: c for c in scheduling.SYSTEM_CLASSES}
        if name not in known:
            found.forbidden(
                "metadata.name",
                "priority class names with 'system-' prefix are reserved for system use only."
                f" error: {name} is not a known system priority class",
            )
        elif obj.value != known[name].value or obj.global_default:
            found.forbidden(
                "metadata.name",
                "priority class names with 'system-' prefix are reserved for system use only."
                f" error: value of {name} PriorityClass must be {known[name].value}, and it is never the default",
            )
    elif obj.value > scheduling.HIGHEST_USER_PRIORITY:
        highest = scheduling.HIGHEST_USER_PRIORITY
        found.forbidden("value", f"maximum allowed value of a user defined priority is {highest}")
    elif obj.value < -(1 << 31):
        found.invalid("value", obj.value, "must fit into 32 bits")


def _lease(obj: scheduling.Lease, found: Findings) -> None:
    spec = obj.spec
    if spec.holder_identity == "":
        found.invalid("spec.holderIdentity", "", "must not be empty")
    if spec.lease_duration_seconds is not None and spec.lease_duration_seconds <= 0:
        found.invalid("spec.leaseDurationSeconds", spec.lease_duration_seconds, "must be greater than 0")
    if spec.lease_transitions is not None:
        found.at_least("spec.leaseTransitions", spec.lease_transitions, 0)
    for field, time in (("acquireTime", spec.acquire_time), ("renewTime", spec.renew_time)):
        if time and not _TIME.fullmatch(time):
            found.invalid(f"spec.{field}", time, 'must be a time such as "2026-01-31T12:00:00.000000Z"')


CHECKS: Mapping[type[KubeObject], Callable[..., None]] = {
    policy.PodDisruptionBudget: _budget,
    scheduling.PriorityClass: _priority_class,
    scheduling.Lease: _lease,
}
