"""Jobs: pods until enough have succeeded or too much has failed; each counted once, however it ends."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlink.hub.controllers.indexes import Indexes
from cloudlink.hub.controllers.job import FINISHED_KEPT, START_AT
from cloudlink.hub.controllers.job_pods import FAILURES, INDEX, TRACKING, backoff
from cloudlink.hub.deletion import deletion
from cloudlink.hub.objects import rfc3339
from cloudlink.kube.batch import CONTROLLER_UID, JOB_NAME, Job
from tests.fakes.jobs import Work, job


def started(**spec: Any) -> Work:
    work = Work(job(**spec))
    work.settle()
    return work


def test_one_pod_is_made_and_its_success_completes_the_job() -> None:
    work = started()
    [pod] = work.active
    assert pod.metadata.labels[JOB_NAME] == "sum"
    assert pod.metadata.labels[CONTROLLER_UID] == work.job.metadata.uid
    assert pod.metadata.finalizers == (TRACKING,)
    assert (work.status.active, work.status.start_time) == (1, rfc3339(work.now))
    work.end(pod)
    work.settle()
    assert (work.status.active, work.status.succeeded, work.status.failed) == (0, 1, 0)
    assert work.conditions() == {"SuccessCriteriaMet": "CompletionsReached", "Complete": "CompletionsReached"}
    assert work.status.completion_time == rfc3339(work.now)
    assert work.pods[0].metadata.finalizers == ()
    assert [n.reason for n in work.notes] == ["SuccessfulCreate", "Completed"]


def test_no_more_than_parallelism_run_at_once_until_completions_are_reached() -> None:
    work = started(completions=5, parallelism=2)
    assert len(work.active) == 2
    for _ in range(4):
        work.end(work.active[0])
        work.settle()
        assert len(work.active) <= min(2, 5 - work.status.succeeded)
    work.end(work.active[0])
    work.settle()
    assert work.conditions()["Complete"] == "CompletionsReached"
    assert len(work.pods) == 5


def test_a_failed_pod_is_replaced_later_and_later_until_the_limit() -> None:
    work = started(backoffLimit=2)
    for wait in (10, 20):
        work.end(work.active[0], code=1)
        work.settle()
        assert work.active == []
        assert work.wake_at == work.now + wait
        work.wait()
    work.end(work.active[0], code=1)
    work.settle()
    assert work.conditions() == {"FailureTarget": "BackoffLimitExceeded", "Failed": "BackoffLimitExceeded"}
    assert (work.status.failed, work.status.active) == (3, 0)
    assert [backoff(n) for n in (0, 1, 2, 6, 7, 100)] == [0, 10, 20, 320, 360, 360]


def test_a_success_ends_the_backoff_of_the_failures_before_it() -> None:
    work = started(completions=3, parallelism=2)
    one, other = work.active
    work.end(one, code=1)
    work.settle()
    work.now += 1
    work.end(other)
    work.settle()
    assert len(work.active) == 2


def test_restarts_in_place_count_towards_the_limit() -> None:
    work = started(restart="OnFailure", backoffLimit=3)
    work.run(work.active[0], restarts=2)
    work.settle()
    assert work.conditions() == {}
    work.run(work.active[0], restarts=3)
    work.settle()
    assert work.conditions()["FailureTarget"] == "BackoffLimitExceeded"
    assert "Failed" not in work.conditions(), "a pod may still run"
    assert work.status.terminating == 1
    work.take_away()
    work.settle()
    assert work.conditions()["Failed"] == "BackoffLimitExceeded"
    assert (work.status.failed, work.status.terminating) == (1, 0)


def test_a_job_that_takes_too_long_is_ended() -> None:
    work = started(activeDeadlineSeconds=60, parallelism=2, completions=2)
    for pod in work.active:
        work.run(pod)
    work.settle()
    assert work.wake_at == work.now + 60
    work.now += 60
    work.settle()
    assert work.conditions() == {"FailureTarget": "DeadlineExceeded"}
    assert work.active == []
    work.take_away()
    work.settle()
    assert work.conditions()["Failed"] == "DeadlineExceeded"
    assert work.status.failed == 2


def test_an_index_is_told_to_each_pod_of_an_indexed_job() -> None:
    work = started(completionMode="Indexed", completions=3, parallelism=2)
    first, second = work.active
    assert [p.metadata.annotations[INDEX] for p in (first, second)] == ["0", "1"]
    assert first.metadata.labels[INDEX] == "0"
    assert second.spec.hostname == "sum-1"
    assert second.metadata.name.startswith("sum-1-")
    [variable] = first.spec.containers[0].env
    assert variable.name == "JOB_COMPLETION_INDEX"
    assert f"metadata.labels['{INDEX}']" in str(variable.value_from)
    work.end(second)
    work.settle()
    assert work.status.completed_indexes == "1"
    assert [p.metadata.annotations[INDEX] for p in work.active] == ["0", "2"]
    for pod in work.active:
        work.end(pod)
    work.settle()
    assert work.status.completed_indexes == "0-2"
    assert work.conditions()["Complete"] == "CompletionsReached"


def test_an_index_that_fails_too_often_is_given_up_and_the_others_go_on() -> None:
    work = started(completionMode="Indexed", completions=2, parallelism=2, backoffLimitPerIndex=1)
    bad, good = work.active
    work.end(bad, code=1)
    work.settle()
    assert len(work.active) == 1
    work.wait()
    again = next(p for p in work.active if p.metadata.annotations[INDEX] == "0")
    assert again.metadata.annotations[FAILURES] == "1"
    work.end(again, code=1)
    work.settle()
    assert work.status.failed_indexes == "0"
    assert work.conditions() == {}
    work.end(good)
    work.settle()
    assert work.conditions()["Failed"] == "FailedIndexes"
    assert (work.status.succeeded, work.status.failed, work.status.completed_indexes) == (1, 2, "1")


def test_too_many_failed_indexes_fail_the_job() -> None:
    work = started(completionMode="Indexed", completions=5, parallelism=5, backoffLimitPerIndex=0, maxFailedIndexes=1)
    for pod in work.active[:2]:
        work.end(pod, code=1)
    work.settle()
    assert work.conditions()["FailureTarget"] == "MaxFailedIndexesExceeded"
    assert work.status.failed_indexes == "0,1"


POLICY = {
    "rules": [
        {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [7]}},
    ]
}


def test_an_exit_code_may_fail_the_whole_job() -> None:
    work = started(podFailurePolicy=POLICY)
    [pod] = work.active
    work.end(pod, code=42)
    work.settle()
    [failed] = [c for c in work.status.conditions if c.type == "Failed"]
    assert failed.reason == "PodFailurePolicy"
    assert failed.message == (
        f"Container main for pod default/{pod.metadata.name} failed with exit code 42 matching FailJob rule at index 0"
    )


def test_an_ignored_failure_is_replaced_and_not_counted() -> None:
    work = started(podFailurePolicy=POLICY, backoffLimit=0)
    work.end(work.active[0], code=7)
    work.settle()
    work.wait()
    assert (work.status.failed, len(work.active), work.conditions()) == (0, 1, {})


def test_some_indexes_may_be_enough() -> None:
    work = started(
        completionMode="Indexed",
        completions=4,
        parallelism=4,
        successPolicy={"rules": [{"succeededIndexes": "1-2", "succeededCount": 1}]},
    )
    work.end(work.active[0])
    work.settle()
    assert work.conditions() == {}
    work.end(next(p for p in work.active if p.metadata.annotations[INDEX] == "2"))
    work.settle()
    assert work.conditions() == {"SuccessCriteriaMet": "SuccessPolicy", "Complete": "SuccessPolicy"}
    assert work.active == []


def test_a_suspended_job_has_no_pods_and_begins_anew_when_resumed() -> None:
    work = started(parallelism=2, completions=2)
    for pod in work.active:
        work.run(pod)
    work.change(suspend=True)
    work.settle()
    assert (work.active, work.status.start_time, work.status.failed) == ([], "", 0)
    assert work.conditions() == {"Suspended": "JobSuspended"}
    work.take_away()
    work.now += 100
    work.change(suspend=False)
    work.settle()
    assert len(work.active) == 2
    assert (work.status.start_time, work.status.failed) == (rfc3339(work.now), 0)
    assert {c.type: (c.status, c.reason) for c in work.status.conditions} == {"Suspended": ("False", "JobResumed")}
    assert [n.reason for n in work.notes if n.reason in ("Suspended", "Resumed")] == ["Suspended", "Resumed"]


def test_a_work_queue_is_done_when_one_has_succeeded_and_the_others_have_ended() -> None:
    work = started(parallelism=3)
    work.end(work.active[0])
    work.settle()
    assert (len(work.active), work.conditions()) == (2, {})
    work.end(work.active[0])
    work.end(work.active[0])
    work.settle()
    assert work.conditions()["Complete"] == "CompletionsReached"
    assert work.status.succeeded == 3


def test_a_deleted_pod_counts_as_failed_at_once_or_when_its_node_is_through_with_it() -> None:
    work = started()
    work.run(work.active[0])
    work.delete(work.active[0])
    work.settle()
    assert (work.status.failed, work.status.terminating) == (1, 1)
    patient = started(podReplacementPolicy="Failed")
    patient.run(patient.active[0])
    patient.delete(patient.active[0])
    patient.settle()
    assert (patient.status.failed, patient.status.terminating, patient.active) == (0, 1, [])
    patient.take_away()
    patient.settle()
    assert (patient.status.failed, patient.status.terminating) == (1, 0)
    assert len(patient.active) == 1


def test_fewer_at_a_time_ends_pods_without_counting_them() -> None:
    work = started(parallelism=3, completions=3)
    work.change(parallelism=1)
    work.settle()
    assert (len(work.active), work.status.failed) == (1, 0)


def test_a_finished_job_goes_after_its_ttl() -> None:
    work = started(ttlSecondsAfterFinished=30)
    work.end(work.active[0])
    work.settle()
    assert work.wake_at == work.now + 30
    work.now += 30
    work.settle()
    assert work.job.metadata.deletion_timestamp


def test_a_job_that_is_deleted_lets_go_of_its_pods() -> None:
    work = started(parallelism=2, completions=2)
    change = deletion(work.job, "Foreground")
    assert change is not None
    work.commit(change)
    work.settle()
    assert [p.metadata.finalizers for p in work.pods] == [(), ()]
    assert len(work.pods) == 2


def test_somebody_elses_job_is_left_alone() -> None:
    work = started(managedBy="example.com/queue")
    assert (work.pods, work.status.active) == ([], 0)


def test_of_finished_pods_only_the_newest_stay() -> None:
    work = started(completions=FINISHED_KEPT + 5, parallelism=1)
    for _ in range(FINISHED_KEPT + 5):
        work.now += 1
        work.end(work.active[0])
        work.settle()
    assert work.conditions()["Complete"] == "CompletionsReached"
    assert (len(work.pods), work.status.succeeded) == (FINISHED_KEPT, FINISHED_KEPT + 5)


def test_a_job_for_later_has_its_pod_ready_and_is_not_active_before_its_time() -> None:
    work = Work(job(annotations={START_AT: rfc3339(1_750_000_060)}))
    work.settle()
    assert len(work.active) == 1
    assert (work.status.active, work.status.start_time, work.wake_at) == (0, "", 1_750_000_060)
    work.wait()
    assert (work.status.active, work.status.start_time) == (1, rfc3339(work.now))


def test_nothing_to_do_is_done_at_once() -> None:
    work = started(completions=0)
    assert work.conditions()["Complete"] == "CompletionsReached"
    assert work.pods == []


# ---------------------------------------------------------------- indexes


@pytest.mark.parametrize("text", ["", "0", "0,1", "1,3-5,7", "0-99"])
def test_indexes_are_read_and_written_as_kubernetes_writes_them(text: str) -> None:
    assert str(Indexes.read(text, 100)) == text


@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)))
def test_indexes_are_sets_of_numbers(some: set[int], more: set[int]) -> None:
    one, two = Indexes().plus(some), Indexes().plus(more)
    assert {i for i in range(41) if i in one} == some
    assert len(one.united(two)) == len(some | more)
    assert one.common(two) == len(some & more)
    assert list(one.missing(41)) == sorted(set(range(41)) - some)
    assert Indexes.read(str(one), 41) == one


def test_what_cannot_be_read_of_indexes_is_passed_over() -> None:
    assert str(Indexes.read("x,3-1,2,0-999999999", 5)) == "0-4"


# ---------------------------------------------------------------- whatever happens

SPECS = st.fixed_dictionaries(
    {"parallelism": st.integers(1, 3), "completions": st.integers(1, 4), "backoffLimit": st.integers(0, 4)},
    optional={
        "podReplacementPolicy": st.sampled_from(["Failed", "TerminatingOrFailed"]),
        "activeDeadlineSeconds": st.integers(1, 100),
    },
)
INDEXED = st.one_of(
    st.just({}),
    st.just({"completionMode": "Indexed"}),
    st.builds(lambda n: {"completionMode": "Indexed", "backoffLimitPerIndex": n}, st.integers(0, 2)),
)
HAPPENINGS = st.lists(
    st.tuples(st.sampled_from(["ok", "bad", "delete", "gone", "run", "wait", "suspend", "resume"]), st.integers(0, 5)),
    max_size=40,
)


class Watched(Work):
    """Also remembers every pod there ever was."""

    def __init__(self, wanted: Job) -> None:
        self.seen: set[str] = set()
        super().__init__(wanted)

    def step(self) -> bool:
        changed = super().step()
        self.seen |= {p.metadata.uid for p in self.pods}
        return changed


def check(work: Watched, wanted: Job) -> None:
    status, spec = work.status, wanted.spec
    ok = sum(how == "Succeeded" for how in work.ended.values())
    assert len(work.active) <= (spec.parallelism or 0)
    uncounted = [p for p in work.pods if TRACKING in p.metadata.finalizers]
    counted = len({*work.seen} - {p.metadata.uid for p in uncounted})
    assert status.succeeded + status.failed <= counted
    if spec.completion_mode == "NonIndexed":
        assert status.succeeded <= ok
    assert status.active == len(work.active)


def happen(work: Watched, what: str, which: int) -> None:
    pods = work.active
    pod = pods[which % len(pods)] if pods else None
    if pod is not None and what in ("ok", "bad", "delete", "run"):
        {
            "ok": lambda: work.end(pod),
            "bad": lambda: work.end(pod, code=1),
            "delete": lambda: work.delete(pod),
            "run": lambda: work.run(pod),
        }[what]()
    elif what == "gone":
        work.take_away()
    elif what == "wait":
        work.now += 10.0 * which
    elif what in ("suspend", "resume"):
        work.change(suspend=what == "suspend")


@settings(max_examples=150, deadline=None)
@given(SPECS, INDEXED, HAPPENINGS, st.booleans())
def test_in_any_order_a_pod_is_counted_once_and_the_job_ends(
    spec: dict[str, Any], mode: dict[str, Any], happenings: list[tuple[str, int]], well: bool
) -> None:
    work = Watched(job(**(spec | mode)))
    work.settle()
    for what, which in happenings:
        happen(work, what, which)
        work.settle()
        check(work, work.job)
    work.change(suspend=False)
    for _ in range(200):
        work.take_away()
        work.settle()
        if work.conditions().keys() & {"Complete", "Failed"}:
            break
        for pod in work.active:
            work.end(pod, code=0 if well else 1)
        work.settle()
        check(work, work.job)
        work.now += 400
    assert len(work.conditions().keys() & {"Complete", "Failed"}) == 1, work.status
    work.take_away()
    work.settle()
    assert (work.active, work.status.active, work.status.terminating) == ([], 0, 0)
    assert not [p for p in work.pods if TRACKING in p.metadata.finalizers]
