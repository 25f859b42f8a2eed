"""Documents for the tests of cloudlink.kube: good ones from tests/cases/kube, and generated nonsense."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from cloudlink.kube.parse import load_yaml
from cloudlink.kube.registry import RESOURCES

CASES = Path(__file__).parent.parent / "cases/kube"
ACCEPTED = [d for p in sorted(CASES.glob("accepted_*.yaml")) for d in load_yaml(p.read_text(), p.name)]

texts = st.text(st.characters(), max_size=12) | st.sampled_from(
    ["v1", "Pod", "64Mi", "None", "a-b", "..", "\ud800", "\0"]
)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | texts
keys = texts | st.sampled_from(sorted({"metadata", "spec", "status", "data", "name", "labels", "containers", "image"}))
anything = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4))
headers = st.sampled_from([(r.api_version, r.kind) for r in RESOURCES])


def places(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every path into a document."""
    yield here
    if isinstance(value, dict | list):
        for step, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*here, step))


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.copy(document)
    changed[path[0]] = replaced(document[path[0]], path[1:], value)
    return changed


def at(document: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        document = document[step]
    return document
