"""Pods, Services and the whole document that one node gets."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator, Mapping

import msgspec

from edged.model.base import Value
from edged.model.containers import Container, Env, EnvFrom, PullPolicy, RestartPolicy
from edged.model.volumes import Claim, ClaimFiles, ConfigFiles, Projected, SecretFiles, Volume


class DnsPolicy(enum.StrEnum):
    """Where a pod's names come from (v1 DNSPolicy)."""

    CLUSTER_FIRST = "ClusterFirst"  # Services here first; for a pod in the host's network the same as DEFAULT
    CLUSTER_FIRST_WITH_HOST_NET = "ClusterFirstWithHostNet"
    DEFAULT = "Default"  # the machine's own
    NONE = "None"  # only what `dns` says


class Dns(Value, frozen=True):
    """Added to what the policy gives; `options` as resolv.conf(5) writes them ("ndots:5")."""

    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class HostAlias(Value, frozen=True):
    """A further line of the pod's /etc/hosts."""

    ip: str
    hostnames: tuple[str, ...]


class LogTarget(enum.StrEnum):
    """Where a pod's logs are kept, beside the bounded memory that `logs` reads."""

    MEMORY = "memory"
    DISK = "disk"
    JOURNALD = "journald"


class Turn(enum.StrEnum):
    """What becomes of a pod while one with the same `turn` is there (batch/v1 CronJob concurrencyPolicy)."""

    ALLOW = "Allow"
    FORBID = "Forbid"  # it waits
    REPLACE = "Replace"  # the other one is ended


class Pod(Value, frozen=True):
    """A group of containers that share one network namespace. `uid` is unique for ever, `name` only now.

    :ivar init: run one after the other before `containers`, each to success; sidecars among them stay.
    :ivar host_users: False = a user namespace of its own: root inside is nobody outside.
    :ivar sysctls: namespaced kernel parameters, (name, value).
    :ivar fs_group: owns the volumes that can be owned; None = nobody does.
    :ivar fs_group_always: give files to it at each start, not only when the top folder isn't its own.
    :ivar pull_secrets: names of secrets (of the pod's namespace) with logins for registries.
    :ivar priority: the lower ones are evicted first.
    :ivar active_deadline: seconds after its start at which the pod is ended; None = never.
    :ivar labels, annotations: those of the pod, present only where a downward reference needs them.
    :ivar start_at: wall-clock second before which it isn't started; None = at once. `start_by`: after which it isn't
        started any more. See edged.decide.turns.
    :ivar stays: nobody starts it elsewhere, however long this node is away; after a boot it need not wait for the hub.
    :ivar turn: pods with the same one follow each other as `turn_policy` says; "" = it follows nobody.
    """

    namespace: str
    name: str
    uid: str
    containers: tuple[Container, ...]
    volumes: tuple[Volume, ...] = ()
    restart_policy: RestartPolicy = RestartPolicy.ALWAYS
    termination_grace: float = 30.0
    hostname: str = ""
    init: tuple[Container, ...] = ()
    host_network: bool = False
    host_users: bool = True
    share_processes: bool = False
    sysctls: tuple[tuple[str, str], ...] = ()
    fs_group: int | None = None
    fs_group_always: bool = True
    subdomain: str = ""
    host_aliases: tuple[HostAlias, ...] = ()
    dns_policy: DnsPolicy = DnsPolicy.CLUSTER_FIRST
    dns: Dns = Dns()
    pull_secrets: tuple[str, ...] = ()
    priority: int = 0
    active_deadline: float | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    service_account: str = ""
    log_target: LogTarget = LogTarget.MEMORY
    start_at: float | None = None
    start_by: float | None = None
    turn: str = ""
    turn_policy: Turn = Turn.ALLOW
    stays: bool = False

    @property
    def title(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def all_containers(self) -> tuple[Container, ...]:
        """Init containers first, in the order in which they run."""
        return self.init + self.containers

    @property
    def sidecars(self) -> dict[str, int]:
        """Names of the sidecars with their place among them, from 1; the highest is the first to go."""
        return {c.name: n for n, c in enumerate((c for c in self.init if c.sidecar), 1)}

    @property
    def memory_request(self) -> int:
        """Bytes that the pod needs at its busiest: init containers run alone, but beside the sidecars before them
        (Kubernetes' rule for effective requests)."""
        sidecars, most = 0, 0
        for one in self.init:
            if one.sidecar:
                sidecars += one.limits.memory_request
                most = max(most, sidecars)
            else:
                most = max(most, sidecars + one.limits.memory_request)
        return max(most, sidecars + sum(c.limits.memory_request for c in self.containers))


class ServicePort(Value, frozen=True):
    port: int
    target_port: int
    name: str = ""
    protocol: str = "TCP"


class Service(Value, frozen=True):
    """A stable address for some pods. `pods` are uids on this node, `remote` addresses on others.

    `cluster_ip` "" is a headless Service: its name answers with the pods' own addresses.

    :ivar unready: it leads to pods that aren't ready, too: peers that must find each other before they are.
    """

    namespace: str
    name: str
    cluster_ip: str
    ports: tuple[ServicePort, ...]
    pods: tuple[str, ...] = ()
    remote: tuple[str, ...] = ()
    unready: bool = False


class Desired(Value, frozen=True):
    """Everything one node should do, as one document.

    :ivar generation: grows with every change; a node never goes back.
    :ivar configs: "namespace/name" -> key -> bytes.
    :ivar secrets: "namespace/name" -> sealed bytes that only this node can open (see Uplink.unseal).
    :ivar claims: persistent volumes that live here, whether or not a pod uses them now.
    :ivar leaving: uid of a pod that is no longer wanted -> seconds that it gets to end, where somebody asked for
        another grace than its own.
    """

    fleet: str
    node: str
    generation: int
    pods: tuple[Pod, ...] = ()
    services: tuple[Service, ...] = ()
    configs: dict[str, dict[str, bytes]] = {}
    secrets: dict[str, bytes] = {}
    claims: tuple[Claim, ...] = ()
    leaving: dict[str, float] = {}


class NodeFacts(Value, frozen=True):
    """What a pod may know of the node it runs on. `memory` and `storage` in bytes, `cpu` in thousandths of a core:
    what pods may have in all."""

    name: str = ""
    address: str = ""
    memory: int = 0
    cpu: int = 0
    storage: int = 0


class Material(Value, frozen=True):
    """The plain content that one pod refers to: config and secret name (without namespace) -> key -> bytes.

    Exists only while a pod is being started; its secrets are never printed, stored or sent.

    :ivar digest: tells one content from another without revealing it, see edged.decide.material.
    """

    configs: Mapping[str, Mapping[str, bytes]] = {}
    secrets: Mapping[str, Mapping[str, bytes]] = {}
    node: NodeFacts = NodeFacts()
    digest: str = ""

    def __repr__(self) -> str:
        return f"Material(configs={sorted(self.configs)}, secrets={sorted(self.secrets)})"


def references(pod: Pod) -> tuple[frozenset[str], frozenset[str]]:
    """Names of the configs and of the secrets (in the pod's namespace) that its containers and volumes refer to.
    Registry logins aren't among them: they are for the puller, never for the pod."""
    found = list(_references(pod))
    return (
        frozenset(name for kind, name in found if kind == "config"),
        frozenset(name for kind, name in found if kind == "secret"),
    )


def _references(pod: Pod) -> Iterator[tuple[str, str]]:
    for container in pod.all_containers:
        variables: tuple[Env | EnvFrom, ...] = (*container.env, *container.env_from)
        for variable in variables:
            if variable.config:
                yield "config", variable.config
            if variable.secret:
                yield "secret", variable.secret
    for volume in pod.volumes:
        sources = volume.source.sources if isinstance(volume.source, Projected) else (volume.source,)
        for source in sources:
            if isinstance(source, ConfigFiles):
                yield "config", source.config
            elif isinstance(source, SecretFiles):
                yield "secret", source.secret


def container_identity(pod: Pod, container: Container) -> str:
    """A short hash of everything that can only be changed by starting a new container.

    The content of configs and secrets is left out on purpose: changing it must not restart anything. So are probes,
    which are asked from outside, hooks, pull policies, and a claim's size, which grows in place.
    """
    lasting = msgspec.structs.replace(
        container,
        liveness=None,
        readiness=None,
        startup=None,
        ports=(),
        post_start=None,
        pre_stop=None,
        pull_policy=PullPolicy.IF_NOT_PRESENT,
    )
    used = tuple(
        msgspec.structs.replace(v, source=msgspec.structs.replace(v.source, size=0))
        if isinstance(v.source, ClaimFiles)
        else v
        for v in pod.volumes
        if any(m.volume == v.name for m in container.mounts)
    )
    # A pod with nothing else in it: fields at their defaults are left out of the encoding, so that a field which a
    # later version adds doesn't restart what runs.
    whole = Pod(
        namespace="",
        name="",
        uid="",
        containers=(),
        hostname=pod.hostname,
        host_network=pod.host_network,
        host_users=pod.host_users,
        share_processes=pod.share_processes,
        sysctls=pod.sysctls,
        fs_group=pod.fs_group,
    )
    # With nothing but a host name it is encoded as that alone, as the first version did: tests/unit/test_identity.py.
    plain = Pod(namespace="", name="", uid="", containers=(), hostname=pod.hostname)
    parts = (lasting, used, pod.hostname if whole == plain else whole)
    # By way of dicts, for a struct's own encoding depends on how many fields it could have.
    packed = msgspec.msgpack.encode(msgspec.to_builtins(parts))
    return hashlib.blake2b(packed, digest_size=6).hexdigest()
