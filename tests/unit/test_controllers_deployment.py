"""A Deployment's ReplicaSets, revisions, history and what it says of itself."""

from __future__ import annotations

from cloudlink.hub.changes import Create, Update
from cloudlink.hub.controllers.deployment import reconcile
from cloudlink.hub.controllers.family import DESIRED, REVISION
from cloudlink.hub.objects import HASH_LABEL, find_condition
from cloudlink.kube.apps import ReplicaSet
from tests.fakes.hub_brain import Cluster, deployment, with_meta


def condition(cluster: Cluster, kind: str) -> tuple[str, str]:
    found = find_condition(cluster.deployment.status.conditions, kind)
    assert found is not None
    return found.status, found.reason


def test_a_new_deployment_gets_one_set_named_after_its_template() -> None:
    wanted = with_meta(deployment(replicas=3), uid="d-1", annotations={"kubernetes.io/change-cause": "first"})
    decision = reconcile(wanted, [], [], 1.75e9, frozenset())
    [created] = [c.object for c in decision.changes if isinstance(c, Create)]
    assert isinstance(created, ReplicaSet)
    digest = created.metadata.labels[HASH_LABEL]
    assert created.metadata.name == f"web-{digest}"
    assert created.spec.selector.match_labels == {"app": "web", HASH_LABEL: digest}
    assert created.spec.template.metadata.labels == {"app": "web", HASH_LABEL: digest}
    assert created.spec.replicas == 3
    assert created.metadata.annotations[REVISION] == "1"
    assert created.metadata.annotations["kubernetes.io/change-cause"] == "first"
    [owner] = created.metadata.owner_references
    assert (owner.kind, owner.name, owner.uid, owner.controller) == ("Deployment", "web", "d-1", True)
    assert [n.message for n in decision.notes] == [f"Scaled up replica set {created.metadata.name} from 0 to 3"]


def test_a_name_that_another_template_has_taken_is_avoided() -> None:
    cluster = Cluster(deployment())
    name = next(c.object.metadata.name for c in cluster.ask_deployment().changes if isinstance(c, Create))
    decision = reconcile(cluster.deployment, [], [], cluster.clock.now, frozenset({name}))
    assert not [c for c in decision.changes if isinstance(c, Create)]
    cluster.commit(*decision.changes)
    assert cluster.deployment.status.collision_count == 1
    decision = reconcile(cluster.deployment, [], [], cluster.clock.now, frozenset({name}))
    [created] = [c.object for c in decision.changes if isinstance(c, Create)]
    assert created.metadata.name != name


def test_every_template_has_its_revision_and_going_back_gives_a_new_one() -> None:
    cluster = Cluster(deployment(image="demo:1"))
    cluster.run()
    cluster.use_image("demo:2")
    cluster.run()
    assert cluster.deployment.metadata.annotations[REVISION] == "2"
    cluster.use_image("demo:1")
    cluster.run()
    assert cluster.deployment.metadata.annotations[REVISION] == "3"
    assert len(cluster.sets) == 2
    assert sorted(s.metadata.annotations[REVISION] for s in cluster.sets) == ["2", "3"]


def test_history_keeps_only_as_many_empty_sets_as_it_may() -> None:
    cluster = Cluster(deployment(revisionHistoryLimit=2))
    for n in range(6):
        cluster.use_image(f"demo:{n}")
        cluster.run()
        cluster.clock.advance(60)
    assert len(cluster.sets) == 3
    assert [s.spec.replicas for s in cluster.sets].count(0) == 2


def test_scaling_only_changes_the_size_of_the_set() -> None:
    cluster = Cluster(deployment(replicas=2))
    cluster.run()
    cluster.change(replicas=5)
    cluster.run()
    [rs] = cluster.sets
    assert rs.spec.replicas == len(cluster.pods) == 5
    assert rs.metadata.annotations[DESIRED] == "5"
    cluster.change(replicas=0)
    cluster.run()
    assert cluster.pods == []
    cluster.change(replicas=1)
    cluster.run()
    assert len(cluster.pods) == 1


def test_recreate_starts_nothing_before_the_last_old_pod_is_off_its_node() -> None:
    cluster = Cluster(deployment(replicas=2, strategy={"type": "Recreate"}))
    cluster.run()
    cluster.use_image("demo:2")
    cluster.settle()
    assert cluster.pods == []
    assert len(cluster.all_pods) == 2
    assert all(p.metadata.deletion_timestamp for p in cluster.all_pods)
    cluster.settle()
    assert cluster.pods == []
    cluster.take_away()
    cluster.settle()
    assert [p.spec.containers[0].image for p in cluster.pods] == ["demo:2", "demo:2"]


def test_a_paused_deployment_rolls_nothing_out_but_scales() -> None:
    cluster = Cluster(deployment(replicas=1))
    cluster.run()
    cluster.change(paused=True)
    cluster.use_image("demo:2")
    cluster.change(replicas=3)
    cluster.run()
    assert [p.spec.containers[0].image for p in cluster.pods] == ["demo:1"] * 3
    assert condition(cluster, "Progressing") == ("Unknown", "DeploymentPaused")
    cluster.clock.advance(5)
    assert cluster.ask_deployment().changes == ()
    cluster.change(paused=False)
    cluster.run()
    assert [p.spec.containers[0].image for p in cluster.pods] == ["demo:2"] * 3


def test_pods_count_as_available_only_after_min_ready_seconds() -> None:
    cluster = Cluster(deployment(replicas=2, minReadySeconds=30))
    cluster.settle()
    cluster.bind_all()
    for p in cluster.pods:
        cluster.report(p, True)
    cluster.settle()
    assert cluster.deployment.status.ready_replicas == 2
    assert cluster.deployment.status.available_replicas == 0
    assert cluster.ask_deployment().wake_at == cluster.clock.now + 30
    cluster.clock.advance(30)
    cluster.settle()
    assert cluster.deployment.status.available_replicas == 2


def test_conditions_tell_how_the_rollout_goes() -> None:
    cluster = Cluster(deployment(replicas=1))
    cluster.step()
    assert condition(cluster, "Progressing") == ("True", "NewReplicaSetCreated")
    assert condition(cluster, "Available") == ("False", "MinimumReplicasUnavailable")
    cluster.run()
    assert condition(cluster, "Progressing") == ("True", "NewReplicaSetAvailable")
    assert condition(cluster, "Available") == ("True", "MinimumReplicasAvailable")
    cluster.report(cluster.pods[0], False)
    cluster.settle()
    assert condition(cluster, "Progressing") == ("True", "NewReplicaSetAvailable")
    assert condition(cluster, "Available") == ("False", "MinimumReplicasUnavailable")


def test_a_rollout_that_stands_still_is_reported_after_its_deadline() -> None:
    cluster = Cluster(deployment(replicas=1, progressDeadlineSeconds=60))
    cluster.settle()
    decision = cluster.ask_deployment()
    assert decision.changes == ()
    assert decision.wake_at == cluster.clock.now + 60
    cluster.clock.advance(61)
    cluster.settle()
    assert condition(cluster, "Progressing") == ("False", "ProgressDeadlineExceeded")
    assert cluster.ask_deployment().wake_at == float("inf")
    cluster.run()
    assert condition(cluster, "Progressing") == ("True", "NewReplicaSetAvailable")


def test_a_changed_label_of_the_deployment_itself_rolls_nothing() -> None:
    cluster = Cluster(deployment(replicas=1))
    cluster.run()
    cluster.commit(Update(with_meta(cluster.deployment, labels={"team": "garden"})))
    cluster.run()
    assert len(cluster.sets) == 1


def test_min_ready_seconds_reaches_the_set_without_a_rollout() -> None:
    cluster = Cluster(deployment(replicas=1))
    cluster.run()
    cluster.change(min_ready_seconds=7)
    cluster.run()
    [rs] = cluster.sets
    assert rs.spec.min_ready_seconds == 7
