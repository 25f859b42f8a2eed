"""ResourceQuotas and LimitRanges: what may be made, whoever makes it, and what is counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlink.hub.api.server import create_app
from cloudlink.hub.changes import Create, Delete, ObjectChange, Update, UpdateStatus
from cloudlink.hub.manager import Manager
from cloudlink.hub.objects import find_condition
from cloudlink.hub.store import Store
from cloudlink.kube.apps import Deployment, ReplicaSet, StatefulSet
from cloudlink.kube.core import Event, Pod
from cloudlink.kube.parse import parse
from cloudlink.kube.quotas import ResourceQuota
from tests.fakes.hub_brain import Clock, deployment, names, node, pod_spec
from tests.fakes.hub_client import TOKEN, Client

CORE = "/api/v1/namespaces/default"
MERGE = "application/merge-patch+json"


class House:
    """The API and the controllers over one store."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.store = Store.open(f"sqlite:///{folder}/hub.db", self.clock)
        self.manager = Manager(self.store, self.clock, names())
        self.client = Client(create_app(self.store, {TOKEN: "tester"}.get))

    def post(self, plural: str, document: dict[str, Any]) -> tuple[int, Any]:
        answer = self.client.request("POST", f"{CORE}/{plural}", document)
        self.manager.settle()
        return answer

    def commit(self, *changes: ObjectChange) -> None:
        self.store.commit(changes)
        self.manager.settle()

    def quota(self, **hard: str) -> None:
        named = {k.replace("__", "/").replace("_", "."): v for k, v in hard.items()}
        document = {"kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": named}}
        assert self.post("resourcequotas", document)[0] == 201

    def used(self) -> dict[str, str]:
        found = self.store.get("ResourceQuota", "default", "q")
        assert isinstance(found, ResourceQuota)
        return dict(found.status.used)

    def pods(self) -> list[Pod]:
        return [p for p in self.store.list("Pod") if isinstance(p, Pod)]

    def said(self, reason: str) -> list[str]:
        return [e.message for e in self.store.list("Event") if isinstance(e, Event) and e.reason == reason]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    it = House(tmp_path)
    yield it
    it.store.close()


def pod(name: str, limits: dict[str, str] | None = None, **requests: str) -> dict[str, Any]:
    resources = {"requests": requests, "limits": limits or {}}
    container = {"name": "c", "image": "i", "resources": resources}
    return {"kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [container]}}


def limit_range(kind: str, **values: dict[str, str]) -> dict[str, Any]:
    return {"kind": "LimitRange", "metadata": {"name": "l"}, "spec": {"limits": [{"type": kind, **values}]}}


# ---------------------------------------------------------------- quotas


def test_what_is_made_counts_and_what_is_gone_counts_no_longer(house: House) -> None:
    house.quota(pods="3", requests_memory="100Mi", configmaps="2")
    house.post("pods", pod("a", memory="60Mi"))
    house.post("configmaps", {"kind": "ConfigMap", "metadata": {"name": "m"}})
    assert house.used() == {"pods": "1", "requests.memory": "60Mi", "configmaps": "1"}
    house.client.request("DELETE", f"{CORE}/pods/a")
    house.manager.settle()
    assert house.used() == {"pods": "0", "requests.memory": "0", "configmaps": "1"}


def test_what_would_be_too_much_is_forbidden_with_what_is_asked_used_and_left(house: House) -> None:
    house.quota(pods="5", requests_memory="100Mi")
    house.post("pods", pod("a", memory="60Mi"))
    code, told = house.post("pods", pod("b", memory="50Mi"))
    assert (code, told["message"]) == (
        403,
        'pods "b" is forbidden: exceeded quota: q, requested: requests.memory=50Mi, used: requests.memory=60Mi,'
        " limited: requests.memory=100Mi",
    )
    assert house.used() == {"pods": "1", "requests.memory": "60Mi"}


def test_a_pod_that_does_not_say_what_is_bounded_is_told_which_container_must(house: House) -> None:
    house.quota(limits_cpu="2", requests_memory="1Gi")
    code, told = house.post("pods", pod("a", memory="1Mi"))
    assert (code, told["message"]) == (403, 'pods "a" is forbidden: failed quota: q: must specify limits.cpu for: c')


def test_objects_of_any_kind_are_counted_by_their_plural_and_group(house: House) -> None:
    house.quota(count__deployments_apps="1")
    path = "/apis/apps/v1/namespaces/default/deployments"
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
    made = [house.client.request("POST", path, {"metadata": {"name": n}, "spec": spec}) for n in ("one", "two")]
    assert [code for code, _ in made] == [201, 403]
    assert "count/deployments.apps=1" in made[1][1]["message"]


def test_a_dry_run_counts_nothing_but_is_refused_all_the_same(house: House) -> None:
    house.quota(pods="1")
    assert house.client.request("POST", f"{CORE}/pods?dryRun=All", pod("a"))[0] == 201
    assert house.used() == {"pods": "0"}
    house.post("pods", pod("a"))
    assert house.client.request("POST", f"{CORE}/pods?dryRun=All", pod("b"))[0] == 403


def test_a_quota_made_later_counts_what_is_there_and_refuses_only_what_is_new(house: House) -> None:
    for name in "abc":
        house.post("pods", pod(name))
    house.quota(pods="2")
    assert house.used() == {"pods": "3"}
    assert house.post("pods", pod("d"))[0] == 403
    assert len(house.pods()) == 3


def test_a_finished_pod_counts_no_longer_and_one_that_should_have_ended_neither(house: House) -> None:
    house.quota(pods="2", count__pods="9")
    house.commit(Create(node()), UpdateStatus(node()))
    house.post("pods", pod("done"))
    house.post("pods", pod("lost"))
    done = next(p for p in house.pods() if p.metadata.name == "done")
    house.commit(
        UpdateStatus(done.model_copy(update={"status": done.status.model_copy(update={"phase": "Succeeded"})}))
    )
    house.client.request("DELETE", f"{CORE}/pods/lost?gracePeriodSeconds=5")
    house.manager.settle()
    assert house.used() == {"pods": "1", "count/pods": "2"}
    house.clock.advance(7)
    house.manager.settle()
    assert house.used() == {"pods": "0", "count/pods": "2"}


@pytest.mark.parametrize(
    ("scope", "inside", "outside"),
    [
        ("BestEffort", pod("in"), pod("out", memory="1Mi")),
        ("NotBestEffort", pod("in", memory="1Mi"), pod("out")),
        ("Terminating", pod("in") | {"spec": pod("")["spec"] | {"activeDeadlineSeconds": 5}}, pod("out")),
    ],
)
def test_a_quota_with_a_scope_counts_the_pods_in_it(
    house: House, scope: str, inside: dict[str, Any], outside: dict[str, Any]
) -> None:
    spec = {"hard": {"pods": "0"}, "scopes": [scope]}
    assert house.post("resourcequotas", {"metadata": {"name": "q"}, "spec": spec})[0] == 201
    assert [house.post("pods", p)[0] for p in (inside, outside)] == [403, 201]


def test_a_quota_for_a_priority_class_leaves_others_alone(house: House) -> None:
    classes = "/apis/scheduling.k8s.io/v1/priorityclasses"
    house.client.request("POST", classes, {"metadata": {"name": "high"}, "value": 5})
    term = {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}
    spec = {"hard": {"pods": "0"}, "scopeSelector": {"matchExpressions": [term]}}
    house.post("resourcequotas", {"metadata": {"name": "q"}, "spec": spec})
    high = pod("high")
    high["spec"]["priorityClassName"] = "high"
    assert [house.post("pods", p)[0] for p in (high, pod("low"))] == [403, 201]


def test_a_claim_that_grows_beyond_the_quota_is_refused(house: House) -> None:
    house.quota(requests_storage="3Gi", persistentvolumeclaims="5")
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    assert house.post("persistentvolumeclaims", {"metadata": {"name": "data"}, "spec": spec})[0] == 201
    assert house.used()["requests.storage"] == "1Gi"
    path = f"{CORE}/persistentvolumeclaims/data"
    code, told = house.client.request("PATCH", path, {"spec": {"resources": {"requests": {"storage": "4Gi"}}}}, MERGE)
    assert (code, "exceeded quota: q, requested: requests.storage=3Gi" in told["message"]) == (403, True)


def test_a_deployment_has_as_many_pods_as_fit_says_why_and_gets_the_rest_when_there_is_room(house: House) -> None:
    house.quota(pods="2")
    house.commit(Create(node()), UpdateStatus(node()))
    house.commit(Create(deployment(replicas=3)))
    assert len(house.pods()) == 2
    sets = [s for s in house.store.list("ReplicaSet") if isinstance(s, ReplicaSet)]
    failure = find_condition(sets[0].status.conditions, "ReplicaFailure")
    text = "Error creating: pods is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"
    assert failure is not None
    assert (failure.reason, failure.message, sets[0].status.replicas) == ("FailedCreate", text, 2)
    top = house.store.get("Deployment", "default", "web")
    assert isinstance(top, Deployment)
    assert find_condition(top.status.conditions, "ReplicaFailure") is not None
    assert house.said("FailedCreate") == [text]
    quota = house.store.get("ResourceQuota", "default", "q")
    assert isinstance(quota, ResourceQuota)
    house.commit(Update(quota.model_copy(update={"spec": quota.spec.model_copy(update={"hard": {"pods": "9"}})})))
    assert len(house.pods()) == 3
    top = house.store.get("Deployment", "default", "web")
    assert isinstance(top, Deployment)
    assert find_condition(top.status.conditions, "ReplicaFailure") is None
    assert house.used() == {"pods": "3"}


def test_a_stateful_set_does_not_count_the_pod_that_was_not_let_in(house: House) -> None:
    house.quota(pods="0")
    template = {"metadata": {"labels": {"app": "db"}}, "spec": pod_spec()}
    spec = {"selector": {"matchLabels": {"app": "db"}}, "serviceName": "db", "replicas": 2, "template": template}
    head = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db", "namespace": "default"}}
    house.commit(Create(parse(head | {"spec": spec})))
    made = house.store.get("StatefulSet", "default", "db")
    assert isinstance(made, StatefulSet)
    assert (made.status.replicas, made.status.current_replicas, made.status.updated_replicas) == (0, 0, 0)
    assert len(house.said("FailedCreate")) == 1


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from(["api", "scale", "delete", "hard"]), st.integers(0, 6)), max_size=12),
)
def test_what_is_used_is_what_is_there_and_never_grows_beyond_what_is_allowed(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    house = House(tmp_path_factory.mktemp("quota"))
    try:
        hard = 4
        house.quota(pods=str(hard))
        house.commit(Create(deployment(replicas=0)))
        for i, (what, number) in enumerate(steps):
            before = len(house.pods())
            if what == "api":
                house.post("pods", pod(f"lone-{i}"))
            elif what == "scale":
                top = house.store.get("Deployment", "default", "web")
                assert isinstance(top, Deployment)
                house.commit(Update(top.model_copy(update={"spec": top.spec.model_copy(update={"replicas": number})})))
            elif what == "delete" and house.pods():
                there = house.pods()[number % len(house.pods())].metadata
                house.commit(Delete("Pod", there.namespace, there.name))
            elif what == "hard":
                hard = number
                house.client.request("PATCH", f"{CORE}/resourcequotas/q", {"spec": {"hard": {"pods": hard}}}, MERGE)
                house.manager.settle()
            there_now = len(house.pods())
            assert house.used() == {"pods": str(there_now)}
            assert there_now <= max(hard, before)
    finally:
        house.store.close()


# ---------------------------------------------------------------- limits


def test_a_container_that_says_nothing_gets_the_defaults_of_its_namespace(house: House) -> None:
    limits = {"default": {"memory": "64Mi"}, "defaultRequest": {"memory": "32Mi", "cpu": "50m"}}
    house.post("limitranges", limit_range("Container", **limits))
    made = house.post("pods", pod("a"))[1]
    assert made["spec"]["containers"][0]["resources"] == {
        "limits": {"memory": "64Mi"},
        "requests": {"memory": "32Mi", "cpu": "50m"},
    }
    text = "LimitRanger plugin set: cpu, memory request for container c; memory limit for container c"
    assert made["metadata"]["annotations"] == {"kubernetes.io/limit-ranger": text}
    named = house.post("pods", pod("b", {"memory": "48Mi"}))[1]["spec"]["containers"][0]["resources"]
    assert (named["limits"], named["requests"]["memory"]) == ({"memory": "48Mi"}, "48Mi")


@pytest.mark.parametrize(
    ("kind", "values", "asks", "why"),
    [
        ("Container", {"max": {"memory": "1Gi"}}, {"memory": "2Gi"}, "maximum memory usage per Container is 1Gi"),
        ("Container", {"min": {"memory": "9Mi"}}, {"memory": "8Mi"}, "minimum memory usage per Container is 9Mi"),
        ("Pod", {"max": {"memory": "1Gi"}}, {}, "maximum memory usage per Pod is 1Gi.  No limit is specified"),
        (
            "Container",
            {"maxLimitRequestRatio": {"cpu": "2"}},
            {"cpu": "100m"},
            "cpu max limit to request ratio per Container is 2, but no limit is specified or limit is 0",
        ),
    ],
)
def test_a_pod_outside_the_bounds_is_forbidden_with_the_bound(
    house: House, kind: str, values: dict[str, dict[str, str]], asks: dict[str, str], why: str
) -> None:
    house.post("limitranges", limit_range(kind, **values))
    limits = asks if kind == "Container" and "max" in values else {}
    code, told = house.post("pods", pod("a", limits, **asks))
    assert (code, told["message"].startswith(f'pods "a" is forbidden: {why}')) == (403, True), told["message"]


def test_several_reasons_are_told_together(house: House) -> None:
    house.post("limitranges", limit_range("Container", min={"memory": "9Mi", "cpu": "1"}))
    code, told = house.post("pods", pod("a", {"memory": "8Mi", "cpu": "1m"}, memory="8Mi", cpu="1m"))
    assert code == 403
    assert told["message"] == (
        'pods "a" is forbidden: [minimum memory usage per Container is 9Mi, but request is 8Mi,'
        " minimum cpu usage per Container is 1, but request is 1m]"
    )


def test_a_claim_outside_the_bounds_is_forbidden(house: House) -> None:
    house.post("limitranges", limit_range("PersistentVolumeClaim", min={"storage": "1Gi"}, max={"storage": "2Gi"}))
    codes = []
    for name, size in (("small", "1Mi"), ("large", "9Gi"), ("right", "2Gi")):
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
        codes.append(house.post("persistentvolumeclaims", {"metadata": {"name": name}, "spec": spec})[0])
    assert codes == [403, 403, 201]


def test_a_deployments_pods_get_defaults_too_and_its_template_stays_as_written(house: House) -> None:
    house.post("limitranges", limit_range("Container", default={"memory": "64Mi"}))
    house.commit(Create(deployment(replicas=1)))
    assert house.pods()[0].spec.containers[0].resources.limits == {"memory": "64Mi"}
    top = house.store.get("Deployment", "default", "web")
    assert isinstance(top, Deployment)
    assert not top.spec.template.spec.containers[0].resources.limits
    assert len(house.store.list("ReplicaSet")) == 1
