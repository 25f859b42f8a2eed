"""docs/hub-kinds.md out of the registry and the tables of `inert`: which kinds there are, and who acts upon what.

python -m cloudlink.kube.kinds_page > docs/hub-kinds.md
"""

from __future__ import annotations

from collections.abc import Iterator

from cloudlink.kube import inert
from cloudlink.kube.container import Container
from cloudlink.kube.meta import Model
from cloudlink.kube.pod import KEPT_APART, PodSpec
from cloudlink.kube.registry import RESOURCES
from cloudlink.kube.volumes import Volume

HEAD = """\
# The kinds that the hub serves

All of them are stored, listed, watched, patched and checked as Kubernetes does it. Where nobody acts upon one (yet),
whoever writes it gets the sentence as a `Warning:`; kubectl prints it. Fields of one Pod, one claim: see
[pod-api.md](pod-api.md).

This page is made from `cloudlink/kube/`: `python -m cloudlink.kube.kinds_page > docs/hub-kinds.md`. A test sees to it
that it is up to date.

| kind | version | short names | not acted upon |
|---|---|---|---|
"""

FIELDS = """
## Fields that are kept and not acted upon

| where | field | what happens |
|---|---|---|
"""

REFUSED = """
## Fields that are refused

What would be dangerous or misleading to ignore is refused when it is written, with the field's path.

| where | field | why |
|---|---|---|
"""


def page() -> str:
    """The whole page, Markdown."""
    return "".join((HEAD, *_kinds(), FIELDS, *_fields(), REFUSED, *_refused()))


def _kinds() -> Iterator[str]:
    for resource in sorted(RESOURCES, key=lambda r: (r.group, r.kind)):
        names = ", ".join(f"`{n}`" for n in resource.short_names)
        yield f"| {resource.kind} | `{resource.api_version}` | {names} | {resource.inert} |\n"


def _fields() -> Iterator[str]:
    for where, fields in (("pods", inert.POD), ("containers", inert.CONTAINER), ("Services", inert.SERVICE)):
        for field in fields:
            yield f"| {where} | `{field.path}` | {field.why} |\n"


def _refused() -> Iterator[str]:
    places: tuple[tuple[str, type[Model]], ...] = (("pods", PodSpec), ("containers", Container), ("volumes", Volume))
    for where, model in places:
        for name in sorted(model.unsupported):
            yield f"| {where} | `{name}` | {model.why_not.get(name, '')} |\n"
    for name, why in KEPT_APART.items():
        yield f"| pods | `{name}: true` | {why} |\n"


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201 - what it is for
