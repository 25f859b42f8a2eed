"""docs/pod-api.md out of the models themselves: what of the Pod API is taken, and what is refused.

    python -m cloudlink.kube.reference > docs/pod-api.md

Texts are the models' docstrings: the first paragraph stands above a table, each `:ivar` in the row of its field.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union

from pydantic.fields import FieldInfo

from cloudlink.kube.annotations import DEVICES, LOG_TARGET, TARGETS
from cloudlink.kube.core import PersistentVolumeClaimSpec, PodSpec
from cloudlink.kube.meta import IntOrString, Model, Quantity

HEAD = """\
# The Pod API

What edged takes of Kubernetes' Pod (also as the template of a Deployment or ReplicaSet) and of PersistentVolumeClaim,
field by field. Everything else is refused when it is applied, with the field's path; nothing is ignored. Defaults are
Kubernetes' own unless a row says otherwise.

This page is made from the models in `cloudlink/kube/`: `python -m cloudlink.kube.reference > docs/pod-api.md`.
A test sees to it that it is up to date.
"""

ROOTS: tuple[tuple[str, type[Model]], ...] = (("spec", PodSpec),)
CLAIM: tuple[tuple[str, type[Model]], ...] = (("spec", PersistentVolumeClaimSpec),)
_IVAR = re.compile(r":ivar ([\w, ]+): (.*?)(?=\n:|\Z)", re.DOTALL)


def page() -> str:
    """The whole page, Markdown."""
    parts = [HEAD, *_tables("Pod", ROOTS), _annotations(), *_tables("PersistentVolumeClaim", CLAIM)]
    return "\n".join(parts)


def _tables(kind: str, roots: tuple[tuple[str, type[Model]], ...]) -> Iterator[str]:
    """One section for each model, in the order in which a reader meets them."""
    places: dict[type[Model], list[str]] = {}
    todo = list(roots)
    while todo:
        path, model = todo.pop(0)
        seen = model in places
        places.setdefault(model, []).append(path)
        if not seen:
            todo = [*_inner(path, model), *todo]
    for model, paths in places.items():
        yield _section(kind, paths, model)


def _inner(path: str, model: type[Model]) -> Iterator[tuple[str, type[Model]]]:
    for name, field in model.model_fields.items():
        inner, many = _model_in(field.annotation)
        if inner is not None:
            yield f"{path}.{field.alias or name}{'[]' if many else ''}", inner


def _section(kind: str, paths: list[str], model: type[Model]) -> str:
    shown = ", ".join(f"`{p}`" for p in paths[:3]) + (", ..." if len(paths) > 3 else "")
    intro, notes = described(model)
    lines = [f"## {kind}: {shown}", ""]
    if intro:
        lines += [intro, ""]
    lines += ["| field | values | default | |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        cells = (f"`{field.alias or name}`", _values(field), _default(field), notes.get(name, ""))
        lines.append("| " + " | ".join(_escaped(c) for c in cells) + " |")
    if model.unsupported:
        refused = [
            f"`{n}`" + (f" ({model.why_not[n]})" if n in model.why_not else "") for n in sorted(model.unsupported)
        ]
        lines += ["", f"Refused: {', '.join(refused)}."]
    return "\n".join([*lines, ""])


def _annotations() -> str:
    return "\n".join(
        [
            "## Pod: `metadata.annotations`",
            "",
            "Annotations that mean something to edged; others are kept and passed over.",
            "",
            "| annotation | values | |",
            "|---|---|---|",
            f"| `{DEVICES}<container>` | names, separated by commas | devices of the board for that container,"
            " the same as `resources.limits` `edged.dev/<device name>: 1` |",
            f"| `{LOG_TARGET}` | {', '.join(f'`{t}`' for t in TARGETS)} | where the pod's logs are kept;"
            " in memory by default, so that nothing wears the card |",
            "",
        ]
    )


# ---------------------------------------------------------------- words


def described(model: type[Model]) -> tuple[str, Mapping[str, str]]:
    """A model's first paragraph, and the note of each field (by attribute name)."""
    if model.__doc__ is None:
        return "", {}
    text = inspect.cleandoc(model.__doc__)
    notes = {
        name.strip(): " ".join(note.split()).removesuffix(".")
        for names, note in _IVAR.findall(text)
        for name in names.split(",")
    }
    intro = re.split(r"\n\n|(?:^|\n):", text, maxsplit=1)[0]
    return " ".join(intro.split()), notes


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value in (None, "", 0, (), {}) or isinstance(value, Model):
        return ""
    return f"`{value}`"


def _values(field: FieldInfo) -> str:
    annotation: Any = field.annotation
    if field.metadata:
        annotation = Annotated[(annotation, *field.metadata)]
    return _words(annotation, mode="mode" in (field.alias or "").lower())


def _words(annotation: Any, mode: bool = False) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation == Quantity:
        return "quantity"
    if annotation == IntOrString:
        return "number or text"
    if origin is Annotated:
        return _words(arguments[0], mode)
    if origin in (Union, types.UnionType):
        return _words(next(a for a in arguments if a is not type(None)), mode)
    if origin is Literal:
        return ", ".join(f"`{a}`" if isinstance(a, str) else f"`{str(a).lower()}`" for a in arguments if a != "")
    if origin is tuple:
        return f"list of {_words(arguments[0])}s"
    if origin is dict:
        return f"mapping of {_words(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return "object"
    return {bool: "`true`, `false`", int: "mode" if mode else "number", str: "text"}.get(annotation, "")


def _model_in(annotation: Any) -> tuple[type[Model] | None, bool]:
    """The model of a field or of its items, and whether there may be many."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return annotation, False
    if typing.get_origin(annotation) in (tuple, Union, types.UnionType, Annotated):
        for argument in typing.get_args(annotation):
            model, many = _model_in(argument)
            if model is not None:
                return model, many or typing.get_origin(annotation) is tuple
    return None, False


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201 - what it is for
