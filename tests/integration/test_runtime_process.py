"""External programs: their output, their ends, and that none is left behind."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from edged.errors import PermanentError, RetryError
from edged.runtime import process


def run(*argv: str, **options: object) -> process.Completed:
    return asyncio.run(process.run(argv, **options))  # type: ignore[arg-type]


def test_output_and_exit_code_of_a_program_come_back() -> None:
    done = run("sh", "-c", "echo out; echo err >&2; exit 3", check=False)
    assert (done.code, done.stdout, done.stderr) == (3, b"out\n", b"err\n")


def test_a_failure_tells_the_code_the_words_and_the_command() -> None:
    with pytest.raises(RetryError, match=r"sh ended with 4: no luck .*command: sh -c 'echo no luck >&2; exit 4'"):
        run("sh", "-c", "echo no luck >&2; exit 4")


def test_a_program_killed_by_a_signal_is_told_by_its_name() -> None:
    with pytest.raises(RetryError, match="killed by SIGKILL"):
        run("sh", "-c", "kill -9 $$")


def test_a_missing_program_is_a_permanent_error() -> None:
    with pytest.raises(PermanentError, match="no-such-program is not installed"):
        run("no-such-program")


def test_a_hanging_program_is_killed_with_its_children(tmp_path: os.PathLike[str]) -> None:
    pid_file = f"{os.fspath(tmp_path)}/pid"
    with pytest.raises(RetryError, match="took longer than"):
        run("sh", "-c", f"sleep 600 & echo $! > {pid_file}; wait", timeout=0.3)
    with open(pid_file) as f:  # noqa: PTH123
        child = int(f.read())
    for _ in range(500):
        try:
            with open(f"/proc/{child}/stat") as f:  # noqa: PTH123
                if f.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return
        except FileNotFoundError:
            return
        asyncio.run(asyncio.sleep(0.01))
    pytest.fail("the grandchild is still running")


def test_input_larger_than_a_pipe_reaches_the_program() -> None:
    data = b"x" * 300_000
    assert run("cat", stdin=data).stdout == data


def test_a_program_that_ignores_its_input_is_no_error() -> None:
    assert run("true", stdin=b"x" * 300_000).code == 0


def test_a_descendant_that_keeps_the_pipe_open_is_not_waited_for() -> None:
    async def both() -> bytes:
        async with asyncio.timeout(5):
            return (await process.run(["sh", "-c", "sleep 20 & echo $!"])).stdout

    os.kill(int(asyncio.run(both())), 9)


def test_no_thread_is_started() -> None:
    before = threading.active_count()
    run("true")
    assert threading.active_count() == before


def test_endless_output_is_bounded() -> None:
    done = run("sh", "-c", "head -c 3000000 /dev/zero")
    assert len(done.stdout) == process.OUTPUT_LIMIT


def test_a_cancelled_run_leaves_no_descriptor_and_no_process() -> None:
    async def scenario() -> tuple[int, int]:
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        task = asyncio.create_task(process.run(["sleep", "600"]), name="run")
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(500):
            after = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
            if after == before:
                break
            await asyncio.sleep(0.01)
        return before, after

    before, after = asyncio.run(scenario())
    assert after == before


def test_a_descriptor_can_be_passed_under_its_number() -> None:
    read, write = os.pipe()
    run("sh", "-c", f"echo hello > /proc/self/fd/{write}", pass_fds=(write,))
    os.close(write)
    assert os.read(read, 10) == b"hello\n"
    os.close(read)
