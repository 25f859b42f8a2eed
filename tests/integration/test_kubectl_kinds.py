"""Every kind in kubectl's hands: applied, listed, shown wide, described; and what charts render is taken as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudlink.kube.parse import load_yaml
from tests.fakes.hub_server import HubServer
from tests.kubectl_lab import NEWEST, OLDEST, versions

pytestmark = pytest.mark.kubectl
CASES = Path(__file__).parent.parent / "cases/kube"
MANIFESTS = ("accepted_every_kind", "accepted_helm_web", "accepted_helm_agents")
KINDS = (
    *("daemonsets", "statefulsets", "controllerrevisions", "replicationcontrollers", "jobs", "cronjobs", "endpoints"),
    *("endpointslices", "limitranges", "resourcequotas", "priorityclasses", "leases", "poddisruptionbudgets"),
    *("networkpolicies", "ingresses", "ingressclasses", "services", "pods"),
)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with HubServer(tmp_path_factory.mktemp("hub")) as server:
        yield server


@pytest.mark.parametrize("version", sorted(versions().keys() & {OLDEST, NEWEST, "PATH"}))
def test_every_kind_is_applied_listed_and_described(hub: HubServer, version: str) -> None:
    kubectl = versions()[version]
    for namespace in ("field", "monitoring"):
        hub.kubectl("create", "namespace", namespace, binary=kubectl)
    for name in MANIFESTS:
        text = (CASES / f"{name}.yaml").read_text()
        before = {}
        for _ in range(2):  # the second time nothing changes
            applied = hub.kubectl("apply", "-f", "-", stdin=text, binary=kubectl)
            assert applied.returncode == 0, applied.stderr
            assert len(applied.stdout.splitlines()) == len(load_yaml(text, name))
            shown = hub.kubectl("get", "-f", "-", "-o", "json", stdin=text, binary=kubectl).stdout
            after = {
                (o["kind"], o["metadata"]["name"]): o["metadata"]["resourceVersion"] for o in json.loads(shown)["items"]
            }
            assert before in ({}, after)
            before = after
    for kind in KINDS:
        for arguments in (("get", kind, "-o", "wide"), ("get", kind, "-o", "yaml"), ("describe", kind)):
            shown = hub.kubectl(*arguments, "--all-namespaces", binary=kubectl)
            assert shown.returncode == 0, (arguments, shown.stderr)
            assert "No resources found" not in shown.stderr, arguments
            assert "panic" not in shown.stderr, arguments


@pytest.mark.parametrize("version", sorted(versions().keys() & {OLDEST, NEWEST, "PATH"}))
def test_a_job_is_made_of_a_cron_job_and_its_table_reads_as_usual(hub: HubServer, version: str) -> None:
    kubectl = versions()[version]
    name = f"by-hand-{version.replace('.', '-').lower()}"
    cron = f"nightly-{version[-2:].lower()}"
    hub.kubectl("create", "cronjob", cron, "--image=i", "--schedule=@daily", "--", "true", binary=kubectl)
    made = hub.kubectl("create", "job", name, f"--from=cronjob/{cron}", binary=kubectl)
    assert made.returncode == 0, made.stderr
    job = json.loads(hub.kubectl("get", "job", name, "-o", "json", binary=kubectl).stdout)
    assert job["metadata"]["annotations"]["cronjob.kubernetes.io/instantiate"] == "manual"
    assert job["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"] == job["metadata"]["uid"]
    head, row = hub.kubectl("get", "job", name, binary=kubectl).stdout.splitlines()
    assert head.split() == ["NAME", "STATUS", "COMPLETIONS", "DURATION", "AGE"]
    assert row.split()[:3] == [name, "Running", "0/1"]


def test_quotas_budgets_ingresses_and_classes_are_made_by_kubectl_create(hub: HubServer) -> None:
    for line in (
        "quota small --hard=pods=3,requests.memory=1Gi",
        "pdb steady --selector=app=web --min-available=1",
        "ingress site --class=nginx --rule=site.example.com/*=web:80",
        "priorityclass important --value=1000 --description=first",
        "service externalname elsewhere --external-name=db.example.com",
        "service nodeport open --tcp=80:8080",
        "service loadbalancer wide --tcp=80:8080",
    ):
        made = hub.kubectl("create", *line.split())
        assert made.returncode == 0, (line, made.stderr)
    rows = {r.split()[0]: r.split() for r in hub.kubectl("get", "services").stdout.splitlines()[1:]}
    assert rows["elsewhere"][1:4] == ["ExternalName", "<none>", "db.example.com"]
    assert rows["wide"][3] == "<pending>"
    scaled = hub.kubectl("scale", "statefulset/redis", "--replicas=5", "-n", "default")
    assert scaled.returncode == 0, scaled.stderr
