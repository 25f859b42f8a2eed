"""Sets of fields: what a document's leaves are, how managedFields writes them, and where two documents differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlink.hub.api.differences import difference
from cloudlink.hub.api.fields import (
    Fields,
    FieldsError,
    fields_of,
    from_document,
    reconciled,
    to_document,
    told,
    with_containers,
)
from cloudlink.hub.api.shapes import ANY, Shape, shape_of_model, shape_of_schema
from cloudlink.kube.apps import Deployment
from cloudlink.kube.core import ConfigMap, Pod, Service
from cloudlink.kube.meta import Model, Report
from cloudlink.kube.registry import RESOURCES
from cloudlink.kube.strategies import ATOMIC_TYPES, STRATEGIES, is_atomic, merge_extensions, strategy_of

CASES = Path(__file__).parents[1] / "cases" / "hub"
POD, DEPLOYMENT, SERVICE = shape_of_model(Pod), shape_of_model(Deployment), shape_of_model(Service)


def paths(fields: Fields) -> list[str]:
    return sorted(map(told, fields))


# ---------------------------------------------------------------- as managedFields writes them

# What kube-apiserver 1.30 stored after `kubectl create deployment` and a status report, cut to what is peculiar.
REAL = [
    '{"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:progressDeadlineSeconds":{},"f:replicas":{},'
    '"f:selector":{},"f:strategy":{"f:rollingUpdate":{".":{},"f:maxSurge":{},"f:maxUnavailable":{}},"f:type":{}},'
    '"f:template":{"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:containers":{"k:{\\"name\\":\\"c\\"}":'
    '{".":{},"f:image":{},"f:name":{},"f:ports":{".":{},"k:{\\"containerPort\\":80,\\"protocol\\":\\"TCP\\"}":'
    '{".":{},"f:containerPort":{},"f:protocol":{}}},"f:resources":{}}}}}}}',
    '{"f:status":{"f:conditions":{".":{},"k:{\\"type\\":\\"Available\\"}":{".":{},"f:status":{},"f:type":{}}}}}',
    '{"f:metadata":{"f:finalizers":{".":{},"v:\\"example.com/a\\"":{}},"f:ownerReferences":{".":{},'
    '"k:{\\"uid\\":\\"0a2b\\"}":{}}}}',
    '{"f:spec":{"i:3":{},"v:1":{},"v:true":{}}}',
    "{}",
]


@pytest.mark.parametrize("text", REAL)
def test_a_set_that_kubernetes_wrote_comes_back_as_it_was(text: str) -> None:
    assert json.dumps(to_document(from_document(json.loads(text))), separators=(",", ":")) == text


def test_keys_of_items_are_the_same_in_whatever_order_they_were_written() -> None:
    one = from_document({"f:ports": {'k:{"protocol": "TCP", "containerPort": 80}': {}}})
    other = from_document({"f:ports": {'k:{"containerPort":80,"protocol":"TCP"}': {}}})
    assert one == other


def test_a_step_of_a_kind_that_nobody_knows_is_passed_over() -> None:
    assert from_document({"x:new": {"f:a": {}}, "f:b": {}}) == {("f:b",)}


@pytest.mark.parametrize(
    "bad", [[], {"f:a": 1}, {"f:a": []}, {"a": {}}, {"": {}}, {"k:{": {}}, {"k:[]": {}}, {"v:": {}}]
)
def test_a_set_that_makes_no_sense_is_refused(bad: Any) -> None:
    with pytest.raises(FieldsError):
        from_document(bad)


STEPS = st.sampled_from(["f:a", "f:b.c/d", 'k:{"name":"x"}', 'k:{"p":1,"q":"T"}', 'v:"s"', "v:1", "i:0"])
SETS = st.frozensets(st.lists(STEPS, min_size=1, max_size=4).map(tuple), max_size=12)


@settings(deadline=None)
@given(SETS)
def test_every_set_survives_being_written_and_read(fields: Fields) -> None:
    assert from_document(to_document(fields)) == fields


# ---------------------------------------------------------------- what a document's fields are


def test_the_fields_of_a_document_are_its_leaves_and_the_items_of_its_lists() -> None:
    container = {"name": "c", "image": "i", "args": ["a", "b"], "ports": [{"containerPort": 80}], "resources": {}}
    spec = {"containers": [container], "nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "k"}]}
    document = {"metadata": {"labels": {"a": "b"}, "finalizers": ["f"]}, "spec": spec}
    c = '.spec.containers[name="c"]'
    assert paths(fields_of(document, POD)) == [
        '.metadata.finalizers[="f"]',
        ".metadata.labels.a",
        c,
        f"{c}.args",
        f"{c}.image",
        f"{c}.name",
        f'{c}.ports[containerPort=80,protocol="TCP"]',  # the protocol is the default
        f'{c}.ports[containerPort=80,protocol="TCP"].containerPort',
        f"{c}.resources",
        ".spec.nodeSelector",  # a whole
        ".spec.tolerations",
    ]


def test_without_a_schema_lists_are_wholes_and_mappings_are_not() -> None:
    document = {"spec": {"a": {"b": [{"name": "x"}], "c": 1}, "d": {}, "e": None, "f": []}}
    found = paths(fields_of(document, ANY))
    assert found == [".spec", ".spec.a", ".spec.a.b", ".spec.a.c", ".spec.d", ".spec.e", ".spec.f"]


def test_items_with_one_key_are_owned_as_one_and_refused_in_what_is_applied() -> None:
    env = [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]
    document = {"spec": {"containers": [{"name": "c", "env": env}]}}
    assert '.spec.containers[name="c"].env[name="A"].value' not in paths(fields_of(document, POD))
    with pytest.raises(FieldsError, match="duplicate entries for key"):
        fields_of(document, POD, unique=True)


@pytest.mark.parametrize("item", ["x", None, {}, {"image": "i"}, ["name"]])
def test_an_item_without_its_key_is_refused(item: Any) -> None:
    with pytest.raises(FieldsError, match="name") as e:
        fields_of({"spec": {"containers": [item]}}, POD)
    assert told(e.value.path) == ".spec.containers"


def test_a_structural_schema_says_the_same_as_a_model() -> None:
    port = {"type": "object", "properties": {"port": {"type": "integer"}, "protocol": {"default": "TCP"}}}
    ports = {"type": "array", "items": port}
    ports |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "protocol"]}
    selector = {"type": "object", "additionalProperties": {"type": "string"}, "x-kubernetes-map-type": "atomic"}
    tags = {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}
    spec = {"type": "object", "properties": {"ports": ports, "selector": selector, "tags": tags}}
    shape = shape_of_schema({"type": "object", "properties": {"spec": spec, "free": {"type": "array"}}})
    document = {
        "metadata": {"finalizers": ["f"]},
        "spec": {"ports": [{"port": 1}], "selector": {"a": "b"}, "tags": ["t"]},
        "free": [{"a": 1}],
    }
    assert paths(fields_of(document, shape)) == [
        ".free",
        '.metadata.finalizers[="f"]',
        '.spec.ports[port=1,protocol="TCP"]',
        '.spec.ports[port=1,protocol="TCP"].port',
        ".spec.selector",
        '.spec.tags[="t"]',
    ]


def test_fields_on_the_way_to_a_member_are_members_where_the_schema_names_them() -> None:
    fields = frozenset({("f:metadata", "f:labels", "f:a"), ("f:spec", "f:containers", 'k:{"name":"c"}', "f:image")})
    found = paths(with_containers(fields, POD) - fields)
    assert found == [
        ".metadata",
        ".metadata.labels",
        ".spec",
        ".spec.containers",
    ]


def test_what_became_a_whole_is_owned_as_a_whole() -> None:
    fields = from_document({"f:spec": {"f:nodeSelector": {"f:a": {}, "f:b": {}}, "f:tolerations": {"i:0": {}}}})
    assert paths(reconciled(fields, POD)) == [".spec.nodeSelector", ".spec.tolerations"]
    good = fields_of({"spec": {"containers": [{"name": "c", "env": [{"name": "A"}]}]}}, POD)
    assert reconciled(good, POD) == good


# ---------------------------------------------------------------- differences


def test_a_difference_tells_what_was_added_modified_and_removed() -> None:
    old = {"data": {"a": "1", "b": "2", "c": "3"}}
    new = {"data": {"a": "1", "b": "x", "d": "4"}, "immutable": True}
    found = difference(old, new, shape_of_model(ConfigMap))
    assert [paths(s) for s in (found.added, found.modified, found.removed)] == [
        [".data.d", ".immutable"],
        [".data.b"],
        [".data.c"],
    ]


def test_what_a_mapping_always_has_is_added_by_nobody() -> None:
    document = {"spec": {"strategy": {"type": "Recreate"}, "template": {"spec": {"containers": [{"name": "c"}]}}}}
    found = paths(difference({}, document, DEPLOYMENT).added)
    assert found == [
        ".spec.strategy.type",
        '.spec.template.spec.containers[name="c"]',
        '.spec.template.spec.containers[name="c"].name',
    ]
    labels = {"metadata": {"labels": {"a": "b"}}}
    assert paths(difference({}, labels, DEPLOYMENT).added) == [".metadata.labels", ".metadata.labels.a"]


def test_the_order_of_a_list_with_keys_is_no_difference_and_that_of_a_whole_is() -> None:
    def of(names: str, args: str) -> dict[str, Any]:
        return {"spec": {"containers": [{"name": n, "args": list(args)} for n in names]}}

    assert difference(of("ab", "xy"), of("ba", "xy"), POD).changed == frozenset()
    assert paths(difference(of("a", "xy"), of("a", "yx"), POD).modified) == ['.spec.containers[name="a"].args']


def test_duplicates_that_come_and_go_are_one_field() -> None:
    # structured-merge-diff, duplicates_test.go
    def of(*values: str) -> dict[str, Any]:
        return {"spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": v} for v in values]}]}}

    item = '.spec.containers[name="c"].env[name="A"]'
    assert paths(difference(of("1", "2"), of("1", "3"), POD).modified) == [item]
    came = difference(of("1"), of("1", "2"), POD)
    assert (item in paths(came.added), f"{item}.value" in paths(came.removed)) == (True, True)
    went = difference(of("1", "2"), of("1"), POD)
    assert (item in paths(went.removed), f"{item}.value" in paths(went.added)) == (True, True)


VALUES = st.recursive(
    st.booleans() | st.integers(0, 3) | st.sampled_from("xy"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
TREES = st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)


@settings(deadline=None)
@given(TREES, TREES)
def test_a_difference_there_and_back_is_the_same_seen_from_the_other_side(old: Any, new: Any) -> None:
    there, back = difference(old, new, ANY), difference(new, old, ANY)
    assert (there.added, there.modified, there.removed) == (back.removed, back.modified, back.added)
    assert difference(old, old, ANY).changed == difference(old, old, ANY).removed == frozenset()


# ---------------------------------------------------------------- the table


def models() -> dict[str, type[Model]]:
    found: dict[str, type[Model]] = {}

    def look(model: type[Model], shape: Shape) -> None:
        for base in model.__mro__:
            found.setdefault(base.__name__, model)
        for info in model.model_fields.values():
            for inner in models_in(info.annotation):
                if inner.__name__ not in found:
                    look(inner, shape)

    for resource in RESOURCES:
        look(resource.model, ANY)
    return found


def models_in(annotation: Any) -> list[type[Model]]:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return [annotation]
    return [m for a in getattr(annotation, "__args__", ()) for m in models_in(a)]


# Kubernetes' own tags (k8s.io/api and apimachinery, v0.37): type, field or "*", list type, keys, patch strategy and key
TAGS = [line.split() for line in (CASES / "list-types.txt").read_text().splitlines()]


def test_every_field_merges_as_in_kubernetes() -> None:
    known = models()
    wrong = []
    for name, field, list_type, *rest in TAGS:
        model = known.get(name)
        if model is None or field not in fields_named_in(model):
            continue
        keys, patch, patch_key = ("" if r == "-" else r for r in rest)
        ours = strategy_of(model, field)
        listed = (ours.list_type, ",".join(ours.keys)) if "-" not in list_type else ("atomic", "")
        theirs = (list_type, keys) if "-" not in list_type else ("atomic", "")
        whole = ours.atomic == (list_type == "atomic-map")
        if (listed, ours.patch, ours.patch_key, whole) != (theirs, patch, patch_key, True):
            wrong.append((name, field, ours))
    assert not wrong


def test_every_type_that_changes_as_a_whole_in_kubernetes_does_here() -> None:
    wholes = {name for name, field, *_ in TAGS if field == "*"}
    known = models()
    assert not [name for name in wholes & known.keys() if not is_atomic(known[name])]
    # Ours: for ConfigMapKeySelector and SecretKeySelector, and for the EndpointPort of Endpoints.
    assert ATOMIC_TYPES - wholes == {"KeySelector", "EndpointsPort"}


def test_every_row_of_the_table_names_a_field_that_exists() -> None:
    known = models()
    wrong = [
        (model, field)
        for model, field in STRATEGIES
        if model in known and not issubclass(known[model], Report) and field not in fields_named_in(known[model])
    ]
    assert not wrong


def fields_named_in(model: type[Model]) -> set[str]:
    return {f.alias or n for n, f in model.model_fields.items()} | model.unsupported


def test_the_keys_of_every_list_are_fields_of_its_items() -> None:
    known = models()
    for (model, field), strategy in STRATEGIES.items():
        if model not in known or not strategy.keys:
            continue
        info = next((i for n, i in known[model].model_fields.items() if (i.alias or n) == field), None)
        for item in models_in(info.annotation) if info is not None else []:
            assert set(strategy.keys) <= {i.alias or n for n, i in item.model_fields.items()}, (model, field)


def test_openapi_says_what_merging_does() -> None:
    ports = merge_extensions(known_model("ServiceSpec"), "ports", is_list=True)
    assert ports == {
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["port", "protocol"],
        "x-kubernetes-patch-strategy": "merge",
        "x-kubernetes-patch-merge-key": "port",
    }
    assert merge_extensions(known_model("ServiceSpec"), "selector", False) == {"x-kubernetes-map-type": "atomic"}
    assert merge_extensions(known_model("Container"), "args", True) == {"x-kubernetes-list-type": "atomic"}
    assert strategy_of(known_model("PodSpec"), "volumes").merges


def known_model(name: str) -> type[Model]:
    return models()[name]


def test_the_shapes_of_models_know_defaults_of_keys_and_wholes() -> None:
    ports = SERVICE.child("spec").child("ports")
    assert (ports.keys, ports.item.child("protocol").default) == (("port", "protocol"), "TCP")
    assert SERVICE.child("spec").child("selector").atomic
    assert DEPLOYMENT.child("spec").child("selector").atomic
    assert DEPLOYMENT.child("spec").child("nonsense") == ANY
