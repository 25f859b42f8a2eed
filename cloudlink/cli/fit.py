"""`edgectl fit`: will it fit, and how full the nodes are; the hub's answer as lines for people."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import quote

from cloudlink.cli.client import JSON, HubClient
from cloudlink.kube.parse import load_yaml
from cloudlink.kube.quantity import QuantityError, to_int
from edged.errors import EdgedError

WIDTH = 20  # characters of a bar

# What the scheduler says -> what a person can do about it.
_ADVICE = (
    (r"lacks? [^,]* (memory|cpu|storage) \(largest free ([^)]*)\)", "ask for no more than {1} of {0}, or make room"),
    (r"lacks? [^,]* (memory|storage) \(free ([^)]*)\)", "ask for no more than {1} of {0}, or make room there"),
    (r"no room for another pod", "fewer pods, or a node more: a node runs so many and no more"),
    (r"nodeSelector ([^,]*)", "label a node that is meant: kubectl label node NAME {0}"),
    (r"(?:has|have) taint (\S+) that", "tolerate it (tolerations), or take it away: kubectl taint node NAME {0}-"),
    (r"(?:is|are) cordoned", "let pods onto it again: kubectl uncordon NAME"),
    (r"(?:is|are) not ready", "bring it back: kubectl describe node NAME says what is wrong"),
    (r"no device (\S+) free", "one board has that device only so often: fewer pods, or one more board with {0}"),
    (r"host port (\S+) taken", "one pod on each node can have host port {0}: use a Service, or fewer pods"),
    (r"persistentvolumeclaim \"([^\"]*)\" not found", "put the claim {0} into the manifest, or make it before"),
    (r"volume of claim (\S+)", "pods follow their data: make room on that node"),
    (r"node affinity(?! \(metadata\.name)", "no node is one that the affinity means: kubectl get nodes --show-labels"),
    (r"PriorityClass", "make the PriorityClass first, or use one of: kubectl get priorityclasses"),
)


def ask(client: HubClient, manifest: str, namespace: str = "") -> JSON:
    """Status of the Fit that this manifest gets; "" = how the fleet is packed."""
    body = {"apiVersion": "edged.dev/v1", "kind": "Fit", "spec": {"manifest": manifest}}
    path = f"/apis/edged.dev/v1/namespaces/{quote(namespace or client.namespace)}/fits"
    answer: JSON = client.call("POST", path, body)["status"]
    return answer


def checked(text: str, source: str) -> str:
    """The text, if it is YAML; an error names the file and the line, as `edgectl apply` does."""
    load_yaml(text, source)
    return text


def usage(client: HubClient) -> Mapping[str, Mapping[str, str]]:
    """What each node really uses, as far as they answer."""
    try:
        items = client.call("GET", "/apis/metrics.k8s.io/v1beta1/nodes")["items"]
        return {item["metadata"]["name"]: item["usage"] for item in items}
    except (EdgedError, KeyError, TypeError):
        return {}


def lines(status: JSON, asked: bool, used: Mapping[str, Mapping[str, str]] | None = None) -> Iterator[str]:
    """:param asked: there was a manifest; otherwise only the packing is of interest.
    :param used: node -> what it really uses.
    """
    nodes = status.get("nodes") or []
    if asked:
        yield from _verdict(status)
        if not nodes:
            return
        yield ""
    yield from _table(nodes, used or {})
    if nodes:
        yield ""
        if asked:
            yield "# requested now   + would be added   - would be freed"
        needed, occupied = status.get("needed", 0), status.get("occupied", 0)
        yield f"{_count(occupied, 'node')} with pods that request something; no fewer than {needed} could hold them"


# ---------------------------------------------------------------- what would happen


def _verdict(status: JSON) -> Iterator[str]:
    workloads: Sequence[JSON] = status.get("workloads") or []
    asked = [w for w in workloads if w.get("asked")]
    if not asked:
        yield "no pods are asked for: it fits"
    for w in asked:
        yield from _asked(w)
    for v in status.get("preempted") or []:
        why = f"its priority is lower ({v.get('priority', 0)})"
        yield f"pod {v['namespace']}/{v['name']} on {v['node']} would be ended for {v.get('by') or 'them'}: {why}"
    if hidden := status.get("hidden", 0):
        yield f"{_count(hidden, 'pod')} of namespaces that you may not look into would be ended for them"
    for w in workloads:
        if not w.get("asked"):
            yield _other(w)


def _asked(w: JSON) -> Iterator[str]:
    pods, placed, why = w.get("pods", 0), w.get("placed", 0), w.get("why", "")
    name, new, ended = _name(w), w.get("nodes") or {}, w.get("ended") or {}
    told = [f"new on {_where(new)}"] if new else []
    if stay := w.get("stay", 0):
        told.append(f"{stay} stay as they are")
    if ended:
        told.append(f"ended on {_where(ended)}")
    if not why and placed >= pods:
        yield f"{name}: fits: " + ("; ".join(told) if new or ended else "nothing would move" if pods else "no pods")
        return
    if stuck := w.get("stuck", 0):
        head = f"{name}: the rollout would stop after {placed} of {_count(pods, 'pod')}: {why}"
        told.append(f"{_count(stuck, 'pod')} of the old revision would stay")
    elif placed >= pods:
        head = f"{name}: does not fit: {why}"
    else:
        head = f"{name}: {pods - placed} of {_count(pods, 'pod')} do not fit: {why}"
    yield head
    yield from (f"  {line}" for line in told)
    for pattern, advice in _ADVICE:
        if found := re.search(pattern, why):
            yield f"  what to do: {advice.format(*found.groups())}"


def _other(w: JSON) -> str:
    """Somebody else's, that has to give way."""
    new, ended, waiting = w.get("nodes") or {}, w.get("ended") or {}, w.get("waiting", 0)
    told = [f"{_where(ended)} -> {_where(new)}" if new and ended else f"new on {_where(new)}"] if new else []
    if ended and not new:
        told.append(f"ended on {_where(ended)}")
    if waiting:
        told.append(f"{_count(waiting, 'pod')} would wait: {w.get('why', '')}")
    return f"{_name(w)} of {w['namespace']} would change: {'; '.join(told)}"


def _name(w: JSON) -> str:
    return f"{w['kind'].lower()}/{w['name']}"


def _where(nodes: Mapping[str, int]) -> str:
    return ", ".join(f"{node} ({count})" for node, count in nodes.items())


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# ---------------------------------------------------------------- how full the nodes are


def _table(nodes: Sequence[JSON], used: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    if not nodes:
        yield "no node has joined this fleet yet"
        return
    rows = [["NODE", "MEMORY", "REQUESTED", *(["USED"] if used else []), "CPU", "REQUESTED", "PODS"]]
    for n in nodes:
        ready = "" if n.get("ready") else " (takes no pods)"
        pods = f"{n.get('podsUsed', 0) + n.get('podsNew', 0)}/{n.get('pods', 0)}"
        really = [_really(used.get(n["name"], {}))] if used else []
        memory, cpu = _cells(n, "memory", 1 << 20, "Mi"), _cells(n, "cpu", 1, "m")
        rows.append([n["name"] + ready, *memory, *really, *cpu, pods])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _really(usage: Mapping[str, str]) -> str:
    try:
        return f"{to_int(usage['memory']) >> 20}Mi"
    except (KeyError, QuantityError):
        return "?"


def _cells(node: JSON, resource: str, unit: int, name: str) -> tuple[str, str]:
    whole, used, new = (node.get(f"{resource}{part}", 0) for part in ("", "Used", "New"))
    return bar(whole, used, new), f"{(used + new) // unit}/{whole // unit}{name}"


def bar(whole: int, used: int, new: int, width: int = WIDTH) -> str:
    """[####++....]; what is there is seen, however little, and what is full looks full."""
    if whole <= 0:
        return f"[{'?' * width}]"

    def part(amount: int) -> int:
        return min(max(-(-amount * width // whole), 0), width)

    kept, end = part(min(used, used + new)), part(max(used, used + new))
    sign = "+" if new > 0 else "-"
    return f"[{'#' * kept}{sign * (end - kept)}{'.' * (width - end)}]"
