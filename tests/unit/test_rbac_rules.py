"""RBAC as a pure question: rules, roles, bindings and who asks, in tables."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlink.hub.auth import policy
from cloudlink.hub.auth.escalation import objection
from cloudlink.hub.auth.rbac import Index
from cloudlink.hub.auth.requests import Request, refusal, request_of
from cloudlink.hub.auth.rules import Rule, described, missing
from cloudlink.hub.auth.users import MASTERS, User, account_of, authenticated
from cloudlink.hub.changes import Create, Update
from cloudlink.hub.controllers.access import aggregated, default_account, gathering
from cloudlink.kube.core import Namespace
from cloudlink.kube.meta import KubeObject, ObjectMeta
from cloudlink.kube.parse import parse
from cloudlink.kube.rbac import ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding

API = "rbac.authorization.k8s.io"


def rule(verbs: str, resources: str = "", group: str = "", names: str = "", urls: str = "") -> PolicyRule:
    """Words for lists: rule("get list", "pods pods/log")."""
    return PolicyRule(
        verbs=tuple(verbs.split()),
        api_groups=() if urls else (group,),
        resources=tuple(resources.split()),
        resource_names=tuple(names.split()),
        non_resource_urls=tuple(urls.split()),
    )


def role(name: str, *rules: PolicyRule, namespace: str = "", labels: dict[str, str] | None = None) -> Any:
    meta = ObjectMeta(name=name, namespace=namespace, labels=labels or {})
    return Role(metadata=meta, rules=rules) if namespace else ClusterRole(metadata=meta, rules=rules)


def binding(name: str, ref: str, *subjects: str, namespace: str = "") -> Any:
    """ref: "Role/reader"; subjects: "User/ann", "Group/team", "ServiceAccount/ns/robot"."""
    kind, _, of = ref.partition("/")
    listed = []
    for subject in subjects:
        sort, *place, who = subject.split("/")
        listed.append({"kind": sort, "name": who, **({"namespace": place[0]} if place else {})})
    document = {
        "apiVersion": f"{API}/v1",
        "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
        "metadata": {"name": name, **({"namespace": namespace} if namespace else {})},
        "roleRef": {"apiGroup": API, "kind": kind, "name": of},
        "subjects": listed,
    }
    return parse(document)


def index(*objects: KubeObject) -> Index:
    made = Index()
    for obj in objects:
        made.put(obj)
    return made


def ask(verb: str, resource: str, namespace: str = "", name: str = "", group: str = "") -> Request:
    plural, _, subresource = resource.partition("/")
    return Request(
        verb, group=group, version="v1", resource=plural, subresource=subresource, namespace=namespace, name=name
    )


# ---------------------------------------------------------------- one rule

PODS = rule("get list", "pods")


@pytest.mark.parametrize(
    ("of", "asked", "allowed"),
    [
        (PODS, ask("get", "pods"), True),
        (PODS, ask("list", "pods"), True),
        (PODS, ask("delete", "pods"), False),
        (PODS, ask("get", "pods/log"), False),  # a subresource is another resource
        (PODS, ask("get", "pods", group="metrics.k8s.io"), False),
        (rule("*", "pods"), ask("anything", "pods"), True),
        (rule("get", "*"), ask("get", "pods/log"), True),
        (rule("get", "pods/*"), ask("get", "pods/log"), False),  # Kubernetes knows no such wildcard
        (rule("get", "*/scale"), ask("get", "deployments/scale"), True),
        (rule("get", "*/scale"), ask("get", "deployments"), False),
        (rule("get", "*/scale"), ask("get", "deployments/status"), False),
        (rule("get", "pods", "*"), ask("get", "pods", group="metrics.k8s.io"), True),
        (rule("get", "pods/log"), ask("get", "pods/log"), True),
        (rule("get", "pods/log"), ask("get", "pods"), False),
        (rule("get", "secrets", names="a b"), ask("get", "secrets", name="b"), True),
        (rule("get", "secrets", names="a b"), ask("get", "secrets", name="c"), False),
        (rule("list", "secrets", names="a"), ask("list", "secrets"), False),  # all of them is more than a
        (rule("create", "secrets", names="a"), ask("create", "secrets"), False),  # it has no name yet
        (rule("get", urls="/version"), Request("get", "/version", of_resource=False), True),
        (rule("get", urls="/version"), Request("get", "/versions", of_resource=False), False),
        (rule("get", urls="/api/*"), Request("get", "/api/v1", of_resource=False), True),
        (rule("get", urls="/api/*"), Request("get", "/api", of_resource=False), False),
        (rule("get", urls="*"), Request("get", "/whatever", of_resource=False), True),
        (rule("get", urls="*"), ask("get", "pods"), False),
        (rule("*", "*", "*"), Request("get", "/version", of_resource=False), False),
    ],
)
def test_a_rule_allows_what_it_says_and_nothing_else(of: PolicyRule, asked: Request, allowed: bool) -> None:
    assert Rule.of(of).allows(asked) is allowed


# ---------------------------------------------------------------- bindings

ANN = authenticated("ann", ("team",))
ROBOT = authenticated("system:serviceaccount:red:robot", ("system:serviceaccounts", "system:serviceaccounts:red"))


@pytest.mark.parametrize(
    ("bound", "who", "namespace", "allowed"),
    [
        (binding("b", "ClusterRole/reader", "User/ann"), ANN, "", True),
        (binding("b", "ClusterRole/reader", "User/ann"), ANN, "red", True),
        (binding("b", "ClusterRole/reader", "Group/team"), ANN, "red", True),
        (binding("b", "ClusterRole/reader", "Group/ann"), ANN, "red", False),
        (binding("b", "ClusterRole/reader", "User/bob"), ANN, "red", False),
        (binding("b", "ClusterRole/reader", "User/ann", namespace="red"), ANN, "red", True),
        (binding("b", "ClusterRole/reader", "User/ann", namespace="red"), ANN, "blue", False),
        (binding("b", "ClusterRole/reader", "User/ann", namespace="red"), ANN, "", False),
        (binding("b", "Role/reader", "User/ann", namespace="red"), ANN, "red", True),
        (binding("b", "Role/reader", "User/ann", namespace="blue"), ANN, "blue", False),  # no such Role there
        (binding("b", "Role/reader", "ServiceAccount/robot", namespace="red"), ROBOT, "red", True),
        (binding("b", "ClusterRole/reader", "ServiceAccount/red/robot", namespace="blue"), ROBOT, "blue", True),
        (binding("b", "ClusterRole/reader", "ServiceAccount/blue/robot", namespace="blue"), ROBOT, "blue", False),
        (binding("b", "ClusterRole/reader", "ServiceAccount/red/robot"), ROBOT, "", True),
        (binding("b", "ClusterRole/reader", "Group/system:serviceaccounts:red"), ROBOT, "", True),
        (binding("b", "ClusterRole/reader", "Group/system:authenticated"), ANN, "", True),
    ],
)
def test_a_binding_gives_its_role_where_it_is_and_to_whom_it_names(
    bound: KubeObject, who: User, namespace: str, allowed: bool
) -> None:
    held = index(role("reader", PODS), role("reader", PODS, namespace="red"), bound)
    assert held.check(who, ask("get", "pods", namespace)).allowed is allowed


def test_the_reason_names_binding_role_and_subject_as_kubernetes_does() -> None:
    held = index(role("reader", PODS), binding("b", "ClusterRole/reader", "Group/team", namespace="red"))
    verdict = held.check(ANN, ask("get", "pods", "red"))
    assert verdict.reason == 'RBAC: allowed by RoleBinding "b/red" of ClusterRole "reader" to Group "team"'


def test_a_role_that_is_gone_gives_nothing_and_is_named() -> None:
    verdict = index(binding("b", "ClusterRole/reader", "User/ann")).check(ANN, ask("get", "pods"))
    assert not verdict.allowed
    assert verdict.reason == 'RBAC: clusterrole.rbac.authorization.k8s.io "reader" not found'


def test_masters_may_do_everything_without_any_binding() -> None:
    assert Index().check(User("x", (MASTERS,)), ask("delete", "nodes")).allowed


def test_what_is_changed_or_taken_away_counts_at_once() -> None:
    held = index(role("reader", PODS), binding("b", "ClusterRole/reader", "User/ann", "User/bob", namespace="red"))
    held.put(binding("b", "ClusterRole/reader", "User/bob", namespace="red"))
    bob = User("bob")
    assert not held.check(ANN, ask("get", "pods", "red")).allowed
    assert held.check(bob, ask("get", "pods", "red")).allowed
    held.put(role("reader", rule("get", "secrets")))
    assert not held.check(bob, ask("get", "pods", "red")).allowed
    held.put(role("reader", PODS))
    held.drop(binding("b", "ClusterRole/reader", "User/other", namespace="red"))
    assert not held.check(bob, ask("get", "pods", "red")).allowed


names = st.sampled_from(["a", "b", "c"])
steps = st.lists(
    st.tuples(st.booleans(), st.sampled_from(["", "red"]), names, st.lists(names.map("User/{}".format), max_size=2)),
    max_size=30,
)


@given(steps)
def test_an_index_that_was_kept_up_says_what_a_fresh_one_says(history: list[tuple[bool, str, str, list[str]]]) -> None:
    kept, there = index(role("r", PODS)), {}
    for added, namespace, name, subjects in history:
        obj = binding(name, "ClusterRole/r", *subjects, namespace=namespace)
        if added:
            kept.put(obj)
            there[namespace, name] = obj
        else:
            kept.drop(obj)
            there.pop((namespace, name), None)
    fresh = index(role("r", PODS), *there.values())
    for who in "abc":
        for namespace in ("", "red", "blue"):
            question = ask("get", "pods", namespace)
            assert kept.check(User(who), question).allowed == fresh.check(User(who), question).allowed


def test_a_question_looks_only_at_the_bindings_of_who_asks() -> None:
    """With a thousand bindings it is not a thousand times the work."""
    few = index(role("reader", PODS), binding("b0", "ClusterRole/reader", "User/ann"))
    many = index(
        role("reader", PODS),
        *(binding(f"b{n}", "ClusterRole/reader", f"User/u{n}", f"Group/g{n}") for n in range(1000)),
        binding("mine", "ClusterRole/reader", "User/ann"),
    )
    begin = time.perf_counter()
    for _ in range(200):
        assert many.check(ANN, ask("get", "pods")).allowed
    print(f"one check among a thousand bindings: {(time.perf_counter() - begin) / 200 * 1e6:.1f} us")
    for held in (few, many):
        assert len(list(held._bindings(ANN, "red"))) == 1


# ---------------------------------------------------------------- requests


@pytest.mark.parametrize(
    ("method", "path", "query", "expected"),
    [
        ("GET", "/api/v1/pods", {}, ask("list", "pods")),
        ("GET", "/api/v1/pods", {"watch": "true"}, ask("watch", "pods")),
        ("GET", "/api/v1/watch/namespaces/red/pods", {}, ask("watch", "pods", "red")),
        ("GET", "/api/v1/namespaces/red/pods/p", {}, ask("get", "pods", "red", "p")),
        ("GET", "/api/v1/namespaces/red/pods", {"fieldSelector": "metadata.name=p"}, ask("list", "pods", "red", "p")),
        ("GET", "/api/v1/namespaces/red/pods/p/log", {}, ask("get", "pods/log", "red", "p")),
        ("POST", "/api/v1/namespaces/red/pods/p/exec", {}, ask("create", "pods/exec", "red", "p")),
        ("POST", "/api/v1/namespaces/red/pods", {}, ask("create", "pods", "red")),
        ("PUT", "/api/v1/namespaces/red/pods/p/status", {}, ask("update", "pods/status", "red", "p")),
        ("PATCH", "/api/v1/namespaces/red/pods/p", {}, ask("patch", "pods", "red", "p")),
        ("DELETE", "/api/v1/namespaces/red/pods/p", {}, ask("delete", "pods", "red", "p")),
        ("DELETE", "/api/v1/namespaces/red/pods", {}, ask("deletecollection", "pods", "red")),
        ("GET", "/api/v1/namespaces/red", {}, ask("get", "namespaces", "red", "red")),
        ("PUT", "/api/v1/namespaces/red/finalize", {}, ask("update", "namespaces/finalize", "red", "red")),
        ("GET", "/api/v1/namespaces", {}, ask("list", "namespaces")),
        ("GET", "/apis/example.org/v1/namespaces/red/ships", {}, ask("list", "ships", "red", group="example.org")),
        ("GET", "/api/v1//namespaces/red//secrets", {}, ask("list", "secrets", "red")),
        ("POST", "/api/v1/watch/namespaces/red/pods", {}, ask("create", "pods", "red")),
        ("GET", "/apis/e.org/v1/namespaces/red/status/x", {}, ask("get", "status", "red", "x", group="e.org")),
        ("GET", "/api/v1/namespaces/red/pods", {"fieldSelector": ""}, ask("list", "pods", "red")),
        ("GET", "/api/v1/namespaces/red/pods", {"fieldSelector": "metadata.name!=p"}, ask("list", "pods", "red")),
        ("GET", "/api/v1/namespaces/red/pods/p", {"watch": "1"}, ask("watch", "pods", "red", "p")),
    ],
)
def test_a_request_is_taken_apart_as_apiserver_does(
    method: str, path: str, query: dict[str, str], expected: Request
) -> None:
    found = request_of(method, path, query)
    assert (found.verb, found.group, found.combined, found.namespace, found.name) == (
        expected.verb,
        expected.group,
        expected.combined,
        expected.namespace,
        expected.name,
    )


@pytest.mark.parametrize("path", ["/", "/version", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/x/y"])
def test_paths_that_are_no_resource_are_asked_for_as_paths(path: str) -> None:
    assert request_of("GET", path, {}) == Request("get", path, of_resource=False)


def test_running_something_in_a_pod_is_create_even_when_a_websocket_asks_by_get() -> None:
    path = "/api/v1/namespaces/red/pods/p"
    assert request_of("GET", f"{path}/exec", {}, upgrade=True).verb == "create"
    assert request_of("GET", f"{path}/exec", {}).verb == "get"
    assert request_of("GET", path, {}, upgrade=True).verb == "get"  # an upgrade that nobody answers is no way around


@given(st.text(st.characters(codec="utf-8"), max_size=60), st.sampled_from(["GET", "POST", "BREW"]))
def test_no_path_is_too_strange_to_be_asked_about(path: str, method: str) -> None:
    found = request_of(method, f"/api/v1/{path}", {})
    assert not Index().check(ANN, found).allowed
    assert "cannot" in refusal("ann", found)


def test_the_refusal_is_worded_as_kubernetes_words_it() -> None:
    assert refusal("x", ask("list", "pods", "y")) == (
        'pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "y"'
    )
    assert refusal("x", ask("get", "deployments/scale", "y", "web", "apps")) == (
        'deployments.apps "web" is forbidden: User "x" cannot get resource "deployments/scale" in API group "apps"'
        ' in the namespace "y"'
    )
    assert refusal("x", ask("list", "nodes")).endswith('in API group "" at the cluster scope')
    assert refusal("x", Request("get", "/version", of_resource=False)) == (
        'forbidden: User "x" cannot get path "/version"'
    )


def test_account_names_are_taken_apart_and_nothing_else_passes_for_one() -> None:
    assert account_of("system:serviceaccount:red:robot") == ("red", "robot")
    for other in ("ann", "system:serviceaccount:red", "system:serviceaccount::x", "system:serviceaccount:a:b:c"):
        assert account_of(other) is None


# ---------------------------------------------------------------- covering, escalation


@pytest.mark.parametrize(
    ("owned", "wanted", "lacking"),
    [
        ([PODS], PODS, []),
        ([rule("*", "pods")], PODS, []),
        ([rule("get", "pods"), rule("list", "pods")], PODS, []),
        ([rule("get", "pods")], PODS, ['{APIGroups:[""], Resources:["pods"], Verbs:["list"]}']),
        ([rule("get list", "*", "*")], PODS, []),
        ([rule("get list", "pods", names="a")], PODS, ['{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}']),
        ([PODS], rule("get", "pods", names="a"), []),
        ([rule("get", "*/log")], rule("get", "pods/log"), []),
        ([rule("get", "pods")], rule("get", "pods/log"), ['{APIGroups:[""], Resources:["pods/log"], Verbs:["get"]}']),
        ([rule("get", urls="/api/*")], rule("get", urls="/api/v1"), []),
        ([rule("get", urls="/api/*")], rule("get", urls="/*"), ['{NonResourceURLs:["/*"], Verbs:["get"]}']),
        ([PODS], rule("*", "pods"), ['{APIGroups:[""], Resources:["pods"], Verbs:["*"]}']),
    ],
)
def test_rights_cover_others_piece_by_piece(owned: list[PolicyRule], wanted: PolicyRule, lacking: list[str]) -> None:
    assert described(missing(owned, [wanted])) == lacking


def giver(*rules: PolicyRule) -> Index:
    """An index in which ann may do that much in the namespace red."""
    return index(
        role("hers", *rules, namespace="red"),
        binding("hers", "Role/hers", "User/ann", namespace="red"),
        role("strong", rule("*", "*", "*")),
        role("weak", rule("get", "pods")),
    )


@pytest.mark.parametrize(
    ("may", "writes", "fine"),
    [
        ([PODS], role("r", rule("get", "pods"), namespace="red"), True),
        ([PODS], role("r", rule("get", "secrets"), namespace="red"), False),
        ([PODS, rule("escalate", "roles", API)], role("r", rule("get", "secrets"), namespace="red"), True),
        ([PODS], binding("b", "ClusterRole/weak", "User/bob", namespace="red"), True),
        ([PODS], binding("b", "ClusterRole/strong", "User/ann", namespace="red"), False),
        (
            [PODS, rule("bind", "clusterroles", API)],
            binding("b", "ClusterRole/strong", "User/x", namespace="red"),
            True,
        ),
        (
            [PODS, rule("bind", "clusterroles", API, names="weak")],
            binding("b", "ClusterRole/strong", "User/x", namespace="red"),
            False,
        ),
        ([PODS], binding("b", "ClusterRole/none", "User/x", namespace="red"), False),
        ([PODS], binding("b", "ClusterRole/weak", "User/bob"), False),  # in the whole cluster she may nothing
    ],
)
def test_nobody_gives_away_more_than_they_have(may: list[PolicyRule], writes: KubeObject, fine: bool) -> None:
    why = objection(giver(*may), ANN, writes, None)
    assert (why == "") is fine
    assert objection(Index(), User("root", (MASTERS,)), writes, None) == ""


def test_an_aggregating_role_takes_all_rights_there_are() -> None:
    selector = {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}
    document = {"apiVersion": f"{API}/v1", "kind": "ClusterRole", "metadata": {"name": "all"}}
    gathering = parse(document | {"aggregationRule": selector})
    everything = role("root", rule("*", "*", "*"), rule("*", urls="*"))
    strong = index(everything, binding("b", "ClusterRole/root", "User/ann"))
    assert objection(strong, ANN, gathering, None) == ""
    assert "cluster-admin privileges" in objection(giver(PODS), ANN, gathering, None)


def test_owners_and_finalizers_may_change_but_a_label_gives_the_role_to_others() -> None:
    before = role("r", rule("*", "*", "*"), namespace="red")
    released = before.model_copy(update={"metadata": ObjectMeta(name="r", namespace="red", finalizers=("x/y",))})
    assert objection(giver(PODS), ANN, released, before) == ""
    labelled = before.model_copy(update={"metadata": ObjectMeta(name="r", namespace="red", labels={"a": "b"})})
    assert "not currently held" in objection(giver(PODS), ANN, labelled, before)
    bound = binding("b", "ClusterRole/strong", "User/bob", namespace="red")
    wider = binding("b", "ClusterRole/strong", "User/bob", "User/ann", namespace="red")
    assert objection(giver(PODS), ANN, bound, bound) == ""
    assert "not currently held" in objection(giver(PODS), ANN, wider, bound)


# ---------------------------------------------------------------- aggregation, bootstrap


def test_an_aggregating_role_has_the_rules_of_those_it_selects_each_once() -> None:
    parts = [role(n, PODS, rule("get", n), labels={"to": "all"}) for n in ("b", "a")]
    document = {
        "apiVersion": f"{API}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "all"},
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "all"}}]},
    }
    gatherer = parse(document)
    assert isinstance(gatherer, ClusterRole)
    made = aggregated(gatherer, [*parts, gatherer, role("c", rule("get", "c"))])
    assert made.rules == (PODS, rule("get", "a"), rule("get", "b"))
    assert gathering(made, [*parts, made]).changes == ()
    [change] = gathering(gatherer, [*parts, gatherer]).changes
    assert isinstance(change, Update)
    assert change.object == made


def test_a_namespace_gets_its_default_account_unless_it_has_one_or_goes() -> None:
    home = parse({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "red"}})
    assert isinstance(home, Namespace)
    [change] = default_account(home, exists=False).changes
    assert isinstance(change, Create)
    assert change.object.title == "red/default"
    going = home.model_copy(update={"metadata": ObjectMeta(name="red", deletion_timestamp="2026-01-01T00:00:00Z")})
    assert default_account(home, exists=True).changes == default_account(going, exists=False).changes == ()


def bootstrapped() -> list[KubeObject]:
    return [c.object for c in policy.mend([], []) if isinstance(c, Create)]


def test_the_bootstrap_policy_has_its_roles_and_who_has_just_logged_in_may_hardly_anything() -> None:
    held = index(*bootstrapped())
    assert held.check(ANN, Request("get", "/apis/apps/v1", of_resource=False)).allowed
    assert held.check(ANN, ask("create", "selfsubjectaccessreviews", group="authorization.k8s.io")).allowed
    for question in (ask("get", "pods", "red"), ask("list", "secrets"), ask("create", "jointokens", group="edged.dev")):
        assert not held.check(ANN, question).allowed
        assert held.check(User("x", (MASTERS,)), question).allowed


@pytest.mark.parametrize(
    ("of", "asked", "allowed"),
    [
        ("view", ask("list", "pods", "red"), True),
        ("view", ask("get", "pods/log", "red"), True),
        ("view", ask("get", "deployments", "red", group="apps"), True),
        ("view", ask("get", "secrets", "red"), False),
        ("view", ask("create", "pods/exec", "red"), False),
        ("view", ask("delete", "pods", "red"), False),
        ("view", ask("get", "roles", "red", group=API), False),
        ("edit", ask("get", "secrets", "red"), True),
        ("edit", ask("create", "pods/exec", "red"), True),
        ("edit", ask("patch", "deployments/scale", "red", group="apps"), True),
        ("edit", ask("create", "serviceaccounts/token", "red"), True),
        ("edit", ask("create", "rolebindings", "red", group=API), False),
        ("edit", ask("update", "resourcequotas", "red"), False),
        ("edit", ask("get", "pods", "blue"), False),
        ("admin", ask("create", "rolebindings", "red", group=API), True),
        ("admin", ask("list", "pods", "red"), True),
        ("admin", ask("create", "pods/eviction", "red"), True),
        ("admin", ask("delete", "namespaces", "red", "red"), False),
        ("cluster-admin", ask("delete", "anything", "red", group="example.org"), True),
    ],
)
def test_the_roles_that_people_know_allow_what_people_expect(of: str, asked: Request, allowed: bool) -> None:
    held = index(*bootstrapped(), binding("b", f"ClusterRole/{of}", "User/ann", namespace="red"))
    assert held.check(ANN, asked).allowed is allowed


def test_an_administrator_of_a_namespace_may_give_away_edit_there_but_not_cluster_admin() -> None:
    held = index(*bootstrapped(), binding("b", "ClusterRole/admin", "User/ann", namespace="red"))
    assert objection(held, ANN, binding("x", "ClusterRole/edit", "User/bob", namespace="red"), None) == ""
    assert objection(held, ANN, binding("x", "ClusterRole/cluster-admin", "User/bob", namespace="red"), None)
    assert objection(held, ANN, binding("x", "ClusterRole/view", "User/bob", namespace="blue"), None)


def split(objects: list[KubeObject]) -> tuple[list[ClusterRole], list[ClusterRoleBinding]]:
    return (
        [o for o in objects if isinstance(o, ClusterRole)],
        [o for o in objects if isinstance(o, ClusterRoleBinding)],
    )


def test_mending_what_is_whole_changes_nothing() -> None:
    assert policy.mend(*split(bootstrapped())) == []


def test_what_a_bootstrap_role_lacks_is_added_and_what_people_gave_it_stays() -> None:
    roles, bindings = split(bootstrapped())
    extra = rule("get", "ships", "example.org")
    basic = next(r for r in roles if r.metadata.name == "system:basic-user")
    changed = basic.model_copy(update={"rules": (extra,)})
    [change] = policy.mend([changed if r is basic else r for r in roles], bindings)
    assert isinstance(change, Update)
    assert isinstance(change.object, ClusterRole)
    assert set(change.object.rules) == {extra, *basic.rules}


def test_a_bootstrap_role_that_is_not_to_be_mended_stays_as_it_is() -> None:
    roles, bindings = split(bootstrapped())
    basic = next(r for r in roles if r.metadata.name == "system:basic-user")
    meta = basic.metadata.model_copy(update={"annotations": {policy.AUTOUPDATE: "false"}})
    emptied = basic.model_copy(update={"rules": (), "metadata": meta})
    assert policy.mend([emptied if r is basic else r for r in roles], bindings) == []


def test_roles_and_bindings_are_checked_with_kubernetes_words() -> None:
    assert isinstance(role("system:a:b", PODS), ClusterRole)
    assert isinstance(binding("b", "Role/x", "User/y", namespace="red"), RoleBinding)
