"""Strategic merge patch: the cases of Kubernetes' documentation, and convergence for generated ones."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlink.hub.api.merge import PatchError
from cloudlink.hub.api.strategic import strategic_merge
from cloudlink.kube.apps import Deployment
from cloudlink.kube.core import Pod, Service


def pod_with(**spec: Any) -> dict[str, Any]:
    return {"kind": "Pod", "metadata": {"name": "p"}, "spec": spec}


def merged(document: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    before = copy.deepcopy(document)
    result = strategic_merge(document, patch, Pod)
    assert document == before
    return result


NGINX, LOG = {"name": "nginx", "image": "nginx-1.0"}, {"name": "log-tailer", "image": "log-tailer-1.0"}


def test_a_list_with_a_merge_key_is_merged_by_it() -> None:
    result = merged(pod_with(containers=[NGINX]), {"spec": {"containers": [LOG]}})
    assert result["spec"]["containers"] == [NGINX, LOG]
    result = merged(pod_with(containers=[NGINX, LOG]), {"spec": {"containers": [{"name": "nginx", "image": "2"}]}})
    assert result["spec"]["containers"] == [{"name": "nginx", "image": "2"}, LOG]


def test_a_list_without_a_merge_key_is_replaced() -> None:
    old, new = [{"key": "a", "operator": "Exists"}], [{"key": "b", "operator": "Exists"}]
    assert merged(pod_with(tolerations=old), {"spec": {"tolerations": new}})["spec"]["tolerations"] == new
    patch = {"spec": {"containers": [{"name": "nginx", "command": ["b"]}]}}
    result = merged(pod_with(containers=[NGINX | {"command": ["a", "b"]}]), patch)
    assert result["spec"]["containers"][0]["command"] == ["b"]


def test_patch_delete_takes_an_item_out_of_a_list() -> None:
    patch = {"spec": {"containers": [{"$patch": "delete", "name": "log-tailer"}]}}
    assert merged(pod_with(containers=[NGINX, LOG]), patch)["spec"]["containers"] == [NGINX]


def test_patch_replace_replaces_a_whole_list() -> None:
    patch = {"spec": {"containers": [{"name": "log-tailer", "image": "2"}, {"$patch": "replace"}]}}
    assert merged(pod_with(containers=[NGINX]), patch)["spec"]["containers"] == [{"name": "log-tailer", "image": "2"}]


def test_patch_replace_replaces_a_mapping_and_delete_empties_it() -> None:
    document = pod_with(nodeSelector={"a": "1"})
    replaced = merged(document, {"spec": {"nodeSelector": {"$patch": "replace", "b": "2"}}})
    assert replaced["spec"]["nodeSelector"] == {"b": "2"}
    assert merged(document, {"spec": {"nodeSelector": {"$patch": "delete"}}})["spec"]["nodeSelector"] == {}


def test_null_removes_a_field_and_is_never_left_behind() -> None:
    document = pod_with(hostname="h", containers=[NGINX])
    patch = {"spec": {"hostname": None, "containers": [{"name": "new", "image": "i", "command": None}]}}
    result = merged(document, patch)
    assert "hostname" not in result["spec"]
    assert result["spec"]["containers"][1] == {"name": "new", "image": "i"}


def test_set_element_order_orders_what_it_names_and_keeps_the_place_of_the_rest() -> None:
    # docs: "server-only items keep their relative order; 3 was put there by somebody else"
    env = [{"name": n, "value": n} for n in "123"]
    patch_env = {
        "$setElementOrder/env": [{"name": "1"}, {"name": "2"}, {"name": "4"}],
        "env": [{"name": "4", "value": "4"}],
    }
    document = pod_with(containers=[{"name": "c", "env": env}])
    result = merged(document, {"spec": {"containers": [{"name": "c", **patch_env}]}})
    names = [e["name"] for e in result["spec"]["containers"][0]["env"]]
    assert [n for n in names if n != "3"] == ["1", "2", "4"]
    assert names.index("2") < names.index("3")


def test_set_element_order_alone_reorders() -> None:
    patch = {"spec": {"$setElementOrder/containers": [{"name": "log-tailer"}, {"name": "nginx"}]}}
    assert merged(pod_with(containers=[NGINX, LOG]), patch)["spec"]["containers"] == [LOG, NGINX]


def test_lists_of_plain_values_merge_as_sets_and_can_lose_items() -> None:
    document = {"metadata": {"finalizers": ["a", "b", "c"]}}
    added = merged(document, {"metadata": {"finalizers": ["b", "d"]}})
    assert added["metadata"]["finalizers"] == ["a", "b", "c", "d"]
    removed = merged(document, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"]}})
    assert removed["metadata"]["finalizers"] == ["a", "c"]
    ordered = {"$setElementOrder/finalizers": ["d", "a"], "finalizers": ["d"]}
    both = merged(document, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["b", "c"], **ordered}})
    assert both["metadata"]["finalizers"] == ["d", "a"]


def test_retain_keys_clears_the_alternative_that_is_no_longer_chosen() -> None:
    document = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    patch = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert strategic_merge(document, patch, Deployment)["spec"]["strategy"] == {"type": "Recreate"}
    volumes = pod_with(volumes=[{"name": "v", "emptyDir": {}}])
    other = {"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}
    assert merged(volumes, {"spec": {"volumes": [other]}})["spec"]["volumes"] == [
        {"name": "v", "hostPath": {"path": "/x"}}
    ]


def test_ports_of_services_and_containers_have_different_merge_keys() -> None:
    service = {"spec": {"ports": [{"port": 80, "name": "a"}]}}
    result = strategic_merge(service, {"spec": {"ports": [{"port": 81, "name": "a"}]}}, Service)
    assert [p["port"] for p in result["spec"]["ports"]] == [80, 81]
    document = pod_with(containers=[{"name": "c", "ports": [{"containerPort": 80}]}])
    patch = {"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "name": "web"}]}]}}
    result = merged(document, patch)
    assert result["spec"]["containers"][0]["ports"] == [{"containerPort": 80, "name": "web"}]


@pytest.mark.parametrize(
    ("patch", "why"),
    [
        ([], "is a mapping"),
        ({"spec": {"containers": [{"image": "x"}]}}, 'spec.containers: an item has no "name"'),
        ({"spec": {"containers": ["x"]}}, "every item must be a mapping"),
        ({"spec": {"$patch": "explode"}}, "none of replace, delete, merge"),
        ({"spec": {"$setElementOrder/containers": 1}}, "must be a list"),
        ({"metadata": {"$deleteFromPrimitiveList/finalizers": {}}}, "must be a list"),
        ({"spec": {"$retainKeys": ["a"], "hostname": "h"}}, "retainKeys must name every field"),
    ],
)
def test_a_patch_that_makes_no_sense_is_refused_with_its_path(patch: Any, why: str) -> None:
    with pytest.raises(PatchError, match=why):
        strategic_merge(pod_with(containers=[NGINX]) | {"metadata": {"finalizers": ["a"]}}, patch, Pod)


# ---------------------------------------------------------------- any patch that is a difference converges

ENV = st.lists(st.sampled_from("abcd"), unique=True, max_size=4).flatmap(
    lambda names: st.tuples(*(st.builds(lambda v, n=n: {"name": n, "value": v}, st.sampled_from("xy")) for n in names))
)
CONTAINERS = st.lists(st.sampled_from(["one", "two", "three"]), unique=True, max_size=3).flatmap(
    lambda names: st.tuples(
        *(
            st.builds(
                lambda env, args, n=n: {"name": n, "env": list(env), "args": args},
                ENV,
                st.lists(st.sampled_from("pq"), max_size=2),
            )
            for n in names
        )
    )
)
PODS = st.builds(
    lambda containers, selector, finalizers: {
        "metadata": {"name": "p", "finalizers": finalizers},
        "spec": {"containers": list(containers), "nodeSelector": selector},
    },
    CONTAINERS,
    st.dictionaries(st.sampled_from("kl"), st.sampled_from("vw")),
    st.lists(st.sampled_from("fgh"), unique=True, max_size=3),
)
KEYS = {"containers": "name", "env": "name"}


def difference(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """A two-way strategic diff, as kubectl makes it (strategicpatch.CreateTwoWayMergePatch)."""
    patch: dict[str, Any] = {k: None for k in old if k not in new}
    for key, value in new.items():
        there = old.get(key)
        if there == value:
            continue
        if isinstance(value, dict) and isinstance(there, dict):
            patch[key] = difference(there, value)
        elif key == "finalizers" and isinstance(there, list):
            patch |= {key: [v for v in value if v not in there], f"$setElementOrder/{key}": value}
            patch[f"$deleteFromPrimitiveList/{key}"] = [v for v in there if v not in value]
        elif key in KEYS and isinstance(there, list):
            by = {item[KEYS[key]]: item for item in there}
            changed = [
                {KEYS[key]: item[KEYS[key]]} | difference(by.get(item[KEYS[key]], {}), item)
                for item in value
                if by.get(item[KEYS[key]]) != item
            ]
            kept = {item[KEYS[key]] for item in value}
            gone = [{"$patch": "delete", KEYS[key]: k} for k in by if k not in kept]
            patch |= {key: changed + gone, f"$setElementOrder/{key}": [{KEYS[key]: i[KEYS[key]]} for i in value]}
        else:
            patch[key] = value
    return patch


@settings(deadline=None)
@given(PODS, PODS)
def test_a_patch_made_of_a_difference_converges_and_is_idempotent(old: dict[str, Any], new: dict[str, Any]) -> None:
    patch = difference(old, new)
    result = merged(old, patch)
    assert result == new
    assert merged(result, patch) == new


@settings(deadline=None)
@given(PODS, PODS, PODS)
def test_two_authors_of_different_parts_keep_each_others_work(
    base: dict[str, Any], mine: dict[str, Any], yours: dict[str, Any]
) -> None:
    my_part = {**base, "spec": {**base["spec"], "containers": mine["spec"]["containers"]}}
    your_part = {**base, "spec": {**base["spec"], "nodeSelector": yours["spec"]["nodeSelector"]}}
    first = merged(merged(base, difference(base, my_part)), difference(base, your_part))
    second = merged(merged(base, difference(base, your_part)), difference(base, my_part))
    assert first == second
    assert first["spec"]["containers"] == mine["spec"]["containers"]
    assert first["spec"]["nodeSelector"] == yours["spec"]["nodeSelector"]


GARBAGE = st.recursive(
    st.none() | st.integers(0, 3) | st.sampled_from(["delete", "replace", "one", "$patch"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["spec", "containers", "env", "name", "$patch", "$retainKeys", "$setElementOrder/containers"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(PODS, GARBAGE)
def test_garbage_never_crashes_a_strategic_merge(document: dict[str, Any], patch: Any) -> None:
    with contextlib.suppress(PatchError):
        strategic_merge(document, patch, Pod)
