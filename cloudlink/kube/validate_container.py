"""What is wrong with one container. Rules: see `validate`."""

from __future__ import annotations

import posixpath
from typing import NamedTuple

from cloudlink.kube import names, quantity
from cloudlink.kube.container import DEVICE_PREFIX, Container, ContainerPort, ResourceRequirements
from cloudlink.kube.env import EnvFromSource, EnvVar
from cloudlink.kube.findings import Findings
from cloudlink.kube.probes import ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction
from cloudlink.kube.validate_security import container_security
from cloudlink.kube.validate_volumes import field_reference, mounts, not_negative, resource_reference

RESOURCE_NAMES = ("memory", "cpu", "ephemeral-storage")
MIN_MEMORY_LIMIT = 4096  # bytes, one page
_ENV_FIELDS = (
    *("metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName"),
    *("status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"),
)
_NOT_IN_HEADERS = ' :\r\n\t"(),/;<=>?@[\\]{}'


class Around(NamedTuple):
    """What of its pod a container's checks need.

    :ivar volumes: names; `containers` likewise.
    :ivar grace: seconds.
    """

    volumes: set[object]
    containers: set[str]
    grace: int


def container(it: Container, path: str, around: Around, found: Findings) -> None:
    """What holds for containers of both kinds."""
    if not it.image:
        found.required(f"{path}.image")
    elif it.image != it.image.strip() or any(c.isspace() for c in it.image):
        found.invalid(f"{path}.image", it.image, "must not contain white space")
    ports = _ports(it.ports, path, found)
    for i, variable in enumerate(it.env):
        _env(variable, f"{path}.env[{i}]", around.containers, found)
    for i, source in enumerate(it.env_from):
        _env_from(source, f"{path}.envFrom[{i}]", found)
    _resources(it.resources, f"{path}.resources", found)
    mounts(it, path, around.volumes, found)
    for field, probe in (
        ("livenessProbe", it.liveness_probe),
        ("readinessProbe", it.readiness_probe),
        ("startupProbe", it.startup_probe),
    ):
        if probe is not None:
            _probe(probe, f"{path}.{field}", field == "readinessProbe", ports, found)
    if it.lifecycle is not None:
        for field, hook in (("postStart", it.lifecycle.post_start), ("preStop", it.lifecycle.pre_stop)):
            if hook is not None:
                _hook(hook, f"{path}.lifecycle.{field}", ports, around.grace, found)
    container_security(it.security_context, f"{path}.securityContext", found)
    if not posixpath.isabs(it.termination_message_path) or ".." in it.termination_message_path.split("/"):
        found.invalid(f"{path}.terminationMessagePath", it.termination_message_path, "must be an absolute path")


def init_only(it: Container, path: str, found: Findings) -> None:
    """What init containers may not have unless they are sidecars."""
    if it.is_sidecar:
        return
    for field, value in (
        ("lifecycle", it.lifecycle),
        ("livenessProbe", it.liveness_probe),
        ("readinessProbe", it.readiness_probe),
        ("startupProbe", it.startup_probe),
    ):
        if value is not None:
            found.forbidden(f"{path}.{field}", "may not be set for init containers without restartPolicy=Always")


# ---------------------------------------------------------------- ports


def _ports(ports: tuple[ContainerPort, ...], path: str, found: Findings) -> set[object]:
    """Checks them, and returns the names that probes may use."""
    seen: set[object] = set()
    for i, port in enumerate(ports):
        here = f"{path}.ports[{i}]"
        found.port(f"{here}.containerPort", port.container_port)
        if port.host_port:
            found.port(f"{here}.hostPort", port.host_port)
        if port.host_ip:
            found.ip(f"{here}.hostIP", port.host_ip)
        if port.name:
            found.text(f"{here}.name", port.name, names.port_name)
            found.unique(f"{here}.name", port.name, seen)
    return seen


def host_ports(containers: tuple[Container, ...], path: str, seen: set[object], found: Findings) -> None:
    """No two may have the same one (AccumulateUniqueHostPorts)."""
    for i, it in enumerate(containers):
        for j, port in enumerate(it.ports):
            if port.host_port:
                key = f"{port.protocol}/{port.host_ip}/{port.host_port}"
                found.unique(f"{path}[{i}].ports[{j}].hostPort", key, seen)


# ---------------------------------------------------------------- environment


def _env(variable: EnvVar, path: str, containers: set[str], found: Findings) -> None:
    found.text(f"{path}.name", variable.name, names.env_name)
    source = variable.value_from
    if source is None:
        return
    here = f"{path}.valueFrom"
    if variable.value:
        found.hidden(here, "may not be specified when `value` is not empty")
    selectors = {"configMapKeyRef": source.config_map_key_ref, "secretKeyRef": source.secret_key_ref}
    given = {field: ref for field, ref in selectors.items() if ref is not None}
    number = len(given) + (source.field_ref is not None) + (source.resource_field_ref is not None)
    if not number:
        found.required(here, "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`")
    elif number > 1:
        found.hidden(here, "may not have more than one field specified at a time")
    for field, ref in given.items():
        found.text(f"{here}.{field}.name", ref.name, names.dns_subdomain)
        found.text(f"{here}.{field}.key", ref.key, names.config_key)
    if source.field_ref is not None:
        field_reference(source.field_ref, _ENV_FIELDS, f"{here}.fieldRef", found)
    if source.resource_field_ref is not None:
        resource_reference(source.resource_field_ref, containers, f"{here}.resourceFieldRef", found)


def _env_from(source: EnvFromSource, path: str, found: Findings) -> None:
    if source.prefix:
        found.text(f"{path}.prefix", source.prefix, names.env_name)
    references = {"configMapRef": source.config_map_ref, "secretRef": source.secret_ref}
    given = {field: ref for field, ref in references.items() if ref is not None}
    if not given:
        found.required(path, "must specify one of: `configMapRef` or `secretRef`")
    elif len(given) > 1:
        found.hidden(path, "may not have more than one field specified at a time")
    for field, ref in given.items():
        found.text(f"{path}.{field}.name", ref.name, names.dns_subdomain)


# ---------------------------------------------------------------- resources


def _resources(resources: ResourceRequirements, path: str, found: Findings) -> None:
    limits, requests = resources.limits, resources.requests
    for field, values in (("limits", limits), ("requests", requests)):
        for name, value in values.items():
            if field == "requests" and limits.get(name) == value:
                continue  # said, or to be said, of the limit
            if name.startswith(DEVICE_PREFIX):
                _device(name, value, f"{path}.{field}[{name}]", found)
            elif name not in RESOURCE_NAMES:
                found.unsupported(f"{path}.{field}", name, (*RESOURCE_NAMES, f"{DEVICE_PREFIX}<device name>"))
            else:
                not_negative(f"{path}.{field}[{name}]", value, found)
    for name in sorted(requests):
        _request(name, resources, path, found)
    if "memory" in limits and 0 <= quantity.exact(limits["memory"]) < MIN_MEMORY_LIMIT:
        # Kubernetes accepts it, and the container never starts. "400m" (0.4 bytes) and "64" are the usual slips.
        why = 'smaller than one page of memory; a suffix such as "Mi" is missing or wrong'
        found.invalid(f"{path}.limits[memory]", limits["memory"], why)


def _request(name: str, resources: ResourceRequirements, path: str, found: Findings) -> None:
    here, request, limit = f"{path}.requests[{name}]", resources.requests[name], resources.limits.get(name)
    if name.startswith(DEVICE_PREFIX):  # as every extended resource in Kubernetes
        if limit is None:
            found.required(f"{path}.limits[{name}]", "Limit must be set for non overcommitable resources")
        elif limit != request:
            found.invalid(here, request, f"must be equal to {name} limit of {limit}")
    elif name in RESOURCE_NAMES and limit is not None and quantity.exact(request) > quantity.exact(limit):
        found.invalid(here, request, f"must be less than or equal to {name} limit of {limit}")


def _device(name: str, value: str, path: str, found: Findings) -> None:
    if why := names.device_name(name.removeprefix(DEVICE_PREFIX)):
        found.invalid(path, name, why)
    elif quantity.exact(value).denominator != 1:
        found.invalid(path, value, "must be an integer")
    elif value not in ("0", "1"):  # stricter than Kubernetes: a name stands for one device
        found.invalid(path, value, "must be 1; a container has a device or doesn't")


# ---------------------------------------------------------------- probes, hooks


def _probe(probe: Probe, path: str, readiness: bool, ports: set[object], found: Findings) -> None:
    given = [a for a in (probe.exec, probe.http_get, probe.tcp_socket, probe.grpc) if a is not None]
    if not given:
        found.required(path, "must specify a handler type: `exec`, `httpGet`, `tcpSocket` or `grpc`")
    elif len(given) > 1:
        found.forbidden(path, "may not specify more than 1 handler type")
    for action in given:
        _action(action, path, ports, found)
    found.at_least(f"{path}.initialDelaySeconds", probe.initial_delay_seconds, 0)
    for field, value in (
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ):
        found.at_least(f"{path}.{field}", value, 1)
    if probe.success_threshold != 1 and not readiness:
        found.invalid(f"{path}.successThreshold", probe.success_threshold, "must be 1")
    grace = probe.termination_grace_period_seconds
    if grace is not None:
        here = f"{path}.terminationGracePeriodSeconds"
        if readiness:
            found.invalid(here, grace, "must not be set for readinessProbes")
        else:
            found.at_least(here, grace, 1)


def _hook(hook: LifecycleHandler, path: str, ports: set[object], grace: int, found: Findings) -> None:
    given = [a for a in (hook.exec, hook.http_get, hook.sleep) if a is not None]
    if not given:
        found.required(path, "must specify a handler type: `exec`, `httpGet` or `sleep`")
    elif len(given) > 1:
        found.forbidden(path, "may not specify more than 1 handler type")
    for action in (hook.exec, hook.http_get):
        if action is not None:
            _action(action, path, ports, found)
    if hook.sleep is not None and not 0 <= hook.sleep.seconds <= max(grace, 0):
        why = f"must be non-negative and less than terminationGracePeriodSeconds ({grace})"
        found.invalid(f"{path}.sleep", hook.sleep.seconds, why)


def _action(
    action: ExecAction | HTTPGetAction | TCPSocketAction | GRPCAction, path: str, ports: set[object], found: Findings
) -> None:
    match action:
        case ExecAction():
            if not action.command:
                found.required(f"{path}.exec.command")
        case TCPSocketAction():
            _port(action.port, f"{path}.tcpSocket.port", ports, found)
        case GRPCAction():
            found.port(f"{path}.grpc.port", action.port)
        case HTTPGetAction():
            _port(action.port, f"{path}.httpGet.port", ports, found)
            if not action.path:
                found.required(f"{path}.httpGet.path")
            for i, header in enumerate(action.http_headers):
                here = f"{path}.httpGet.httpHeaders[{i}]"
                if not header.name or not header.name.isascii() or any(c in header.name for c in _NOT_IN_HEADERS):
                    found.invalid(f"{here}.name", header.name, "must be a valid HTTP header name")
                if "\r" in header.value or "\n" in header.value:
                    found.invalid(f"{here}.value", header.value, "must not contain line breaks")


def _port(port: int | str, path: str, ports: set[object], found: Findings) -> None:
    if isinstance(port, int):
        found.port(path, port)
    elif not port:
        found.required(path)
    elif port not in ports:  # stricter than Kubernetes, where such a probe fails for ever
        found.not_found(path, port, "no port of this container has this name")
