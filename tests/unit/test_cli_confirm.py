"""What `edgectl confirm` writes: the wave that a Deployment says it waits with, and nothing where it doesn't wait."""

from __future__ import annotations

from typing import Any

import pytest

from cloudlink.cli.confirm import asked_of
from edged.errors import PermanentError


def deployment(message: str) -> dict[str, Any]:
    conditions = [{"type": "Available", "message": "x"}, {"type": "Progressing", "message": message}]
    return {"metadata": {"name": "web"}, "status": {"conditions": conditions}}


WAITING = "wave 1 of 2: 1 of 3 updated, holding for confirmation: ... (or kubectl annotate with edged.dev/confirm=4/1)"


def test_the_wave_that_waits_is_confirmed_or_all_of_its_revision() -> None:
    assert asked_of(deployment(WAITING), everything=False) == "4/1"
    assert asked_of(deployment(WAITING), everything=True) == "4"


def test_one_that_does_not_wait_says_what_it_does() -> None:
    with pytest.raises(PermanentError, match="does not wait for a confirmation: ReplicaSet is progressing"):
        asked_of(deployment("ReplicaSet is progressing"), everything=False)
    with pytest.raises(PermanentError, match="nothing is being rolled out"):
        asked_of({"metadata": {"name": "web"}}, everything=False)
