"""What a structural schema does to a document before it is checked: fields that it doesn't have are left out, its
defaults are filled in (apiextensions' pruning and defaulting). Pure; the originals are never changed.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

_KEPT = ("apiVersion", "kind", "metadata")  # of an embedded object, whatever its schema says


def prune(value: Any, schema: Schema, unknown: list[str], path: str = "", root: bool = False) -> Any:
    """The value with what the schema knows.

    :param unknown: takes the paths of what was left out.
    :param root: the schema is a kind's own, so that its apiVersion, kind and metadata are somebody else's business.
    """
    keep = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    if isinstance(value, dict):
        properties: Mapping[str, Schema] = schema.get("properties") or {}
        others = schema.get("additionalProperties")
        embedded = root or bool(schema.get("x-kubernetes-embedded-resource"))
        kept: dict[str, Any] = {}
        for key, inner in value.items():
            here = f"{path}.{key}" if path else key
            if embedded and key in _KEPT:
                kept[key] = inner
            elif key in properties:
                kept[key] = prune(inner, properties[key], unknown, here)
            elif isinstance(others, Mapping):
                kept[key] = prune(inner, others, unknown, f"{path}[{key}]")
            elif keep or others is True:
                kept[key] = inner
            else:
                unknown.append(here)
        return kept
    if isinstance(value, list):
        items = schema.get("items")
        if isinstance(items, Mapping):
            return [prune(v, items, unknown, f"{path}[{i}]") for i, v in enumerate(value)]
        # Without a schema of the items nothing of them is known.
        return value if keep else [prune(v, {}, unknown, f"{path}[{i}]") for i, v in enumerate(value)]
    return value


def complete(value: Any, schema: Schema) -> Any:
    """The value with the schema's defaults where it says nothing, or says null and may not."""
    if isinstance(value, dict):
        properties: Mapping[str, Schema] = schema.get("properties") or {}
        others = schema.get("additionalProperties")
        done: dict[str, Any] = {}
        for key, inner in value.items():
            known = properties.get(key, others if isinstance(others, Mapping) else {})
            if inner is None and "default" in known and not known.get("nullable"):
                continue
            done[key] = complete(inner, known) if known else inner
        for key, known in properties.items():
            if key not in done and "default" in known:
                done[key] = complete(copy.deepcopy(known["default"]), known)
        return done
    if isinstance(value, list):
        items = schema.get("items")
        return [complete(v, items) for v in value] if isinstance(items, Mapping) else value
    return value
