"""Rules for NetworkPolicies, Ingresses and IngressClasses. See `validate`."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping

from cloudlink.kube import names, networking
from cloudlink.kube.findings import Findings
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.validate_meta import selector

MAX_CONTROLLER = 250  # characters
_NOT_IN_PATHS = ("//", "/./", "/../", "%2f", "%2F")
_NOT_AT_THE_END = ("/..", "/.")

# ---------------------------------------------------------------- NetworkPolicy


def _network_policy(obj: networking.NetworkPolicy, found: Findings) -> None:
    spec = obj.spec
    selector(spec.pod_selector, "spec.podSelector", found)
    for i, ingress in enumerate(spec.ingress):
        path = f"spec.ingress[{i}]"
        _ports(ingress.ports, f"{path}.ports", found)
        for j, peer in enumerate(ingress.from_):
            _peer(peer, f"{path}.from[{j}]", found)
    for i, egress in enumerate(spec.egress):
        path = f"spec.egress[{i}]"
        _ports(egress.ports, f"{path}.ports", found)
        for j, peer in enumerate(egress.to):
            _peer(peer, f"{path}.to[{j}]", found)
    if len(spec.policy_types) > 2:
        found.invalid("spec.policyTypes", list(spec.policy_types), "may not specify more than two policyTypes")


def _ports(ports: tuple[networking.NetworkPolicyPort, ...], path: str, found: Findings) -> None:
    for i, it in enumerate(ports):
        here = f"{path}[{i}]"
        if it.port is None:
            if it.end_port is not None:
                found.invalid(f"{here}.endPort", it.end_port, "may not be specified when `port` is not specified")
        elif isinstance(it.port, int):
            found.port(f"{here}.port", it.port)
            if it.end_port is not None:
                found.port(f"{here}.endPort", it.end_port)
                if it.end_port < it.port:
                    found.invalid(f"{here}.endPort", it.end_port, "must be greater than or equal to `port`")
        else:
            found.text(f"{here}.port", it.port, names.port_name)
            if it.end_port is not None:
                found.invalid(f"{here}.endPort", it.end_port, "may not be specified when `port` is non-numeric")


def _peer(peer: networking.NetworkPolicyPeer, path: str, found: Findings) -> None:
    selectors = (peer.pod_selector, peer.namespace_selector)
    if peer.ip_block is None and not any(s is not None for s in selectors):
        found.required(path, "must specify a peer")
    elif peer.ip_block is not None and any(s is not None for s in selectors):
        found.forbidden(path, "may not specify both ipBlock and another peer")
    selector(peer.pod_selector, f"{path}.podSelector", found)
    selector(peer.namespace_selector, f"{path}.namespaceSelector", found)
    if peer.ip_block is not None:
        _block(peer.ip_block, f"{path}.ipBlock", found)


def _block(block: networking.IPBlock, path: str, found: Findings) -> None:
    whole = _cidr(block.cidr, f"{path}.cidr", found)
    for i, text in enumerate(block.except_):
        part = _cidr(text, f"{path}.except[{i}]", found)
        if whole is None or part is None:
            continue
        inside = part.version == whole.version and part.prefixlen > whole.prefixlen
        if not inside or part.network_address not in whole:
            found.invalid(f"{path}.except[{i}]", text, "must be a strict subset of `cidr`")


def _cidr(text: str, path: str, found: Findings) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    if not text:
        found.required(path)
        return None
    try:
        if "/" not in text:
            raise ValueError("no prefix length")
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        found.invalid(path, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")
        return None


# ---------------------------------------------------------------- Ingress


def _ingress(obj: networking.Ingress, found: Findings) -> None:
    spec = obj.spec
    if not spec.rules and spec.default_backend is None:
        found.invalid("spec", [], "either `defaultBackend` or `rules` must be specified")
    if spec.default_backend is not None:
        _backend(spec.default_backend, "spec.defaultBackend", found)
    if spec.ingress_class_name is not None:
        found.text("spec.ingressClassName", spec.ingress_class_name, names.dns_subdomain)
    for i, tls in enumerate(spec.tls):
        for j, host in enumerate(tls.hosts):
            _host(host, f"spec.tls[{i}].hosts[{j}]", found)
        if tls.secret_name:
            found.text(f"spec.tls[{i}].secretName", tls.secret_name, names.dns_subdomain)
    for i, rule in enumerate(spec.rules):
        here = f"spec.rules[{i}]"
        if rule.host:
            _host(rule.host, f"{here}.host", found)
        if rule.http is not None:
            if not rule.http.paths:
                found.required(f"{here}.http.paths")
            for j, path in enumerate(rule.http.paths):
                _path(path, f"{here}.http.paths[{j}]", found)


def _host(host: str, path: str, found: Findings) -> None:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        found.text(path, host, names.wildcard_subdomain if "*" in host else names.dns_subdomain)
    else:
        found.invalid(path, host, "must be a DNS name, not an IP address")


def _path(it: networking.HTTPIngressPath, here: str, found: Findings) -> None:
    if it.path_type in ("Exact", "Prefix"):
        if not it.path.startswith("/"):
            found.invalid(f"{here}.path", it.path, "must be an absolute path")
        for part in _NOT_IN_PATHS:
            if part in it.path:
                found.invalid(f"{here}.path", it.path, f"must not contain '{part}'")
        for end in _NOT_AT_THE_END:
            if it.path.endswith(end):
                found.invalid(f"{here}.path", it.path, f"cannot end with '{end}'")
    elif it.path and not it.path.startswith("/"):
        found.invalid(f"{here}.path", it.path, "must be an absolute path")
    _backend(it.backend, f"{here}.backend", found)


def _backend(it: networking.IngressBackend, path: str, found: Findings) -> None:
    if it.service is not None and it.resource is not None:
        found.invalid(path, "", "cannot set both resource and service backends")
    elif it.resource is not None:
        for field, value in (("kind", it.resource.kind), ("name", it.resource.name)):
            if not value:
                found.required(f"{path}.resource.{field}")
    elif it.service is None:
        found.required(path, "resource or service backend is required")
    else:
        found.text(f"{path}.service.name", it.service.name, names.dns_label_1035)
        port = it.service.port
        if port.name and port.number:
            found.invalid(path, "", "cannot set both port name & port number")
        elif port.name:
            found.text(f"{path}.service.port.name", port.name, names.port_name)
        elif port.number:
            found.port(f"{path}.service.port.number", port.number)
        else:
            found.required(path, "port name or number is required")


def _ingress_class(obj: networking.IngressClass, found: Findings) -> None:
    controller, parameters = obj.spec.controller, obj.spec.parameters
    if len(controller) > MAX_CONTROLLER:
        found.too_long("spec.controller", MAX_CONTROLLER)
    else:
        found.text("spec.controller", controller, names.qualified_path)
    if parameters is None:
        return
    path = "spec.parameters"
    for field, value in (("kind", parameters.kind), ("name", parameters.name)):
        if not value:
            found.required(f"{path}.{field}")
    if parameters.scope == "Namespace":
        if not parameters.namespace:
            found.required(f"{path}.namespace", "`parameters.scope` is set to 'Namespace'")
        else:
            found.text(f"{path}.namespace", parameters.namespace, names.dns_label)
    elif parameters.namespace is not None:
        found.forbidden(f"{path}.namespace", "`parameters.scope` is set to 'Cluster'")


CHECKS: Mapping[type[KubeObject], Callable[..., None]] = {
    networking.NetworkPolicy: _network_policy,
    networking.Ingress: _ingress,
    networking.IngressClass: _ingress_class,
}
