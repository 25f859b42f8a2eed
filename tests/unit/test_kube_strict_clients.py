"""What the Python client insists on is in every document: its models refuse one without, as generated ones do."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes import client

from cloudlink.kube import apps, core, policy, reviews
from cloudlink.kube.meta import Condition, Model
from cloudlink.kube.parse import dump


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (core.ContainerStatus(name="main", image="", image_id="", ready=False, restart_count=0), "V1ContainerStatus"),
        (core.ContainerStateTerminated(exit_code=0), "V1ContainerStateTerminated"),
        (core.NodeSystemInfo(), "V1NodeSystemInfo"),
        (apps.ReplicaSetStatus(), "V1ReplicaSetStatus"),
        (apps.StatefulSetStatus(), "V1StatefulSetStatus"),
        (apps.DaemonSetStatus(), "V1DaemonSetStatus"),
        (policy.PodDisruptionBudgetStatus(), "V1PodDisruptionBudgetStatus"),
        (
            Condition(type="Ready", status="True", last_transition_time="2026-01-01T00:00:00Z"),
            "V1Condition",
        ),
        (reviews.SubjectAccessReviewStatus(), "V1SubjectAccessReviewStatus"),
        (reviews.SubjectRulesReviewStatus(), "V1SubjectRulesReviewStatus"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_a_part_that_says_nothing_still_has_what_its_reader_insists_on(ours: Model, theirs: str) -> None:
    kind: Any = getattr(client, theirs)
    assert kind.from_dict(dump(ours)) is not None
