"""What merging must know of a document's schema: which mappings and lists change as a whole, and what tells the items
of the others apart. Made from our models or from a CustomResourceDefinition's structural schema. Pure.

As schema.Atom of sigs.k8s.io/structured-merge-diff, with only what its walkers look at; the form of a value (mapping,
list, anything else) is the value's own.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from typing import Any, Union

from cloudlink.kube.custom import Shape as CustomShape
from cloudlink.kube.meta import Model, ObjectMeta
from cloudlink.kube.registry import Resource
from cloudlink.kube.strategies import Strategy, is_atomic, strategy_of


@dataclass(frozen=True)
class Shape:
    """How the values of one place merge.

    :ivar atomic: a mapping here changes as a whole.
    :ivar keys: None: a list here changes as a whole; (): its items are plain values, a set; else its items are
        mappings told apart by these.
    :ivar always: a mapping or list is here whenever what contains it is (a Go struct, not a pointer to one; a field
        without omitempty): nobody adds it.
    :ivar default: what a key of a list's items is where an item leaves it out.
    :ivar fields: makes the shapes of the fields that the schema names. Called once and late: schemas are recursive.
    :ivar rest: makes the shape of what is under people's own keys; None: ANY.
    :ivar items: makes the shape of a list's items.
    """

    atomic: bool = False
    keys: tuple[str, ...] | None = None
    always: bool = False
    fields: Callable[[], Mapping[str, Shape]] = field(default=dict, repr=False)
    rest: Callable[[], Shape] | None = field(default=None, repr=False)
    items: Callable[[], Shape] | None = field(default=None, repr=False)
    default: Any = None

    @cached_property
    def named(self) -> Mapping[str, Shape]:
        """The fields that the schema names."""
        return self.fields()

    def child(self, name: str) -> Shape:
        known = self.named.get(name)
        return known if known is not None else self.other

    @cached_property
    def other(self) -> Shape:
        """Of what is under people's own keys."""
        return self.rest() if self.rest else ANY

    @cached_property
    def item(self) -> Shape:
        return self.items() if self.items else ANY


ANY = Shape()  # without a schema: mappings merge key by key, lists change as a whole


# ---------------------------------------------------------------- from models


@cache  # one entry for each model class
def shape_of_model(model: type[Model]) -> Shape:
    return Shape(atomic=is_atomic(model), always=True, fields=lambda: _fields_of(model))


def _fields_of(model: type[Model]) -> Mapping[str, Shape]:
    shapes: dict[str, Shape] = {}
    for name, info in model.model_fields.items():
        alias = info.alias or name
        default = None if info.is_required() else info.default or None
        shape = _shape_of(info.annotation, strategy_of(model, alias))
        if isinstance(default, str | int):
            shape = replace(shape, default=default)
        elif info.is_required() and not shape.always:
            shape = replace(shape, always=True)
        shapes[alias] = shape
    return shapes


def _shape_of(annotation: Any, strategy: Strategy) -> Shape:
    """The shape of a field. An optional mapping is one that somebody adds."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _shape_of(arguments[0], strategy)
    if origin in (Union, types.UnionType):
        return replace(next((s for a in arguments if (s := _shape_of(a, strategy)) is not ANY), ANY), always=False)
    if origin is tuple:
        return Shape(keys=_keys(strategy), items=lambda: _shape_of(arguments[0], Strategy()))
    if origin is dict:
        return Shape(atomic=strategy.atomic, rest=lambda: _shape_of(arguments[1], Strategy()))
    if isinstance(annotation, type) and issubclass(annotation, Model):
        shape = shape_of_model(annotation)
        return replace(shape, atomic=True) if strategy.atomic else shape
    return ANY


def _keys(strategy: Strategy) -> tuple[str, ...] | None:
    return None if strategy.list_type == "atomic" else strategy.keys


# ---------------------------------------------------------------- from JSON schemas


def shape_of_schema(schema: Mapping[str, Any]) -> Shape:
    """Of an object of a CustomResourceDefinition, by its openAPIV3Schema; what `metadata` is, everybody knows."""
    root = _schema_shape(schema)
    return replace(root, fields=lambda: {**root.named, "metadata": shape_of_model(ObjectMeta)})


def _schema_shape(schema: Mapping[str, Any]) -> Shape:
    """As managedfields' conversion of OpenAPI does it: lists are atomic where nothing else is said."""
    list_type = schema.get("x-kubernetes-list-type", "atomic")
    keys = tuple(schema.get("x-kubernetes-list-map-keys", ())) if list_type == "map" else ()
    rest, items, properties = schema.get("additionalProperties"), schema.get("items"), schema.get("properties", {})

    def fields() -> Mapping[str, Shape]:
        known = {name: _schema_shape(inner) for name, inner in properties.items()}
        if schema.get("x-kubernetes-embedded-resource"):
            known["metadata"] = shape_of_model(ObjectMeta)
        return known

    return Shape(
        atomic=schema.get("x-kubernetes-map-type") == "atomic",
        keys=None if list_type == "atomic" else keys,
        fields=fields,
        rest=(lambda: _schema_shape(rest)) if isinstance(rest, Mapping) else None,
        items=(lambda: _schema_shape(items)) if isinstance(items, Mapping) else None,
        default=schema.get("default"),
    )


# ---------------------------------------------------------------- of a kind


def shape_of(resource: Resource) -> Shape:
    if resource.shape is not None:
        return _custom_shape(resource.shape)
    return shape_of_model(resource.model)


@lru_cache(maxsize=256)
def _custom_shape(custom: CustomShape) -> Shape:
    return shape_of_schema(custom.schema)
