"""Manifests and lists for machines without kubectl: what kinds there are is asked of the hub, never known here."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from cloudlink.cli.client import JSON, HubClient
from edged.errors import PermanentError

MANAGER = "edgectl"  # whose fields they are that `apply` sets (server-side apply)
_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


class Kind(NamedTuple):
    """One kind of the hub's: where its objects are, and by which words people call it."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool
    words: tuple[str, ...]

    def path(self, namespace: str, name: str = "") -> str:
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        inner = f"/namespaces/{quote(namespace)}" if self.namespaced and namespace else ""
        return f"{root}{inner}/{self.plural}" + (f"/{quote(name)}" if name else "")


def kinds(client: HubClient) -> list[Kind]:
    """All that the hub serves now, CustomResourceDefinitions' included (aggregated discovery)."""
    return [k for root in ("/api", "/apis") for k in _kinds_of(client.call("GET", root, accept=_DISCOVERY))]


def _kinds_of(document: JSON) -> Iterator[Kind]:
    for group in document["items"]:
        name = group.get("metadata", {}).get("name", "")
        for version in group["versions"]:
            api_version = f"{name}/{version['version']}" if name else version["version"]
            for r in version["resources"]:
                kind, plural = r["responseKind"]["kind"], r["resource"]
                words = (plural, r.get("singularResource", ""), kind.lower(), *(r.get("shortNames") or ()))
                namespaced = r["scope"] == "Namespaced"
                yield Kind(api_version, kind, plural, namespaced, (*words, f"{plural}.{name}"))


def called(every: Sequence[Kind], word: str) -> Kind:
    """The kind that people mean by a word: plural, singular, short name, or plural.group."""
    for kind in every:
        if word.lower() in kind.words:
            return kind
    known = sorted({w for k in every for w in k.words if w and "." not in w})
    close = difflib.get_close_matches(word.lower(), known, n=1)
    hint = f'did you mean "{close[0]}"?' if close else f"it has {', '.join(sorted(k.plural for k in every))}"
    raise PermanentError(f'the hub has no "{word}"; {hint}')


def of_document(every: Sequence[Kind], document: JSON) -> Kind:
    api_version, kind = str(document.get("apiVersion", "")), str(document.get("kind", ""))
    for known in every:
        if (known.api_version, known.kind) == (api_version, kind):
            return known
    same = [k.api_version for k in every if k.kind == kind]
    hint = f"write apiVersion: {same[0]}" if same else f"it has {', '.join(sorted(k.kind for k in every))}"
    raise PermanentError(f'the hub has no kind "{kind}" in "{api_version}"; {hint}')


def apply(client: HubClient, document: JSON, namespace: str = "default") -> str:
    """Server-side apply of one document, taking over fields that others set: "deployment/sensor created"."""
    kind = of_document(kinds(client), document)
    metadata = document.get("metadata")
    name = str(metadata.get("name") or "") if isinstance(metadata, dict) else ""
    if not name:
        raise PermanentError(f"metadata.name: a {kind.kind} has a name; generateName can't be applied, only created")
    path = kind.path(str(metadata.get("namespace") or namespace) if isinstance(metadata, dict) else namespace, name)
    before = _version(client, path)
    query = f"?fieldManager={MANAGER}&force=true"
    after = client.call("PATCH", path + query, document, "application/apply-patch+yaml")["metadata"]["resourceVersion"]
    deed = "created" if not before else "unchanged" if before == after else "configured"
    return f"{kind.kind.lower()}/{name} {deed}"


def delete(client: HubClient, word: str, name: str, namespace: str = "default") -> str:
    """One object: "nodes/pi-1 deleted"."""
    kind = called(kinds(client), word)
    client.call("DELETE", kind.path(namespace, name))
    return f"{kind.plural}/{name} deleted"


def _version(client: HubClient, path: str) -> str:
    try:
        return str(client.call("GET", path)["metadata"]["resourceVersion"])
    except PermanentError:
        return ""


def table(client: HubClient, word: str, namespace: str = "") -> Iterator[str]:
    """A list as the hub tabulates it for kubectl, a line each; all namespaces where none is named."""
    kind = called(kinds(client), word)
    listed = client.call("GET", kind.path(namespace), accept=_TABLE)
    columns = [i for i, c in enumerate(listed["columnDefinitions"]) if not c.get("priority")]
    head = [str(listed["columnDefinitions"][i]["name"]).upper() for i in columns]
    rows = [[_cell(row["cells"][i]) for i in columns] for row in listed.get("rows") or ()]
    if kind.namespaced and not namespace:
        head.insert(0, "NAMESPACE")
        for cells, row in zip(rows, listed.get("rows") or (), strict=True):
            cells.insert(0, row["object"]["metadata"]["namespace"])
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    for line in (head, *rows):
        yield "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _cell(value: Any) -> str:
    return "<none>" if value is None or value == "" else str(value)
