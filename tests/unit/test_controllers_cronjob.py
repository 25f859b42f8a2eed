"""CronJobs: one Job for each of their times, some of them made ahead; none twice, whatever clocks and nodes do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlink.hub.changes import Create, Delete, Update, UpdateStatus
from cloudlink.hub.controllers import garbage
from cloudlink.hub.controllers.ahead import AT_MOST, SCHEDULED, scheduled_at
from cloudlink.hub.controllers.cronjob import Surroundings, reconcile
from cloudlink.hub.controllers.job import is_over
from cloudlink.hub.controllers.job import reconcile as reconcile_job
from cloudlink.hub.decision import Note
from cloudlink.hub.objects import controller_of, is_active, rfc3339, seconds
from cloudlink.kube.annotations import MISSED, QUEUED, START_AT, START_BY, TURN
from cloudlink.kube.batch import CronJob, Job
from cloudlink.kube.core import Node, Pod
from cloudlink.kube.errors import Invalid
from cloudlink.kube.parse import parse
from tests.fakes.hub_brain import node, pod_spec, reported
from tests.fakes.jobs import Store

NOON = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC).timestamp()


def cron_job(schedule: str = "*/10 * * * *", jobs: dict[str, Any] | None = None, **spec: Any) -> CronJob:
    template = {"spec": pod_spec(restartPolicy="Never")}
    document = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "water", "namespace": "default"},
        "spec": {"schedule": schedule, "jobTemplate": {"spec": {"template": template, **(jobs or {})}}, **spec},
    }
    made = parse(document)
    assert isinstance(made, CronJob)
    return made


BIG = {"parallelism": 2, "completions": 2}  # Jobs that need a hub


class Town(Store):
    """One CronJob, its Jobs and their pods, and one node."""

    def __init__(self, wanted: CronJob, now: float = NOON) -> None:
        super().__init__()
        self.now = now
        self.notes: list[Note] = []
        self.wake_at = float("inf")
        self.starts: list[str] = []
        self.fit = True
        self.commit(Create(wanted))

    @property
    def cj(self) -> CronJob:
        [found] = self.all(CronJob)
        return found  # type: ignore[no-any-return]

    @property
    def jobs(self) -> list[Job]:
        """Those that have had their time, in order."""
        due = [j for j in self.all(Job) if seconds(j.metadata.annotations.get(START_AT, "")) <= self.now]
        return sorted(due, key=scheduled_at)

    @property
    def waiting(self) -> list[Job]:
        names = {j.metadata.name for j in self.jobs}
        return [j for j in self.all(Job) if j.metadata.name not in names]

    def pods_of(self, job: Job) -> list[Pod]:
        owned = [p for p in self.all(Pod) if (r := controller_of(p)) is not None and r.uid == job.metadata.uid]
        return sorted(owned, key=lambda p: p.metadata.name)

    def node(self, name: str) -> Node | None:
        return node(name, ready=self.fit) if name == "pi" else None

    def step(self) -> bool:
        before = self.revision
        names = frozenset(j.metadata.name for j in self.all(Job))
        decision = reconcile(self.cj, Surroundings(self.all(Job), names, self.pods_of, self.node), self.now)
        self.commit(*decision.changes)
        self.notes += decision.notes
        self.wake_at = decision.wake_at
        for job in self.all(Job):
            decision = reconcile_job(job, self.pods_of(job), self.now, self.suffix)
            self.commit(*decision.changes)
            self.wake_at = min(self.wake_at, decision.wake_at)
        there = {j.metadata.uid for j in self.all(Job)}
        for pod in self.all(Pod):
            owner = controller_of(pod)
            if owner is not None and owner.uid not in there:
                free = pod.model_copy(update={"metadata": pod.metadata.model_copy(update={"finalizers": ()})})
                self.commit(Update(free), Delete("Pod", "default", pod.metadata.name))
            elif not pod.spec.node_name:
                spec = pod.spec.model_copy(update={"node_name": "pi"})
                self.commit(Update(pod.model_copy(update={"spec": spec})))
            else:
                self.commit(*garbage.lost_pod(pod, node("pi")).changes)
        return self.revision != before

    def settle(self) -> None:
        for _ in range(60):
            if not self.step():
                return
        raise AssertionError("the controllers don't come to an end")

    def at(self, moment: float) -> None:
        self.now = moment
        self.settle()

    def say(self, job: Job, phase: str, reason: str = "") -> None:
        for pod in self.pods_of(job):
            pod = reported(pod, self.now, phase == "Running", phase)
            status = pod.status.model_copy(update={"reason": reason})
            self.commit(UpdateStatus(pod.model_copy(update={"status": status})))

    def end(self, job: Job, phase: str = "Succeeded") -> None:
        self.say(job, phase)
        self.settle()

    def change(self, **spec: Any) -> None:
        self.commit(Update(self.cj.model_copy(update={"spec": self.cj.spec.model_copy(update=spec)})))

    def heard(self, reason: str) -> list[str]:
        return [n.message for n in self.notes if n.reason == reason]


def begun(*arguments: Any, now: float = NOON, **spec: Any) -> Town:
    town = Town(cron_job(*arguments, **spec), now)
    town.settle()
    return town


def minute(text: str) -> float:
    return datetime.fromisoformat(f"2026-03-01 {text}").replace(tzinfo=UTC).timestamp()


# ---------------------------------------------------------------- at its time


def test_a_job_is_made_at_its_time_and_named_after_it() -> None:
    town = begun(jobs=BIG)
    assert (town.all(Job), town.wake_at) == ([], minute("12:10"))
    town.at(minute("12:10"))
    [job] = town.jobs
    assert job.metadata.name == f"water-{int(minute('12:10')) // 60}"
    assert job.metadata.annotations[SCHEDULED] == "2026-03-01T12:10:00Z"
    assert [a.uid for a in town.cj.status.active] == [job.metadata.uid]
    assert town.cj.status.last_schedule_time == rfc3339(minute("12:10"))
    assert town.heard("SuccessfulCreate") == [f"Created job {job.metadata.name}"]
    town.settle()
    assert len(town.jobs) == 1


def test_a_local_time_is_written_as_it_is_there() -> None:
    town = begun("0 14 * * *", jobs=BIG, timeZone="Europe/Berlin")
    assert town.wake_at == minute("13:00")
    town.at(minute("13:00"))
    assert town.jobs[0].metadata.annotations[SCHEDULED] == "2026-03-01T14:00:00+01:00"


def test_only_the_newest_of_many_missed_times_is_made_up_for() -> None:
    town = begun("* * * * *", jobs=BIG)
    town.at(NOON + 3 * 3600)
    assert [j.metadata.annotations[SCHEDULED] for j in town.jobs] == ["2026-03-01T15:00:00Z"]
    assert len(town.heard("TooManyMissedTimes")) == 1


def test_a_start_that_is_too_late_is_left_out() -> None:
    town = begun(jobs=BIG, startingDeadlineSeconds=60)
    town.at(minute("12:11") + 30)
    assert town.jobs == []
    town.at(minute("12:20") + 30)
    assert len(town.jobs) == 1


def test_forbid_waits_until_the_one_before_is_over() -> None:
    town = begun(jobs=BIG, concurrencyPolicy="Forbid")
    town.at(minute("12:10"))
    town.at(minute("12:20"))
    assert len(town.jobs) == 1
    assert town.heard("JobAlreadyActive")
    town.at(minute("12:25"))
    town.end(town.jobs[0])
    assert [j.metadata.annotations[SCHEDULED] for j in town.jobs] == ["2026-03-01T12:10:00Z", "2026-03-01T12:20:00Z"]


def test_replace_ends_the_one_before() -> None:
    town = begun(jobs=BIG, concurrencyPolicy="Replace")
    town.at(minute("12:10"))
    town.at(minute("12:20"))
    assert [j.metadata.annotations[SCHEDULED] for j in town.jobs] == ["2026-03-01T12:20:00Z"]


def test_allow_lets_them_run_side_by_side() -> None:
    town = begun(jobs=BIG)
    town.at(minute("12:10"))
    town.at(minute("12:20"))
    assert len(town.cj.status.active) == 2


def test_finished_jobs_are_kept_up_to_the_limits() -> None:
    town = begun(jobs={**BIG, "backoffLimit": 0}, successfulJobsHistoryLimit=2, failedJobsHistoryLimit=1)
    for n in range(1, 5):
        for phase in ("Succeeded", "Failed"):
            town.at(minute("12:00") + 600 * (2 * n - (phase == "Succeeded")))
            town.end(town.jobs[-1], phase)
    conditions = sorted(c.type for j in town.jobs for c in j.status.conditions if c.type in ("Complete", "Failed"))
    assert conditions == ["Complete", "Complete", "Failed"]
    assert town.cj.status.last_successful_time == rfc3339(minute("13:10"))
    assert town.cj.status.active == ()


def test_a_suspended_one_makes_no_jobs() -> None:
    town = begun(jobs=BIG, suspend=True)
    town.at(minute("12:10"))
    assert (town.all(Job), town.wake_at) == ([], float("inf"))


def test_a_job_that_a_person_makes_from_it_is_not_one_of_its_times() -> None:
    town = begun(jobs=BIG, concurrencyPolicy="Forbid")
    template = town.cj.spec.job_template
    from cloudlink.hub.objects import owned_by
    from cloudlink.kube.meta import ObjectMeta

    meta = ObjectMeta(name="by-hand", namespace="default", owner_references=(owned_by(town.cj),))
    town.commit(Create(Job(metadata=meta, spec=template.spec)))
    town.at(minute("12:10"))
    assert {j.metadata.name for j in town.jobs} == {"by-hand", f"water-{int(minute('12:10')) // 60}"}
    assert len(town.cj.status.active) == 1


# ---------------------------------------------------------------- clocks


def test_a_clock_that_is_put_back_a_little_starts_nothing_twice() -> None:
    town = begun(jobs=BIG)
    town.at(minute("12:10"))
    town.end(town.jobs[0])
    town.at(minute("11:55"))
    town.at(minute("12:10"))
    assert len(town.jobs) == 1
    town.at(minute("12:20"))
    assert len(town.jobs) == 2


def test_a_clock_that_was_years_ahead_does_not_stop_the_times() -> None:
    town = begun(jobs=BIG)
    town.at(NOON + 3 * 365 * 86_400)
    [wrong] = town.jobs
    town.end(wrong)
    town.at(minute("12:20"))
    assert len(town.jobs) == 2


def test_a_time_that_comes_twice_in_autumn_is_started_twice() -> None:
    autumn = datetime(2026, 10, 24, 22, 0, tzinfo=UTC).timestamp()
    town = begun("30 2 * * *", jobs=BIG, timeZone="Europe/Berlin", now=autumn)
    for hours in (2.5, 3.5, 4.5):
        town.at(autumn + hours * 3600)
    assert [j.metadata.annotations[SCHEDULED] for j in town.jobs] == [
        "2026-10-25T02:30:00+02:00",
        "2026-10-25T02:30:00+01:00",
    ]


@pytest.mark.parametrize("line", ["0 0 30 2 *", "0 0 31 4,6 *"])
def test_a_line_that_never_comes_is_refused_with_a_sentence(line: str) -> None:
    with pytest.raises(Invalid) as refused:
        cron_job(line)
    [cause] = refused.value.causes
    assert cause.field == "spec.schedule"
    assert "there is no such day: it would never run" in cause.message


# ---------------------------------------------------------------- ahead of time


def test_the_next_jobs_are_made_ahead_on_one_node_and_are_not_active_yet() -> None:
    town = begun()
    assert len(town.waiting) == AT_MOST
    pods = [p for j in town.waiting for p in town.pods_of(j)]
    assert {p.spec.node_name for p in pods} == {"pi"}
    assert {p.metadata.annotations[TURN] for p in pods} == {town.cj.metadata.uid}
    assert sum(QUEUED not in p.metadata.labels for p in pods) == 1, "room is set aside for one"
    assert pods[0].metadata.annotations[START_AT] == "2026-03-01T12:10:00Z"
    assert (town.cj.status.active, town.cj.status.last_schedule_time) == ((), "")


def test_a_board_that_is_away_keeps_the_times_that_it_has() -> None:
    town = begun()
    [pod] = town.pods_of(town.waiting[0])
    assert {(t.key, t.toleration_seconds) for t in pod.spec.tolerations} == {
        ("node.kubernetes.io/not-ready", None),
        ("node.kubernetes.io/unreachable", None),
    }


def test_a_waiting_job_becomes_the_job_of_its_time_and_the_next_moves_up() -> None:
    town = begun()
    town.at(minute("12:10"))
    [job] = town.jobs
    assert [a.name for a in town.cj.status.active] == [job.metadata.name]
    assert town.cj.status.last_schedule_time == rfc3339(minute("12:10"))
    assert len(town.waiting) == AT_MOST
    town.end(job)
    pods = [p for j in town.waiting for p in town.pods_of(j)]
    assert sum(QUEUED not in p.metadata.labels for p in pods) == 1
    assert town.cj.status.last_successful_time


def test_what_ran_while_the_hub_was_away_is_counted_once_and_not_made_up_for() -> None:
    town = begun(successfulJobsHistoryLimit=4)
    ran = town.waiting[:3]
    town.now = minute("12:35")
    for job in ran:
        town.say(job, "Succeeded")
    town.settle()
    assert sorted(j.metadata.uid for j in town.jobs) == sorted(j.metadata.uid for j in ran)
    assert all(is_over(j) and j.status.succeeded == 1 for j in town.jobs)
    assert town.cj.status.last_schedule_time == rfc3339(minute("12:30"))
    assert len(town.jobs) == 3


def test_a_time_that_the_node_passed_over_is_told_and_goes() -> None:
    town = begun()
    missed, ran = town.waiting[:2]
    town.now = minute("12:21")
    town.say(missed, "Pending", MISSED)
    town.say(ran, "Running")
    town.settle()
    assert [j.metadata.uid for j in town.jobs] == [ran.metadata.uid]
    assert town.heard("MissSchedule") == [f"Missed scheduled time to start a job: {missed.metadata.name}"]


def test_a_change_makes_the_waiting_jobs_anew_and_suspending_takes_them_away() -> None:
    town = begun(startingDeadlineSeconds=30)
    assert town.waiting[0].metadata.annotations[START_BY] == "2026-03-01T12:10:30Z"
    before = {j.metadata.uid for j in town.waiting}
    town.change(schedule="5 * * * *")
    town.settle()
    assert not before & {j.metadata.uid for j in town.waiting}
    assert town.waiting[0].metadata.annotations[SCHEDULED] == "2026-03-01T12:05:00Z"
    town.change(suspend=True)
    town.settle()
    assert town.all(Job) == []


def test_nothing_follows_to_a_node_that_is_away() -> None:
    town = Town(cron_job(concurrencyPolicy="Forbid"))
    town.fit = False
    town.settle()
    assert len(town.waiting) == 1


def test_the_one_before_is_replaced_once_its_node_has_begun_the_next() -> None:
    town = begun(concurrencyPolicy="Replace")
    town.at(minute("12:10"))
    [first] = town.jobs
    town.say(first, "Running")
    town.at(minute("12:20"))
    assert len(town.jobs) == 2, "its node may not know the time"
    town.say(town.jobs[1], "Running")
    town.settle()
    assert [j.metadata.uid for j in town.jobs] != [first.metadata.uid]
    assert len(town.jobs) == 1


def test_jobs_are_made_ahead_for_a_day_and_not_for_longer() -> None:
    town = begun("0 */11 * * *")
    times = [j.metadata.annotations[SCHEDULED][5:16] for j in town.waiting]
    assert times == ["03-01T22:00", "03-02T00:00", "03-02T11:00"]
    assert begun("0 0 1 6 *").waiting == []


# ---------------------------------------------------------------- whatever happens


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["Allow", "Forbid", "Replace"]),
    st.booleans(),
    st.lists(
        st.tuples(st.sampled_from(["wait", "back", "run", "ok", "bad", "missed", "toggle"]), st.integers(0, 40)),
        max_size=25,
    ),
)
def test_no_time_is_ever_started_twice(policy: str, simple: bool, happenings: list[tuple[str, int]]) -> None:
    town = begun("*/5 * * * *", jobs=None if simple else BIG, concurrencyPolicy=policy)
    uids: dict[str, str] = {}
    for what, n in happenings:
        due = [j for j in town.jobs if not is_over(j)]
        job = due[n % len(due)] if due else None
        if what in ("wait", "back"):
            town.now += 60 * n * (1 if what == "wait" else -0.2)
        elif what == "toggle":
            town.change(suspend=not town.cj.spec.suspend)
        elif job is not None:
            town.say(
                job,
                {"run": "Running", "ok": "Succeeded", "bad": "Failed", "missed": "Pending"}[what],
                MISSED if what == "missed" else "",
            )
        town.settle()
        for j in town.jobs:
            ran = is_over(j) or any(p.status.phase == "Running" for p in town.pods_of(j))
            if ran:
                assert uids.setdefault(j.metadata.name, j.metadata.uid) == j.metadata.uid
        if policy == "Forbid" and not simple:
            assert len([j for j in town.jobs if not is_over(j)]) <= 1
        assert len([j for j in town.jobs if is_over(j)]) <= 4
        roomy = [p for p in town.all(Pod) if is_active(p) and QUEUED not in p.metadata.labels]
        if not any(what == "back" for what, _ in happenings):
            assert len(roomy) <= 2 * len(town.jobs) + 1
