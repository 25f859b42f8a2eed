"""Where a Service leads: its Endpoints and EndpointSlices, kept as its pods come, get ready and go. Pure.

After Kubernetes' endpoints and endpointslice controllers. Services without a selector have what people write for them.
Other than there, the Endpoints have the Service as their owner, too: so they go with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from cloudlink.hub.changes import Create, Delete, ObjectChange, Update
from cloudlink.hub.decision import Decision, Suffix
from cloudlink.hub.objects import is_deleted, is_finished, is_ready, owned_by
from cloudlink.kube.core import Pod, Service, ServicePort
from cloudlink.kube.endpoints import (
    MANAGED_BY,
    MAX_ENDPOINTS,
    SERVICE_NAME,
    Endpoint,
    EndpointAddress,
    EndpointConditions,
    EndpointPort,
    Endpoints,
    EndpointSlice,
    EndpointsPort,
    EndpointSubset,
)
from cloudlink.kube.meta import KubeObject, ObjectMeta, matches
from cloudlink.kube.references import ObjectReference

CONTROLLER = "endpointslice-controller.k8s.io"
HEADLESS = "service.kubernetes.io/headless"
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
PER_SLICE = 100

Ports = tuple[tuple[ServicePort, int], ...]  # with the number at the pod


def concerned(before: KubeObject | None, after: KubeObject, services: Iterable[KubeObject]) -> Iterator[Service]:
    """The Services of a namespace for which it means something that a pod, or what is made here, changed.

    :param before: None for what is new; `after` itself for what is gone.
    """
    both = isinstance(before, Pod) and isinstance(after, Pod) and before is not after
    if both and _seen(before) == _seen(after):  # type: ignore[arg-type]  # they are pods
        return
    for service in services:
        if isinstance(service, Service) and any(_is_about(o, service) for o in (before, after) if o is not None):
            yield service


def _is_about(obj: KubeObject, service: Service) -> bool:
    match obj:
        case Pod():
            return bool(service.spec.selector) and matches(service.spec.selector, obj.metadata.labels)
        case EndpointSlice():
            return obj.metadata.labels.get(SERVICE_NAME) == service.metadata.name
        case _:
            return obj.metadata.name == service.metadata.name


def _seen(pod: Pod) -> tuple[object, ...]:
    """What of a pod matters here."""
    return pod.status.pod_ip, is_ready(pod), is_deleted(pod), is_finished(pod), pod.metadata.labels, pod.spec.node_name


def reconcile(
    service: Service, pods: Sequence[Pod], there: Endpoints | None, slices: Sequence[EndpointSlice], suffix: Suffix
) -> Decision:
    """What is to change; nothing where all is as it should be.

    :param pods: of the Service's namespace.
    :param there: the Endpoints of its name.
    :param slices: those that it owns.
    """
    if not service.spec.selector or service.spec.type == "ExternalName" or is_deleted(service):
        return Decision()
    mine = [p for p in pods if matches(service.spec.selector, p.metadata.labels)]
    mine = sorted((p for p in mine if p.status.pod_ip and not is_finished(p)), key=lambda p: p.metadata.name)
    groups: dict[Ports, list[Pod]] = {}
    for pod in mine:
        groups.setdefault(_ports(service, pod), []).append(pod)
    ours = [s for s in slices if s.metadata.labels.get(MANAGED_BY) == CONTROLLER and not is_deleted(s)]
    return Decision((*_endpoints(service, groups, there), *_slices(service, groups, ours, suffix)))


def _ports(service: Service, pod: Pod) -> Ports:
    """The Service's ports that this pod has; one that is named by the pod may be missing there."""
    named = {p.name: p.container_port for c in pod.spec.containers for p in c.ports if p.name}
    found: list[tuple[ServicePort, int]] = []
    for port in service.spec.ports:
        target = port.target_port if isinstance(port.target_port, int) else named.get(port.target_port, 0)
        if target:
            found.append((port, target))
    return tuple(found)


def _meta(service: Service, labels: Mapping[str, str], name: str = "", prefix: str = "") -> ObjectMeta:
    headless = {HEADLESS: ""} if service.spec.cluster_ip == "None" else {}
    return ObjectMeta(
        name=name,
        generate_name=prefix,
        namespace=service.metadata.namespace,
        labels={**service.metadata.labels, **labels, **headless},
        owner_references=(owned_by(service),),
    )


def _reference(pod: Pod) -> ObjectReference:
    meta = pod.metadata
    return ObjectReference(kind="Pod", namespace=meta.namespace, name=meta.name, uid=meta.uid)


def _hostname(service: Service, pod: Pod) -> str:
    """Its name below the Service's, where it has one."""
    return pod.spec.hostname if pod.spec.subdomain == service.metadata.name else ""


def _as_before(new: ObjectMeta, old: ObjectMeta) -> ObjectMeta:
    """The old metadata with what is ours in it."""
    return old.model_copy(update={"labels": new.labels, "owner_references": new.owner_references})


# ---------------------------------------------------------------- Endpoints


def _endpoints(service: Service, groups: Mapping[Ports, list[Pod]], there: Endpoints | None) -> Iterator[ObjectChange]:
    left, subsets, whole = MAX_ENDPOINTS, [], True
    for ports, pods in groups.items():
        staying = [p for p in pods if not is_deleted(p)]
        whole &= len(staying) <= left
        staying = staying[:left]
        left -= len(staying)
        ready = {p.metadata.name for p in staying if is_ready(p) or service.spec.publish_not_ready_addresses}
        subset = EndpointSubset(
            addresses=tuple(_address(service, p) for p in staying if p.metadata.name in ready),
            not_ready_addresses=tuple(_address(service, p) for p in staying if p.metadata.name not in ready),
            ports=tuple(
                EndpointsPort(name=p.name, port=target, protocol=p.protocol, app_protocol=p.app_protocol or None)
                for p, target in ports
            ),
        )
        if staying:
            subsets.append(subset)
    meta = _meta(service, {}, name=service.metadata.name)
    if not whole:
        meta = meta.model_copy(update={"annotations": {OVER_CAPACITY: "truncated"}})
    if there is None:
        yield Create(Endpoints(metadata=meta, subsets=tuple(subsets)))
        return
    kept = _as_before(meta, there.metadata)
    annotations = {k: v for k, v in there.metadata.annotations.items() if k != OVER_CAPACITY} | meta.annotations
    kept = kept.model_copy(update={"annotations": annotations})
    new = there.model_copy(update={"metadata": kept, "subsets": tuple(subsets)})
    if new != there:
        yield Update(new)


def _address(service: Service, pod: Pod) -> EndpointAddress:
    return EndpointAddress(
        ip=pod.status.pod_ip,
        hostname=_hostname(service, pod),
        node_name=pod.spec.node_name or None,
        target_ref=_reference(pod),
    )


# ---------------------------------------------------------------- EndpointSlices


def _slices(
    service: Service, groups: Mapping[Ports, list[Pod]], there: Sequence[EndpointSlice], suffix: Suffix
) -> Iterator[ObjectChange]:
    """At least one, empty where there are no pods. A slice that is there goes on as one with the same ports, if any."""
    wanted = [
        (_slice_ports(ports), tuple(_endpoint(service, p) for p in pods[at : at + PER_SLICE]))
        for ports, pods in groups.items()
        for at in range(0, len(pods), PER_SLICE)
    ] or [((), ())]
    free = sorted(there, key=lambda s: s.metadata.name)
    meta = _meta(service, {SERVICE_NAME: service.metadata.name, MANAGED_BY: CONTROLLER})
    for ports, endpoints in wanted:
        old = next((s for s in free if s.ports == ports), free[0] if free else None)
        if old is None:
            prefix = f"{service.metadata.name}-"
            named = meta.model_copy(update={"generate_name": prefix, "name": prefix + suffix()})
            yield Create(EndpointSlice(metadata=named, address_type="IPv4", endpoints=endpoints, ports=ports))
            continue
        free.remove(old)
        update = {"metadata": _as_before(meta, old.metadata), "endpoints": endpoints, "ports": ports}
        new = old.model_copy(update=update)
        if new != old:
            yield Update(new)
    for old in free:
        yield Delete(old.kind, old.metadata.namespace, old.metadata.name, uid=old.metadata.uid)


def _slice_ports(ports: Ports) -> tuple[EndpointPort, ...]:
    return tuple(
        EndpointPort(name=p.name, port=target, protocol=p.protocol, app_protocol=p.app_protocol or None)
        for p, target in ports
    )


def _endpoint(service: Service, pod: Pod) -> Endpoint:
    serving, leaving = is_ready(pod), is_deleted(pod)
    ready = service.spec.publish_not_ready_addresses or (serving and not leaving)
    return Endpoint(
        addresses=(pod.status.pod_ip,),
        conditions=EndpointConditions(ready=ready, serving=serving, terminating=leaving),
        hostname=_hostname(service, pod) or None,
        node_name=pod.spec.node_name or None,
        target_ref=_reference(pod),
    )
