"""Whatever comes in, parse() answers with an object or with Invalid; and what it accepted survives a round trip."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloudlink.kube.core import ConfigMap, ObjectMeta, Pod, Secret, Service
from cloudlink.kube.errors import MAX_CAUSES
from cloudlink.kube.parse import Invalid, dump, parse, revive
from cloudlink.kube.registry import RESOURCES, by_kind, by_plural
from tests.unit.kube_documents import ACCEPTED, anything, at, headers, keys, places, replaced, texts


def parses_or_is_invalid(document: object) -> None:
    before = copy.deepcopy(document)
    problem: Invalid | None = None
    try:
        obj = parse(document)
    except Invalid as e:
        problem = e
    if problem is not None:
        assert 1 <= len(problem.causes) <= MAX_CAUSES + 1
        (str(problem) + problem.name).encode()  # can be sent
    else:
        msgspec.msgpack.encode(dump(obj))
        plain = json.loads(json.dumps(dump(obj), allow_nan=False))
        assert parse(plain) == obj
        assert revive(plain) == obj
        assert dump(parse(plain)) == plain
    assert repr(document) == repr(before)  # never edited in place (repr: a NaN is not equal to itself)


@given(anything)
@example({"apiVersion": [], "kind": {}})
@example({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"\ud800": "\ud800"}}, "spec": 5})
@example({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "\ud800", "\ud800": ""}})
@example({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "stringData": {"a": "\ud800"}})
def test_arbitrary_json_never_crashes_the_parser(document: Any) -> None:
    parses_or_is_invalid(document)


@given(headers, st.dictionaries(keys, anything, max_size=4))
def test_arbitrary_content_of_a_known_kind_never_crashes_the_parser(header: tuple[str, str], rest: Any) -> None:
    parses_or_is_invalid({**rest, "apiVersion": header[0], "kind": header[1]})


@settings(max_examples=400)
@given(st.sampled_from(ACCEPTED), st.data(), anything)
def test_a_good_manifest_with_any_part_replaced_is_accepted_or_refused_cleanly(
    document: Any, data: st.DataObject, value: Any
) -> None:
    path = data.draw(st.sampled_from(list(places(document))))
    parses_or_is_invalid(replaced(document, path, value))


@settings(max_examples=200)
@given(st.sampled_from(ACCEPTED), st.data(), texts, anything)
def test_a_good_manifest_with_any_field_added_is_accepted_or_refused_cleanly(
    document: Any, data: st.DataObject, key: str, value: Any
) -> None:
    maps = [p for p in places(document) if isinstance(at(document, p), dict)]
    path = data.draw(st.sampled_from(maps))
    parses_or_is_invalid(replaced(document, path, {**at(document, path), key: value}))


@given(st.sampled_from(ACCEPTED), st.data())
def test_an_unknown_field_is_named_with_its_path_wherever_it_stands(document: Any, data: st.DataObject) -> None:
    free = {"data", "stringData", "labels", "annotations", "matchLabels", "selector", "limits", "requests"}
    free |= {"nodeSelector", "hard", "max", "min", "default", "defaultRequest", "maxLimitRequestRatio"}
    skipped = free | {"status", "managedFields", "openAPIV3Schema"}
    maps = [
        p
        for p in places(document)
        if isinstance(at(document, p), dict)
        and (not skipped & set(p) or (p[-1] == "selector" and "template" in at(document, p[:-1])))
    ]
    path = data.draw(st.sampled_from(maps))
    with pytest.raises(Invalid) as caught:
        parse(replaced(document, path, {**at(document, path), "qqqqq": 1}))
    shown = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in (*path, "qqqqq")).removeprefix(".")
    assert [c.field for c in caught.value.causes] == [shown]


def test_nesting_without_end_is_refused() -> None:
    deep: Any = {}
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(Invalid, match="nested deeper"):
        parse({"apiVersion": "v1", "kind": "Pod", "spec": deep})
    loop: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod"}
    loop["spec"] = [loop]
    with pytest.raises(Invalid, match="nested deeper"):
        parse(loop)


def test_a_document_that_is_wrong_everywhere_gets_a_bounded_answer() -> None:
    containers = [{"name": "A", "image": "", "zzz": 1, "ports": [{"containerPort": 0}] * 50} for _ in range(50)]
    with pytest.raises(Invalid) as caught:
        parse({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": containers}})
    assert len(caught.value.causes) == MAX_CAUSES + 1
    assert "more errors" in caught.value.causes[-1].message


def test_structural_and_semantic_errors_are_reported_together() -> None:
    with pytest.raises(Invalid) as caught:
        parse(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "Web"},
                "spec": {"containers": [{"name": "web", "imagee": "x", "image": "x", "volumeMounts": [MOUNT]}]},
            }
        )
    assert [c.field for c in caught.value.causes] == [
        "spec.containers[0].imagee",
        "metadata.name",
        "spec.containers[0].volumeMounts[0].name",
    ]
    assert (caught.value.kind, caught.value.name) == ("Pod", "Web")


MOUNT = {"name": "nowhere", "mountPath": "/x"}


def pod(**spec: Any) -> Pod:
    parsed = parse({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": spec})
    assert isinstance(parsed, Pod)
    return parsed


def test_kubernetes_defaults_are_filled_in() -> None:
    spec = pod(
        containers=[
            {
                "name": "web",
                "image": "nginx",
                "ports": [{"containerPort": 80}],
                "resources": {"limits": {"memory": "64Mi", "cpu": 0.5}, "requests": {"cpu": "100m"}},
                "livenessProbe": {"httpGet": {"port": 80}, "timeoutSeconds": 0},
            }
        ],
        volumes=[{"name": "scratch"}, {"name": "files", "configMap": {"name": "c"}}],
    ).spec
    (container,) = spec.containers
    assert (spec.restart_policy, spec.termination_grace_period_seconds, spec.dns_policy) == (
        "Always",
        30,
        "ClusterFirst",
    )
    assert container.image_pull_policy == "Always"
    assert container.ports[0].protocol == "TCP"
    assert container.resources.requests == {"memory": "64Mi", "cpu": "100m"}
    probe = container.liveness_probe
    assert probe is not None
    assert probe.http_get is not None
    assert (probe.timeout_seconds, probe.period_seconds, probe.success_threshold, probe.failure_threshold) == (
        1,
        10,
        1,
        3,
    )
    assert (probe.http_get.path, probe.http_get.scheme) == ("/", "HTTP")
    assert spec.volumes[0].empty_dir is not None
    assert spec.volumes[1].config_map is not None
    assert spec.volumes[1].config_map.default_mode == 0o644


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.27", "IfNotPresent"),
        ("hub.local:5000/nginx", "Always"),
        ("hub.local:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:" + "0" * 64, "IfNotPresent"),
    ],
)
def test_the_pull_policy_follows_from_the_tag(image: str, policy: str) -> None:
    assert pod(containers=[{"name": "a", "image": image}]).spec.containers[0].image_pull_policy == policy


def test_a_deployment_gets_its_defaults() -> None:
    parsed = parse(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web"},
            "spec": {
                "selector": {"matchLabels": {"a": "b"}},
                "template": {
                    "metadata": {"labels": {"a": "b"}},
                    "spec": {"containers": [{"name": "a", "image": "b"}]},
                },
            },
        }
    )
    spec = dump(parsed)["spec"]
    assert (spec["replicas"], spec["revisionHistoryLimit"], spec["progressDeadlineSeconds"]) == (1, 10, 600)
    assert spec["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
    }


def test_a_service_port_aims_at_itself_by_default() -> None:
    parsed = parse(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}}
    )
    assert isinstance(parsed, Service)
    assert (parsed.spec.ports[0].target_port, parsed.spec.ports[0].protocol) == (80, "TCP")


def test_plain_text_of_a_secret_becomes_data_and_shows_in_no_repr() -> None:
    parsed = parse({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "stringData": {"pin": "hunter2"}})
    assert isinstance(parsed, Secret)
    assert dump(parsed)["data"] == {"pin": "aHVudGVyMg=="}
    assert "stringData" not in dump(parsed)
    assert "aHVudGVyMg" not in repr(parsed)


def test_nulls_count_as_absent_and_self_links_are_dropped() -> None:
    parsed = parse(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "a", "creationTimestamp": None, "selfLink": "/x", "labels": None},
            "data": None,
        }
    )
    assert parsed == ConfigMap(metadata=ObjectMeta(name="a"))
    assert dump(parsed) == {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}


def test_false_and_zero_that_differ_from_the_default_are_kept() -> None:
    document = dump(
        pod(containers=[{"name": "a", "image": "b"}], enableServiceLinks=False, automountServiceAccountToken=False)
    )
    assert document["spec"]["enableServiceLinks"] is False
    assert document["spec"]["automountServiceAccountToken"] is False


def test_every_resource_is_found_by_its_plural_and_by_its_kind() -> None:
    for resource in RESOURCES:
        assert by_plural(resource.group, resource.version, resource.plural) is resource
        assert by_kind(resource.api_version, resource.kind) is resource
        assert resource.model.model_fields["kind"].default == resource.kind
        assert resource.model.model_fields["api_version"].default == resource.api_version
    assert by_plural("", "v1", "deployments") is None
    assert by_kind("v1", "Deployment") is None


def test_no_name_is_both_supported_and_unsupported() -> None:
    from cloudlink.kube import apps, core, pod

    models = [m for module in (apps, core, pod) for m in vars(module).values() if isinstance(m, type)]
    for model in models:
        fields = {f.alias for f in getattr(model, "model_fields", {}).values()}
        assert not fields & getattr(model, "unsupported", frozenset()), model
