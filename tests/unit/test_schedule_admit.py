"""What no node could ever run is refused when it is applied, with the field and the numbers."""

from __future__ import annotations

from cloudlink.hub.schedule.admit import impossible
from cloudlink.kube.apps import Deployment
from cloudlink.kube.core import Pod
from cloudlink.kube.parse import parse
from tests.fakes.hub_brain import MIB, deployment, node, pod, pod_spec


def asking(memory: str, replicas: int = 1) -> Deployment:
    template = {"metadata": {"labels": {"app": "web"}}, "spec": pod_spec(memory)}
    return deployment(replicas=replicas, template=template)


def test_more_memory_than_the_largest_node_has_is_refused_with_both_numbers() -> None:
    [cause] = impossible(pod("a", memory="4Gi"), None, [node("a", 400 * MIB), node("b", 922 * MIB)])
    assert cause.field == "spec.containers[0].resources.requests.memory"
    assert cause.message == "needs 4 GiB, the largest node has 922 MiB allocatable"


def test_pod_templates_are_checked_as_well() -> None:
    [cause] = impossible(asking("4Gi"), None, [node()])
    assert cause.field == "spec.template.spec.containers[0].resources.requests.memory"


def test_nothing_is_refused_while_no_node_is_known() -> None:
    assert impossible(asking("4Gi"), None, []) == ()
    silent = node().model_copy(update={"status": node().status.model_copy(update={"allocatable": {}, "capacity": {}})})
    assert impossible(asking("4Gi"), None, [silent]) == ()


def test_a_full_fleet_refuses_nothing_that_would_fit_an_empty_one() -> None:
    assert impossible(pod("a", memory="900Mi"), None, [node(ready=False)]) == ()


def test_what_was_accepted_before_may_still_be_scaled() -> None:
    assert impossible(asking("4Gi", replicas=3), asking("4Gi"), [node()]) == ()
    assert len(impossible(asking("5Gi"), asking("4Gi"), [node()])) == 1


def test_containers_that_fit_alone_but_not_together_are_refused() -> None:
    spec = pod_spec("500Mi")
    spec["containers"].append({**spec["containers"][0], "name": "second"})
    both = parse({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "default"}, "spec": spec})
    assert isinstance(both, Pod)
    [cause] = impossible(both, None, [node()])
    assert cause.field == "spec.containers"
    assert cause.message == "the containers together need 1000 MiB memory, the largest node has 900 MiB allocatable"


def test_cpu_counts_too() -> None:
    [cause] = impossible(pod("a", cpu="5"), None, [node(cpu=4000)])
    assert cause.message == "needs 5 cpu, the largest node has 4 allocatable"


def test_no_single_node_with_both_is_told_as_such() -> None:
    nodes = [node("a", 4000 * MIB, cpu=1000), node("b", 400 * MIB, cpu=4000)]
    [cause] = impossible(pod("a", memory="2Gi", cpu="3"), None, nodes)
    assert cause.message == "needs 2 GiB and 3 cpu together, no node has both allocatable"


def test_init_containers_are_refused_by_their_own_field_and_count_with_their_sidecars() -> None:
    def sized(name: str, memory: str, **parts: str) -> dict[str, object]:
        return {"name": name, "image": "demo:1", "resources": {"limits": {"memory": memory}}, **parts}

    large = pod("a", containers=[sized("main", "1Mi")], initContainers=[sized("setup", "2Gi")])
    [cause] = impossible(large, None, [node("pi", 900 * MIB)])
    assert cause.field == "spec.initContainers[0].resources.requests.memory"
    sidecar = sized("side", "500Mi", restartPolicy="Always")
    together = pod("a", containers=[sized("main", "500Mi")], initContainers=[sidecar])
    [cause] = impossible(together, None, [node("pi", 900 * MIB)])
    assert cause.message == "the containers together need 1000 MiB memory, the largest node has 900 MiB allocatable"
    one_after_the_other = pod("a", containers=[sized("main", "500Mi")], initContainers=[sized("setup", "500Mi")])
    assert impossible(one_after_the_other, None, [node("pi", 900 * MIB)]) == ()


def test_a_job_is_measured_at_the_place_where_its_pods_are_described() -> None:
    spec = {**pod_spec("4Gi"), "restartPolicy": "Never"}
    job = {"template": {"spec": spec}}
    meta = {"name": "backup", "namespace": "default"}
    made = {
        "spec.template.spec": parse({"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": job}),
        "spec.jobTemplate.spec.template.spec": parse(
            {
                "apiVersion": "batch/v1", "kind": "CronJob", "metadata": meta,
                "spec": {"schedule": "0 3 * * *", "jobTemplate": {"spec": job}},
            }
        ),
    }  # fmt: skip
    for path, obj in made.items():
        [cause] = impossible(obj, None, [node()])
        assert cause.field == f"{path}.containers[0].resources.requests.memory"
