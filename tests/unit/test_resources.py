"""Requests and limits of one container, in the kernel's terms; and Kubernetes' classes."""

from __future__ import annotations

import pytest

from edged.model import Container, Limits, Pod, Qos, qos_of
from edged.runtime import resources

MIB = 1 << 20
SURE = Limits(100 * MIB, 100 * MIB, 500, 500)


def pod(*limits: Limits, init: tuple[Limits, ...] = ()) -> Pod:
    return Pod(
        "default",
        "app",
        "uid",
        tuple(Container(f"c{n}", "x", limits=one) for n, one in enumerate(limits)),
        init=tuple(Container(f"i{n}", "x", limits=one) for n, one in enumerate(init)),
    )


@pytest.mark.parametrize(
    ("limits", "init", "expected"),
    [
        ((SURE,), (), Qos.GUARANTEED),
        ((SURE, SURE), (SURE,), Qos.GUARANTEED),
        ((SURE,), (Limits(),), Qos.BURSTABLE),  # init containers count
        ((Limits(),), (SURE,), Qos.BURSTABLE),
        ((SURE, Limits()), (), Qos.BURSTABLE),
        ((Limits(100 * MIB, 100 * MIB),), (), Qos.BURSTABLE),  # nothing said of the CPU
        ((Limits(50 * MIB, 100 * MIB, 500, 500),), (), Qos.BURSTABLE),
        ((Limits(cpu_request=1),), (), Qos.BURSTABLE),
        ((Limits(),), (Limits(),), Qos.BEST_EFFORT),
        ((Limits(storage_request=MIB, storage_limit=MIB),), (), Qos.BEST_EFFORT),  # storage makes no class
        ((Limits(0, 0, 0, 0),), (), Qos.BEST_EFFORT),  # 0 is as good as none
    ],
)
def test_the_class_of_a_pod_is_kubernetes_own(
    limits: tuple[Limits, ...], init: tuple[Limits, ...], expected: Qos
) -> None:
    assert qos_of(pod(*limits, init=init)) is expected


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((SURE,), -997),  # Guaranteed
        ((Limits(),), 1000),  # BestEffort
        ((Limits(memory_request=256 * MIB),), 750),  # Burstable: a quarter of 1 GiB
        ((Limits(memory_request=1),), 999),
        ((Limits(memory_request=1024 * MIB, memory_limit=2048 * MIB),), 2),
        ((SURE, Limits()), 903),  # one container without makes it Burstable
    ],
)
def test_who_dies_first_is_decided_by_kubernetes_classes(limits: tuple[Limits, ...], expected: int) -> None:
    assert resources.oom_score_adj(pod(*limits), limits[0], 1024 * MIB) == expected
