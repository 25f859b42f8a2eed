"""Objects of other people's kinds: our metadata, and content that only a CustomResourceDefinition's schema knows.

Such an object is stored as of one version and served as of each, which differ in `apiVersion` alone (the conversion
strategy None) and in what their schemas keep of it. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloudlink.kube.meta import KubeObject

Schema = Mapping[str, Any]
Document = Mapping[str, Any]


class CustomObject(KubeObject):
    """:ivar content: the document without apiVersion, kind and metadata; never changed in place."""

    content: Document

    @property
    def key(self) -> str:
        return f"{self.kind}.{self.api_version.partition('/')[0]}"


@dataclass(frozen=True, slots=True)
class PrinterColumn:
    """One of `additionalPrinterColumns`."""

    name: str
    type: str
    path: str
    format: str = ""
    description: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class ScalePaths:
    """Where in a document its Scale is: JSON paths without an index; "" where there is no selector."""

    spec: str
    status: str
    selector: str = ""


@dataclass(frozen=True, eq=False)
class Shape:
    """What a CustomResourceDefinition says of one version of its kind.

    :ivar schema: the structural schema of the whole document.
    :ivar stored: apiVersion under which objects are stored.
    :ivar status: `status` is written through its subresource alone.
    :ivar fields: JSON paths that field selectors may name, beside name and namespace.
    :ivar closing: the definition is on its way out; nothing new may be made.
    :ivar warning: said to who uses a deprecated version; "" where it isn't.
    """

    schema: Schema
    stored: str
    status: bool = False
    scale: ScalePaths | None = None
    columns: tuple[PrinterColumn, ...] = ()
    fields: tuple[str, ...] = ()
    warning: str = ""
    closing: bool = False
