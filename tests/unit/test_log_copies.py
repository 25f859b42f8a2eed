"""Logs in memory stay within their bounds, and copies follow them to disk and journal without a gap."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from edged.config import NodeConfig
from edged.runtime import logcopy
from edged.runtime.containerlogs import ContainerLogs
from edged.runtime.logcopy import DiskLogs, DiskSink, JournalSink, LogCopy
from edged.runtime.logs import LogFile, LogKeeper
from edged.runtime.records import ContainerRecord, Places

KB = 1 << 10
STAMP = b"2026-11-21T05:22:51.251072000Z"


def cri(*texts: str) -> bytes:
    return b"".join(STAMP + b" stdout F " + text.encode() + b"\n" for text in texts)


def texts(data: bytes) -> list[str]:
    return [line.split(" ", 3)[3] for line in data.decode().splitlines()]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 (inotify tells the keeper, not us)
            await asyncio.sleep(0.005)


def run(scenario: Callable[[Path], Coroutine[Any, Any, None]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(scenario(Path(folder)))


def used(folder: Path) -> int:
    return sum({f.stat().st_ino: f.stat().st_size for f in folder.iterdir()}.values())


def write(log: Path, data: bytes) -> None:
    with log.open("ab") as file:
        file.write(data)


def turn_over(log: Path) -> None:
    """As conmon does: a new file under another name, renamed over the old one."""
    fresh = log.with_name(f"{log.name}.tmp")
    fresh.touch()
    fresh.rename(log)


# ---------------------------------------------------------------- bounds


def test_logs_of_ended_attempts_go_first_and_the_oldest_before_the_others() -> None:
    async def scenario(folder: Path) -> None:
        keeper = LogKeeper(folder, 16 * KB, 100 * KB)
        keeper.open()
        for n in range(4):
            log = folder / f"old{n}.log"
            keeper.begin(log, 16 * KB)
            write(log, b"x" * 15 * KB)
            keeper.end(log)
        live = folder / "live.log"
        keeper.begin(live, 16 * KB)
        assert len(list(folder.glob("old*.log"))) == 4
        for n in range(3):
            keeper.begin(folder / f"live{n}.log", 16 * KB)
        assert sorted(f.name for f in folder.glob("old*.log")) == ["old2.log", "old3.log"]
        keeper.close()

    run(scenario)


def test_older_halves_go_when_no_ended_log_is_left_and_whoever_starts_then_gets_less() -> None:
    async def scenario(folder: Path) -> None:
        turned: list[Path] = []
        keeper = LogKeeper(folder, 16 * KB, 64 * KB, turned.append)
        keeper.open()
        halves = []
        for n in range(12):
            halves.append(keeper.next_half())
            log = folder / f"c{n}.log"
            keeper.begin(log, halves[-1])
            write(log, b"x" * halves[-1])
            turn_over(log)
            await until(lambda log=log: log in turned)  # type: ignore[misc]
            write(log, b"x" * halves[-1])
        assert halves[0] == 16 * KB
        assert halves[-1] == 4 * KB
        assert sum(halves) <= 64 * KB + 12 * 4 * KB
        assert used(folder) <= 64 * KB + 12 * 4 * KB
        keeper.close()

    run(scenario)


def test_a_flood_by_the_daemons_own_hand_stays_within_the_bounds() -> None:
    async def scenario(folder: Path) -> None:
        keeper = LogKeeper(folder, 8 * KB, 32 * KB)
        keeper.open()
        writers = []
        for n in range(3):
            log = folder / f"c{n}.log"
            half = keeper.next_half()
            keeper.begin(log, half)
            writers.append(LogFile(log, half))
        for n in range(3000):
            writers[n % 3].write(0, b"y" * 50 + b"\n", n)
            if n % 100 == 0:
                await asyncio.sleep(0)
        await until(lambda: used(folder) <= 32 * KB + 8 * KB)
        for writer in writers:
            writer.close()
        keeper.close()

    run(scenario)


# ---------------------------------------------------------------- disk


def on_disk(folder: Path) -> list[str]:
    """Every line of all files, in order."""
    found = []
    for file in sorted(folder.glob("*.log*")):
        found += texts(gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes())
    return found


def test_a_copy_on_disk_follows_over_turns_and_restarts_without_gap_or_repetition() -> None:
    async def scenario(folder: Path) -> None:
        log, disk = folder / "c.log", folder / "disk"
        keeper = LogKeeper(folder, 16 * KB, 1 << 20)
        keeper.open()
        keeper.begin(log, 16 * KB)
        copy = LogCopy(log, DiskSink(disk, 0, 1 << 20, lambda: None), keeper, lambda _: None)
        copy.advance()
        assert not disk.exists()  # nothing was logged
        count = 0
        for n in range(12):
            for _ in range(10):
                write(log, cri(f"line {count}"))
                count += 1
            if n % 3 == 1:
                os.replace(log, folder / "c.log.1")  # noqa: PTH105
                log.touch()
            if n % 4 == 2:
                copy.advance()
            if n % 5 == 3:  # the daemon is killed, and the next one goes on
                copy = LogCopy(log, DiskSink(disk, 0, 1 << 20, lambda: None), keeper, lambda _: None)
                copy.advance()
        copy.close()
        assert on_disk(disk) == [f"line {n}" for n in range(count)]
        keeper.close()

    run(scenario)


def test_a_line_without_an_end_waits_for_it() -> None:
    async def scenario(folder: Path) -> None:
        log, disk = folder / "c.log", folder / "disk"
        keeper = LogKeeper(folder, 16 * KB, 1 << 20)
        write(log, cri("one") + STAMP + b" stdout F tw")
        copy = LogCopy(log, DiskSink(disk, 0, 1 << 20, lambda: None), keeper, lambda _: None)
        copy.advance(again=False)
        assert on_disk(disk) == ["one"]
        write(log, b"o\n")
        copy.close()
        assert on_disk(disk) == ["one", "two"]

    run(scenario)


def test_full_files_are_compressed_and_the_oldest_go() -> None:
    async def scenario(folder: Path) -> None:
        root = folder / "logs"
        disk = DiskLogs(root, 1, 1 << 30)  # 1: as small as files can be
        sink = disk.sink("default", "web", "u-1", "main", 3)
        for n in range(14):
            sink.take(cri(f"begin {n}", "x" * 100 * KB))
        sink.close()
        place = root / "default_web_u-1" / "main"
        await until(lambda: len(list(place.iterdir())) == logcopy.FILES and len(list(place.glob("*.gz"))) == 7)
        assert sorted(place.iterdir())[-1].name == "000014-3.log"
        assert [t for t in on_disk(place) if t.startswith("begin")] == [f"begin {n}" for n in range(6, 14)]
        disk.close()

    run(scenario)


def test_logs_of_all_pods_on_disk_are_bounded_together() -> None:
    async def scenario(folder: Path) -> None:
        root = folder / "logs"
        disk = DiskLogs(root, 1, 300 * KB)
        for number, uid in enumerate(("gone", "old", "new")):
            sink = disk.sink("default", "web", uid, "main", 0)
            for _ in range(2):
                sink.take(os.urandom(90 * KB).hex().encode()[: 120 * KB] + b"\n")
            sink.close()
            for file in (root / f"default_web_{uid}" / "main").iterdir():
                os.utime(file, (number, number))
        disk.sink("default", "web", "new", "main", 1)  # tidies up
        await until(lambda: sum(f.stat().st_size for f in root.rglob("*.*")) <= 300 * KB)
        assert not (root / "default_web_gone").exists()
        assert (root / "default_web_new").exists()
        disk.close()

    run(scenario)


def test_a_pod_whose_name_could_lead_elsewhere_gets_a_folder_named_after_its_uid() -> None:
    async def scenario(folder: Path) -> None:
        sink = DiskLogs(folder, 1, 1 << 20).sink("../..", "x", "u-1", "main", 0)
        sink.take(cri("one"))
        assert on_disk(folder / "u-1" / "main") == ["one"]
        sink.close()

    run(scenario)


# ---------------------------------------------------------------- journal


def test_lines_arrive_in_the_journal_with_the_names_of_pod_and_container() -> None:
    async def scenario(folder: Path) -> None:
        path = folder / "socket"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as journal:
            journal.bind(str(path))
            sink = JournalSink("home", "web", "u-1", "main", path)
            block = cri("two\rwords") + STAMP + b" stderr P half \xff\n"
            assert sink.take(block) == len(block)
            first, second = journal.recv(4096), journal.recv(4096)
            sink.close()
        assert first.startswith(b"SYSLOG_IDENTIFIER=main\nCONTAINER_NAME=main\nPOD=web\nNAMESPACE=home\nPOD_UID=u-1\n")
        assert first.endswith(b"PRIORITY=6\nMESSAGE\n\x09\0\0\0\0\0\0\0two\rwords\n")
        assert b"PRIORITY=3\nCONTAINER_PARTIAL_MESSAGE=true\n" in second
        assert second.endswith(b"half \xff\n")

    run(scenario)


def test_a_journal_that_is_full_gets_the_rest_later_and_one_that_is_away_is_told() -> None:
    async def scenario(folder: Path) -> None:
        path, log = folder / "socket", folder / "c.log"
        write(log, cri(*(f"line {n}" for n in range(5000))))
        told: list[str] = []
        keeper = LogKeeper(folder, 16 * KB, 1 << 20)
        copy = LogCopy(log, JournalSink("home", "web", "u-1", "main", path), keeper, told.append)
        copy.advance(again=False)
        assert told[-1].startswith(f"logs can't go to the journal at {path}: ")
        got = 0
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as journal:
            journal.bind(str(path))
            while got < 5000:
                copy.advance(again=False)
                assert told[-1] == ""
                while True:
                    try:
                        message = journal.recv(4096)
                    except BlockingIOError:
                        break
                    assert message.endswith(b"line %d\n" % got)
                    got += 1
            copy.close()

    run(scenario)


# ---------------------------------------------------------------- all together


def test_a_container_with_logs_on_disk_is_copied_to_its_end_also_by_a_daemon_that_came_later() -> None:
    async def scenario(folder: Path) -> None:
        config = NodeConfig(name="n", state_dir=str(folder / "state"), run_dir=str(folder / "run"))
        places = Places(config.run, config.state)
        places.logs.mkdir(parents=True)
        record = ContainerRecord("u-1.main.0", "u-1", "main", 0, pod="home/web", log_half=64 * KB, log_target="disk")
        first = ContainerLogs(places, config)
        first.open()
        first.begin(record)
        write(places.log(record.id), cri("one"))
        first.close()  # flushes
        place = config.state / "logs" / "home_web_u-1" / "main"
        assert on_disk(place) == ["one"]
        write(places.log(record.id), cri("two"))  # while no daemon runs
        second = ContainerLogs(places, config)
        second.open()
        second.adopt(record, runs=True)
        assert on_disk(place) == ["one", "two"]
        write(places.log(record.id), cri("three"))
        second.end(record.id)
        assert on_disk(place) == ["one", "two", "three"]
        second.remove(record.id)
        second.close()
        assert list(places.logs.iterdir()) == []
        assert second.degraded == ()

    run(scenario)


def test_a_disk_that_takes_nothing_is_told_and_tried_again() -> None:
    async def scenario(folder: Path) -> None:
        config = NodeConfig(name="n", state_dir=str(folder / "state"), run_dir=str(folder / "run"))
        (folder / "state").write_text("not a folder")
        places = Places(config.run, config.state)
        places.logs.mkdir(parents=True)
        record = ContainerRecord("u-1.main.0", "u-1", "main", 0, pod="home/web", log_half=64 * KB, log_target="disk")
        logs = ContainerLogs(places, config)
        logs.open()
        write(places.log(record.id), cri("one"))
        logs.adopt(record, runs=True)
        (sentence,) = logs.degraded
        assert sentence.startswith(f"logs can't be written to {folder}")
        (folder / "state").unlink()
        logs.end(record.id)
        assert logs.degraded == ()
        assert on_disk(folder / "state" / "logs" / "home_web_u-1" / "main") == ["one"]
        logs.close()

    run(scenario)
