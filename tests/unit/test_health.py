"""Folding probe results: thresholds, order of the probe kinds, and what counts as news."""

from __future__ import annotations

from edged.decide import health as healths
from edged.decide.health import ProbeKind
from edged.model import Container, Health, Probe, TcpAction

PROBE = Probe(TcpAction(80), success_threshold=1, failure_threshold=3)
ALL = Container("c", "demo", liveness=PROBE, readiness=PROBE, startup=PROBE)


def folded(container: Container, *results: tuple[ProbeKind, bool]) -> Health:
    health = healths.initial(container)
    for kind, success in results:
        probe = dict(healths.probes_of(container))[kind]
        health = healths.fold(health, kind, probe, success, "HTTP 500", container)
    return health


def test_without_probes_a_running_container_is_started_and_ready_at_once() -> None:
    assert healths.initial(Container("c", "demo")) == Health(started=True, ready=True)


def test_while_the_startup_probe_has_not_succeeded_only_it_is_asked() -> None:
    before = healths.initial(ALL)
    assert [k for k in ProbeKind if healths.wanted(k, before)] == [ProbeKind.STARTUP]
    after = folded(ALL, (ProbeKind.STARTUP, True))
    assert [k for k in ProbeKind if healths.wanted(k, after)] == [ProbeKind.LIVENESS, ProbeKind.READINESS]
    assert after.started
    assert not after.ready


def test_liveness_ends_the_container_only_after_its_failure_threshold() -> None:
    twice = folded(ALL, (ProbeKind.STARTUP, True), *[(ProbeKind.LIVENESS, False)] * 2)
    assert twice.live
    thrice = folded(ALL, (ProbeKind.STARTUP, True), *[(ProbeKind.LIVENESS, False)] * 3)
    assert not thrice.live
    assert thrice.reason == "liveness probe failed: HTTP 500"


def test_one_success_starts_the_count_of_failures_anew() -> None:
    kinds = [(ProbeKind.LIVENESS, False)] * 2 + [(ProbeKind.LIVENESS, True)] + [(ProbeKind.LIVENESS, False)] * 2
    assert folded(ALL, (ProbeKind.STARTUP, True), *kinds).live


def test_readiness_failures_take_out_of_service_and_never_end_anything() -> None:
    ready = folded(ALL, (ProbeKind.STARTUP, True), (ProbeKind.READINESS, True))
    assert ready.ready
    lost = folded(ALL, (ProbeKind.STARTUP, True), (ProbeKind.READINESS, True), *[(ProbeKind.READINESS, False)] * 3)
    assert not lost.ready
    assert lost.live


def test_a_startup_probe_that_never_succeeds_ends_the_container() -> None:
    assert not folded(ALL, *[(ProbeKind.STARTUP, False)] * 3).live


def test_counters_alone_are_no_news() -> None:
    once = folded(ALL, (ProbeKind.STARTUP, True), (ProbeKind.READINESS, True))
    again = healths.fold(once, ProbeKind.READINESS, PROBE, True, "", ALL)
    assert once != again
    assert healths.same_story(once, again)


def test_the_first_no_of_a_container_that_was_never_ready_is_no_news() -> None:
    first = folded(ALL, (ProbeKind.STARTUP, True), (ProbeKind.READINESS, False))
    assert first.reason == ""
    second = folded(ALL, (ProbeKind.STARTUP, True), *[(ProbeKind.READINESS, False)] * 2)
    assert second.reason == "readiness probe failed: HTTP 500"
