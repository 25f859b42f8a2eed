"""From the user's language to the node's: Kubernetes objects -> edged.model, everything resolved.

Pure and deterministic: equal inputs, in whatever order, give equal values and so equal bytes. Takes objects that
`parse` has accepted; what one of them refers to and isn't there is left out, and the node says so in its status.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping, Sequence

from cloudlink.kube import core, quantity
from cloudlink.kube.meta import matches
from edged import model

Seal = Callable[[str, Mapping[str, bytes]], bytes]


# ---------------------------------------------------------------- pods


def compile_pod(pod: core.Pod) -> model.Pod:
    """One pod in bytes, seconds and thousandths of a core; probes' port names become numbers.

    Image references stay as written: the node knows its registries and normalises.
    """
    spec = pod.spec
    return model.Pod(
        namespace=pod.metadata.namespace,
        name=pod.metadata.name,
        uid=pod.metadata.uid,
        containers=tuple(_container(c) for c in spec.containers),
        volumes=tuple(model.Volume(v.name, _volume_source(v)) for v in spec.volumes),
        restart_policy=model.RestartPolicy(spec.restart_policy),
        termination_grace=float(spec.termination_grace_period_seconds),
        # The kernel takes 64 bytes; Kubernetes cuts pod names the same way.
        hostname=spec.hostname or pod.metadata.name[:63].rstrip("-."),
    )


def _container(container: core.Container) -> model.Container:
    return model.Container(
        name=container.name,
        image=container.image,
        command=container.command or None,
        args=container.args or None,
        working_dir=container.working_dir,
        env=tuple(_env(e) for e in container.env),
        env_from=tuple(_env_from(e) for e in container.env_from),
        mounts=tuple(model.Mount(m.name, m.mount_path, m.read_only, m.sub_path) for m in container.volume_mounts),
        ports=tuple(model.Port(p.container_port, p.name, p.protocol) for p in container.ports),
        limits=_limits(container.resources),
        liveness=_probe(container.liveness_probe, container),
        readiness=_probe(container.readiness_probe, container),
        startup=_probe(container.startup_probe, container),
    )


def _env(variable: core.EnvVar) -> model.Env:
    source = variable.value_from
    if source is not None and source.config_map_key_ref is not None:
        ref = source.config_map_key_ref
        return model.Env(variable.name, config=ref.name, key=ref.key, optional=ref.optional)
    if source is not None and source.secret_key_ref is not None:
        ref = source.secret_key_ref
        return model.Env(variable.name, secret=ref.name, key=ref.key, optional=ref.optional)
    return model.Env(variable.name, value=variable.value)


def _env_from(source: core.EnvFromSource) -> model.EnvFrom:
    if source.secret_ref is not None:
        return model.EnvFrom(secret=source.secret_ref.name, prefix=source.prefix, optional=source.secret_ref.optional)
    ref = source.config_map_ref or core.EnvFromRef(name="")
    return model.EnvFrom(config=ref.name, prefix=source.prefix, optional=ref.optional)


def _limits(resources: core.ResourceRequirements) -> model.Limits:
    limits, requests = resources.limits, resources.requests
    return model.Limits(
        memory_request=quantity.to_int(requests.get("memory", 0)),
        memory_limit=quantity.to_int(limits["memory"]) if "memory" in limits else None,
        cpu_request=quantity.to_milli(requests.get("cpu", 0)),
        cpu_limit=quantity.to_milli(limits["cpu"]) if "cpu" in limits else None,
    )


def _probe(probe: core.Probe | None, container: core.Container) -> model.Probe | None:
    action = _action(probe, container) if probe is not None else None
    if probe is None or action is None:
        return None
    return model.Probe(
        action=action,
        initial_delay=float(probe.initial_delay_seconds),
        period=float(probe.period_seconds),
        timeout=float(probe.timeout_seconds),
        success_threshold=probe.success_threshold,
        failure_threshold=probe.failure_threshold,
    )


def _action(probe: core.Probe, container: core.Container) -> model.ProbeAction | None:
    if probe.exec is not None:
        return model.ExecAction(probe.exec.command)
    if probe.http_get is not None:
        get = probe.http_get
        headers = tuple((h.name, h.value) for h in get.http_headers)
        path = get.path if get.path.startswith("/") else f"/{get.path}"
        return model.HttpAction(_container_port(get.port, container), path, get.host, get.scheme, headers)
    if probe.tcp_socket is not None:
        return model.TcpAction(_container_port(probe.tcp_socket.port, container), probe.tcp_socket.host)
    return None


def _container_port(port: int | str, container: core.Container) -> int:
    """0 for a name that the container doesn't have, which parse() refuses; nothing listens there."""
    if isinstance(port, int):
        return port
    return next((p.container_port for p in container.ports if p.name == port), 0)


def _volume_source(volume: core.Volume) -> model.VolumeSource:
    if volume.host_path is not None:
        return model.HostPath(volume.host_path.path, volume.host_path.type)
    if volume.config_map is not None:
        files = volume.config_map
        return model.ConfigFiles(files.name, _items(files.items), files.default_mode, files.optional)
    if volume.secret is not None:
        secret = volume.secret
        return model.SecretFiles(secret.secret_name, _items(secret.items), secret.default_mode, secret.optional)
    scratch = volume.empty_dir or core.EmptyDirVolume()
    size = quantity.to_int(scratch.size_limit) if scratch.size_limit is not None else 0
    return model.EmptyDir(scratch.medium == "Memory", size or None)


def _items(items: Sequence[core.KeyToPath]) -> tuple[model.KeyToPath, ...]:
    return tuple(model.KeyToPath(i.key, i.path, i.mode) for i in items)


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
    named = _named_ports((*there, *here))
    return model.Service(
        namespace=service.metadata.namespace,
        name=service.metadata.name,
        cluster_ip=service.spec.cluster_ip,
        ports=tuple(
            model.ServicePort(p.port, target, p.name, p.protocol)
            for p in service.spec.ports
            if (target := p.target_port if isinstance(p.target_port, int) else named.get((p.target_port, p.protocol)))
        ),
        pods=tuple(sorted(p.metadata.uid for p in here)),
        remote=tuple(sorted({p.status.pod_ip for p in there if p.status.pod_ip and is_ready(p)})),
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
    """(name, protocol) -> number; later pods win, within a pod the first container does."""
    return {
        (port.name, port.protocol): port.container_port
        for pod in pods
        for container in reversed(pod.spec.containers)
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
) -> model.Desired:
    """Everything that one node should do.

    Only ConfigMaps and Secrets that its pods refer to are in it, so a node never sees others. Pods that are being
    deleted are left out: a node stops what its document doesn't name. So are Services without an address ("" =
    not assigned yet, "None" = headless).

    :param pods: those bound to this node.
    :param seal: ("namespace/name", key -> bytes) -> bytes that only this node can open; called once for each secret
        needed. Sealing is not deterministic, so a caller that compares documents, or wants to send unchanged ones
        with unchanged bytes, passes a function that remembers its last answer by (name, resourceVersion, node's key).
    :param all_pods: the fleet's pods, if those of other nodes can be reached by their addresses; their addresses
        then become the services' `remote`.
    """
    mine = sorted(
        (p for p in pods if not p.metadata.deletion_timestamp),
        key=lambda p: (p.metadata.namespace, p.metadata.name, p.metadata.uid),
    )
    own = {p.metadata.uid for p in mine}
    elsewhere = [p for p in all_pods if p.metadata.uid not in own and p.spec.node_name not in ("", node)]
    addressed = sorted((s for s in services if s.spec.cluster_ip not in ("", "None")), key=lambda s: s.title)
    wanted_configs, wanted_secrets = _references(mine)
    plain = {s.title: secret_data(s) for s in secrets if s.title in wanted_secrets}
    return model.Desired(
        fleet=fleet,
        node=node,
        generation=generation,
        pods=tuple(compile_pod(p) for p in mine),
        services=tuple(compile_service(s, mine, elsewhere) for s in addressed),
        configs={
            c.title: config_data(c) for c in sorted(config_maps, key=lambda c: c.title) if c.title in wanted_configs
        },
        secrets={name: seal(name, plain[name]) for name in sorted(plain)},
    )


def _references(pods: Iterable[core.Pod]) -> tuple[set[str], set[str]]:
    """ "namespace/name" of every ConfigMap and of every Secret that the pods name."""
    configs: set[str] = set()
    secrets: set[str] = set()
    for pod in pods:
        prefix = pod.metadata.namespace + "/"
        for volume in pod.spec.volumes:
            if volume.config_map is not None:
                configs.add(prefix + volume.config_map.name)
            if volume.secret is not None:
                secrets.add(prefix + volume.secret.secret_name)
        for container in pod.spec.containers:
            for variable in container.env:
                if (source := variable.value_from) is not None:
                    if source.config_map_key_ref is not None:
                        configs.add(prefix + source.config_map_key_ref.name)
                    if source.secret_key_ref is not None:
                        secrets.add(prefix + source.secret_key_ref.name)
            for every in container.env_from:
                if every.config_map_ref is not None:
                    configs.add(prefix + every.config_map_ref.name)
                if every.secret_ref is not None:
                    secrets.add(prefix + every.secret_ref.name)
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
