"""Revisions that fail are undone once, by the hub alone; nobody's good pods are touched for it."""

from __future__ import annotations

from typing import Any

from cloudlink.hub.changes import Update
from cloudlink.hub.controllers.family import REVISION
from cloudlink.hub.objects import find_condition
from cloudlink.kube.annotations import PROVEN_AFTER, RESTORED, ROLLBACK, SUCCEEDED, WAVE, WAVES
from tests.fakes.hub_brain import Cluster, deployment, with_meta
from tests.fakes.rollouts import annotate, crash, image_of, lose_image, tell, updated


def condition(cluster: Cluster, kind: str) -> tuple[str, str]:
    found = find_condition(cluster.deployment.status.conditions, kind)
    return (found.status, found.reason) if found else ("", "")


def good_then(image: str, **spec: Any) -> Cluster:
    """A Deployment of demo:1 that was good for a while; then its image is changed, and the first new pods exist."""
    cluster = Cluster(deployment(image="demo:1", **spec))
    cluster.run()
    cluster.clock.advance(60)
    cluster.run()
    cluster.use_image(image)
    cluster.settle()
    cluster.bind_all()
    return cluster


def until_undone(cluster: Cluster) -> list[str]:
    """Settle; the messages of the warnings on the way."""
    return [n.message for n in tell(cluster) if n.type == "Warning"]


def test_a_revision_becomes_good_once_its_pods_were_ready_for_a_while() -> None:
    cluster = Cluster(deployment(replicas=2))
    cluster.run()
    assert SUCCEEDED not in cluster.sets[0].metadata.annotations
    assert cluster.ask_deployment().wake_at == cluster.clock.now + 30
    cluster.clock.advance(30)
    cluster.run()
    assert cluster.sets[0].metadata.annotations[SUCCEEDED] == "1"
    assert cluster.ask_deployment().wake_at == float("inf")


def test_how_long_that_while_is_can_be_said() -> None:
    cluster = Cluster(with_meta(deployment(), annotations={PROVEN_AFTER: "2h"}))
    cluster.run()
    assert cluster.ask_deployment().wake_at == cluster.clock.now + 7200
    cluster.clock.advance(3600)
    cluster.run()
    assert SUCCEEDED not in cluster.sets[0].metadata.annotations
    annotate(cluster, {PROVEN_AFTER: "0s"})
    cluster.run()
    assert cluster.sets[0].metadata.annotations[SUCCEEDED] == "1"


def test_an_image_that_can_not_be_pulled_is_undone_and_no_good_pod_goes() -> None:
    cluster = good_then("demo:2", replicas=3)
    before = {p.metadata.uid for p in cluster.pods if image_of(p) == "demo:1"}
    assert len(before) == 3
    lose_image(cluster)
    assert until_undone(cluster) == []  # it may be there in a moment
    cluster.clock.advance(31)
    [said] = until_undone(cluster)
    assert said.startswith("revision 2 (image demo:2) undone: 1 of 1 new pods ImagePullBackOff: back-off pulling image")
    assert said.endswith("; revision 1 (image demo:1) is rolled out again, as revision 3")
    assert cluster.deployment.spec.template.spec.containers[0].image == "demo:1"
    assert cluster.deployment.metadata.annotations[REVISION] == "3"
    assert condition(cluster, "RolledBack") == ("True", "ImagePullBackOff")
    cluster.run()
    assert {p.metadata.uid for p in cluster.pods} == before
    assert condition(cluster, "Progressing") == ("True", "NewReplicaSetAvailable")
    assert condition(cluster, "RolledBack") == ("True", "ImagePullBackOff")


def test_kubectl_sees_the_failure_before_the_template_goes_back() -> None:
    cluster = good_then("demo:2")
    lose_image(cluster)
    cluster.clock.advance(31)
    decision = cluster.ask_deployment()
    assert not any(isinstance(c, Update) for c in decision.changes)
    cluster.commit(*decision.changes)
    status = cluster.deployment.status
    assert status.observed_generation == cluster.deployment.metadata.generation
    assert condition(cluster, "Progressing") == ("False", "ProgressDeadlineExceeded")
    assert cluster.deployment.spec.template.spec.containers[0].image == "demo:2"


def test_one_crash_is_an_accident_and_four_in_a_row_are_not() -> None:
    cluster = good_then("demo:2", replicas=2)
    crash(cluster, restarts=3)
    assert until_undone(cluster) == []
    crash(cluster, restarts=4)
    [said] = until_undone(cluster)
    assert "1 of 1 new pods CrashLoopBackOff: container main ended with exit code 3, restarted 4 times" in said
    assert condition(cluster, "RolledBack") == ("True", "CrashLoopBackOff")


def test_one_bad_board_among_many_does_not_undo_a_revision() -> None:
    cluster = good_then("demo:2", replicas=9, strategy={"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3}})
    crash(cluster, restarts=9, count=1)
    assert until_undone(cluster) == []
    crash(cluster, restarts=9, count=3)
    assert len(until_undone(cluster)) == 1


def test_a_revision_without_progress_is_undone_at_its_deadline_and_says_what_kept_it() -> None:
    cluster = good_then("demo:2", progressDeadlineSeconds=120)
    assert until_undone(cluster) == []
    cluster.clock.advance(121)
    [said] = until_undone(cluster)
    assert "undone: no progress within 120 s; 1 of 1 new pods are not ready" in said
    assert condition(cluster, "RolledBack") == ("True", "ProgressDeadlineExceeded")


def test_old_pods_that_come_and_go_are_no_progress_of_the_new_revision() -> None:
    cluster = good_then("demo:2", replicas=3, progressDeadlineSeconds=60)
    said: list[str] = []
    for n in range(20):
        [first, *_] = [p for p in cluster.pods if image_of(p) == "demo:1"]
        cluster.report(first, n % 2 == 1)
        said += until_undone(cluster)
        cluster.clock.advance(5)
    assert "undone: no progress within 60 s" in said[0]


def test_a_program_that_is_ready_between_its_crashes_is_undone_all_the_same() -> None:
    cluster = good_then("demo:2")
    cluster.run()  # without a readiness probe it was ready for an instant; the old pod is gone
    assert condition(cluster, "Progressing") == ("True", "NewReplicaSetAvailable")
    cluster.clock.advance(10)
    crash(cluster, restarts=4)
    assert len(until_undone(cluster)) == 1
    cluster.run()
    assert [image_of(p) for p in cluster.pods] == ["demo:1"]


def test_what_was_good_for_long_enough_is_not_undone_by_later_crashes() -> None:
    cluster = good_then("demo:2")
    cluster.run()
    cluster.clock.advance(31)
    cluster.run()
    crash(cluster, restarts=9)
    assert until_undone(cluster) == []


def test_a_first_revision_that_fails_has_nothing_to_go_back_to_and_says_so_once() -> None:
    cluster = Cluster(deployment())
    cluster.settle()
    cluster.bind_all()
    crash(cluster, restarts=4)
    [said] = until_undone(cluster)
    assert said.startswith("revision 1 (image demo:1) fails: 1 of 1 new pods CrashLoopBackOff")
    assert said.endswith("no earlier revision was good, so there is nothing to go back to")
    assert condition(cluster, "RolledBack") == ("False", "NoGoodRevision")
    crash(cluster, restarts=5)
    assert until_undone(cluster) == []
    cluster.run()
    cluster.clock.advance(31)
    cluster.run()
    assert condition(cluster, "RolledBack") == ("", "")


def test_rollback_off_leaves_the_rollout_as_kubernetes_would() -> None:
    cluster = good_then("demo:2", progressDeadlineSeconds=60)
    annotate(cluster, {ROLLBACK: "off"})
    crash(cluster, restarts=9)
    cluster.clock.advance(61)
    assert until_undone(cluster) == []
    assert condition(cluster, "Progressing") == ("False", "ProgressDeadlineExceeded")
    assert condition(cluster, "RolledBack") == ("", "")
    assert cluster.deployment.spec.template.spec.containers[0].image == "demo:2"


def test_a_paused_rollout_is_not_undone_before_it_goes_on() -> None:
    cluster = good_then("demo:2")
    cluster.change(paused=True)
    crash(cluster, restarts=9)
    assert until_undone(cluster) == []
    cluster.change(paused=False)
    assert len(until_undone(cluster)) == 1


def test_what_was_gone_back_to_is_never_undone_by_the_hub() -> None:
    cluster = good_then("demo:2")
    crash(cluster, restarts=4)
    assert len(until_undone(cluster)) == 1
    cluster.run()
    cluster.use_image("demo:3")
    cluster.settle()
    cluster.bind_all()
    crash(cluster, restarts=4)
    assert len(until_undone(cluster)) == 1
    for p in cluster.pods:
        cluster.report(p, False)
    cluster.clock.advance(5000)
    crash(cluster, restarts=9, image="demo:1")
    assert until_undone(cluster) == []
    cluster.clock.advance(5000)
    assert until_undone(cluster) == []


def test_the_same_template_applied_again_by_somebody_is_tried_again() -> None:
    cluster = good_then("demo:2")
    crash(cluster, restarts=4)
    assert len(until_undone(cluster)) == 1
    cluster.run()
    cluster.use_image("demo:2")
    cluster.settle()
    cluster.bind_all()
    assert condition(cluster, "RolledBack") == ("", "")
    assert updated(cluster, "demo:2") == 1
    crash(cluster, restarts=4)
    [said] = until_undone(cluster)
    assert said.startswith("revision 4 (image demo:2) undone")
    assert len(cluster.sets) == 2


def test_history_keeps_the_good_revision_for_as_long_as_it_may_be_needed() -> None:
    cluster = good_then("demo:2", revisionHistoryLimit=0)
    cluster.run()
    assert len(cluster.sets) == 2
    cluster.clock.advance(31)
    cluster.run()
    assert len(cluster.sets) == 1


def test_a_good_revision_that_is_replaced_early_is_remembered() -> None:
    cluster = Cluster(deployment(image="demo:1"))
    cluster.run()
    cluster.use_image("demo:2")
    cluster.settle()
    cluster.bind_all()
    crash(cluster, restarts=4)
    assert len(until_undone(cluster)) == 1


def test_going_back_brings_back_the_change_cause_and_keeps_the_policy() -> None:
    cluster = Cluster(with_meta(deployment(), annotations={"kubernetes.io/change-cause": "first"}))
    cluster.run()
    annotate(cluster, {"kubernetes.io/change-cause": "second", WAVES: "1"})
    cluster.use_image("demo:2")
    cluster.settle()
    cluster.bind_all()
    crash(cluster, restarts=4)
    until_undone(cluster)
    annotations = cluster.deployment.metadata.annotations
    assert (annotations["kubernetes.io/change-cause"], annotations[WAVES]) == ("first", "1")
    assert all(s.metadata.annotations[WAVES] == "1" for s in cluster.sets)  # for kubectl rollout undo
    causes = {
        s.metadata.annotations[REVISION]: s.metadata.annotations["kubernetes.io/change-cause"] for s in cluster.sets
    }
    assert causes == {"2": "second", "3": "first"}


def test_what_kubectl_copies_from_a_set_to_the_deployment_is_taken_away_again() -> None:
    cluster = Cluster(deployment())
    cluster.run()
    annotate(cluster, {SUCCEEDED: "9", RESTORED: "1", WAVE: "{}"})
    cluster.run()
    assert not {SUCCEEDED, RESTORED, WAVE} & set(cluster.deployment.metadata.annotations)
    assert not {SUCCEEDED, RESTORED, WAVE} & set(cluster.sets[0].metadata.annotations)


def test_recreate_goes_back_as_well() -> None:
    cluster = good_then("demo:2", strategy={"type": "Recreate"})
    cluster.take_away()
    cluster.settle()
    cluster.bind_all()
    lose_image(cluster)
    cluster.clock.advance(31)
    assert len(until_undone(cluster)) == 1
    cluster.run()
    assert [image_of(p) for p in cluster.pods] == ["demo:1"]
