"""What cells of many kinds have in common. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cloudlink.hub.api.table import Column
from cloudlink.kube.container import Container
from cloudlink.kube.meta import KubeObject, LabelSelector
from cloudlink.kube.registry import by_kind

NONE = "<none>"
UNSET = "<unset>"
SHOWN = 3  # of a longer list


def wide(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name, wide=True) for name in names)


def selector_text(selector: LabelSelector) -> str:
    """metav1.FormatLabelSelector."""
    parts = [f"{k}={v}" for k, v in sorted(selector.match_labels.items())]
    for e in selector.match_expressions:
        values = ",".join(sorted(e.values))
        parts.append(
            {
                "In": f"{e.key} in ({values})",
                "NotIn": f"{e.key} notin ({values})",
                "Exists": e.key,
                "DoesNotExist": f"!{e.key}",
            }[e.operator]
        )
    return ",".join(parts) or NONE


def containers(them: Sequence[Container]) -> tuple[str, str]:
    """Names and images."""
    return ",".join(c.name for c in them), ",".join(c.image for c in them)


def pairs(them: Mapping[str, str]) -> str:
    return ",".join(f"{k}={v}" for k, v in sorted(them.items())) or NONE


def first_few(items: Sequence[str], none: str) -> str:
    """The first three, and how many more there are."""
    more = len(items) - SHOWN
    return (",".join(items[:SHOWN]) + (f" + {more} more..." if more > 0 else "")) or none


def controller(obj: KubeObject) -> str:
    """Who manages it: daemonset.apps/name."""
    ref = next((r for r in obj.metadata.owner_references if r.controller), None)
    if ref is None:
        return NONE
    group = ref.api_version.rpartition("/")[0]
    known = by_kind(ref.api_version, ref.kind)
    kind = (known.singular if known is not None else ref.kind).lower()
    return f"{kind}.{group}/{ref.name}" if group else f"{kind}/{ref.name}"
