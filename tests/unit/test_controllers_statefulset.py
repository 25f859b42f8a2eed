"""StatefulSets: one pod of each number, in order, with claims of its own; replaced from the last to the first."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlink.hub.changes import Create, Delete, MarkDeleted, Update
from cloudlink.hub.controllers.history import REVISION_LABEL
from cloudlink.hub.controllers.retries import FIRST_DELAY, TRIES
from cloudlink.hub.objects import is_active, is_deleted, is_ready
from cloudlink.kube.apps import (
    ControllerRevision,
    RollingUpdateStatefulSet,
    StatefulSet,
    StatefulSetOrdinals,
    StatefulSetPersistentVolumeClaimRetentionPolicy,
    StatefulSetUpdateStrategy,
)
from cloudlink.kube.core import PersistentVolumeClaim, Pod
from tests.fakes.hub_brain import with_meta
from tests.fakes.stateful import CLAIM, Shelf, label, stateful_set


def rolling(partition: int = 0, most: int | str | None = None) -> StatefulSetUpdateStrategy:
    numbers = RollingUpdateStatefulSet(partition=partition, max_unavailable=most)
    return StatefulSetUpdateStrategy(rolling_update=numbers)


def running(replicas: int = 3, **spec: object) -> Shelf:
    """One whose pods are all ready."""
    shelf = Shelf(stateful_set(replicas, **spec))
    shelf.run()
    assert shelf.set.status.available_replicas == replicas
    return shelf


# ---------------------------------------------------------------- identity


def test_pods_have_stable_names_host_names_and_labels() -> None:
    shelf = running(2, ordinals={"start": 5})
    assert shelf.numbers() == [5, 6]
    pod = shelf.pod(5)
    assert pod is not None
    assert (pod.spec.hostname, pod.spec.subdomain, pod.metadata.generate_name) == ("db-5", "peers", "db-")
    assert pod.metadata.labels == {
        "app": "db",
        "statefulset.kubernetes.io/pod-name": "db-5",
        "apps.kubernetes.io/pod-index": "5",
        "controller-revision-hash": shelf.set.status.update_revision,
    }


def test_a_pod_that_was_taken_in_gets_the_labels_that_it_lacks() -> None:
    shelf = running(1)
    pod = shelf.pod(0)
    shelf.commit(Update(with_meta(pod, labels={"app": "db", REVISION_LABEL: label(pod)})))
    shelf.settle()
    assert shelf.pod(0) is not None
    assert shelf.pod(0).metadata.labels["apps.kubernetes.io/pod-index"] == "0"  # type: ignore[union-attr]


def test_names_that_only_look_alike_are_not_members() -> None:
    shelf = running(1)
    for name in ("db-00", "db-x", "db", "other-0", "db-0-1", "db-²"):
        shelf.commit(Create(with_meta(shelf.pod(0), name=name, uid="")))
    shelf.settle()
    assert shelf.set.status.replicas == 1
    assert len(shelf.all(Pod)) == 7


def test_a_name_that_is_too_long_for_its_pods_is_told_instead_of_looping() -> None:
    shelf = Shelf(with_meta(stateful_set(1), name="d" * 62))  # scaled, say: it was accepted with fewer pods
    shelf.settle()
    assert shelf.all(Pod) == []
    [note] = {(n.reason, n.message.partition(" failed")[0]) for n in shelf.notes}
    assert note[0] == "FailedCreate"


def test_a_long_name_still_gives_a_label_of_63_characters_to_its_revision() -> None:
    shelf = running(1, name="d" * 60)
    [revision] = shelf.all(ControllerRevision)
    assert len(revision.metadata.name) == 63
    assert label(shelf.pod(0)) == revision.metadata.name


# ---------------------------------------------------------------- order


def test_pods_come_one_after_the_other_each_when_the_one_before_is_ready() -> None:
    shelf = Shelf(stateful_set(3))
    for there in ([0], [0, 1], [0, 1, 2]):
        shelf.settle()
        assert shelf.numbers() == there
        shelf.bind()
        shelf.report(there[-1])
    assert [n.message for n in shelf.notes] == [f"create Pod db-{n} in StatefulSet db successful" for n in range(3)]
    assert {n.component for n in shelf.notes} == {"statefulset-controller"}


def test_ready_pods_count_as_available_after_min_ready_seconds_only() -> None:
    shelf = Shelf(stateful_set(2, minReadySeconds=10))
    shelf.settle()
    shelf.bind()
    shelf.report(0)
    shelf.settle()
    assert shelf.numbers() == [0]
    assert (shelf.set.status.ready_replicas, shelf.set.status.available_replicas) == (1, 0)
    assert shelf.decide().wake_at == shelf.now + 10
    shelf.now += 10
    shelf.settle()
    assert shelf.numbers() == [0, 1]


def test_parallel_pods_come_and_go_all_at_once() -> None:
    shelf = Shelf(stateful_set(3, podManagementPolicy="Parallel"))
    shelf.step()
    assert shelf.numbers() == [0, 1, 2]
    shelf.run()
    shelf.change(replicas=1)
    shelf.step()
    assert [is_deleted(p) for p in shelf.all(Pod)] == [False, True, True]


def test_scaling_down_takes_the_last_pod_first_and_waits_until_it_is_gone() -> None:
    shelf = running(3)
    shelf.change(replicas=1)
    shelf.settle()
    assert [is_deleted(p) for p in shelf.all(Pod)] == [False, False, True]
    shelf.work()
    shelf.settle()
    assert [is_deleted(p) for p in shelf.all(Pod)] == [False, True]


def test_nothing_is_scaled_down_while_a_pod_that_stays_is_not_ready() -> None:
    shelf = running(3)
    shelf.report(0, ready=False)
    shelf.change(replicas=2)
    shelf.settle()
    assert not any(is_deleted(p) for p in shelf.all(Pod))


def test_surplus_pods_that_are_not_ready_do_not_hold_up_each_other() -> None:
    shelf = running(4)
    shelf.report(2, ready=False)
    shelf.report(3, ready=False)
    shelf.change(replicas=2)
    shelf.run()
    assert shelf.numbers() == [0, 1]


def test_another_start_of_the_numbers_moves_the_window() -> None:
    shelf = running(2)
    shelf.change(ordinals=StatefulSetOrdinals(start=1))
    shelf.run()
    assert shelf.numbers() == [1, 2]


# ---------------------------------------------------------------- one of each


def test_a_pod_that_was_asked_to_end_is_replaced_once_it_is_gone_for_good() -> None:
    shelf = running(2)
    old = shelf.pod(1)
    shelf.lost.add("db-1")
    shelf.remove(1)
    for _ in range(5):
        shelf.step()
        shelf.work()
    there = shelf.pod(1)
    assert old is not None
    assert there is not None
    assert there.metadata.uid == old.metadata.uid
    shelf.lost.clear()
    shelf.run()
    assert shelf.numbers() == [0, 1]
    assert shelf.pod(1).metadata.uid != old.metadata.uid  # type: ignore[union-attr]


def test_a_pod_that_failed_is_made_again_later_and_later() -> None:
    shelf = running(1)
    for tries in (1, 2, 3):
        shelf.report(0, ready=False, phase="Failed")
        began = shelf.now
        while shelf.pod(0).status.phase == "Failed":  # type: ignore[union-attr]
            shelf.step()
            shelf.now += 1.0
        assert shelf.now - began - 1.0 == FIRST_DELAY * 2 ** (tries - 1)
        assert shelf.pod(0).metadata.annotations[TRIES] == str(tries)  # type: ignore[union-attr]
    said = [n for n in shelf.notes if n.reason == "RecreatingFailedPod"]
    assert said[0].message == "StatefulSet default/db is recreating failed Pod db-0"


# ---------------------------------------------------------------- claims


def test_claims_are_made_first_and_outlive_pods_and_scaling() -> None:
    shelf = Shelf(stateful_set(2, volumeClaimTemplates=[CLAIM]))
    shelf.step()
    assert (shelf.claims(), shelf.numbers()) == (["data-db-0"], [])
    shelf.run()
    assert shelf.claims() == ["data-db-0", "data-db-1"]
    pod = shelf.pod(1)
    assert pod is not None
    [volume] = pod.spec.volumes
    assert volume.persistent_volume_claim is not None
    assert (volume.name, volume.persistent_volume_claim.claim_name) == ("data", "data-db-1")
    before = {c.metadata.name: c.metadata.uid for c in shelf.all(PersistentVolumeClaim)}
    shelf.change(replicas=0)
    shelf.run()
    shelf.change(replicas=2)
    shelf.run()
    assert {c.metadata.name: c.metadata.uid for c in shelf.all(PersistentVolumeClaim)} == before
    claim = shelf.claim("data-db-0")
    assert claim is not None
    assert (claim.metadata.labels, claim.metadata.owner_references) == ({"app": "db"}, ())


def test_a_claim_that_is_on_its_way_out_holds_its_pod_back() -> None:
    shelf = running(1, volumeClaimTemplates=[CLAIM])
    claim = shelf.claim("data-db-0")
    assert claim is not None
    shelf.commit(Update(with_meta(claim, finalizers=("kubernetes.io/pvc-protection",))))
    shelf.commit(MarkDeleted(claim.kind, "default", claim.metadata.name, 0))
    shelf.commit(Delete("Pod", "default", "db-0"))
    shelf.settle()
    assert shelf.numbers() == []
    assert any(n.reason == "FailedCreate" and "is being deleted" in n.message for n in shelf.notes)
    claim = shelf.claim("data-db-0")
    shelf.commit(Update(with_meta(claim, finalizers=())))
    shelf.run()
    assert (shelf.numbers(), shelf.claims()) == ([0], ["data-db-0"])


def test_a_claim_that_was_deleted_while_its_pod_waits_is_made_again() -> None:
    shelf = Shelf(stateful_set(1, volumeClaimTemplates=[CLAIM]))
    shelf.settle()
    shelf.commit(Delete("PersistentVolumeClaim", "default", "data-db-0"))
    shelf.settle()
    assert (shelf.numbers(), shelf.claims()) == ([0], ["data-db-0"])


@pytest.mark.parametrize(
    ("deleted", "scaled", "living", "leaving"),
    [
        ("Retain", "Retain", [], []),
        ("Delete", "Retain", ["StatefulSet"], ["StatefulSet"]),
        ("Retain", "Delete", [], ["Pod"]),
        ("Delete", "Delete", ["StatefulSet"], ["Pod"]),
    ],
)
def test_the_retention_policy_says_whom_claims_go_with(
    deleted: str, scaled: str, living: list[str], leaving: list[str]
) -> None:
    policy = {"whenDeleted": deleted, "whenScaled": scaled}
    shelf = running(2, volumeClaimTemplates=[CLAIM], persistentVolumeClaimRetentionPolicy=policy)

    def owners(name: str) -> list[str]:
        claim = shelf.claim(name)
        assert claim is not None
        return [r.kind for r in claim.metadata.owner_references]

    assert owners("data-db-1") == living
    shelf.change(replicas=1)
    shelf.settle()
    assert (owners("data-db-0"), owners("data-db-1")) == (living, leaving)
    shelf.run()
    assert shelf.claims() == (["data-db-0"] if scaled == "Delete" else ["data-db-0", "data-db-1"])
    shelf.change(persistent_volume_claim_retention_policy=StatefulSetPersistentVolumeClaimRetentionPolicy())
    shelf.settle()
    assert owners("data-db-0") == []


def test_scaled_up_again_too_early_the_pod_waits_for_a_new_claim() -> None:
    policy = {"whenScaled": "Delete", "whenDeleted": "Retain"}
    shelf = running(2, volumeClaimTemplates=[CLAIM], persistentVolumeClaimRetentionPolicy=policy)
    old = shelf.claim("data-db-1")
    shelf.change(replicas=1)
    shelf.settle()
    shelf.change(replicas=2)
    shelf.settle()
    shelf.commit(Delete("Pod", "default", "db-1"))
    shelf.settle()
    assert shelf.numbers() == [0]
    shelf.run()
    new = shelf.claim("data-db-1")
    assert old is not None
    assert new is not None
    assert shelf.numbers() == [0, 1]
    assert new.metadata.uid != old.metadata.uid


# ---------------------------------------------------------------- updates


def test_a_new_template_goes_from_the_last_pod_to_the_first_one_at_a_time() -> None:
    shelf = running(3)
    shelf.use_image("demo:2")
    seen = []
    for _ in range(60):
        shelf.step()
        assert sum(not is_ready(p) or is_deleted(p) for p in shelf.all(Pod)) + 3 - len(shelf.all(Pod)) <= 1
        shelf.work()
        if shelf.images() not in seen and len(shelf.images()) == 3:
            seen.append(shelf.images())
    old, new = "demo:1", "demo:2"
    assert seen == [[old, old, new], [old, new, new], [new, new, new]]
    status = shelf.set.status
    assert status.current_revision == status.update_revision
    assert (status.current_replicas, status.updated_replicas) == (3, 3)


def test_numbers_below_the_partition_keep_their_revision_even_when_they_are_made_anew() -> None:
    shelf = running(3)
    shelf.change(update_strategy=rolling(partition=2))
    shelf.use_image("demo:2")
    shelf.run()
    shelf.remove(0)
    shelf.run()
    assert shelf.images() == ["demo:1", "demo:1", "demo:2"]
    status = shelf.set.status
    assert status.current_revision != status.update_revision
    assert (status.current_replicas, status.updated_replicas) == (2, 1)
    shelf.change(update_strategy=rolling(partition=0))
    shelf.run()
    assert shelf.images() == ["demo:2"] * 3


def test_on_delete_replaces_nothing_by_itself() -> None:
    shelf = running(2, updateStrategy={"type": "OnDelete"})
    shelf.use_image("demo:2")
    shelf.run()
    assert shelf.images() == ["demo:1", "demo:1"]
    shelf.remove(0)
    shelf.run()
    assert shelf.images() == ["demo:2", "demo:1"]


@pytest.mark.parametrize(("most", "leaving"), [(2, 2), ("50%", 2), ("1%", 1), (10, 4)])
def test_max_unavailable_says_how_many_are_replaced_together(most: int | str, leaving: int) -> None:
    shelf = running(4, podManagementPolicy="Parallel")
    shelf.change(update_strategy=rolling(most=most))
    shelf.use_image("demo:2")
    shelf.settle()
    assert [is_deleted(p) for p in shelf.all(Pod)] == [False] * (4 - leaving) + [True] * leaving
    shelf.run()
    assert shelf.images() == ["demo:2"] * 4


@pytest.mark.parametrize("policy", ["OrderedReady", "Parallel"])
def test_a_broken_template_stops_at_one_pod_and_a_mended_one_goes_on_by_itself(policy: str) -> None:
    shelf = running(3, podManagementPolicy=policy)
    shelf.broken_images = {"demo:bad"}
    shelf.use_image("demo:bad")
    shelf.run()
    assert shelf.images() == ["demo:1", "demo:1", "demo:bad"]
    shelf.use_image("demo:1")
    shelf.run()
    assert shelf.images() == ["demo:1"] * 3
    assert shelf.set.status.available_replicas == 3


def test_a_template_that_was_broken_from_the_start_can_be_mended() -> None:
    shelf = Shelf(stateful_set(3))
    shelf.broken_images = {"demo:1"}
    shelf.run()
    assert shelf.numbers() == [0]
    shelf.use_image("demo:2")
    shelf.run()
    assert shelf.images() == ["demo:2"] * 3


def test_an_unproven_template_is_not_given_to_a_pod_that_has_a_bad_moment() -> None:
    shelf = running(3)
    shelf.broken_images = {"demo:bad"}
    shelf.use_image("demo:bad")
    shelf.run()
    shelf.lost.add("db-0")
    shelf.report(0, ready=False)
    shelf.run()
    assert shelf.images() == ["demo:1", "demo:1", "demo:bad"]


# ---------------------------------------------------------------- history


def test_revisions_are_remembered_up_to_the_limit_and_used_again() -> None:
    shelf = running(1, revisionHistoryLimit=1)
    first = shelf.set.status.current_revision
    for image in ("demo:2", "demo:3"):
        shelf.use_image(image)
        shelf.run()
    numbers = sorted(r.revision for r in shelf.all(ControllerRevision))
    assert numbers == [2, 3]
    assert first not in {r.metadata.name for r in shelf.all(ControllerRevision)}
    shelf.use_image("demo:2")
    shelf.run()
    assert sorted(r.revision for r in shelf.all(ControllerRevision)) == [3, 4]


def test_a_revision_of_the_same_name_that_is_somebody_elses_is_a_collision() -> None:
    shelf = Shelf(stateful_set(1))
    [create, *_] = shelf.decide().changes
    assert isinstance(create, Create)
    stranger = with_meta(create.object, owner_references=())
    shelf.commit(Create(stranger.model_copy(update={"data": {"spec": {}}})))
    shelf.settle()
    assert shelf.set.status.collision_count == 1
    assert shelf.numbers() == [0]


# ---------------------------------------------------------------- whatever happens


class Anything(Shelf):
    """Checks what must always hold after every decision."""

    def step(self) -> bool:
        before = {p.metadata.uid for p in self.all(Pod)}
        ready = {p.metadata.name for p in self.all(Pod) if is_active(p) and is_ready(p)}
        changed = super().step()
        wanted = self.set
        start = wanted.spec.ordinals.start if wanted.spec.ordinals else 0
        made = [p for p in self.all(Pod) if p.metadata.uid not in before]
        if wanted.spec.pod_management_policy == "OrderedReady":
            assert len(made) <= 1
            for pod in made:
                number = int(pod.metadata.name.rpartition("-")[2])
                assert all(f"db-{n}" in ready for n in range(start, number)), "made before those before it were ready"
        return changed


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_happens_there_is_one_pod_of_each_number_and_it_converges(data: st.DataObject) -> None:
    policy = data.draw(st.sampled_from(["OrderedReady", "Parallel"]))
    when = st.sampled_from(["Retain", "Delete"])
    retention = {"whenDeleted": data.draw(when), "whenScaled": data.draw(when)}
    shelf = Anything(
        stateful_set(
            data.draw(st.integers(0, 3)),
            podManagementPolicy=policy,
            volumeClaimTemplates=data.draw(st.sampled_from([[], [CLAIM]])),
            persistentVolumeClaimRetentionPolicy=retention,
        )
    )
    names = st.integers(0, 5)
    for i in range(data.draw(st.integers(0, 25))):
        number = data.draw(names)
        match data.draw(st.integers(0, 9)):
            case 0 | 1:
                shelf.step()
            case 2 | 3:
                shelf.work()
            case 4:
                shelf.use_image(f"demo:{i % 3}")
            case 5:
                shelf.change(replicas=data.draw(st.integers(0, 4)))
            case 6 if shelf.pod(number) is not None:
                shelf.remove(number)
            case 7 if shelf.pod(number) is not None:
                phase = data.draw(st.sampled_from(["Failed", "Running", "Succeeded"]))
                shelf.report(number, ready=False, phase=phase)
            case 8:
                partition = data.draw(st.integers(0, 4))
                shelf.change(update_strategy=rolling(partition, data.draw(st.sampled_from([None, 2, "50%"]))))
            case 9:
                shelf.collect_garbage()
                shelf.change(ordinals=StatefulSetOrdinals(start=data.draw(st.integers(0, 2))))
        shelf.now += 1.0
    shelf.change(update_strategy=rolling())
    for _ in range(3):  # pods that failed are made again a while later
        shelf.now += 10_000.0
        shelf.run()
    wanted: StatefulSet = shelf.set
    start = wanted.spec.ordinals.start if wanted.spec.ordinals else 0
    assert shelf.numbers() == list(range(start, start + wanted.spec.replicas))
    assert set(shelf.images()) <= {wanted.spec.template.spec.containers[0].image}
    status = wanted.status
    assert (status.replicas, status.available_replicas) == (wanted.spec.replicas, wanted.spec.replicas)
    assert (status.updated_replicas, status.current_revision) == (status.replicas, status.update_revision)
