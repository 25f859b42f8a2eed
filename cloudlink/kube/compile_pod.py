"""One pod, from the user's language to the node's: bytes, seconds, thousandths of a core, numbers for names. Pure.

Takes pods that `parse` has accepted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from cloudlink.kube import core, quantity
from cloudlink.kube.annotations import START_AT, START_BY, TURN, TURN_POLICY, devices_of, log_target
from cloudlink.kube.compile_volumes import mount, resource_reference, volume_source
from cloudlink.kube.pod import PRIORITY_CLASSES, PodDNSConfig
from cloudlink.kube.probes import GRPCAction, HTTPGetAction
from cloudlink.kube.security import Capabilities, SeccompProfile
from cloudlink.kube.taints import FOREVER, OF_LIFE, endures
from edged import model

Claims = Mapping[str, core.PersistentVolumeClaim]  # by "namespace/name"


def compile_pod(pod: core.Pod, claims: Claims | None = None) -> model.Pod:
    """One pod in bytes, seconds and thousandths of a core; probes' port names become numbers.

    Image references stay as written: the node knows its registries and normalises.

    :param claims: the PersistentVolumeClaims of its namespace, for their uids and sizes.
    """
    spec, meta = pod.spec, pod.metadata
    context = spec.security_context or core.PodSecurityContext()
    fields = set(_fields(spec))
    account = "spec.serviceAccountName" in fields
    return model.Pod(
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        containers=tuple(_container(c, pod) for c in spec.containers),
        volumes=tuple(model.Volume(v.name, volume_source(v, meta.namespace, claims or {})) for v in spec.volumes),
        restart_policy=model.RestartPolicy(spec.restart_policy),
        termination_grace=float(spec.termination_grace_period_seconds),
        hostname=host_name(pod),
        init=tuple(_container(c, pod) for c in spec.init_containers),
        host_network=spec.host_network,
        host_users=spec.host_users is not False,
        sysctls=tuple((s.name.replace("/", "."), s.value) for s in context.sysctls),
        fs_group=context.fs_group,
        fs_group_always=context.fs_group_change_policy != "OnRootMismatch",
        subdomain=spec.subdomain,
        host_aliases=tuple(model.HostAlias(a.ip, a.hostnames) for a in spec.host_aliases),
        dns_policy=model.DnsPolicy(spec.dns_policy),
        dns=_dns(spec.dns_config),
        pull_secrets=tuple(s.name for s in spec.image_pull_secrets),
        priority=PRIORITY_CLASSES.get(spec.priority_class_name, 0) if spec.priority is None else spec.priority,
        active_deadline=None if spec.active_deadline_seconds is None else float(spec.active_deadline_seconds),
        labels=_referred("metadata.labels", meta.labels, fields),
        annotations=_referred("metadata.annotations", meta.annotations, fields),
        service_account=(spec.service_account_name or spec.service_account or "default") if account else "",
        log_target=log_target(meta.annotations),
        stays=_stays(spec),
        **_start(meta.annotations),
    )


def host_name(pod: core.Pod) -> str:
    """The kernel takes 64 bytes; Kubernetes cuts pod names the same way."""
    return pod.spec.hostname or pod.metadata.name[:63].rstrip("-.")


def _stays(spec: core.PodSpec) -> bool:
    """It is started nowhere else while its node is lost: it stands that for ever, or its data is there. The rule of
    cloudlink.hub.controllers.eviction, for a node that asks itself after a boot whether it still has this pod."""
    if any(v.persistent_volume_claim is not None for v in spec.volumes):
        return True
    lost = (core.Taint(key=key, effect="NoExecute") for key in OF_LIFE)
    return all(endures(taint, spec.tolerations) == FOREVER for taint in lost)


def _start(annotations: Mapping[str, str]) -> dict[str, Any]:
    """When a pod of a CronJob's Job that was made ahead is to start, and what of its turn."""
    times = {name: _second(annotations.get(key, "")) for name, key in (("start_at", START_AT), ("start_by", START_BY))}
    if times["start_at"] is None:
        return {}
    policy = annotations.get(TURN_POLICY, "")
    known = policy if policy in tuple(model.Turn) else model.Turn.ALLOW
    return times | {"turn": annotations.get(TURN, ""), "turn_policy": model.Turn(known)}


def _second(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except (ValueError, OverflowError):
        return None


def _dns(config: PodDNSConfig | None) -> model.Dns:
    if config is None:
        return model.Dns()
    options = tuple(f"{o.name}:{o.value}" if o.value else o.name for o in config.options)
    return model.Dns(config.nameservers, config.searches, options)


# ---------------------------------------------------------------- what a pod says of itself


def _fields(spec: core.PodSpec) -> Iterator[str]:
    """Every field path that variables and files of the pod refer to."""
    for container in (*spec.init_containers, *spec.containers):
        for variable in container.env:
            if variable.value_from is not None and variable.value_from.field_ref is not None:
                yield variable.value_from.field_ref.field_path
    for volume in spec.volumes:
        for item in _downward_items(volume):
            if item.field_ref is not None:
                yield item.field_ref.field_path


def _downward_items(volume: core.Volume) -> Iterator[core.DownwardAPIVolumeFile]:
    if volume.downward_api is not None:
        yield from volume.downward_api.items
    if volume.projected is not None:
        for source in volume.projected.sources:
            if source.downward_api is not None:
                yield from source.downward_api.items


def _referred(whole: str, values: Mapping[str, str], fields: set[str]) -> dict[str, str]:
    """Only what somebody asks for: a change of any other label is no change for the node."""
    if whole in fields:
        return dict(sorted(values.items()))
    return {key: value for key, value in sorted(values.items()) if f"{whole}['{key}']" in fields}


# ---------------------------------------------------------------- containers


def _container(container: core.Container, pod: core.Pod) -> model.Container:
    lifecycle = container.lifecycle or core.Lifecycle()
    return model.Container(
        name=container.name,
        image=container.image,
        command=container.command or None,
        args=container.args or None,
        working_dir=container.working_dir,
        env=tuple(_env(e) for e in container.env),
        env_from=tuple(_env_from(e) for e in container.env_from),
        mounts=tuple(mount(m) for m in container.volume_mounts),
        ports=tuple(model.Port(p.container_port, p.name, p.protocol, p.host_port, p.host_ip) for p in container.ports),
        limits=_limits(container.resources),
        liveness=_probe(container.liveness_probe, container),
        readiness=_probe(container.readiness_probe, container),
        startup=_probe(container.startup_probe, container),
        pull_policy=model.PullPolicy(container.image_pull_policy or "IfNotPresent"),
        security=_security(container.security_context, pod.spec.security_context),
        post_start=_hook(lifecycle.post_start, container),
        pre_stop=_hook(lifecycle.pre_stop, container),
        sidecar=container.is_sidecar,
        devices=devices_of(container, pod.metadata.annotations),
        termination_message_path=container.termination_message_path,
        termination_message_fallback=container.termination_message_policy == "FallbackToLogsOnError",
        stdin=container.stdin,
        stdin_once=container.stdin and container.stdin_once,
        tty=container.tty,
    )


def _env(variable: core.EnvVar) -> model.Env:
    source, name = variable.value_from, variable.name
    if source is None:
        return model.Env(name, value=variable.value)
    if source.config_map_key_ref is not None:
        ref = source.config_map_key_ref
        return model.Env(name, config=ref.name, key=ref.key, optional=ref.optional)
    if source.secret_key_ref is not None:
        ref = source.secret_key_ref
        return model.Env(name, secret=ref.name, key=ref.key, optional=ref.optional)
    if source.field_ref is not None:
        return model.Env(name, field=source.field_ref.field_path)
    if source.resource_field_ref is not None:
        return model.Env(name, resource=resource_reference(source.resource_field_ref))
    return model.Env(name, value=variable.value)


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
        storage_request=quantity.to_int(requests.get("ephemeral-storage", 0)),
        storage_limit=quantity.to_int(limits["ephemeral-storage"]) if "ephemeral-storage" in limits else None,
    )


# ---------------------------------------------------------------- security


def _security(own: core.SecurityContext | None, pods: core.PodSecurityContext | None) -> model.Security:
    """What the container says wins over what the pod says (securitycontext.DetermineEffectiveSecurityContext)."""
    own, pods = own or core.SecurityContext(), pods or core.PodSecurityContext()
    add = _capabilities(own.capabilities or Capabilities(), "add")
    # Kubernetes' AddNoNewPrivileges: these two can't do without, whatever they say.
    must_escalate = own.privileged or "SYS_ADMIN" in add
    return model.Security(
        user=_first(own.run_as_user, pods.run_as_user),
        group=_first(own.run_as_group, pods.run_as_group),
        non_root=bool(own.run_as_non_root if own.run_as_non_root is not None else pods.run_as_non_root),
        groups=pods.supplemental_groups,
        add=add,
        drop=_capabilities(own.capabilities or Capabilities(), "drop"),
        read_only_root=own.read_only_root_filesystem,
        escalation=own.allow_privilege_escalation is True or must_escalate,
        privileged=own.privileged,
        seccomp=_seccomp(own.seccomp_profile or pods.seccomp_profile, own.privileged),
    )


def _first(own: int | None, pods: int | None) -> int | None:
    return own if own is not None else pods


def _capabilities(listed: Capabilities, which: str) -> tuple[str, ...]:
    names: tuple[str, ...] = listed.add if which == "add" else listed.drop
    return tuple(sorted({name.removeprefix("CAP_") for name in names}))


def _seccomp(profile: SeccompProfile | None, privileged: bool) -> str:
    if privileged:
        return "Unconfined"  # as every runtime of Kubernetes has it
    if profile is None:
        return "RuntimeDefault"
    return f"Localhost/{profile.localhost_profile}" if profile.type == "Localhost" else profile.type


# ---------------------------------------------------------------- probes, hooks


def _probe(probe: core.Probe | None, container: core.Container) -> model.Probe | None:
    action = _probe_action(probe, container) if probe is not None else None
    if probe is None or action is None:
        return None
    grace = probe.termination_grace_period_seconds
    return model.Probe(
        action=action,
        initial_delay=float(probe.initial_delay_seconds),
        period=float(probe.period_seconds),
        timeout=float(probe.timeout_seconds),
        success_threshold=probe.success_threshold,
        failure_threshold=probe.failure_threshold,
        termination_grace=None if grace is None else float(grace),
    )


def _probe_action(probe: core.Probe, container: core.Container) -> model.ProbeAction | None:
    if probe.exec is not None:
        return model.ExecAction(probe.exec.command)
    if probe.http_get is not None:
        return _http(probe.http_get, container)
    if probe.tcp_socket is not None:
        return model.TcpAction(_container_port(probe.tcp_socket.port, container), probe.tcp_socket.host)
    return _grpc(probe.grpc) if probe.grpc is not None else None


def _grpc(action: GRPCAction) -> model.GrpcAction:
    return model.GrpcAction(action.port, action.service)


def _hook(hook: core.LifecycleHandler | None, container: core.Container) -> model.Hook | None:
    if hook is None:
        return None
    if hook.exec is not None:
        return model.ExecAction(hook.exec.command)
    if hook.http_get is not None:
        return _http(hook.http_get, container)
    return model.SleepAction(float(hook.sleep.seconds)) if hook.sleep is not None else None


def _http(get: HTTPGetAction, container: core.Container) -> model.HttpAction:
    headers = tuple((h.name, h.value) for h in get.http_headers)
    path = get.path if get.path.startswith("/") else f"/{get.path}"
    return model.HttpAction(_container_port(get.port, container), path, get.host, get.scheme, headers)


def _container_port(port: int | str, container: core.Container) -> int:
    """0 for a name that the container doesn't have, which parse() refuses; nothing listens there."""
    if isinstance(port, int):
        return port
    return next((p.container_port for p in container.ports if p.name == port), 0)
