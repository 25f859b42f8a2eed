"""What kubectl shows: ages, the columns of each kind, selectors' syntax, discovery and OpenAPI documents."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlink.hub.api.columns import columns_of, pod_status
from cloudlink.hub.api.discovery import discover
from cloudlink.hub.api.paths import target_of
from cloudlink.hub.api.selectors import SelectorError, field_terms, label_requirements
from cloudlink.hub.api.table import duration, since
from cloudlink.hub.revisions import timestamp
from cloudlink.kube.core import Pod
from cloudlink.kube.parse import parse
from cloudlink.kube.registry import RESOURCES
from tests.fakes.hub_objects import deployment, event, node, template
from tests.unit.kube_documents import ACCEPTED

MINUTE, HOUR, DAY = 60, 3600, 86400
NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (5 * MINUTE + 30, "5m30s"),
        (10 * MINUTE + 59, "10m"),
        (179 * MINUTE, "179m"),
        (3 * HOUR, "3h"),
        (3 * HOUR + 7 * MINUTE, "3h7m"),
        (8 * HOUR + 59 * MINUTE, "8h"),
        (47 * HOUR, "47h"),
        (2 * DAY + 5 * HOUR, "2d5h"),
        (8 * DAY + 5 * HOUR, "8d"),
        (729 * DAY, "729d"),
        (730 * DAY, "2y"),
        (3 * 365 * DAY + 10 * DAY, "3y10d"),
        (9 * 365 * DAY, "9y"),
    ],
)
def test_ages_read_as_kubectls_users_know_them(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_an_age_without_a_time_is_unknown() -> None:
    assert since("", NOW) == "<unknown>"
    assert since("nonsense", NOW) == "<unknown>"
    assert since(timestamp(NOW - 60), NOW) == "60s"


def a_pod(status: dict[str, Any], **metadata: Any) -> Pod:
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default", **metadata}}
    made = parse(document | {"spec": template({})["spec"], "status": status})
    assert isinstance(made, Pod)
    return made


def container(state: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return {"name": "main", "image": "i", "ready": False, "restartCount": 0, "state": state, **rest}


@pytest.mark.parametrize(
    ("phase", "state", "shown"),
    [
        ("Pending", {"waiting": {"reason": "ErrImagePull"}}, "ErrImagePull"),
        ("Running", {"waiting": {"reason": "CrashLoopBackOff"}}, "CrashLoopBackOff"),
        ("Running", {"running": {}}, "Running"),
        ("Failed", {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, "OOMKilled"),
        ("Failed", {"terminated": {"exitCode": 3}}, "ExitCode:3"),
        ("Failed", {"terminated": {"exitCode": 1, "signal": 9}}, "Signal:9"),
    ],
)
def test_the_status_column_shows_the_most_telling_word(phase: str, state: dict[str, Any], shown: str) -> None:
    assert pod_status(a_pod({"phase": phase, "containerStatuses": [container(state)]})) == shown


def test_the_status_column_of_a_pod_without_containers_yet_is_its_phase_or_reason() -> None:
    assert pod_status(a_pod({"phase": "Pending"})) == "Pending"
    assert pod_status(a_pod({"phase": "Failed", "reason": "Evicted"})) == "Evicted"


def test_a_pod_on_its_way_out_is_terminating_until_it_has_ended() -> None:
    marked = {"deletionTimestamp": timestamp(NOW), "deletionGracePeriodSeconds": 30}
    assert pod_status(a_pod({"phase": "Running"}, **marked)) == "Terminating"
    assert pod_status(a_pod({"phase": "Running", "reason": "NodeLost"}, **marked)) == "Unknown"
    assert pod_status(a_pod({"phase": "Succeeded"}, **marked)) == "Succeeded"


def cells(obj: Any) -> dict[str, object]:
    columns, row = columns_of(type(obj))
    values = row(obj, NOW)
    assert len(values) == len(columns)
    return {c.name: v for c, v in zip(columns, values, strict=True)}


def test_a_pods_row_counts_ready_containers_and_tells_when_it_last_restarted() -> None:
    ended = {"terminated": {"exitCode": 1, "finishedAt": timestamp(NOW - 300)}}
    statuses = [container({"running": {}}, ready=True, restartCount=3, lastState=ended)]
    row = cells(a_pod({"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": statuses}))
    assert (row["Ready"], row["Restarts"], row["IP"], row["Node"]) == ("1/1", "3 (5m ago)", "10.0.0.1", "<none>")


def test_every_kind_fills_all_its_columns() -> None:
    assert cells(deployment("web", 3))["Ready"] == "0/3"
    assert cells(node("n"))["Status"] == "Unknown"
    assert cells(event("e", "p"))["Object"] == "pod/p"
    documents = {d["kind"]: d for d in ACCEPTED}
    for resource in filter(lambda r: r.stored, RESOURCES):
        document = documents[resource.kind]
        place = {"namespace": "default"} if resource.namespaced else {}
        assert cells(parse(document | {"metadata": document["metadata"] | place}))


# ---------------------------------------------------------------- selectors


@pytest.mark.parametrize(
    ("text", "labels", "holds"),
    [
        ("", {}, True),
        ("a=b", {"a": "b"}, True),
        ("a==b", {"a": "c"}, False),
        ("a!=b", {}, True),
        ("a!=b", {"a": "b"}, False),
        ("a in (x, y)", {"a": "y"}, True),
        ("a notin (x,y),b", {"a": "z", "b": ""}, True),
        ("example.org/a", {"example.org/a": ""}, True),
        ("!a", {"a": ""}, False),
        ("a=", {"a": ""}, True),
        (" a = b , c ", {"a": "b", "c": "1"}, True),
    ],
)
def test_label_selectors_hold_as_in_kubernetes(text: str, labels: dict[str, str], holds: bool) -> None:
    assert all(r.matches(labels) for r in label_requirements(text)) is holds


@pytest.mark.parametrize("text", ["a in", "a in (b", "=b", "a=b c", "a>1", "a in (b/c)", "!!a", "-a"])
def test_a_label_selector_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SelectorError):
        label_requirements(text)


@settings(deadline=None)
@given(st.text("ab=!,() in\\.", max_size=20))
def test_selectors_of_garbage_are_refused_or_understood(text: str) -> None:
    for read in (label_requirements, field_terms):
        with contextlib.suppress(SelectorError):
            read(text)


def test_field_selectors_may_escape_commas() -> None:
    assert [(t.field, t.equal, t.value) for t in field_terms(r"reason=a\,b,type!=c")] == [
        ("reason", True, "a,b"),
        ("type", False, "c"),
    ]


# ---------------------------------------------------------------- paths and discovery


@pytest.mark.parametrize(
    ("path", "kind", "namespace", "name", "sub"),
    [
        ("/api/v1/pods", "Pod", "", "", ""),
        ("/api/v1/namespaces/n/pods", "Pod", "n", "", ""),
        ("/api/v1/namespaces/n/pods/p", "Pod", "n", "p", ""),
        ("/api/v1/namespaces/n/pods/p/status", "Pod", "n", "p", "status"),
        ("/api/v1/namespaces", "Namespace", "", "", ""),
        ("/api/v1/namespaces/n", "Namespace", "", "n", ""),
        ("/api/v1/namespaces/n/status", "Namespace", "", "n", "status"),
        ("/api/v1/nodes/x", "Node", "", "x", ""),
        ("/apis/apps/v1/namespaces/n/deployments/d/scale", "Deployment", "n", "d", "scale"),
    ],
)
def test_paths_name_what_kubernetes_says_they_name(path: str, kind: str, namespace: str, name: str, sub: str) -> None:
    target = target_of(path)
    assert target is not None
    assert (target.resource.kind, target.namespace, target.name, target.subresource) == (kind, namespace, name, sub)


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/api", "/api/v1", "/api/v2/pods", "/apis/apps", "/api/v1/deployments", "/apis/apps/v1/pods"),
        *("/api/v1/namespaces/n/nodes/x", "/api/v1/pods/p", "/api/v1/namespaces/n/pods/p/a/b"),
        *("/api/v1/namespaces//pods", "/api/v1/namespaces/n//p"),
    ],
)
def test_other_paths_name_nothing(path: str) -> None:
    assert target_of(path) is None


def read(path: str, accept: str = "application/json") -> Any:
    found = discover(path, accept)
    assert found is not None
    return json.loads(found.body)


def test_discovery_lists_every_kind_in_both_forms() -> None:
    versions = {f"/apis/{r.api_version}" if r.group else "/api/v1" for r in RESOURCES}
    plain = {r["name"]: r for v in versions for r in read(v)["resources"]}
    assert {r.plural for r in RESOURCES} <= plain.keys()
    assert plain["deployments/scale"]["kind"] == "Scale"
    assert plain["pods"]["shortNames"] == ["po"]
    groups = [g["name"] for g in read("/apis")["groups"]]
    assert set(groups) == {r.group for r in RESOURCES} - {""} | {"metrics.k8s.io"}
    assert groups[-1] == "metrics.k8s.io"  # its nodes and pods are not what `kubectl get nodes` means
    assert (plain["serviceaccounts/token"]["kind"], plain["serviceaccounts/token"]["verbs"]) == (
        "TokenRequest",
        ["create"],
    )
    assert plain["selfsubjectaccessreviews"]["verbs"] == ["create"]
    assert read("/apis/apps")["preferredVersion"]["groupVersion"] == "apps/v1"
    aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
    both = read("/api", aggregated)["items"] + read("/apis", aggregated)["items"]
    assert {r["resource"] for g in both for v in g["versions"] for r in v["resources"]} == {r.plural for r in RESOURCES}
    assert discover("/apis/none/v1", "") is None


# ---------------------------------------------------------------- init containers, claims


def initializing(*statuses: dict[str, Any], initialized: bool = False) -> str:
    """The STATUS column of a pod with the init containers `first`, `side` (a sidecar) and `second`."""
    init = [
        {"name": "first", "image": "a"},
        {"name": "side", "image": "a", "restartPolicy": "Always"},
        {"name": "second", "image": "a"},
    ]
    main = {"name": "main", "state": {"waiting": {"reason": "PodInitializing"}}, "ready": False, "restartCount": 0}
    status = {
        "phase": "Pending",
        "initContainerStatuses": [{"ready": False, "restartCount": 0, "image": "a", **s} for s in statuses],
        "containerStatuses": [main | {"image": "a"}],
        "conditions": [{"type": "Initialized", "status": str(initialized)}],
    }
    spec = {"initContainers": init, "containers": [{"name": "main", "image": "a"}]}
    made = parse({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec, "status": status})
    return str(cells(made)["Status"])


DONE = {"terminated": {"exitCode": 0, "reason": "Completed"}}


@pytest.mark.parametrize(
    ("statuses", "word"),
    [
        ([{"name": "first", "state": {"running": {}}}], "Init:0/3"),
        ([{"name": "first", "state": {"waiting": {"reason": "PodInitializing"}}}], "Init:0/3"),
        ([{"name": "first", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}], "Init:CrashLoopBackOff"),
        ([{"name": "first", "state": {"terminated": {"exitCode": 2, "reason": "Error"}}}], "Init:Error"),
        ([{"name": "first", "state": {"terminated": {"exitCode": 2}}}], "Init:ExitCode:2"),
        ([{"name": "first", "state": DONE}, {"name": "side", "state": {"running": {}}}], "Init:1/3"),
        (
            [
                {"name": "first", "state": DONE},
                {"name": "side", "state": {"running": {}}, "started": True},
                {"name": "second", "state": {"running": {}}},
            ],
            "Init:2/3",
        ),
    ],
)
def test_a_pod_that_is_being_initialised_says_how_far_it_is(statuses: list[dict[str, Any]], word: str) -> None:
    assert initializing(*statuses) == word


def test_a_pod_that_was_initialised_says_what_its_containers_do() -> None:
    statuses = [{"name": "first", "state": {"terminated": {"exitCode": 1}}}]
    assert initializing(*statuses, initialized=True) == "PodInitializing"


def test_an_evicted_pod_says_so_whatever_its_containers_say() -> None:
    ended = container({"terminated": {"exitCode": 137, "reason": "Error"}})
    assert cells(a_pod({"phase": "Failed", "reason": "Evicted", "containerStatuses": [ended]}))["Status"] == "Evicted"


def test_a_claims_row_tells_its_volume_once_it_has_one() -> None:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    document: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": spec,
        "status": {"phase": "Pending"},
    }
    row = cells(parse(document))
    assert (row["Status"], row["Volume"], row["Capacity"], row["StorageClass"]) == ("Pending", "", "", "edged-local")
    document["spec"] = {**spec, "volumeName": "pvc-1"}
    document["status"] = {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}
    row = cells(parse(document))
    assert (row["Status"], row["Volume"], row["Capacity"], row["Access Modes"]) == ("Bound", "pvc-1", "1Gi", "RWO")
