"""Reading a log that others write, cut and replace."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.control.logs import CHUNK, MAX_LINE, LogLine, LogReader, parse_line

STAMP = "2026-11-21T05:22:51.251072000Z"


def cri(*texts: str, stream: str = "stdout", flag: str = "F") -> str:
    return "".join(f"{STAMP} {stream} {flag} {text}\n" for text in texts)


def texts(reader: LogReader) -> list[str]:
    found = []
    while lines := reader.read():
        found += [line.text for line in lines]
    return found


def test_a_line_in_cri_form_is_taken_apart() -> None:
    assert parse_line(f"{STAMP} stderr F two words".encode()) == LogLine(STAMP, "stderr", "two words")
    assert parse_line(f"{STAMP} stdout P half".encode()) == LogLine(STAMP, "stdout", "half", True)
    assert parse_line(f"{STAMP} stdout F ".encode()) == LogLine(STAMP, "stdout", "")
    assert parse_line(f"{STAMP} stdout F".encode()) == LogLine(STAMP, "stdout", "")


@given(st.binary(max_size=200))
def test_any_bytes_make_a_line_and_lose_nothing_readable(raw: bytes) -> None:
    line = parse_line(raw)
    assert line.stream or line.text == raw.decode(errors="replace")


@settings(max_examples=60)
@given(st.lists(st.text("ab é\x1b", max_size=30), max_size=40), st.integers(0, 50), st.integers(1, 3000))
def test_the_tail_is_exactly_the_last_lines_however_long_the_log_is(lines: list[str], count: int, padding: int) -> None:
    lines = [line + "x" * padding for line in lines]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        path.write_text(cri(*lines))
        with LogReader(path) as reader:
            reader.seek_tail(count)
            assert texts(reader) == (lines[-count:] if count else [])


def test_lines_that_come_later_are_read_later(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with LogReader(path) as reader:
        assert texts(reader) == []  # the container hasn't written yet
        path.write_text(cri("one"))
        assert texts(reader) in ([], ["one"])
        with path.open("a") as file:
            file.write(cri("two") + f"{STAMP} stdout F thr")
        assert "two" in texts(reader)
        with path.open("a") as file:
            file.write("ee\n")
        assert texts(reader) == ["three"]


def test_a_log_that_was_cut_is_read_again_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(cri("one", "two", "three"))
    with LogReader(path) as reader:
        assert texts(reader) == ["one", "two", "three"]
        os.truncate(path, 0)
        with path.open("a") as file:
            file.write(cri("new"))
        assert texts(reader) == ["new"]


def test_a_log_that_was_replaced_is_followed_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(cri("one"))
    with LogReader(path) as reader:
        assert texts(reader) == ["one"]
        fresh = tmp_path / "fresh"
        fresh.write_text(cri("two"))
        with path.open("a") as file:
            file.write(cri("just before"))
        fresh.rename(path)
        assert texts(reader) == ["just before", "two"]


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 30))
def test_the_tail_reaches_into_the_older_half(older: int, newer: int, count: int) -> None:
    lines = [f"line {n}" for n in range(older + newer)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.log"
        (Path(folder) / "c.log.1").write_text(cri(*lines[:older]))
        path.write_text(cri(*lines[older:]))
        with LogReader(path) as reader:
            reader.seek_tail(count)
            assert texts(reader) == (lines[-count:] if count else [])
            with path.open("a") as file:
                file.write(cri("later"))
            assert texts(reader) == ["later"]


def test_a_follower_misses_nothing_while_the_log_is_turned_over(tmp_path: Path) -> None:
    path = tmp_path / "c.log"
    path.write_text(cri("line 0"))
    found = []
    with LogReader(path) as reader:
        reader.seek_tail(10)
        for n in range(1, 60):
            if n % 7 == 0:
                path.rename(tmp_path / "c.log.1")
            with path.open("a") as file:
                file.write(cri(f"line {n}"))
            if n % 3 == 0:
                found += texts(reader)
        found += texts(reader)
    assert found == [f"line {n}" for n in range(60)]


def test_a_log_that_was_taken_away_ends_quietly(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(cri("one"))
    with LogReader(path) as reader:
        path.unlink()
        assert texts(reader) == ["one"]
        assert reader.read() == ()


def test_a_line_without_an_end_does_not_grow_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * (10 * MAX_LINE))
    with LogReader(path) as reader:
        most = 0
        while True:
            before = len(reader._rest)
            lines = reader.read()
            most = max(most, *(len(line.text) for line in lines), 0)
            if not lines and len(reader._rest) == before:
                break
        assert most <= MAX_LINE + CHUNK


def test_the_last_line_is_told_where_the_writer_ended_without_a_newline(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(cri("one") + f"{STAMP} stdout F tw")
    with LogReader(path) as reader:
        assert texts(reader) == ["one"]
        assert [line.text for line in reader.finish()] == ["tw"]
        assert reader.finish() == ()


@pytest.mark.parametrize("count", [0, 1, 100])
def test_the_tail_of_an_empty_or_missing_log_is_empty(tmp_path: Path, count: int) -> None:
    for path in (tmp_path / "missing", tmp_path / "empty"):
        if path.name == "empty":
            path.touch()
        with LogReader(path) as reader:
            reader.seek_tail(count)
            assert texts(reader) == []
