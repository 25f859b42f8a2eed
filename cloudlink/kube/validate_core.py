"""Rules for the core group's plain kinds. See `validate`."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping

from cloudlink.kube import core, names, quantity
from cloudlink.kube.annotations import check_annotations
from cloudlink.kube.claims import STORAGE_CLASS
from cloudlink.kube.findings import Findings
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.validate_pod import pod_spec

MAX_DATA = 1 << 20  # bytes of all values of a ConfigMap or Secret, as in Kubernetes
MIN_CLAIM = 1 << 20  # bytes; less holds no file system
MAX_AFFINITY = 86400  # seconds
ACCESS_MODES = ("ReadWriteOnce", "ReadWriteOncePod")


def _config_map(obj: core.ConfigMap, found: Findings) -> None:
    for key in obj.data:
        found.text(f"data[{key[:64]}]", key, names.config_key)
    for key in obj.binary_data:
        found.text(f"binaryData[{key[:64]}]", key, names.config_key)
        if key in obj.data:
            found.invalid("data", key, "duplicate of a key in binaryData")
    size = found.base64("binaryData", obj.binary_data) + sum(len(v.encode()) for v in obj.data.values())
    if size > MAX_DATA:
        found.too_long("", MAX_DATA)


def _secret(obj: core.Secret, found: Findings) -> None:
    for key in obj.data:
        found.text(f"data[{key[:64]}]", key, names.config_key)
    if found.base64("data", obj.data) > MAX_DATA:
        found.too_long("data", MAX_DATA)
    needed = {"kubernetes.io/tls": ("tls.crt", "tls.key"), "kubernetes.io/dockerconfigjson": (".dockerconfigjson",)}
    for key in needed.get(obj.type, ()):
        if key not in obj.data:
            found.required(f"data[{key}]", f"a Secret of type {obj.type} has it")


def _service(obj: core.Service, found: Findings) -> None:
    spec = obj.spec
    found.labels("spec.selector", spec.selector)
    if not spec.ports and spec.cluster_ip != "None" and spec.type != "ExternalName":
        found.required("spec.ports")
    seen_names: set[object] = set()
    seen_ports: set[object] = set()
    node_ports: set[object] = set()
    for i, port in enumerate(spec.ports):
        here = f"spec.ports[{i}]"
        if port.name:
            found.text(f"{here}.name", port.name, names.dns_label)
            found.unique(f"{here}.name", port.name, seen_names)
        elif len(spec.ports) > 1:
            found.required(f"{here}.name", "needed where there are several ports")
        found.port(f"{here}.port", port.port)
        found.unique(f"{here}.port", (port.port, port.protocol), seen_ports)
        if isinstance(port.target_port, int):
            if port.target_port != port.port:
                found.port(f"{here}.targetPort", port.target_port)
        else:
            found.text(f"{here}.targetPort", port.target_port, names.port_name)
        if port.node_port:
            if spec.type not in _EXTERNAL:
                found.forbidden(f"{here}.nodePort", f"may not be used when `type` is '{spec.type}'")
            found.port(f"{here}.nodePort", port.node_port)
            found.unique(f"{here}.nodePort", (port.node_port, port.protocol), node_ports)
    _cluster_ip(spec, found)
    _outside(spec, found)


_EXTERNAL = ("NodePort", "LoadBalancer")


def _cluster_ip(spec: core.ServiceSpec, found: Findings) -> None:
    if spec.type == "ExternalName":
        if spec.cluster_ip:
            found.forbidden("spec.clusterIPs", "may not be set for ExternalName services")
        return
    if spec.cluster_ip == "None" and spec.type in _EXTERNAL:
        found.invalid("spec.clusterIPs", [spec.cluster_ip], f"may not be set to 'None' for {spec.type} services")
    if spec.cluster_ip not in ("", "None"):
        try:
            ipaddress.IPv4Address(spec.cluster_ip)
        except ValueError:
            found.invalid("spec.clusterIP", spec.cluster_ip, 'must be empty, "None", or an IPv4 address')
    if spec.cluster_ips and spec.cluster_ips != (spec.cluster_ip,):
        found.invalid("spec.clusterIPs", list(spec.cluster_ips), "must be the same single address as `clusterIP`")


def _outside(spec: core.ServiceSpec, found: Findings) -> None:
    """What is about clients that are no pods of the fleet."""
    if spec.type == "ExternalName":
        found.text("spec.externalName", spec.external_name.removesuffix("."), names.dns_subdomain)
    if spec.external_traffic_policy and spec.type not in _EXTERNAL and not spec.external_ips:
        why = "may only be set for externally-accessible services"
        found.invalid("spec.externalTrafficPolicy", spec.external_traffic_policy, why)
    if spec.session_affinity_config is not None:
        seconds = spec.session_affinity_config.client_ip.timeout_seconds
        if not 0 < seconds <= MAX_AFFINITY:
            why = f"must be greater than 0 and less than {MAX_AFFINITY}"
            found.invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds, why)
    for i, address in enumerate(spec.external_ips):
        found.ip(f"spec.externalIPs[{i}]", address)
    of_balancers = {
        "loadBalancerClass": spec.load_balancer_class,
        "loadBalancerSourceRanges": spec.load_balancer_source_ranges,
        "allocateLoadBalancerNodePorts": spec.allocate_load_balancer_node_ports,
    }
    for field, value in of_balancers.items():
        if value and spec.type != "LoadBalancer":
            found.forbidden(f"spec.{field}", "may only be used when `type` is 'LoadBalancer'")
    if spec.load_balancer_class is not None and (why := names.label_key(spec.load_balancer_class)):
        found.invalid("spec.loadBalancerClass", spec.load_balancer_class, why)
    for i, text in enumerate(spec.load_balancer_source_ranges):
        try:
            ipaddress.ip_network(text.strip(), strict=False)
        except ValueError:
            why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
            found.invalid(f"spec.loadBalancerSourceRanges[{i}]", text, why)


def _node(obj: core.Node, found: Findings) -> None:
    seen: set[object] = set()
    for i, taint in enumerate(obj.spec.taints):
        found.text(f"spec.taints[{i}].key", taint.key, names.label_key)
        if why := names.label_value(taint.value):
            found.invalid(f"spec.taints[{i}].value", taint.value, why)
        found.unique(f"spec.taints[{i}]", (taint.key, taint.effect), seen)


def _pod(obj: core.Pod, found: Findings) -> None:
    check_annotations(obj.metadata.annotations, obj.spec, "metadata.annotations", found)
    pod_spec(obj.spec, "spec", found)


def _claim(obj: core.PersistentVolumeClaim, found: Findings) -> None:
    claim_spec(obj.spec, "spec", found)


def claim_spec(spec: core.PersistentVolumeClaimSpec, path: str, found: Findings) -> None:
    """A claim's, or that of a StatefulSet's claim template."""
    modes, storage = f"{path}.accessModes", f"{path}.resources.requests"
    if not spec.access_modes:
        found.required(modes, "at least 1 access mode is required")
    for i, mode in enumerate(spec.access_modes):
        if mode in ("ReadWriteMany", "ReadOnlyMany"):
            why = "storage is local to one node; use ReadWriteOnce, or an nfs volume for what many nodes share"
            found.invalid(f"{modes}[{i}]", mode, why)
        elif mode not in ACCESS_MODES:
            found.unsupported(f"{modes}[{i}]", mode, ACCESS_MODES)
    if "ReadWriteOncePod" in spec.access_modes and len(set(spec.access_modes)) > 1:
        found.forbidden(modes, "may not use ReadWriteOncePod with other access modes")
    if spec.storage_class_name not in ("", STORAGE_CLASS):
        found.unsupported(f"{path}.storageClassName", spec.storage_class_name, (STORAGE_CLASS,))
    requests = spec.resources.requests
    for name in requests:
        if name != "storage":
            found.unsupported(storage, name, ("storage",))
    if "storage" not in requests:
        found.required(f"{storage}[storage]")
    elif quantity.exact(requests["storage"]) <= 0:
        found.invalid(f"{storage}[storage]", requests["storage"], "must be greater than zero")
    elif quantity.to_int(requests["storage"]) < MIN_CLAIM:
        why = 'too small for a file system; a suffix such as "Mi" is missing or wrong'
        found.invalid(f"{storage}[storage]", requests["storage"], why)


def _event(obj: core.Event, found: Findings) -> None:
    if obj.type not in ("", "Normal", "Warning"):
        found.unsupported("type", obj.type, ("Normal", "Warning"))


CHECKS: Mapping[type[KubeObject], Callable[..., None]] = {
    core.ConfigMap: _config_map,
    core.Secret: _secret,
    core.Service: _service,
    core.Node: _node,
    core.PersistentVolumeClaim: _claim,
    core.Pod: _pod,
    core.Event: _event,
}
