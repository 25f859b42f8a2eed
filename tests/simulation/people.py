"""People at the hub: seeded, impatient, and sometimes wrong. What they send goes through the real parser and store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from cloudlink.hub.changes import Create, Update
from cloudlink.hub.deletion import deletion
from cloudlink.hub.store import Store
from cloudlink.kube.apps import DaemonSet, Deployment
from cloudlink.kube.core import Node, Pod
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.parse import parse
from tests.simulation.hub import SimulatedHub
from tests.simulation.invariants import HubWatch
from tests.simulation.loop import HOUR
from tests.simulation.stage import Stage

T = TypeVar("T", bound=KubeObject)

MOST = 12  # Deployments at a time
GOOD = ("app:1", "app:2", "app:3")
BAD = ("app:4-absent", "app:4-crash", "app:4-greedy")


class People:
    """:param nodes: how many there are, which bounds what people ask for."""

    def __init__(self, stage: Stage, hub: SimulatedHub, watch: HubWatch, nodes: int) -> None:
        self._stage, self._hub, self._watch, self._nodes = stage, hub, watch, nodes
        self._named = 0
        self._deeds: list[tuple[int, Callable[[Store], None]]] = [
            (4, self.deploy),
            (6, self.roll_out),
            (3, self.roll_out_badly),
            (5, self.scale),
            (3, self.delete_deployment),
            (3, self.cordon),
            (3, self.uncordon),
            (2, self.drain),
            (3, self.delete_pod),
            (1, self.delete_node),
            (3, self.change_content),
            (1, self.daemon_set),
            (2, self.stateful_set),
        ]

    def act(self) -> None:
        """One deed; a hub that is down gets none, as kubectl would find out."""
        store = self._hub.store
        if store is None:
            self._stage.deeds["people found the hub down"] += 1
            return
        deeds = [d for _, d in self._deeds]
        (deed,) = self._stage.dice.choices(deeds, weights=[w for w, _ in self._deeds])
        self._stage.deeds[deed.__name__.replace("_", " ")] += 1
        deed(store)

    def furnish(self) -> None:
        """What is there on the first day."""
        store = self._hub.store
        assert store is not None
        self._apply(store, _config(self._stage.dice.random()))
        self._apply(store, _secret(self._stage.dice.random()))
        self.daemon_set(store)
        self.stateful_set(store)
        for _ in range(max(2, self._nodes // 3)):
            self.deploy(store)

    # ------------------------------------------------------------ deeds

    def deploy(self, store: Store) -> None:
        if len(store.list("Deployment")) >= MOST:
            return
        self._named += 1
        dice = self._stage.dice
        name = f"web-{self._named}"
        template: dict[str, Any] = {
            "terminationGracePeriodSeconds": dice.choice((2, 10, 30)),
            "containers": [_container(dice.choice(GOOD), dice.choice((16, 32, 64)), dice.random() < 0.3)],
        }
        if dice.random() < 0.15:
            template["containers"][0]["ports"] = [{"containerPort": 80, "hostPort": 8000 + dice.randrange(3)}]
        if dice.random() < 0.2:
            template["volumes"] = [{"name": "settings", "configMap": {"name": "settings"}}]
            template["containers"][0]["volumeMounts"] = [{"name": "settings", "mountPath": "/settings"}]
        if dice.random() < 0.2:
            source = {"secretKeyRef": {"name": "password", "key": "word"}}
            template["containers"][0]["env"] = [{"name": "WORD", "valueFrom": source}]
        spec: dict[str, Any] = {
            "replicas": dice.randint(1, max(1, self._nodes // 2)),
            "minReadySeconds": dice.choice((0, 0, 10)),
            "progressDeadlineSeconds": dice.choice((300, 600)),
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": template},
        }
        if dice.random() < 0.2:
            spec["strategy"] = {"type": "Recreate"}
        meta = {"name": name, "namespace": "default"}
        self._apply(store, {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec})

    def roll_out(self, store: Store) -> None:
        self._use_image(store, self._stage.dice.choice(GOOD))

    def roll_out_badly(self, store: Store) -> None:
        self._use_image(store, self._stage.dice.choice(BAD))

    def _use_image(self, store: Store, image: str) -> None:
        there = self._pick(store, Deployment)
        if there is not None:
            self._say(f"sets the image of {there.metadata.name} to {image}")
            self._hub.commit([Update(with_image(there, image))])

    def look_after(self) -> None:
        """Somebody sees sooner or later what the hub hasn't undone by itself, or has from a backup."""
        self.put_right()
        self._stage.loop.call_later(self._stage.dice.uniform(HOUR, 8 * HOUR), self.look_after)

    def put_right(self) -> None:
        """No bad image is wanted any more."""
        if self._hub.store is None:
            return
        for there in _all(self._hub.store, Deployment):
            if there.spec.template.spec.containers[0].image in BAD:
                self._say(f"puts {there.metadata.name} right")
                self._hub.commit([Update(with_image(there, GOOD[0]))])

    def repair(self) -> None:
        """At the end: no bad image, no cordon."""
        self.put_right()
        if self._hub.store is not None:
            self.uncordon(self._hub.store)

    def scale(self, store: Store) -> None:
        there = self._pick(store, Deployment)
        if there is not None:
            replicas = self._stage.dice.randint(0, max(2, self._nodes // 2))
            self._say(f"scales {there.metadata.name} to {replicas}")
            spec = there.spec.model_copy(update={"replicas": replicas})
            self._hub.commit([Update(there.model_copy(update={"spec": spec}))])

    def delete_deployment(self, store: Store) -> None:
        there = self._pick(store, Deployment)
        if there is not None and len(store.list("Deployment")) > 2:
            self._delete(there)

    def cordon(self, store: Store) -> None:
        node = self._pick(store, Node)
        if node is not None:
            self._set_cordon(node, True)

    def uncordon(self, store: Store) -> None:
        for node in _all(store, Node):
            if node.spec.unschedulable:
                self._set_cordon(node, False)

    def _set_cordon(self, node: Node, shut: bool) -> None:
        self._say(f"{'cordons' if shut else 'uncordons'} {node.metadata.name}")
        spec = node.spec.model_copy(update={"unschedulable": shut})
        self._hub.commit([Update(node.model_copy(update={"spec": spec}))])

    def drain(self, store: Store) -> None:
        node = self._pick(store, Node)
        if node is None:
            return
        self._set_cordon(node, True)
        if self._hub.store is None:
            return
        for pod in _all(store, Pod):
            owner = pod.metadata.owner_references[0].kind if pod.metadata.owner_references else ""
            if pod.spec.node_name == node.metadata.name and owner != "DaemonSet":
                self._delete(pod)

    def delete_pod(self, store: Store) -> None:
        pod = self._pick(store, Pod)
        if pod is not None:
            self._delete(pod, self._stage.dice.choice((None, None, 1)))

    def delete_node(self, store: Store) -> None:
        node = self._pick(store, Node)
        if node is not None:
            self._delete(node)

    def change_content(self, store: Store) -> None:
        dice = self._stage.dice
        self._apply(store, dice.choice((_config, _secret))(dice.random()))

    def daemon_set(self, store: Store) -> None:
        there = next(iter(_all(store, DaemonSet)), None)
        image = self._stage.dice.choice(GOOD)
        spec = {
            "selector": {"matchLabels": {"app": "agent"}},
            "template": {
                "metadata": {"labels": {"app": "agent"}},
                "spec": {"containers": [_container(image, 8, False)], "terminationGracePeriodSeconds": 5},
            },
        }
        meta = {"name": "agent", "namespace": "default"}
        if there is None:
            self._apply(store, {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": meta, "spec": spec})
        else:
            self._say(f"sets the image of the agent to {image}")
            self._hub.commit([Update(with_image(there, image))])

    def stateful_set(self, store: Store) -> None:
        """Pods with names of their own: the ones of which there may never be two."""
        dice = self._stage.dice
        spec = {
            "serviceName": "db",
            "replicas": dice.randint(1, 3),
            "selector": {"matchLabels": {"app": "db"}},
            "template": {
                "metadata": {"labels": {"app": "db"}},
                "spec": {
                    "containers": [_container(dice.choice(GOOD), 16, False)],
                    "terminationGracePeriodSeconds": dice.choice((2, 10)),
                },
            },
        }
        meta = {"name": "db", "namespace": "default"}
        self._apply(store, {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta, "spec": spec})

    # ------------------------------------------------------------ means

    def _say(self, what: str) -> None:
        self._stage.tell("somebody", what)

    def _apply(self, store: Store, document: dict[str, Any]) -> None:
        obj = parse(document)
        there = store.get(obj.kind, obj.metadata.namespace or None, obj.metadata.name)
        self._say(f"applies {obj.kind} {obj.metadata.name}")
        self._hub.commit([Create(obj) if there is None else Update(obj)])

    def _delete(self, obj: KubeObject, grace: int | None = None) -> None:
        if isinstance(obj, Pod):
            self._watch.look()
            self._watch.asked.add(obj.metadata.uid)
        change = deletion(obj, "Background" if not isinstance(obj, Pod | Node) else None, grace)
        self._say(f"deletes {obj.kind} {obj.metadata.name}")
        if change is not None:
            self._hub.commit([change])

    def _pick(self, store: Store, kind: type[T]) -> T | None:
        there = _all(store, kind)
        return self._stage.dice.choice(there) if there else None


def _all(store: Store, kind: type[T]) -> list[T]:
    return [o for o in store.list(kind.__name__) if isinstance(o, kind)]


def with_image(obj: T, image: str) -> T:
    """A workload of one container with another image."""
    template = obj.spec.template  # type: ignore[attr-defined]
    [main] = template.spec.containers
    spec = template.spec.model_copy(update={"containers": (main.model_copy(update={"image": image}),)})
    changed = template.model_copy(update={"spec": spec})
    return obj.model_copy(update={"spec": obj.spec.model_copy(update={"template": changed})})  # type: ignore[attr-defined]


def _container(image: str, memory: int, probed: bool) -> dict[str, Any]:
    size = {"memory": f"{memory}Mi"}
    container: dict[str, Any] = {"name": "main", "image": image, "resources": {"requests": size, "limits": size}}
    if probed:  # a period that leaves the clock some room: an idle node must cost nothing
        container["readinessProbe"] = {"exec": {"command": ["ready"]}, "periodSeconds": 86400}
    return container


def _config(dice: float) -> dict[str, Any]:
    meta = {"name": "settings", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"number": f"{dice:.6f}"}}


def _secret(dice: float) -> dict[str, Any]:
    meta = {"name": "password", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"word": f"{dice:.6f}"}}
