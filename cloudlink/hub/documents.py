"""What each node was told last, and what it must be told now: one desired document a node, with its generation.

A document is written down before it is published. So a hub that dies in between never gives the same generation
two contents, and one that comes back says the same again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from cloudlink import trust, wire
from cloudlink.hub.changes import PutRecord
from cloudlink.hub.compiled import Compiled
from cloudlink.hub.fitting import Fitted, fit
from cloudlink.hub.store import Store
from cloudlink.hub.world import World
from cloudlink.kube.compile import compile_node
from cloudlink.kube.core import ConfigMap, PersistentVolumeClaim, Secret, Service
from edged.errors import EdgedError, PermanentError
from edged.model import Desired, NodeStatus

log = logging.getLogger(__name__)

BUCKET = "desired"
FURTHEST = 1 << 62  # no honest node reports a generation beyond this


class Told(msgspec.Struct, frozen=True):
    """A record: the document that a node was given last.

    :ivar desired: the `Desired` in its canonical form, its secrets sealed.
    :ivar digest: of the canonical content; if it no longer matches, another release of the hub encodes it
        differently, and nodes would take the same generation for a forgery.
    :ivar tags: "namespace/name" of a sealed secret -> what it was sealed from and for.
    """

    generation: int
    desired: bytes
    digest: bytes
    tags: dict[str, bytes] = {}


class Sealed(NamedTuple):
    tag: bytes
    blob: bytes


class Signed(NamedTuple):
    """A document, its canonical form, and its envelope."""

    desired: Desired
    document: bytes
    envelope: bytes


class Document(NamedTuple):
    """Ready to be published, retained, on the node's desired topic."""

    node: str
    generation: int
    signed: bytes


class Documents:
    """Compiles, numbers, records and signs. Everything here is synchronous: one call, one commit.

    :param node_key: the X25519 public key that a node gave when it joined; None if it never did.
    :param now: wall clock, seconds since 1970; told to nodes, signed, as a lower bound of the true time.
    """

    def __init__(
        self,
        store: Store,
        world: World,
        fleet: str,
        signing_key: bytes,
        node_key: Callable[[str], bytes | None],
        now: Callable[[], float],
    ) -> None:
        self._store, self._world, self._fleet = store, world, fleet
        self._signing_key, self._node_key, self._now = signing_key, node_key, now
        self._compiled = Compiled()
        self._written = wire.Written()
        self._told: dict[str, Desired] = {}
        self._sealed: dict[str, dict[str, Sealed]] = {}  # node -> secret's title -> its box
        self._floor: dict[str, int] = {}  # generations that nodes have and we don't remember giving
        self.problems: dict[str, str] = {}  # node -> why it can't be told anything new
        self.fitted: dict[str, Fitted] = {}  # node -> what was left out of its document, where something was
        self._gone_since: dict[str, dict[str, int]] = {}  # node -> pod uid -> generation that first lacked it
        for node, raw in store.records(BUCKET).items():
            self._remember(node, raw)

    def _remember(self, node: str, raw: bytes) -> None:
        try:
            told = msgspec.msgpack.decode(raw, type=Told)
            desired = msgspec.msgpack.decode(told.desired, type=Desired)
        except (msgspec.MsgspecError, ValueError) as e:
            log.error("the record of what node %s was told can't be read (%s); it will be told anew", node, e)
            return
        self._told[node] = desired
        self._sealed[node] = {n: Sealed(told.tags[n], b) for n, b in desired.secrets.items() if n in told.tags}
        if trust.digest(wire.canonical(desired)) != told.digest:
            self._floor[node] = told.generation  # forces the next generation

    # ------------------------------------------------------------ telling

    @property
    def nodes(self) -> list[str]:
        """Everybody who was ever told something, whether or not there is a Node object."""
        return sorted(self._told)

    def generation(self, node: str) -> int:
        """Of the newest document that was recorded for this node; 0 = none yet."""
        told = self._told.get(node)
        return told.generation if told is not None else 0

    def refresh(self, nodes: Iterable[str]) -> list[Document]:
        """Compile these nodes' documents, record the ones that have changed, and return those, signed.

        What makes a document too large is left out of it and told in `fitted`. A document that can't be made at all
        is told in `problems`; the node keeps what it has.

        :raises RetryError: the database refused; nothing has changed.
        """
        fresh: dict[str, tuple[Signed, dict[str, Sealed]]] = {}
        for node in nodes:
            try:
                if (next_one := self._compile(node)) is not None:
                    fresh[node] = next_one
                self.problems.pop(node, None)
            except EdgedError as e:
                self.problems[node] = str(e)
            except Exception as e:  # one node's bad luck must not be everybody's
                log.exception("the document of node %s can't be made", node)
                self.problems[node] = f"the hub can't make this node's document: {e}"
        self._store.commit([PutRecord(BUCKET, n, _record(made, boxes)) for n, (made, boxes) in fresh.items()])
        for node, (made, sealed) in fresh.items():
            self._note_the_gone(node, self._told.get(node), made.desired)
            self._told[node], self._sealed[node] = made.desired, sealed
            self._floor.pop(node, None)
        return [Document(n, made.desired.generation, made.envelope) for n, (made, _) in fresh.items()]

    def again(self) -> Iterable[Document]:
        """What every node was told last, signed anew: for a broker that may have lost what it retained."""
        for node in self.nodes:
            desired = self._told.get(node)
            if desired is None or node in self._floor:
                continue
            try:
                yield Document(node, desired.generation, self._sign(desired).envelope)
            except EdgedError as e:
                log.error("node %s can't be told its document again: %s", node, e)

    def _sign(self, desired: Desired) -> Signed:
        document = wire.canonical(desired, self._written)
        return Signed(desired, document, trust.sign_desired(desired, self._signing_key, self._now(), document))

    def forget(self, uid: str) -> None:
        """A pod, or a controller of pods, is gone."""
        self._compiled.forget(uid)

    def _compile(self, node: str) -> tuple[Signed, dict[str, Sealed]] | None:
        """The next document, signed, and what its secrets were sealed from; None if it would say what the last one
        said."""
        sealed: dict[str, Sealed] = {}
        pods = self._world.on_node(node)
        spaces = {p.metadata.namespace for p in pods}
        secrets = [s for space in sorted(spaces) for s in self._world.all(Secret, space)]
        by_title = {s.title: s for s in secrets}

        def seal(title: str, data: Mapping[str, bytes]) -> bytes:
            """Sealing gives other bytes each time; an unchanged secret must not look like a change."""
            key = self._node_key(node)
            if key is None:
                raise PermanentError(f"secret {title} can't be sealed: node {node} has given no key; let it join again")
            tag = _tag(by_title[title], key)
            before = self._sealed.get(node, {}).get(title)
            box = (
                before if before is not None and before.tag == tag else Sealed(tag, trust.seal(key, node, title, data))
            )
            sealed[title] = box
            return box.blob

        config_maps = [c for space in sorted(spaces) for c in self._world.all(ConfigMap, space)]
        services = self._world.all(Service)
        before = self._told.get(node)
        last = before.generation if before is not None else 0
        claims = {c.title: c for space in sorted(spaces) for c in self._world.all(PersistentVolumeClaim, space)}
        claims |= {c.title: c for c in self._world.claims_on(node)}
        fresh = compile_node(
            *(self._fleet, node, last, pods, services, config_maps, secrets, seal),
            claims=[*claims.values()],
            compiled_pod=self._compiled.pod,
        )
        known = {p.uid for p in before.pods} | before.leaving.keys() if before is not None else set()
        leaving = {uid: grace for uid, grace in fresh.leaving.items() if uid in known}
        fresh = msgspec.structs.replace(fresh, leaving=leaving)
        if self._is_told(fresh, node):
            self.fitted.pop(node, None)
            self._told[node] = fresh  # equal to what is there; after a start its pods are shared, as those read aren't
            return None
        generation = max(last, self._floor.get(node, 0)) + 1
        fitted, made = self._fit(msgspec.structs.replace(fresh, generation=generation), before)
        if fitted.left_out or fitted.held_back:
            self.fitted[node] = fitted
        else:
            self.fitted.pop(node, None)
        if self._is_told(fitted.desired, node):
            return None
        sealed |= {t: box for t, box in self._sealed.get(node, {}).items() if t in fitted.kept}
        return made, {t: box for t, box in sealed.items() if t in fitted.desired.secrets}

    def _is_told(self, fresh: Desired, node: str) -> bool:
        """Whether the node has a document that says just this."""
        before = self._told.get(node)
        if before is None or node in self._floor:
            return False
        return msgspec.structs.replace(fresh, generation=before.generation) == before

    def _fit(self, fresh: Desired, before: Desired | None) -> tuple[Fitted, Signed]:
        """What of it can be sent, and that signed."""
        done: Signed | None = None

        def problem(desired: Desired) -> str:
            nonlocal done
            try:
                done = self._sign(desired)
            except PermanentError as e:
                return str(e)
            return ""

        fitted = fit(fresh, before, problem)
        return fitted, done if done is not None and done.desired == fitted.desired else self._sign(fitted.desired)

    # ------------------------------------------------------------ hearing back

    def learn(self, node: str, status: NodeStatus) -> bool:
        """A node reports about its generation. True if it is one that we don't remember, so that we must go beyond.

        That happens when the hub's database was restored from an older copy. If by then the hub has counted up to what
        the node has, the node has other content under the same number, and says that it refuses ours.
        """
        told, generation = self.generation(node), status.generation
        refused = status.refused.generation if status.refused is not None else 0
        if told < generation < FURTHEST or (0 < refused == told == generation and node not in self._floor):
            self._floor[node] = generation
            return True
        return False

    def is_gone(self, node: str, uid: str, generation: int) -> bool:
        """Whether a node that works by this generation, and doesn't report this pod, is through with it.

        Invariant: never true for a pod that the generation contains, nor for one that a later generation was the
        first to leave out.
        """
        told = self._told.get(node)
        if told is None or any(p.uid == uid for p in told.pods):
            return False
        # After a restart nobody remembers who was left out when: then only the newest generation counts.
        return generation >= self._gone_since.get(node, {}).get(uid, told.generation)

    def forget_pod(self, node: str, uid: str) -> None:
        self._gone_since.get(node, {}).pop(uid, None)

    def _note_the_gone(self, node: str, before: Desired | None, after: Desired) -> None:
        gone = self._gone_since.setdefault(node, {})
        left = {p.uid for p in after.pods}
        for pod in before.pods if before is not None else ():
            if pod.uid not in left:
                gone[pod.uid] = after.generation
        alive = {p.metadata.uid for p in self._world.on_node(node)}
        for uid in [u for u in gone if u not in alive or u in left]:
            del gone[uid]


def _record(made: Signed, sealed: Mapping[str, Sealed]) -> bytes:
    told = Told(
        generation=made.desired.generation,
        desired=made.document,
        digest=trust.digest(made.document),
        tags={name: box.tag for name, box in sealed.items()},
    )
    return msgspec.msgpack.encode(told)


def _tag(secret: Secret, key: bytes) -> bytes:
    """Names a secret's content and its reader, without telling either."""
    source = f"{secret.metadata.uid}\0{secret.metadata.resource_version}\0".encode() + key
    return hashlib.blake2b(source, digest_size=16).digest()
