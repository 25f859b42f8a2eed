"""Who may look at the page: tokens, sessions, guessing, names; and what the page itself may load."""

from __future__ import annotations

import re
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.config import DashboardConfig, NodeConfig
from edged.dashboard.access import (
    ADDRESSES,
    FAILURES,
    FAILURES_IN_ALL,
    SESSION_SECONDS,
    WINDOW,
    Sessions,
    Throttle,
    base_url,
    host_allowed,
    load_token,
    login_url,
    same,
)
from edged.errors import PermanentError

STATIC = Path(__file__).parents[2] / "edged" / "dashboard" / "static"
NOW = 1_790_000_000.0


def test_the_token_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "state" / "dashboard.token"
    token = load_token(path)
    assert len(token) == 43  # 32 bytes in urlsafe base64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_token(path) == token
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_many_who_start_at_once_agree_on_one_token(tmp_path: Path) -> None:
    path = tmp_path / "dashboard.token"
    found: list[str] = []

    def start() -> None:
        found.append(load_token(path))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


@pytest.mark.parametrize("content", ["", "short", "x" * 20 + "\n", "ü" * 40])
def test_an_unusable_token_file_is_an_error_with_a_way_out(tmp_path: Path, content: str) -> None:
    path = tmp_path / "dashboard.token"
    path.write_text(content)
    with pytest.raises(PermanentError, match="remove it"):
        load_token(path)


def test_the_login_link_names_host_port_and_token(tmp_path: Path) -> None:
    config = NodeConfig("pi", state_dir=str(tmp_path), dashboard=DashboardConfig("0.0.0.0", 8470))
    assert login_url(config) == f"http://127.0.0.1:8470/?token={load_token(tmp_path / 'dashboard.token')}"
    assert base_url("::1", 80) == "http://[::1]:80"


@given(st.text(), st.text())
def test_comparing_is_equality_for_any_text(a: str, b: str) -> None:
    try:
        b.encode()
    except UnicodeEncodeError:
        return
    try:
        equal = same(a, b)
    except UnicodeEncodeError:
        return
    assert equal is (a == b)


def test_a_session_is_valid_until_it_is_old_and_only_for_its_token() -> None:
    mine, other = Sessions("a" * 43), Sessions("b" * 43)
    value = mine.issue(NOW)
    assert mine.valid(value, NOW)
    assert mine.valid(value, NOW + SESSION_SECONDS - 1)
    assert not mine.valid(value, NOW + SESSION_SECONDS)
    assert mine.valid(value, 0.0)  # the board's clock fell back to 1970: nobody is logged out
    assert not other.valid(value, NOW)
    assert mine.cookie != other.cookie


@given(st.text(max_size=120))
def test_no_made_up_session_is_valid(value: str) -> None:
    assert not Sessions("a" * 43).valid(value, NOW)


@given(st.integers(0, 80), st.characters())
def test_no_altered_session_is_valid(at: int, character: str) -> None:
    sessions = Sessions("a" * 43)
    value = sessions.issue(NOW)
    altered = value[:at] + character + value[at + 1 :]
    assert altered == value or not sessions.valid(altered, NOW)


def test_guessing_is_slowed_down_per_address_and_for_everybody() -> None:
    throttle = Throttle()
    for _ in range(FAILURES):
        assert throttle.wait("10.0.0.9", NOW) == 0
        throttle.failed("10.0.0.9", NOW)
    assert throttle.wait("10.0.0.9", NOW + 1) == WINDOW - 1
    assert throttle.wait("10.0.0.8", NOW + 1) == 0
    assert throttle.wait("10.0.0.9", NOW + WINDOW) == 0
    for n in range(FAILURES_IN_ALL):
        throttle.failed(f"10.1.0.{n}", NOW + 2 * WINDOW)
    assert throttle.wait("10.9.9.9", NOW + 2 * WINDOW) > 0


def test_a_crowd_of_guessers_does_not_grow_the_throttle() -> None:
    throttle = Throttle()
    for n in range(10 * ADDRESSES):
        throttle.failed(f"2001:db8::{n:x}", NOW)
    assert len(throttle) == ADDRESSES


def test_a_clock_that_jumps_back_does_not_lock_anybody_out() -> None:
    throttle = Throttle()
    for _ in range(FAILURES_IN_ALL):
        throttle.failed("10.0.0.9", NOW)
    assert throttle.wait("10.0.0.9", 12.0) == 0


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost:8470", True),
        ("127.0.0.1:8470", True),
        ("127.0.0.1", True),
        ("[::1]:8470", True),
        ("192.168.1.42:8470", True),  # the address that the client reached us by
        ("pi-kitchen.local:8470", True),
        ("PI-KITCHEN.local.", True),
        ("192.168.1.43", False),
        ("evil.example", False),
        ("evil.example:8470", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("pi-kitchen.local.evil.example", False),
        ("", False),
        ("[", False),
        ("a:b:c", False),
        ("\x00", False),
    ],
)
def test_only_names_that_can_be_nobody_elses_are_answered(host: str, allowed: bool) -> None:
    assert host_allowed(host, frozenset({"pi-kitchen.local"}), "192.168.1.42") is allowed


@given(st.text(max_size=60))
def test_any_host_header_has_an_answer(host: str) -> None:
    assert host_allowed(host, frozenset(), "fe80::1%eth0") in (True, False)


def test_the_page_loads_nothing_from_elsewhere_and_has_nothing_inline() -> None:
    page = (STATIC / "index.html").read_text()
    assert not re.search(r"(?:https?:)?//", page)
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)
    assert re.findall(r"<script[^>]*>([^<]*)</script>", page) == [""]
    for path in STATIC.iterdir():
        text = path.read_text()
        assert not re.search(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[a-z]", text), path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text), path


def test_the_page_is_small_enough_to_be_read_by_a_person() -> None:
    assert sum(path.stat().st_size for path in STATIC.iterdir()) < 80_000
