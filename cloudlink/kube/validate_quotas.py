"""Rules for LimitRanges and ResourceQuotas. See `validate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cloudlink.kube import names, quotas
from cloudlink.kube.findings import Findings
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.quantity import exact

TYPES = ("Container", "Pod", "PersistentVolumeClaim")
SCOPES = (
    *("Terminating", "NotTerminating", "BestEffort", "NotBestEffort"),
    *("PriorityClass", "CrossNamespacePodAffinity"),
)
_OPPOSITES = (("Terminating", "NotTerminating"), ("BestEffort", "NotBestEffort"))
_EXISTING_ONLY = ("BestEffort", "NotBestEffort", "Terminating", "NotTerminating", "CrossNamespacePodAffinity")

# ---------------------------------------------------------------- LimitRange


def _limit_range(obj: quotas.LimitRange, found: Findings) -> None:
    seen: set[object] = set()
    for i, item in enumerate(obj.spec.limits):
        path = f"spec.limits[{i}]"
        if item.type not in TYPES and "/" not in item.type:
            found.unsupported(f"{path}.type", item.type, TYPES)
        elif why := names.label_key(item.type):
            found.invalid(f"{path}.type", item.type, why)
        found.unique(f"{path}.type", item.type, seen)
        _not_of_this_type(item, path, found)
        _item(item, path, found)


def _not_of_this_type(item: quotas.LimitRangeItem, path: str, found: Findings) -> None:
    if item.type == "Pod":
        for field, given in (("default", item.default), ("defaultRequest", item.default_request)):
            if given:
                found.forbidden(f"{path}.{field}", "may not be specified when `type` is 'Pod'")
    if item.type == "PersistentVolumeClaim" and "storage" not in {*item.min, *item.max}:
        why = "either minimum or maximum storage value is required, but neither was provided"
        found.required(f"{path}.limits", why)


def _item(item: quotas.LimitRangeItem, path: str, found: Findings) -> None:
    fields = {
        "max": item.max,
        "min": item.min,
        "default": item.default,
        "defaultRequest": item.default_request,
        "maxLimitRequestRatio": item.max_limit_request_ratio,
    }
    bad = len(found.causes)
    for field, values in fields.items():
        for name in values:
            if why := names.label_key(name):
                found.invalid(f"{path}.{field}[{name}]", name, why)
    if len(found.causes) > bad:
        return
    # Kubernetes' order of the four: each may not be greater than those after it.
    order = (
        ("min", "min value", item.min),
        ("defaultRequest", "default request value", item.default_request),
        ("default", "default value", item.default),
        ("max", "max value", item.max),
    )
    for at, (field, words, values) in enumerate(order):
        for other, other_words, others in order[at + 1 :]:
            for name in sorted(values.keys() & others.keys()):
                if exact(values[name]) > exact(others[name]):
                    where, shown = (other, others[name]) if field == "min" and other != "max" else (field, values[name])
                    if (field, other) == ("defaultRequest", "default"):
                        other_words = "default limit value"
                    why = f"{words} {values[name]} is greater than {other_words} {others[name]}"
                    found.invalid(f"{path}.{where}[{name}]", shown, why)
    for name, ratio in item.max_limit_request_ratio.items():
        _ratio(name, ratio, item, path, found)


def _ratio(name: str, ratio: str, item: quotas.LimitRangeItem, path: str, found: Findings) -> None:
    here = f"{path}.maxLimitRequestRatio[{name}]"
    if exact(ratio) < 1:
        found.invalid(here, ratio, f"ratio {ratio} is less than 1")
    low, high = item.min.get(name), item.max.get(name)
    if low is not None and high is not None and exact(low) > 0 and exact(ratio) > exact(high) / exact(low):
        limit = float(exact(high) / exact(low))
        found.invalid(here, ratio, f"ratio {ratio} is greater than max/min = {limit:.6f}")


# ---------------------------------------------------------------- ResourceQuota


def _quota(obj: quotas.ResourceQuota, found: Findings) -> None:
    spec = obj.spec
    for name, value in spec.hard.items():
        path = f"spec.hard[{name}]"
        if why := names.label_key(name.removeprefix("count/").removeprefix("requests.").removeprefix("limits.")):
            found.invalid(path, name, why)
        if exact(value) < 0:
            found.invalid(path, value, "must be greater than or equal to 0")
        elif _counts(name) and exact(value).denominator != 1:
            found.invalid(path, value, "must be an integer")
    _scopes(set(spec.scopes), list(spec.scopes), "spec.scopes", found)
    if spec.scope_selector is None:
        return
    terms = spec.scope_selector.match_expressions
    for i, term in enumerate(terms):
        path = f"spec.scopeSelector.matchExpressions[{i}]"
        if term.scope_name in _EXISTING_ONLY and term.operator != "Exists":
            why = (
                "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating,"
                " ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or"
                " ResourceQuotaScopeCrossNamespacePodAffinity"
            )
            found.invalid(f"{path}.operator", term.operator, why)
        if term.operator in ("In", "NotIn") and not term.values:
            found.required(f"{path}.values", "must be at least one value when `operator` is 'In' or 'NotIn'")
        if term.operator in ("Exists", "DoesNotExist") and term.values:
            found.invalid(
                f"{path}.values", list(term.values), "must be no value when `operator` is 'Exist' or 'DoesNotExist'"
            )
    scopes = [t.scope_name for t in terms]
    _scopes(set(scopes), scopes, "spec.scopeSelector.matchExpressions", found)


def _counts(name: str) -> bool:
    """Whether it is a number of objects, not an amount."""
    return name.startswith(("count/", "services.")) or name in (
        *("pods", "services", "secrets", "configmaps"),
        *("persistentvolumeclaims", "replicationcontrollers", "resourcequotas"),
    )


def _scopes(given: set[str], shown: list[str], path: str, found: Findings) -> None:
    if not given <= set(SCOPES):
        found.invalid(path, shown, "unsupported scope")
    if any(set(pair) <= given for pair in _OPPOSITES):
        found.invalid(path, shown, "conflicting scopes")


CHECKS: Mapping[type[KubeObject], Callable[..., None]] = {
    quotas.LimitRange: _limit_range,
    quotas.ResourceQuota: _quota,
}
