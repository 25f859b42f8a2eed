"""LimitRanges: what containers of a namespace ask for when they say nothing, and the bounds they must keep. Pure.

After Kubernetes' plugin/pkg/admission/limitranger, whose words its users know: looked at when a pod is made, whoever
makes it, and when a claim is made or grows. Pods that are there already stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction

from cloudlink.hub.errors import Forbidden
from cloudlink.kube.claims import PersistentVolumeClaim
from cloudlink.kube.container import Container, ResourceRequirements
from cloudlink.kube.pod import Pod, PodSpec, effective
from cloudlink.kube.quantity import canonical, exact, format_bytes
from cloudlink.kube.quotas import LimitRange, LimitRangeItem

ANNOTATION = "kubernetes.io/limit-ranger"  # what a pod was given, for people to read
_NANO = 10**9  # quantities are no finer

Amounts = Mapping[str, Fraction]


def within_limits(pod: Pod, ranges: Sequence[LimitRange]) -> Pod:
    """The pod with the defaults of its namespace.

    :raises Forbidden: it asks for more, or for less, than it may; each reason in Kubernetes' words.
    """
    for limit_range in ranges:
        for item in limit_range.spec.limits:
            if item.type == "Container":
                pod = _with_defaults(pod, item)
    _refuse(_of_pod(pod, ranges))
    return pod


def check_claim(claim: PersistentVolumeClaim, ranges: Sequence[LimitRange]) -> None:
    """Forbidden where a claim asks for more or less storage than its namespace allows."""
    asked = _amounts(claim.spec.resources.requests)
    found: list[str] = []
    for item in _items(ranges, "PersistentVolumeClaim"):
        for name, low in item.min.items():
            found += _too_little(name, item.type, low, asked, None)
        for name, high in item.max.items():
            if name in asked and asked[name] > exact(high):
                found.append(
                    f"maximum {name} usage per {item.type} is {canonical(high)}, but request is {_text(asked, name)}"
                )
    _refuse(found)


# ---------------------------------------------------------------- defaults


def _with_defaults(pod: Pod, item: LimitRangeItem) -> Pod:
    said: list[str] = []
    spec = pod.spec.model_copy(
        update={
            "init_containers": tuple(_filled(c, item, "init container", said) for c in pod.spec.init_containers),
            "containers": tuple(_filled(c, item, "container", said) for c in pod.spec.containers),
        }
    )
    if not said:
        return pod
    before = pod.metadata.annotations.get(ANNOTATION, "LimitRanger plugin set: ")
    text = before + ("; " if ANNOTATION in pod.metadata.annotations else "") + "; ".join(said)
    meta = pod.metadata.model_copy(update={"annotations": pod.metadata.annotations | {ANNOTATION: text}})
    return pod.model_copy(update={"spec": spec, "metadata": meta})


def _filled(container: Container, item: LimitRangeItem, word: str, said: list[str]) -> Container:
    """A container that names a limit asks for as much already (core/v1 defaults)."""
    has = container.resources
    requests = {k: v for k, v in item.default_request.items() if k not in has.requests}
    limits = {k: v for k, v in item.default.items() if k not in has.limits}
    if requests:
        said.append(f"{', '.join(sorted(requests))} request for {word} {container.name}")
    if limits:
        said.append(f"{', '.join(sorted(limits))} limit for {word} {container.name}")
    if not requests and not limits:
        return container
    filled = ResourceRequirements(requests=has.requests | requests, limits=has.limits | limits)
    return container.model_copy(update={"resources": filled})


# ---------------------------------------------------------------- bounds


def _of_pod(pod: Pod, ranges: Sequence[LimitRange]) -> Iterator[str]:
    for item in _items(ranges, "Container"):
        for container in (*pod.spec.init_containers, *pod.spec.containers):
            has = container.resources
            yield from _of_one(item, _amounts(has.requests), _amounts(has.limits))
    for item in _items(ranges, "Pod"):
        requests = _together(pod.spec, {c.name: _amounts(c.resources.requests) for c in _containers(pod.spec)})
        limits = _together(pod.spec, {c.name: _amounts(c.resources.limits) for c in _containers(pod.spec)})
        yield from _of_one(item, requests, limits)


def _of_one(item: LimitRangeItem, requests: Amounts, limits: Amounts) -> Iterator[str]:
    for name, low in item.min.items():
        yield from _too_little(name, item.type, low, requests, limits)
    for name, high in item.max.items():
        yield from _too_much(name, item.type, high, requests, limits)
    for name, ratio in item.max_limit_request_ratio.items():
        yield from _too_far_apart(name, item.type, ratio, requests, limits)


def _too_little(name: str, kind: str, low: str, requests: Amounts, limits: Amounts | None) -> Iterator[str]:
    head = f"minimum {name} usage per {kind} is {canonical(low)}"
    if name not in requests:
        yield f"{head}.  No request is specified"
    elif requests[name] < exact(low):
        yield f"{head}, but request is {_text(requests, name)}"
    elif limits is not None and name in limits and limits[name] < exact(low):
        yield f"{head}, but limit is {_text(limits, name)}"


def _too_much(name: str, kind: str, high: str, requests: Amounts, limits: Amounts) -> Iterator[str]:
    head = f"maximum {name} usage per {kind} is {canonical(high)}"
    if name not in limits:
        yield f"{head}.  No limit is specified"
    elif limits[name] > exact(high):
        yield f"{head}, but limit is {_text(limits, name)}"
    elif name in requests and requests[name] > exact(high):
        yield f"{head}, but request is {_text(requests, name)}"


def _too_far_apart(name: str, kind: str, ratio: str, requests: Amounts, limits: Amounts) -> Iterator[str]:
    head = f"{name} max limit to request ratio per {kind} is {canonical(ratio)}"
    if not requests.get(name):
        yield f"{head}, but no request is specified or request is 0"
    elif not limits.get(name):
        yield f"{head}, but no limit is specified or limit is 0"
    elif (given := limits[name] / requests[name]) > exact(ratio):
        yield f"{head}, but provided ratio is {float(given):f}"


def _items(ranges: Sequence[LimitRange], kind: str) -> Iterator[LimitRangeItem]:
    return (item for r in ranges for item in r.spec.limits if item.type == kind)


def _containers(spec: PodSpec) -> tuple[Container, ...]:
    return (*spec.init_containers, *spec.containers)


def _together(spec: PodSpec, of: Mapping[str, Amounts]) -> Amounts:
    """What a pod asks for as a whole; of a resource that none of its containers names, nothing."""

    def total(name: str) -> Fraction:
        return Fraction(effective(spec, lambda c: int(of[c.name].get(name, 0) * _NANO)), _NANO)

    return {name: total(name) for amounts in of.values() for name in amounts}


def _amounts(resources: Mapping[str, str]) -> dict[str, Fraction]:
    return {name: exact(quantity) for name, quantity in resources.items()}


def _text(amounts: Amounts, name: str) -> str:
    return shown(name, amounts[name])


def shown(name: str, amount: Fraction) -> str:
    """As a canonical quantity: bytes with binary suffixes where they are even, everything else with decimal ones."""
    if amount.denominator != 1:
        return canonical(f"{amount.numerator * (_NANO // amount.denominator)}n")
    if any(word in name for word in ("memory", "storage", "hugepages")):
        return format_bytes(amount.numerator)
    return canonical(str(amount.numerator))


def _refuse(reasons: Iterable[str]) -> None:
    found = list(dict.fromkeys(reasons))
    if found:
        raise Forbidden(found[0] if len(found) == 1 else f"[{', '.join(found)}]")
