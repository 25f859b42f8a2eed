"""metav1.Table, the form in which kubectl asks for what it prints. Pure.

Frame and rows here, each kind's columns in `columns`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cloudlink.kube.meta import KubeObject
from cloudlink.kube.parse import dump


@dataclass(frozen=True, slots=True)
class Column:
    """:ivar wide: shown by `-o wide` only (priority 1)."""

    name: str
    type: str = "string"
    wide: bool = False
    format: str = ""
    description: str = ""

    def definition(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description or self.name,
            "priority": int(self.wide),
        }


NAME = Column("Name", format="name", description="Name must be unique within a namespace.")
AGE = Column("Age", description="Time since the object was created.")

Cells = Callable[[KubeObject, float], Sequence[object]]


def head(columns: Sequence[Column], metadata: dict[str, Any]) -> dict[str, Any]:
    """A Table but for its rows."""
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": [c.definition() for c in columns],
    }


def row(cells: Sequence[object], obj: KubeObject, include: str = "Metadata") -> dict[str, Any]:
    """:param include: what it carries besides its cells: None, Metadata or Object (includeObject=)."""
    shown: dict[str, Any] = {"cells": list(cells)}
    if include == "Object":
        shown["object"] = dump(obj)
    elif include != "None":
        shown["object"] = {
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": dump(obj.metadata),
        }
    return shown


def seconds_of(timestamp: str) -> float | None:
    """RFC 3339 -> Unix seconds; None where it is empty or no time at all."""
    try:
        return dt.datetime.fromisoformat(timestamp).timestamp()
    except ValueError:
        return None


def since(timestamp: str, now: float) -> str:
    """How long ago, as kubectl's users know it."""
    then = seconds_of(timestamp)
    return "<unknown>" if then is None else duration(now - then)


def duration(seconds: float) -> str:
    """apimachinery's duration.HumanDuration: 119s, 5m30s, 47m, 3h7m, 20h, 2d5h, 14d, 3y10d."""
    whole = int(seconds)
    if whole < -1:
        return "<invalid>"
    if whole < 120:
        return f"{max(whole, 0)}s"
    minutes, hours = whole // 60, whole // 3600
    if minutes < 10:
        return _two(minutes, "m", whole % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    days = hours // 24
    if hours < 24 * 8:
        return _two(days, "d", hours % 24, "h")
    if days < 365 * 2:
        return f"{days}d"
    if days < 365 * 8:
        return _two(days // 365, "y", days % 365, "d")
    return f"{days // 365}y"


def _two(large: int, unit: str, small: int, small_unit: str) -> str:
    return f"{large}{unit}{small}{small_unit}" if small else f"{large}{unit}"
