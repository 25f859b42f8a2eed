"""What is wrong with a pod's spec, wherever it stands (a Pod, or a template). Rules: see `validate`."""

from __future__ import annotations

from cloudlink.kube import names
from cloudlink.kube.findings import Findings
from cloudlink.kube.pod import KEPT_APART, PodDNSConfig, PodSpec, Toleration
from cloudlink.kube.validate_affinity import affinity, spreading
from cloudlink.kube.validate_container import Around, container, host_ports, init_only
from cloudlink.kube.validate_security import pod_security
from cloudlink.kube.validate_volumes import volume

# What the C library's resolver takes (resolv.conf(5)).
MAX_NAMESERVERS, MAX_SEARCHES, MAX_SEARCH_CHARACTERS = 3, 32, 2048


def pod_spec(spec: PodSpec, path: str, found: Findings) -> None:
    every = {c.name for c in (*spec.init_containers, *spec.containers)}
    volumes: set[object] = set()
    for i, it in enumerate(spec.volumes):
        found.text(f"{path}.volumes[{i}].name", it.name, names.dns_label)
        found.unique(f"{path}.volumes[{i}].name", it.name, volumes)
        volume(it, f"{path}.volumes[{i}]", every, found)
    _containers(spec, path, Around(volumes, every, spec.termination_grace_period_seconds), found)
    _host(spec, path, found)
    _apart(spec, path, found)
    pod_security(spec, path, found)
    _names(spec, path, found)
    _dns(spec.dns_policy, spec.dns_config, f"{path}.dnsConfig", found)
    found.at_least(f"{path}.terminationGracePeriodSeconds", spec.termination_grace_period_seconds, 0)
    if spec.active_deadline_seconds is not None:
        found.at_least(f"{path}.activeDeadlineSeconds", spec.active_deadline_seconds, 1)
    if spec.priority_class_name:  # which there are is asked when the pod is made, see hub.admission
        found.text(f"{path}.priorityClassName", spec.priority_class_name, names.dns_subdomain)
    found.labels(f"{path}.nodeSelector", spec.node_selector)
    for i, toleration in enumerate(spec.tolerations):
        _toleration(toleration, f"{path}.tolerations[{i}]", found)
    if spec.affinity is not None:
        affinity(spec.affinity, f"{path}.affinity", found)
    spreading(spec.topology_spread_constraints, f"{path}.topologySpreadConstraints", found)
    for i, gate in enumerate(spec.readiness_gates):
        found.text(f"{path}.readinessGates[{i}].conditionType", gate.condition_type, names.label_key)


def _containers(spec: PodSpec, path: str, around: Around, found: Findings) -> None:
    if not spec.containers:
        found.required(f"{path}.containers")
    seen: set[object] = set()
    for i, it in enumerate(spec.containers):
        here = f"{path}.containers[{i}]"
        found.text(f"{here}.name", it.name, names.dns_label)
        found.unique(f"{here}.name", it.name, seen)
        container(it, here, around, found)
        if it.restart_policy is not None:
            found.forbidden(f"{here}.restartPolicy", "may not be set for non-init containers")
    taken: set[object] = set()
    host_ports(spec.containers, f"{path}.containers", taken, found)
    for i, it in enumerate(spec.init_containers):
        here = f"{path}.initContainers[{i}]"
        found.text(f"{here}.name", it.name, names.dns_label)
        found.unique(f"{here}.name", it.name, seen)
        container(it, here, around, found)
        init_only(it, here, found)
    # Sidecars run beside the containers; Kubernetes looks at them one by one only.
    sidecars = tuple(c if c.is_sidecar else c.model_copy(update={"ports": ()}) for c in spec.init_containers)
    host_ports(sidecars, f"{path}.initContainers", taken, found)


def _host(spec: PodSpec, path: str, found: Findings) -> None:
    if not spec.host_network:
        return
    if spec.host_users is False:
        found.forbidden(f"{path}.hostNetwork", "when `hostUsers` is false")
    for group, containers in (("containers", spec.containers), ("initContainers", spec.init_containers)):
        for i, it in enumerate(containers):
            for j, port in enumerate(it.ports):
                if port.host_port != port.container_port:
                    why = "must match `containerPort` when `hostNetwork` is true"
                    found.invalid(f"{path}.{group}[{i}].ports[{j}].hostPort", port.host_port, why)


def _apart(spec: PodSpec, path: str, found: Findings) -> None:
    """What keeps containers apart from the machine and from each other stays."""
    for field, wanted in (
        ("hostPID", spec.host_pid),
        ("hostIPC", spec.host_ipc),
        ("shareProcessNamespace", spec.share_process_namespace),
        ("setHostnameAsFQDN", spec.set_hostname_as_fqdn),
    ):
        if wanted:
            found.refused(f"{path}.{field}", KEPT_APART[field])


def _names(spec: PodSpec, path: str, found: Findings) -> None:
    for text, field, check in (
        (spec.hostname, "hostname", names.dns_label),
        (spec.subdomain, "subdomain", names.dns_label),
        (spec.node_name, "nodeName", names.dns_subdomain),
        (spec.service_account_name, "serviceAccountName", names.dns_subdomain),
        (spec.service_account, "serviceAccount", names.dns_subdomain),
    ):
        if text:
            found.text(f"{path}.{field}", text, check)
    for i, secret in enumerate(spec.image_pull_secrets):
        found.text(f"{path}.imagePullSecrets[{i}].name", secret.name, names.dns_subdomain)
    for i, alias in enumerate(spec.host_aliases):
        here = f"{path}.hostAliases[{i}]"
        found.ip(f"{here}.ip", alias.ip, v6=True)
        for j, name in enumerate(alias.hostnames):
            found.text(f"{here}.hostnames[{j}]", name, names.dns_subdomain)


def _dns(policy: str, config: PodDNSConfig | None, path: str, found: Findings) -> None:
    if policy == "None":
        if config is None:
            found.required(path, "must provide `dnsConfig` when `dnsPolicy` is None")
        elif not config.nameservers:
            why = "must provide at least one DNS nameserver when `dnsPolicy` is None"
            found.required(f"{path}.nameservers", why)
    if config is None:
        return
    if len(config.nameservers) > MAX_NAMESERVERS:
        why = f"must not have more than {MAX_NAMESERVERS} nameservers"
        found.invalid(f"{path}.nameservers", config.nameservers, why)
    for i, address in enumerate(config.nameservers):
        found.ip(f"{path}.nameservers[{i}]", address, v6=True)
    if len(config.searches) > MAX_SEARCHES:
        found.invalid(f"{path}.searches", config.searches, f"must not have more than {MAX_SEARCHES} search paths")
    if len(" ".join(config.searches)) > MAX_SEARCH_CHARACTERS:
        why = f"must not have more than {MAX_SEARCH_CHARACTERS} characters (including spaces) in the search list"
        found.invalid(f"{path}.searches", config.searches, why)
    for i, search in enumerate(config.searches):
        if search != ".":
            found.text(f"{path}.searches[{i}]", search.removesuffix("."), names.dns_subdomain_with_underscore)
    for i, option in enumerate(config.options):
        here = f"{path}.options[{i}]"
        if not option.name:
            found.required(here, "must not be empty")
        elif any(c.isspace() or not c.isprintable() for c in option.name + (option.value or "")):
            found.invalid(here, option.name, "must not contain white space")  # a line of a file


def _toleration(toleration: Toleration, path: str, found: Findings) -> None:
    if toleration.key:
        found.text(f"{path}.key", toleration.key, names.label_key)
    elif toleration.operator != "Exists":
        found.invalid(f"{path}.operator", toleration.operator, "must be Exists when `key` is empty")
    if toleration.operator == "Exists" and toleration.value:
        found.invalid(f"{path}.value", toleration.value, "must be empty when `operator` is 'Exists'")
    if toleration.toleration_seconds is not None and toleration.effect != "NoExecute":
        found.invalid(f"{path}.effect", toleration.effect, "must be 'NoExecute' when `tolerationSeconds` is set")
