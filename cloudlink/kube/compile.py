"""From the user's language to the node's: Kubernetes objects -> edged.model, everything resolved.

Pure and deterministic: equal inputs, in whatever order, give equal values and so equal bytes. Takes objects that
`parse` has accepted; what one of them refers to and isn't there is left out, and the node says so in its status.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from cloudlink.kube import core, quantity
from cloudlink.kube.compile_pod import Claims, compile_pod
from cloudlink.kube.meta import matches
from edged import model

__all__ = [
    "Seal",
    "compile_node",
    "compile_pod",
    "compile_service",
    "config_data",
    "is_ready",
    "references",
    "secret_data",
]

Seal = Callable[[str, Mapping[str, bytes]], bytes]
HEADLESS = "None"  # a Service's clusterIP that asks for none


# ---------------------------------------------------------------- services


def compile_service(
    service: core.Service, pods: Sequence[core.Pod], elsewhere: Sequence[core.Pod] = ()
) -> model.Service:
    """One Service with the pods behind it. Which of them are ready is the node's to know, for its own.

    A port whose `targetPort` is a name that none of the pods has is left out: there is nowhere to forward it to.
    Where pods give the same name different numbers (during a rollout, say), the newest pod's number counts.

    :param pods: of the node that this is for.
    :param elsewhere: of other nodes, if they can be reached by address.
    """
    here, there = _selected(service, pods), _selected(service, elsewhere)
    named, unready = _named_ports((*there, *here)), service.spec.publish_not_ready_addresses
    if unready:  # the node can't tell by their readiness
        here = [p for p in here if p.status.phase not in ("Succeeded", "Failed")]
    return model.Service(
        namespace=service.metadata.namespace,
        name=service.metadata.name,
        cluster_ip="" if service.spec.cluster_ip == HEADLESS else service.spec.cluster_ip,
        ports=tuple(
            model.ServicePort(p.port, target, p.name, p.protocol)
            for p in service.spec.ports
            if (target := p.target_port if isinstance(p.target_port, int) else named.get((p.target_port, p.protocol)))
        ),
        pods=tuple(sorted(p.metadata.uid for p in here)),
        remote=tuple(sorted({p.status.pod_ip for p in there if p.status.pod_ip and (unready or is_ready(p))})),
        unready=unready,
    )


def is_ready(pod: core.Pod) -> bool:
    """What the pod's own condition says."""
    return any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions)


def _selected(service: core.Service, pods: Iterable[core.Pod]) -> list[core.Pod]:
    """Pods of the Service that are not being deleted, the oldest first. No selector selects nothing."""
    selector, namespace = service.spec.selector, service.metadata.namespace
    if not selector:
        return []
    found = [
        p
        for p in pods
        if p.metadata.namespace == namespace
        and not p.metadata.deletion_timestamp
        and matches(selector, p.metadata.labels)
    ]
    return sorted(found, key=lambda p: (p.metadata.creation_timestamp, p.metadata.uid))


def _named_ports(pods: Sequence[core.Pod]) -> dict[tuple[str, str], int]:
    """(name, protocol) -> number; later pods win, within a pod the first container does, sidecars last."""
    return {
        (port.name, port.protocol): port.container_port
        for pod in pods
        for container in (*reversed(pod.spec.init_containers), *reversed(pod.spec.containers))
        for port in reversed(container.ports)
        if port.name
    }


# ---------------------------------------------------------------- one node's document


def compile_node(
    fleet: str,
    node: str,
    generation: int,
    pods: Sequence[core.Pod],
    services: Sequence[core.Service],
    config_maps: Sequence[core.ConfigMap],
    secrets: Sequence[core.Secret],
    seal: Seal,
    all_pods: Sequence[core.Pod] = (),
    claims: Sequence[core.PersistentVolumeClaim] = (),
    compiled_pod: Callable[[core.Pod, Claims], model.Pod] = compile_pod,
) -> model.Desired:
    """Everything that one node should do.

    Only ConfigMaps and Secrets that its pods refer to are in it, so a node never sees others. Pods that are being
    deleted are left out: a node stops what its document doesn't name. So are Services without an address yet.

    :param pods: those bound to this node.
    :param seal: ("namespace/name", key -> bytes) -> bytes that only this node can open; called once for each secret
        needed. Sealing is not deterministic, so a caller that compares documents, or wants to send unchanged ones
        with unchanged bytes, passes a function that remembers its last answer by (name, resourceVersion, node's key).
    :param all_pods: the fleet's pods, if those of other nodes can be reached by their addresses; their addresses
        then become the services' `remote`.
    :param claims: all that may live here or be used here. A claim is in the document for as long as its object
        exists, whether or not a pod uses it: the node deletes the data of those that are not.
    :param compiled_pod: compile_pod, or somebody who remembers what it said.
    """
    mine = sorted(
        (p for p in pods if not p.metadata.deletion_timestamp),
        key=lambda p: (p.metadata.namespace, p.metadata.name, p.metadata.uid),
    )
    own = {p.metadata.uid for p in mine}
    elsewhere = [p for p in all_pods if p.metadata.uid not in own and p.spec.node_name not in ("", node)]
    addressed = sorted((s for s in services if s.spec.cluster_ip), key=lambda s: s.title)
    by_title = {c.title: c for c in claims}
    compiled = tuple(compiled_pod(p, by_title) for p in mine)
    wanted_configs, wanted_secrets = references(compiled)
    plain = {s.title: secret_data(s) for s in secrets if s.title in wanted_secrets}
    return model.Desired(
        fleet=fleet,
        node=node,
        generation=generation,
        pods=compiled,
        services=tuple(compile_service(s, mine, elsewhere) for s in addressed),
        configs={
            c.title: config_data(c) for c in sorted(config_maps, key=lambda c: c.title) if c.title in wanted_configs
        },
        secrets={name: seal(name, plain[name]) for name in sorted(plain)},
        claims=_claims(node, compiled, claims),
        leaving=dict(sorted(_leaving(pods))),
    )


def _leaving(pods: Iterable[core.Pod]) -> Iterator[tuple[str, float]]:
    """Pods that were deleted with a grace period of their own (`kubectl delete --grace-period`)."""
    for pod in pods:
        grace = pod.metadata.deletion_grace_period_seconds
        if pod.metadata.deletion_timestamp and grace not in (None, pod.spec.termination_grace_period_seconds):
            yield pod.metadata.uid, float(grace or 0)


def _claims(
    node: str, pods: Sequence[model.Pod], claims: Iterable[core.PersistentVolumeClaim]
) -> tuple[model.Claim, ...]:
    """Those that live here, and those that are just about to: their first pod is here."""
    used = {v.source.uid for p in pods for v in p.volumes if isinstance(v.source, model.ClaimFiles)}
    here = [c for c in claims if c.node == node or (not c.node and c.metadata.uid in used)]
    return tuple(
        model.Claim(c.metadata.namespace, c.metadata.name, c.metadata.uid, quantity.to_int(c.storage))
        for c in sorted(here, key=lambda c: (c.title, c.metadata.uid))
    )


def references(pods: Iterable[model.Pod]) -> tuple[set[str], set[str]]:
    """ "namespace/name" of every config and of every secret that these pods need on their node, registry logins
    included."""
    configs: set[str] = set()
    secrets: set[str] = set()
    for pod in pods:
        named, hidden = model.references(pod)
        configs.update(f"{pod.namespace}/{name}" for name in named)
        secrets.update(f"{pod.namespace}/{name}" for name in (*hidden, *pod.pull_secrets))
    return configs, secrets


def config_data(config: core.ConfigMap) -> dict[str, bytes]:
    """All keys of a ConfigMap as bytes, sorted."""
    content = {k: v.encode() for k, v in config.data.items()} | _decoded(config.binary_data)
    return dict(sorted(content.items()))


def secret_data(secret: core.Secret) -> dict[str, bytes]:
    """All keys of a Secret, decoded, sorted. Never to be printed, logged or stored."""
    return dict(sorted(_decoded(secret.data).items()))


def _decoded(values: Mapping[str, str]) -> dict[str, bytes]:
    content = {}
    for key, value in values.items():
        try:
            content[key] = base64.b64decode("".join(value.split()), validate=True)
        except (binascii.Error, ValueError):
            continue  # parse() refuses it; a key that is missing is reported by the node, by name
    return content
