"""metrics.k8s.io: what nodes and pods use now, for `kubectl top`. Stored nowhere; the nodes concerned are asked.

A node that doesn't answer in time is left out, with its pods: kubectl says which ones it has no metrics of.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from cloudlink.hub.api.answers import Answer, ApiError, answer, bad_request
from cloudlink.hub.api.calls import Context
from cloudlink.hub.api.selectors import Predicate, SelectorError, selection
from cloudlink.hub.doors.ways import Ways
from cloudlink.hub.remote import Conversation, Frame
from cloudlink.kube.core import Node, Pod
from cloudlink.kube.meta import KubeObject
from edged.errors import EdgedError
from edged.model.remote import STDOUT, PodUsage, Usage, UsageRequest

WITHIN = 4.0  # seconds for all nodes together; people wait for this
AT_ONCE = 64  # nodes
MAX_ANSWER = 1 << 20  # bytes of one node's: some thousand pods

API = "metrics.k8s.io/v1beta1"

Document = dict[str, Any]


async def get_usage(context: Context, method: str, path: str, query: Mapping[str, str]) -> Answer | None:
    """None for every other path."""
    parts = path.strip("/").split("/")
    if parts[:3] != ["apis", *API.split("/")]:
        return None
    kind, namespace, name = "", "", ""
    match parts[3:]:
        case ["nodes"]:
            kind = "NodeMetrics"
        case ["nodes", name]:
            kind = "NodeMetrics"
        case ["pods"] | ["namespaces", _, "pods"]:
            kind, namespace = "PodMetrics", parts[4] if len(parts) > 4 else ""
        case ["namespaces", namespace, "pods", name]:
            kind = "PodMetrics"
        case _:
            return None
    if method != "GET":
        raise ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    items = await (_nodes if kind == "NodeMetrics" else _pods)(context, namespace, name, query)
    if not name:
        return answer({"kind": f"{kind}List", "apiVersion": API, "metadata": {}, "items": items})
    if not items:
        about = f"{namespace}/{name}" if namespace else name
        raise ApiError(404, "NotFound", f'{kind.lower()}.metrics.k8s.io "{about}" not found')
    return answer({"kind": kind, "apiVersion": API, **items[0]})


async def _nodes(context: Context, namespace: str, name: str, query: Mapping[str, str]) -> list[Document]:
    nodes = _selected(context, "Node", namespace, name, query)
    told = await ask(context.ways, [n.metadata.name for n in nodes])
    return [
        _head(context, node, usage) | {"usage": _usage(usage.cpu, usage.memory)}
        for node in nodes
        if (usage := told.get(node.metadata.name)) is not None
    ]


async def _pods(context: Context, namespace: str, name: str, query: Mapping[str, str]) -> list[Document]:
    pods = [p for p in _selected(context, "Pod", namespace, name, query) if isinstance(p, Pod)]
    running = [p for p in pods if p.spec.node_name and p.status.phase == "Running"]
    told = await ask(context.ways, {p.spec.node_name for p in running})
    used = {(node, u.pod): (usage, u) for node, usage in told.items() for u in usage.pods}
    return [
        _head(context, pod, found[0]) | {"containers": _containers(pod, found[1])}
        for pod in running
        if (found := used.get((pod.spec.node_name, pod.metadata.uid))) is not None
    ]


def _selected(context: Context, kind: str, namespace: str, name: str, query: Mapping[str, str]) -> list[KubeObject]:
    if name:
        one = context.store.get(kind, namespace or None, name)
        return [one] if isinstance(one, Pod | Node) else []
    try:
        selects: Predicate | None = selection(kind, query.get("labelSelector", ""), query.get("fieldSelector", ""))
    except SelectorError as e:
        raise bad_request(str(e)) from None
    return [o for o in context.store.list(kind, namespace or None) if selects is None or selects(o)]


def _head(context: Context, about: KubeObject, usage: Usage) -> Document:
    now = dt.datetime.fromtimestamp(int(context.now()), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    meta = about.metadata
    metadata: Document = {"name": meta.name, "creationTimestamp": now, "labels": dict(meta.labels)}
    if meta.namespace:
        metadata["namespace"] = meta.namespace
    return {"metadata": metadata, "timestamp": now, "window": f"{usage.window:g}s"}


def _containers(pod: Pod, used: PodUsage) -> list[Document]:
    names = [c.name for c in (*pod.spec.init_containers, *pod.spec.containers)]
    there = [n for n in names if n in used.cpu or n in used.memory]
    return [{"name": n, "usage": _usage(used.cpu.get(n, 0.0), used.memory.get(n, 0))} for n in there]


def _usage(cpu: float, memory: int) -> dict[str, str]:
    """As metrics-server writes them."""
    return {"cpu": f"{round(cpu * 1e9)}n", "memory": f"{memory >> 10}Ki"}


# ---------------------------------------------------------------- the nodes


async def ask(ways: Ways, nodes: Iterable[str], within: float = WITHIN) -> dict[str, Usage]:
    """What those nodes use that answer within that many seconds."""
    told: dict[str, Usage] = {}
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(node: str) -> None:
        async with turns:
            try:
                async with ways.conversation(node, UsageRequest()) as conversation:
                    told[node] = await _answer(conversation)
            except (EdgedError, msgspec.MsgspecError):
                pass

    try:
        async with asyncio.timeout(within), asyncio.TaskGroup() as group:
            for node in nodes:
                group.create_task(one(node), name=f"usage of {node}")
    except TimeoutError:
        pass
    return told


async def _answer(conversation: Conversation) -> Usage:
    body = b""
    while isinstance(frame := await conversation.receive(), Frame) and len(body) <= MAX_ANSWER:
        if frame.channel == STDOUT:
            body += frame.data
    return msgspec.msgpack.decode(body, type=Usage)
