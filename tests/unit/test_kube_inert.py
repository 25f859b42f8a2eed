"""What is taken without being acted upon says so, field by field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cloudlink.kube import kinds_page
from cloudlink.kube.inert import MAX_MESSAGES, inert_fields
from cloudlink.kube.parse import parse
from cloudlink.kube.registry import RESOURCES
from tests.unit.kube_documents import ACCEPTED


def said(kind: str, spec: dict[str, Any]) -> list[str]:
    version = "apps/v1" if kind in ("Deployment", "DaemonSet") else "v1"
    return inert_fields(parse({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}, "spec": spec}))


def pods(**spec: Any) -> dict[str, Any]:
    labels = {"a": "b"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}], **spec}}
    return {"selector": {"matchLabels": labels}, "template": template}


def test_a_field_of_a_template_that_nobody_looks_at_is_named_with_its_path_and_why() -> None:
    assert said("Deployment", pods(readinessGates=[{"conditionType": "x.example/y"}])) == [
        "spec.template.spec.readinessGates: not acted upon yet: a pod is ready when its containers are"
    ]


def test_an_ordinary_object_of_a_kind_that_somebody_acts_upon_has_nothing_to_say() -> None:
    assert said("Deployment", pods()) == []
    assert said("Service", {"ports": [{"port": 80}], "sessionAffinity": "None"}) == []
    told = {d["kind"] for d in ACCEPTED if inert_fields(parse(d))}
    inert = {r.kind for r in RESOURCES if r.inert}
    assert not told & inert, "a kind that is inert as a whole says only that"


def test_a_service_that_leads_in_from_outside_says_where_it_ends() -> None:
    node_port = said("Service", {"type": "NodePort", "ports": [{"port": 80}]})
    balancer = said("Service", {"type": "LoadBalancer", "ports": [{"port": 80}], "sessionAffinity": "ClientIP"})
    assert ["no port is opened on the nodes" in node_port[0], len(node_port)] == [True, 1]
    assert ["<pending>" in balancer[0], "sessionAffinity" in balancer[1], len(balancer)] == [True, True, 2]


def test_a_pod_with_many_such_fields_gets_a_bounded_answer() -> None:
    policy = [{"resourceName": "cpu"}]
    many = [{"name": f"c{i}", "image": "i", "resizePolicy": policy} for i in range(50)]
    assert len(said("Pod", {"containers": many})) == MAX_MESSAGES


def test_the_page_of_kinds_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "hub-kinds.md"
    assert page.read_text() == kinds_page.page(), "run: python -m cloudlink.kube.kinds_page > docs/hub-kinds.md"
