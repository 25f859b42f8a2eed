"""What is wrong with a pod's spec, wherever it stands (a Pod, or a template). Rules: see `validate`."""

from __future__ import annotations

import posixpath

from cloudlink.kube import names, quantity
from cloudlink.kube.findings import Findings
from cloudlink.kube.pod import (
    Container,
    EnvFromSource,
    EnvVar,
    KeyToPath,
    PodSpec,
    Probe,
    ResourceRequirements,
    Toleration,
    Volume,
    VolumeMount,
)

RESOURCE_NAMES = ("memory", "cpu", "ephemeral-storage")
MIN_MEMORY_LIMIT = 4096  # bytes, one page


def pod_spec(spec: PodSpec, path: str, found: Findings) -> None:
    volumes: set[object] = set()
    for i, volume in enumerate(spec.volumes):
        _volume(volume, f"{path}.volumes[{i}]", volumes, found)
    if not spec.containers:
        found.required(f"{path}.containers")
    seen: set[object] = set()
    for i, container in enumerate(spec.containers):
        here = f"{path}.containers[{i}]"
        found.text(f"{here}.name", container.name, names.dns_label)
        found.unique(f"{here}.name", container.name, seen)
        _container(container, here, volumes, found)
    found.at_least(f"{path}.terminationGracePeriodSeconds", spec.termination_grace_period_seconds, 0)
    if spec.hostname:
        found.text(f"{path}.hostname", spec.hostname, names.dns_label)
    if spec.node_name:
        found.text(f"{path}.nodeName", spec.node_name, names.dns_subdomain)
    found.labels(f"{path}.nodeSelector", spec.node_selector)
    for name, field in ((spec.service_account_name, "serviceAccountName"), (spec.service_account, "serviceAccount")):
        if name:
            found.text(f"{path}.{field}", name, names.dns_subdomain)
    for i, toleration in enumerate(spec.tolerations):
        _toleration(toleration, f"{path}.tolerations[{i}]", found)


def _toleration(toleration: Toleration, path: str, found: Findings) -> None:
    if toleration.key:
        found.text(f"{path}.key", toleration.key, names.label_key)
    elif toleration.operator != "Exists":
        found.invalid(f"{path}.operator", toleration.operator, "must be Exists when `key` is empty")
    if toleration.operator == "Exists" and toleration.value:
        found.invalid(f"{path}.value", toleration.value, "must be empty when `operator` is 'Exists'")
    if toleration.toleration_seconds is not None and toleration.effect != "NoExecute":
        found.invalid(f"{path}.effect", toleration.effect, "must be 'NoExecute' when `tolerationSeconds` is set")


# ---------------------------------------------------------------- volumes


def _volume(volume: Volume, path: str, seen: set[object], found: Findings) -> None:
    found.text(f"{path}.name", volume.name, names.dns_label)
    found.unique(f"{path}.name", volume.name, seen)
    sources = ("empty_dir", "host_path", "config_map", "secret")
    if sum(getattr(volume, s) is not None for s in sources) > 1:
        found.forbidden(path, "may not specify more than 1 volume type")
    if volume.empty_dir is not None and volume.empty_dir.size_limit is not None:
        _not_negative(f"{path}.emptyDir.sizeLimit", volume.empty_dir.size_limit, found)
    if volume.host_path is not None:
        _host_path(volume.host_path.path, f"{path}.hostPath.path", found)
    if volume.config_map is not None:
        found.text(f"{path}.configMap.name", volume.config_map.name, names.dns_subdomain)
        _items(volume.config_map.items, volume.config_map.default_mode, f"{path}.configMap", found)
    if volume.secret is not None:
        found.text(f"{path}.secret.secretName", volume.secret.secret_name, names.dns_subdomain)
        _items(volume.secret.items, volume.secret.default_mode, f"{path}.secret", found)


def _host_path(value: str, path: str, found: Findings) -> None:
    if not value:
        found.required(path)
    elif ".." in value.split("/"):
        found.invalid(path, value, "must not contain '..'")
    elif not posixpath.isabs(value) or "\0" in value:  # stricter than Kubernetes, where the runtime would refuse it
        found.invalid(path, value, "must be an absolute path")


def _items(items: tuple[KeyToPath, ...], default_mode: int, path: str, found: Findings) -> None:
    _mode(f"{path}.defaultMode", default_mode, found)
    for i, item in enumerate(items):
        here = f"{path}.items[{i}]"
        found.text(f"{here}.key", item.key, names.config_key)
        _relative(f"{here}.path", item.path, found)
        if item.mode is not None:
            _mode(f"{here}.mode", item.mode, found)


def _mode(path: str, mode: int, found: Findings) -> None:
    if not 0 <= mode <= 0o777:
        found.invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive")


def _relative(path: str, value: str, found: Findings) -> None:
    if not value:
        found.required(path)
    elif value.startswith("/") or "\0" in value:
        found.invalid(path, value, "must be a relative path")
    elif ".." in value.split("/"):
        found.invalid(path, value, "must not contain '..'")


# ---------------------------------------------------------------- containers


def _container(container: Container, path: str, volumes: set[object], found: Findings) -> None:
    if not container.image:
        found.required(f"{path}.image")
    elif container.image != container.image.strip() or any(c.isspace() for c in container.image):
        found.invalid(f"{path}.image", container.image, "must not contain white space")
    ports = _ports(container, path, found)
    for i, variable in enumerate(container.env):
        _env(variable, f"{path}.env[{i}]", found)
    for i, source in enumerate(container.env_from):
        _env_from(source, f"{path}.envFrom[{i}]", found)
    _resources(container.resources, f"{path}.resources", found)
    mounted: set[object] = set()
    for i, mount in enumerate(container.volume_mounts):
        _mount(mount, f"{path}.volumeMounts[{i}]", volumes, mounted, found)
    for field, probe in (
        ("livenessProbe", container.liveness_probe),
        ("readinessProbe", container.readiness_probe),
        ("startupProbe", container.startup_probe),
    ):
        if probe is not None:
            _probe(probe, f"{path}.{field}", ports, found)
            if probe.success_threshold != 1 and field != "readinessProbe":
                found.invalid(f"{path}.{field}.successThreshold", probe.success_threshold, "must be 1")


def _ports(container: Container, path: str, found: Findings) -> set[object]:
    """Checks them, and returns the names that probes may use."""
    seen: set[object] = set()
    for i, port in enumerate(container.ports):
        found.port(f"{path}.ports[{i}].containerPort", port.container_port)
        if port.name:
            found.text(f"{path}.ports[{i}].name", port.name, names.port_name)
            found.unique(f"{path}.ports[{i}].name", port.name, seen)
    return seen


def _env(variable: EnvVar, path: str, found: Findings) -> None:
    found.text(f"{path}.name", variable.name, names.env_name)
    source = variable.value_from
    if source is None:
        return
    here = f"{path}.valueFrom"
    if variable.value:
        found.hidden(here, "may not be specified when `value` is not empty")
    references = {"configMapKeyRef": source.config_map_key_ref, "secretKeyRef": source.secret_key_ref}
    given = {field: ref for field, ref in references.items() if ref is not None}
    if not given:
        found.required(here, "must specify one of: `configMapKeyRef` or `secretKeyRef`")
    elif len(given) > 1:
        found.hidden(here, "may not have more than one field specified at a time")
    for field, ref in given.items():
        found.text(f"{here}.{field}.name", ref.name, names.dns_subdomain)
        found.text(f"{here}.{field}.key", ref.key, names.config_key)


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


def _mount(mount: VolumeMount, path: str, volumes: set[object], mounted: set[object], found: Findings) -> None:
    if not mount.name:
        found.required(f"{path}.name")
    elif mount.name not in volumes:
        found.not_found(f"{path}.name", mount.name, "no volume of the pod has this name")
    if not mount.mount_path:
        found.required(f"{path}.mountPath")
    elif not posixpath.isabs(mount.mount_path) or posixpath.normpath(mount.mount_path) in ("/", "//"):
        found.invalid(f"{path}.mountPath", mount.mount_path, "must be an absolute path below '/'")
    elif ":" in mount.mount_path or "\0" in mount.mount_path or ".." in mount.mount_path.split("/"):
        found.invalid(f"{path}.mountPath", mount.mount_path, "must not contain ':' or '..'")
    else:
        where = posixpath.normpath(mount.mount_path)
        if where in mounted:
            found.invalid(f"{path}.mountPath", mount.mount_path, "must be unique")
        mounted.add(where)
    if mount.sub_path:
        _relative(f"{path}.subPath", mount.sub_path, found)


# ---------------------------------------------------------------- resources and probes


def _not_negative(path: str, value: str, found: Findings) -> None:
    if value.startswith("-"):
        found.invalid(path, value, "must be greater than or equal to 0")


def _resources(resources: ResourceRequirements, path: str, found: Findings) -> None:
    limits, requests = resources.limits, resources.requests
    for field, values in (("limits", limits), ("requests", requests)):
        for name, value in values.items():
            if field == "requests" and limits.get(name) == value:
                continue  # said, or to be said, of the limit
            if name not in RESOURCE_NAMES:
                found.unsupported(f"{path}.{field}", name, RESOURCE_NAMES)
            else:
                _not_negative(f"{path}.{field}[{name}]", value, found)
    for name in requests.keys() & limits.keys() & set(RESOURCE_NAMES):
        if quantity.exact(requests[name]) > quantity.exact(limits[name]):
            why = f"must be less than or equal to {name} limit of {limits[name]}"
            found.invalid(f"{path}.requests[{name}]", requests[name], why)
    if "memory" in limits and 0 <= quantity.exact(limits["memory"]) < MIN_MEMORY_LIMIT:
        # Kubernetes accepts it, and the container never starts. "400m" (0.4 bytes) and "64" are the usual slips.
        why = 'smaller than one page of memory; a suffix such as "Mi" is missing or wrong'
        found.invalid(f"{path}.limits[memory]", limits["memory"], why)


def _probe(probe: Probe, path: str, ports: set[object], found: Findings) -> None:
    given = [a for a in (probe.exec, probe.http_get, probe.tcp_socket) if a is not None]
    if not given:
        found.required(path, "must specify a handler type: `exec`, `httpGet` or `tcpSocket`")
    elif len(given) > 1:
        found.forbidden(path, "may not specify more than 1 handler type")
    if probe.exec is not None and not probe.exec.command:
        found.required(f"{path}.exec.command")
    if probe.http_get is not None:
        _probe_port(probe.http_get.port, f"{path}.httpGet.port", ports, found)
        if not probe.http_get.path:
            found.required(f"{path}.httpGet.path")
        for i, header in enumerate(probe.http_get.http_headers):
            if (
                not header.name
                or not header.name.isascii()
                or any(c in header.name for c in ' :\r\n\t"(),/;<=>?@[\\]{}')
            ):
                found.invalid(f"{path}.httpGet.httpHeaders[{i}].name", header.name, "must be a valid HTTP header name")
            if "\r" in header.value or "\n" in header.value:
                found.invalid(f"{path}.httpGet.httpHeaders[{i}].value", header.value, "must not contain line breaks")
    if probe.tcp_socket is not None:
        _probe_port(probe.tcp_socket.port, f"{path}.tcpSocket.port", ports, found)
    found.at_least(f"{path}.initialDelaySeconds", probe.initial_delay_seconds, 0)
    for field, value in (
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ):
        found.at_least(f"{path}.{field}", value, 1)


def _probe_port(port: int | str, path: str, ports: set[object], found: Findings) -> None:
    if isinstance(port, int):
        found.port(path, port)
    elif not port:
        found.required(path)
    elif port not in ports:  # stricter than Kubernetes, where such a probe fails for ever
        found.not_found(path, port, "no port of this container has this name")
