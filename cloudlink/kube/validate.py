"""What a schema can't say: names, references, ranges. See validate()."""

from __future__ import annotations

from cloudlink.kube.errors import Cause
from cloudlink.kube.meta import KubeObject


def validate(obj: KubeObject) -> list[Cause]:
    return []
