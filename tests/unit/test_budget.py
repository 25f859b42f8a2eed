"""Admission: what fits is decided in bytes and said in a sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged import host
from edged.config import NodeConfig
from edged.decide import budget as budgets
from edged.decide.admission import admission
from edged.decide.budget import Budget, admit
from edged.model import Capacity, Claim, Container, Desired, Limits, Observed, Pod, SandboxState

MIB = 1 << 20
GIB = 1 << 30


def pod(name: str, memory: int = 0, storage: int = 0) -> Pod:
    limits = Limits(memory_request=memory, storage_request=storage)
    return Pod("default", name, f"uid-{name}", (Container("main", "x", limits=limits),))


def desired(*pods: Pod, claims: tuple[Claim, ...] = ()) -> Desired:
    return Desired("fleet", "node", 1, pods, claims=claims)


def sandbox(one: Pod, **more: object) -> SandboxState:
    return SandboxState(one.uid, one.title, "10.0.0.2", memory_request=one.memory_request, **more)  # type: ignore[arg-type]


def test_a_pod_that_does_not_fit_is_told_how_much_is_missing() -> None:
    told = admit([pod("a", 24 * MIB), pod("b", 64 * MIB)], (), Budget(64 * MIB))
    assert told.refused == {"uid-b": "needs 64 MiB of memory, 40 MiB free"}
    assert told.reasons == {"uid-b": "OutOfmemory"}
    assert told.requested == 24 * MIB


def test_storage_is_admitted_like_memory() -> None:
    told = admit([pod("a", storage=GIB), pod("b", storage=4 * GIB)], (), Budget(MIB, storage=4 * GIB))
    assert told.refused == {"uid-b": "needs 4 GiB of storage, 3 GiB free"}
    assert told.reasons == {"uid-b": "OutOfephemeral-storage"}


def test_what_persistent_volumes_may_fill_is_set_aside() -> None:
    wanted = desired(pod("a", storage=2 * GIB), claims=(Claim("default", "data", "u", 3 * GIB),))
    told = admission(wanted, Observed(), Budget(MIB, storage=4 * GIB))
    assert told.refused == {"uid-a": "needs 2 GiB of storage, 1 GiB free"}


def test_a_board_that_cannot_tell_the_size_of_its_disk_refuses_nobody_for_it() -> None:
    assert budgets.of(Capacity(MIB, MIB, 1000)).storage == budgets.UNBOUNDED
    assert budgets.of(Capacity(MIB, MIB, 1000, storage_allocatable=GIB)).storage == GIB


def test_an_evicted_pod_gives_its_place_to_another() -> None:
    old, new = pod("old", 48 * MIB), pod("new", 48 * MIB)
    observed = Observed(sandboxes=(sandbox(old, evicted="Evicted"),))
    assert admission(desired(old, new), observed, Budget(64 * MIB)).refused == {}


def test_a_pod_that_is_leaving_keeps_its_place_until_it_is_gone() -> None:
    old, new = pod("old", 48 * MIB), pod("new", 48 * MIB)
    observed = Observed(sandboxes=(sandbox(old),))
    told = admission(desired(new), observed, Budget(64 * MIB))
    assert told.refused == {"uid-new": "needs 48 MiB of memory, 16 MiB free"}


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100), st.booleans()), max_size=30),
    st.integers(0, 300),
    st.integers(0, 300),
)
def test_newcomers_never_make_requests_exceed_what_there_is(
    asked: list[tuple[int, int, bool]], memory: int, storage: int
) -> None:
    pods = [pod(f"p{n}", m, s) for n, (m, s, _) in enumerate(asked)]
    present = {p.uid for p, (_, _, there) in zip(pods, asked, strict=True) if there}
    told = admit(pods, present, Budget(memory, storage=storage))
    assert set(told.refused) == set(told.reasons)
    new = [p for p in pods if p.uid not in present and p.uid not in told.refused]
    there = [p for p in pods if p.uid in present]
    if new:
        assert sum(p.memory_request for p in new + there) <= memory
        assert sum(budgets.storage_request(p) for p in new + there) <= storage


@pytest.mark.parametrize(
    ("total", "least", "most"),
    [
        (430 * MIB, 280 * MIB, 310 * MIB),  # a Pi Zero 2 with 512 MB, of which the GPU has some
        (464 * MIB, 310 * MIB, 330 * MIB),
        (924 * MIB, 720 * MIB, 760 * MIB),
        (3800 * MIB, 3400 * MIB, 3450 * MIB),
        (64 * MIB, 0, 0),  # not a board for pods, and no error either
    ],
)
def test_every_board_leaves_something_sensible_to_its_pods(total: int, least: int, most: int) -> None:
    assert least <= host.memory_for_pods(NodeConfig("n"), total) <= most


@pytest.mark.parametrize("total", [220, 430, 464, 600, 924, 3800])
def test_the_system_keeps_enough_to_answer_while_pods_take_all_they_may(total: int) -> None:
    """systemd, the kernel and sshd take 64 MiB at least, 96 where a board can spare them (tests/vm, 512 MB)."""
    left = total * MIB - host.memory_for_pods(NodeConfig("n"), total * MIB) - host.margin(total * MIB)
    assert left - NodeConfig("n").own_reserve >= min(96, max(64, total // 5)) * MIB


def test_reserves_can_be_overridden() -> None:
    none = NodeConfig("n", system_reserve=0, own_reserve=0)
    assert host.memory_for_pods(none, GIB) == (GIB - host.margin(GIB)) // MIB * MIB
    assert host.memory_for_pods(NodeConfig("n", memory_allocatable=100 * MIB), GIB) == 100 * MIB


def test_capacity_speaks_of_the_disk_that_pods_will_use() -> None:
    told = host.capacity(NodeConfig("n", state_dir="/nowhere/yet", storage_reserve=0))
    assert told.storage == told.storage_allocatable > 0
    assert host.capacity(NodeConfig("n", state_dir="/")).storage_allocatable == told.storage - told.storage // 10
