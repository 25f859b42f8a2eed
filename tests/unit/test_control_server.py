"""The control socket: what it answers, and that nobody who talks to it can break or hold up the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.control import ControlClient, ControlServer
from edged.control.protocol import MAX_REQUEST
from edged.control.server import MAX_CONNECTIONS, Peer
from edged.errors import PermanentError, RetryError
from tests.fakes.control import FakeSource

PATIENCE = 30.0


@contextlib.asynccontextmanager
async def served(pods: int = 3) -> AsyncIterator[tuple[FakeSource, Path]]:
    with tempfile.TemporaryDirectory(prefix="edged-control-") as folder:
        source = FakeSource(Path(folder) / "logs", pods)
        path = Path(folder) / "control.sock"
        async with ControlServer(path, source, group="no-such-group"):
            yield source, path


async def say(path: Path, request: bytes, end: bool = True) -> list[dict[str, Any]]:
    """Send raw bytes, give back every line until the server closes."""
    reader, writer = await asyncio.open_unix_connection(path, limit=16 << 20)
    try:
        writer.write(request)
        if end:
            writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            lines = (await reader.read()).splitlines()
    except ConnectionError:
        lines = []  # it closed while we were still talking
    finally:
        writer.transport.abort()
    return [json.loads(line) for line in lines]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110  what is waited for has no event of its own
            await asyncio.sleep(0.01)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(4 * PATIENCE):
            await scenario()

    asyncio.run(bounded())


def container_of(source: FakeSource, index: int = 0) -> str:
    return source.status.pods[index].containers[0].container_id


# ---------------------------------------------------------------- answers


def test_each_question_has_its_answer_and_then_the_connection_ends() -> None:
    async def scenario() -> None:
        async with served() as (source, path):
            assert await say(path, b'{"op":"ping"}\n', end=False) == [{"ok": True}]
            assert await say(path, b'{"op":"plan"}\n', end=False) == [{"plan": "nothing to do"}]
            assert await say(path, b'{"op":"refresh"}\n', end=False) == [{"ok": True}]
            assert source.refreshed == 1
            [reply] = await say(path, b'{"op":"status"}\n', end=False)
            assert reply["snapshot"]["status"]["node"] == "pi-kitchen"

    run(scenario)


def test_the_client_gets_the_snapshot_that_the_daemon_built() -> None:
    async def scenario() -> None:
        async with served(pods=40) as (source, path):
            snapshot = await ControlClient(path).status()
            assert snapshot.status == source.status
            assert snapshot.hub == source.hub
            assert set(snapshot.usage) == set(source.usage)
            assert snapshot.budget.used == sum(u.memory for u in snapshot.usage.values())

    run(scenario)


def test_a_source_that_says_no_is_quoted_and_one_that_breaks_does_not_break_the_server() -> None:
    async def scenario() -> None:
        async with served() as (source, path):
            client = ControlClient(path)
            source.broken = RetryError("the runtime is not open yet")
            with pytest.raises(PermanentError, match="the runtime is not open yet"):
                await client.status()
            source.broken = KeyError("a bug")
            with pytest.raises(PermanentError, match="edged made a mistake"):
                await client.status()
            source.broken = None
            assert (await client.status()).status.node == "pi-kitchen"

    run(scenario)


def test_no_daemon_is_a_reason_to_try_again_and_another_speaker_is_not(tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(RetryError, match="is the daemon running"):
            await ControlClient(tmp_path / "control.sock").ping()

        async def stranger(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 ready\n")
            writer.close()

        async with await asyncio.start_unix_server(stranger, tmp_path / "other.sock"):
            with pytest.raises(PermanentError, match="another language"):
                await ControlClient(tmp_path / "other.sock").ping()

    run(scenario)


# ---------------------------------------------------------------- hostile input


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5))
def test_random_bytes_never_crash_the_server(requests: list[bytes]) -> None:
    async def scenario() -> None:
        async with served(pods=1) as (_, path):
            for request in requests:
                for reply in await say(path, request + b"\n"):
                    assert set(reply) in ({"error"}, {"ok"}, {"plan"}, {"snapshot"})
            await ControlClient(path).ping()

    run(scenario)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["ping", "status", "plan", "refresh", "logs", "watch", "Ping", "", "__init__"]),
    st.dictionaries(st.sampled_from(["container", "tail", "follow", "interval", "x"]), json_values, max_size=4),
)
def test_well_formed_nonsense_is_answered_with_one_line_or_served(op: str, fields: dict[str, Any]) -> None:
    async def scenario() -> None:
        async with served(pods=1) as (_, path):
            replies = await say(path, json.dumps({"op": op, **fields}).encode() + b"\n")
            assert all(len(reply) == 1 for reply in replies)
            await ControlClient(path).ping()

    run(scenario)


@pytest.mark.parametrize(
    "request_line",
    [
        b'{"op":"reboot"}\n',
        b'{"op":"status"\n',
        b"GET / HTTP/1.1\r\n",
        b'{"op":"watch","interval":0.001}\n',
        b'{"op":"watch","interval":1e999}\n',
        b'{"op":"logs"}\n',
        b'{"op":"logs","container":"../../etc/shadow"}\n',
        b'{"op":"logs","container":"a","tail":-1}\n',
        b'{"op":"status","extra":1}\n',
        b"[" * 4000 + b"\n",
        b'{"op":"' + b"\xff\xfe" + b'"}\n',
        b"\n",
    ],
)
def test_a_bad_request_gets_a_sentence_and_the_end(request_line: bytes) -> None:
    async def scenario() -> None:
        async with served(pods=1) as (_, path):
            [reply] = await say(path, request_line, end=False)
            assert "not a request this node knows" in reply["error"]["message"]
            assert "status, watch, logs" in reply["error"]["message"]

    run(scenario)


def test_a_request_that_is_too_long_is_refused_before_it_is_read() -> None:
    async def scenario() -> None:
        async with served(pods=1) as (_, path):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"x" * (MAX_REQUEST + 1))
            await writer.drain()
            async with asyncio.timeout(PATIENCE):
                reply = json.loads(await reader.readline())
            assert f"longer than {MAX_REQUEST} bytes" in reply["error"]["message"]
            writer.transport.abort()
            await ControlClient(path).ping()

    run(scenario)


def test_connections_beyond_the_limit_are_refused_aloud_and_places_come_free_again() -> None:
    async def scenario() -> None:
        async with served(pods=1) as (_, path):
            idle = [await asyncio.open_unix_connection(path) for _ in range(MAX_CONNECTIONS)]
            with pytest.raises(PermanentError, match="too many connections"):
                await ControlClient(path).ping()
            more = [await asyncio.open_unix_connection(path) for _ in range(2 * MAX_CONNECTIONS)]
            cut = 0
            for reader, _ in more:  # those beyond twice the limit are cut without a word
                with contextlib.suppress(TimeoutError, ConnectionError):
                    async with asyncio.timeout(0.05):
                        cut += await reader.read() == b""
            assert cut >= MAX_CONNECTIONS
            for _, writer in idle + more:
                writer.transport.abort()

            async with asyncio.timeout(PATIENCE):
                while True:
                    with contextlib.suppress(PermanentError, RetryError):
                        await ControlClient(path).ping()
                        break
                    await asyncio.sleep(0.01)

    run(scenario)


def test_a_client_that_reads_nothing_holds_up_nobody() -> None:
    async def scenario() -> None:
        async with served(pods=110) as (source, path):
            _, sleeper = await asyncio.open_unix_connection(path, limit=1)
            sleeper.transport.pause_reading()  # type: ignore[attr-defined]
            sleeper.write(b'{"op":"watch","interval":1}\n')
            watch = ControlClient(path).watch(1.0)
            async with contextlib.aclosing(watch):
                for generation in range(43, 60):
                    source.set(generation=generation)
                    async with asyncio.timeout(PATIENCE):
                        while (await anext(watch)).status.generation != generation:
                            pass
            sleeper.transport.abort()

    run(scenario)


# ---------------------------------------------------------------- watch


def test_watch_tells_now_at_each_change_and_after_the_interval() -> None:
    async def scenario() -> None:
        async with served() as (source, path):
            async with contextlib.aclosing(ControlClient(path).watch(1.0)) as watch:
                first = await anext(watch)
                assert first.generation == 42
                source.set(generation=43)
                while (await anext(watch)).generation != 43:
                    pass
                again = await anext(watch)  # nothing changes any more: only usage, by the interval
                assert again.generation == 43
                assert again.wall > first.wall
            await until(lambda: source.watchers == 0)

    run(scenario)


def test_the_last_of_many_quick_changes_is_always_told() -> None:
    async def scenario() -> None:
        async with served() as (source, path), contextlib.aclosing(ControlClient(path).watch(3600.0)) as watch:
            await anext(watch)
            for generation in range(100, 200):
                source.set(generation=generation)
                if generation % 10 == 0:
                    await asyncio.sleep(0)
            told = 0
            while (await anext(watch)).generation != 199:
                told += 1
            assert told < 20  # and not one line for each

    run(scenario)


def test_a_watcher_that_hangs_up_is_forgotten_and_the_daemon_is_asked_no_more() -> None:
    async def scenario() -> None:
        async with served() as (source, path):
            reader, writer = await asyncio.open_unix_connection(path, limit=1 << 20)
            writer.write(b'{"op":"watch","interval":3600}\n')
            await reader.readline()
            await until(lambda: source.watchers == 1)
            writer.transport.abort()
            await until(lambda: source.watchers == 0)

    run(scenario)


def test_a_daemon_that_ends_ends_its_watches() -> None:
    async def scenario() -> None:
        async with served() as (_, path):
            server_side = ControlServer(path.with_name("second.sock"), FakeSource(path.parent / "logs"), "no-such")
            async with server_side:
                watch = ControlClient(path.with_name("second.sock")).watch(1.0)
                await anext(watch)
            with pytest.raises(RetryError):
                _ = [snapshot async for snapshot in watch]
            assert not path.with_name("second.sock").exists()

    run(scenario)


# ---------------------------------------------------------------- logs


def test_a_log_is_told_from_its_end() -> None:
    async def scenario() -> None:
        async with served() as (source, path):
            lines = [line.text async for line in ControlClient(path).logs(container_of(source), tail=2)]
            assert lines == ["reading 28: 21.8 °C", "reading 29: 21.9 °C"]
            with pytest.raises(PermanentError, match="no container 'unknown'"):
                await anext(ControlClient(path).logs("unknown"))
            with pytest.raises(PermanentError, match="not a container id"):
                await anext(ControlClient(path).logs("../control.sock"))

    run(scenario)


def test_a_followed_log_brings_new_lines_and_ends_with_its_container() -> None:
    async def scenario() -> None:
        async with served() as (source, path):
            container = container_of(source)
            async with contextlib.aclosing(ControlClient(path).logs(container, tail=1, follow=True)) as lines:
                assert (await anext(lines)).text == "reading 29: 21.9 °C"
                source.write_log(container, "first new line", "stderr")
                line = await anext(lines)
                assert (line.text, line.stream) == ("first new line", "stderr")
                source.write_log(container, "last words")
                source.crash(0)
                assert [line.text async for line in lines] == ["last words"]

    run(scenario)


# ---------------------------------------------------------------- who may


@pytest.mark.parametrize(
    ("uid", "gids", "group", "may"),
    [
        (0, (), None, True),
        (1000, (1000,), None, False),
        (1000, (1000, 990), 990, True),
        (1000, (1000,), 990, False),
        (998, (998,), 990, True),
        (1000, (0,), None, False),
    ],
)
def test_only_root_the_daemon_itself_and_the_group_may_ask(
    uid: int, gids: tuple[int, ...], group: int | None, may: bool
) -> None:
    assert Peer(1, uid, frozenset(gids)).may_use(own_uid=998, group=group) is may


ASK = """
import os, socket, sys
path, uid, gid, *groups = sys.argv[1:]
os.setgroups([int(g) for g in groups]); os.setresgid(*3 * [int(gid)]); os.setresuid(*3 * [int(uid)])
s = socket.socket(socket.AF_UNIX)
s.connect(path)
s.sendall(b'{"op":"ping"}\\n')
print(s.makefile().readline(), end="")
"""  # becomes somebody else only after it was started: Python itself may lie where only root reads


@pytest.mark.root
def test_the_kernel_tells_who_asks_and_strangers_are_refused() -> None:
    """The mode of the socket is opened on purpose: the check must hold by itself."""
    group = next(g for g in grp.getgrall() if g.gr_gid not in (0, 65534))

    async def ask(path: Path, *who: int) -> str:
        command = [sys.executable, "-I", "-c", ASK, str(path), *map(str, who)]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=PATIENCE, check=True
        )
        return str(done.stdout)

    async def scenario() -> None:
        with tempfile.TemporaryDirectory(prefix="edged-control-") as folder:
            Path(folder).chmod(0o755)
            path = Path(folder) / "control.sock"
            async with ControlServer(path, FakeSource(Path(folder) / "logs", 1), group=group.gr_name):
                assert stat.S_IMODE(path.stat().st_mode) == 0o660
                assert (path.stat().st_uid, path.stat().st_gid) == (0, group.gr_gid)
                path.chmod(0o666)
                assert '"ok":true' in await ask(path, 0, 0)
                assert "not allowed" in await ask(path, 65534, 65534)
                assert '"ok":true' in await ask(path, 65534, 65534, group.gr_gid)
                assert '"ok":true' in await ask(path, 65534, group.gr_gid)

    run(scenario)


def test_a_stale_socket_is_replaced_and_taken_away_at_the_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "run" / "control.sock"
        path.parent.mkdir()
        path.write_text("left by a killed daemon")
        async with ControlServer(path, FakeSource(tmp_path / "logs", 1), "no-such-group"):
            assert stat.S_ISSOCK(path.stat().st_mode)
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            await ControlClient(path).ping()
        assert not list(path.parent.iterdir())

    run(scenario)


def test_a_path_that_no_socket_can_have_is_a_clear_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(PermanentError, match="set run_dir"):
            async with ControlServer(tmp_path / ("x" * 120) / "control.sock", FakeSource(tmp_path, 1)):
                pass

    run(scenario)
