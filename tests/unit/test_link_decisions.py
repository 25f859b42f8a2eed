"""What the link decides without a network: how long to wait, what time it can't be, and to end when told."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlink import certs, link, trust
from edged.model import Capacity, NodeStatus

TIMING = link.Timing()


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_waits_between_connections_grow_are_thinned_out_and_end_at_a_minute(failures: int, dice: float) -> None:
    wait = link.retry_delay(failures, dice, TIMING)
    assert TIMING.first_retry / 2 <= wait <= TIMING.last_retry
    assert link.retry_delay(failures + 1, dice, TIMING) >= wait


def test_a_fleet_that_lost_its_broker_does_not_come_back_at_one_moment() -> None:
    waits = {link.retry_delay(8, n / 10, TIMING) for n in range(10)}
    assert len(waits) == 10
    assert max(waits) - min(waits) > 20


@given(st.lists(st.floats(), max_size=10))
def test_the_time_floor_never_sinks_and_takes_no_nonsense(
    tmp_path_factory: pytest.TempPathFactory, moments: list[float]
) -> None:
    file = tmp_path_factory.mktemp("floor") / "floor"
    floor = link.TimeFloor(file)
    highest = 0.0
    for moment in moments:
        floor.raise_to(moment)
        assert floor.value >= highest
        highest = floor.value
    assert highest < float("inf")
    assert link.TimeFloor(file).value <= highest + 1


def test_the_time_floor_spares_the_flash(tmp_path: Path) -> None:
    floor = link.TimeFloor(tmp_path / "floor")
    floor.raise_to(1.75e9)
    written = (tmp_path / "floor").stat().st_mtime_ns
    floor.raise_to(1.75e9 + link.FLOOR_STEP - 1)
    assert (tmp_path / "floor").stat().st_mtime_ns == written
    floor.raise_to(1.75e9 + link.FLOOR_STEP)
    assert link.TimeFloor(tmp_path / "floor").value == 1.75e9 + link.FLOOR_STEP


def test_a_damaged_time_floor_is_none(tmp_path: Path) -> None:
    (tmp_path / "floor").write_bytes(b"\xff\x00 nonsense")
    assert link.TimeFloor(tmp_path / "floor").value == 0.0


def test_tls_insists_on_the_hubs_ca_and_name_and_leaves_out_dates_only_when_told() -> None:
    ca = certs.make_authority("home").certificate.decode()
    strict, lenient = link.hub_context(ca), link.hub_context(ca, check_time=False)
    for context in (strict, lenient):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert len(context.get_ca_certs()) == 1
    assert not strict.verify_flags & 0x200000
    assert lenient.verify_flags & 0x200000
    assert lenient.verify_flags == strict.verify_flags | 0x200000


class _Swallowing:
    """A client whose answer comes at the moment of a cancellation, as asyncio.wait_for of Python 3.11 has it."""

    async def publish(self, *_: Any, **__: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            return


def test_a_cancellation_is_heeded_even_if_aiomqtt_swallows_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        place = link.Place("127.0.0.1", 1, "home", "pi-1")
        floor = link.TimeFloor(tmp_path / "floor")
        uplink = link.MqttUplink(place, lambda _: link.hub_context(""), bytes(32), trust.generate_key(), floor)
        uplink.report(NodeStatus("pi-1", 1, "e", Capacity(1, 1, 1)))
        sender = asyncio.create_task(uplink._send(_Swallowing()), name="sender")  # type: ignore[arg-type]
        async with asyncio.timeout(10):
            with pytest.raises(asyncio.CancelledError):
                await sender

    asyncio.run(scenario())


LOADED = """
import sys
import cloudlink.node
heavy = {"urllib.request", "http.client", "email", "cryptography", "pydantic", "fastapi", "httpx"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
import urllib.request
assert urllib.request.urlopen
"""


def test_the_resident_node_loads_no_http_and_no_cryptography_and_others_still_can() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
