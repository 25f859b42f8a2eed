"""Which log is meant, what is said where there is none, and what reaches the terminal."""

from __future__ import annotations

import argparse
import asyncio
import io
import tempfile
from pathlib import Path

import msgspec
import pytest

from edged.control import ControlServer, logcat
from edged.control.logcat import Chosen, LogOptions, choose, options_of, parse_since
from edged.control.logs import LogLine, is_since, parse_line
from edged.errors import PermanentError
from edged.model import ContainerStatus, Phase, PodStatus
from tests.fakes.control import FakeSource

RUNNING = ContainerStatus("app", "i", "running", container_id="u1.app.2", restarts=2)
FIRST = ContainerStatus("helper", "i", "running", container_id="u1.helper.0")
LOOPING = ContainerStatus("app", "i", "waiting", reason="CrashLoopBackOff", container_id="u2.app.7", restarts=7)
PULLING = ContainerStatus("app", "i", "waiting", reason="ImagePullBackOff", message="no such tag; check it")
SETUP = ContainerStatus("setup", "i", "terminated", reason="Completed", container_id="u1.setup.0")

PODS = (
    PodStatus("u1", "default", "web", Phase.RUNNING, containers=(RUNNING, FIRST), init=(SETUP,)),
    PodStatus("u2", "default", "loop", Phase.RUNNING, containers=(LOOPING,)),
    PodStatus("u3", "default", "new", Phase.PENDING, containers=(PULLING,)),
    PodStatus("u4", "home", "twin", Phase.RUNNING, containers=(FIRST,)),
    PodStatus("u5", "work", "twin", Phase.RUNNING, containers=(RUNNING,)),
)


def chosen(**options: object) -> list[Chosen]:
    return choose(PODS, msgspec.convert(options, LogOptions))[0]


def refusal(**options: object) -> str:
    with pytest.raises(PermanentError) as caught:
        chosen(**options)
    return str(caught.value)


def test_the_first_container_is_shown_and_the_others_are_named() -> None:
    found, remark = choose(PODS, LogOptions("web"))
    assert found == [Chosen("web/app", "u1.app.2")]
    assert remark == 'container "app" is shown out of setup, app, helper; choose with -c'


def test_a_container_is_chosen_by_name_init_containers_too() -> None:
    assert chosen(pod="web", container="helper") == [Chosen("web/helper", "u1.helper.0")]
    assert chosen(pod="default/web", container="setup") == [Chosen("web/setup", "u1.setup.0")]


def test_all_containers_are_the_init_containers_and_then_the_others() -> None:
    assert [c.id for c in chosen(pod="web", every=True)] == ["u1.setup.0", "u1.app.2", "u1.helper.0"]


def test_the_previous_attempt_of_a_waiting_container_is_the_one_that_ended_last() -> None:
    assert chosen(pod="loop", previous=True) == [Chosen("loop/app", "u2.app.7")]
    assert chosen(pod="web", previous=True) == [Chosen("web/app", "u1.app.2", True)]
    assert chosen(pod="web", previous=True, every=True) == [Chosen("web/app", "u1.app.2", True)]


def test_what_has_no_log_is_refused_with_a_sentence() -> None:
    assert refusal(pod="nobody") == 'no pod "nobody" on this node; `edged status` lists them'
    assert refusal(pod="web", container="x") == 'pod "web" has no container "x"; it has setup, app, helper'
    told = 'container "app" of pod "new" has not been started yet: ImagePullBackOff: no such tag; check it'
    assert refusal(pod="new") == told
    assert refusal(pod="web", container="helper", previous=True).endswith("was never restarted")
    assert refusal(pod="twin") == 'namespaces home, work have a pod "twin"; say one of them with -n'
    assert "has been started yet: ImagePullBackOff" in refusal(pod="new", every=True)


def test_durations_and_moments_are_understood() -> None:
    assert parse_since("1h30m") == (5400.0, 0.0)
    assert parse_since("45s") == (45.0, 0.0)
    assert parse_since("1970-01-01T00:01:00Z") == (0.0, 60.0)
    assert parse_since("") == (0.0, 0.0)


@pytest.mark.parametrize("text", ["10", "m", "10 m", "yesterday", "-5m", "1h30"])
def test_other_words_for_a_time_are_refused(text: str) -> None:
    with pytest.raises(PermanentError, match="neither a duration"):
        parse_since(text)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("web -c app --all-containers", "contradict"),
        ("web --since 1m --since-time 2026-01-01T00:00:00Z", "contradict"),
        ("web -f --previous", "nothing to follow"),
        ("web --tail -7", "not a number of lines"),
    ],
)
def test_options_that_contradict_each_other_are_refused(words: str, told: str) -> None:
    parser = argparse.ArgumentParser()
    logcat.add_arguments(parser)
    with pytest.raises(PermanentError, match=told):
        options_of(parser.parse_args(words.split()))


def test_a_line_is_since_a_moment_by_its_own_stamp_in_whatever_zone() -> None:
    assert is_since(LogLine("1970-01-01T00:01:40.5Z", "stdout", ""), 100.0)
    assert is_since(LogLine("1970-01-01T02:01:40.123456789+02:00", "stdout", ""), 100.0)
    assert not is_since(LogLine("1970-01-01T00:01:39.999999999+00:00", "stdout", ""), 100.0)
    assert is_since(LogLine("", "", "no stamp"), 100.0)


def test_what_is_not_utf8_keeps_its_bytes() -> None:
    line = parse_line(b"2026-11-21T05:22:51.2Z stdout P \xff\x00\x1b[1mx")
    assert line.content == b"\xff\x00\x1b[1mx"
    assert msgspec.json.decode(msgspec.json.encode(line), type=LogLine).content == line.content


def printed(*lines: LogLine, **options: object) -> bytes:
    out = io.BytesIO()
    printer = logcat._Printer(out, "web/app", msgspec.convert({"pod": "web", **options}, LogOptions))
    for line in lines:
        printer.print(line)
    return out.getvalue()


def test_the_parts_of_a_long_line_come_out_as_one() -> None:
    half, rest = LogLine("T1", "stdout", "ab", True), LogLine("T2", "stdout", "cd")
    other = LogLine("T3", "stderr", "e")
    assert printed(half, rest) == b"abcd\n"
    assert printed(half, rest, timestamps=True, prefix=True) == b"[web/app] T1 abcd\n"
    assert printed(half, other, rest) == b"ab\ne\ncd\n"
    assert printed(half) == b"ab"


async def shown(socket: Path, **options: object) -> tuple[bytes, str]:
    out, err = io.BytesIO(), io.StringIO()
    await logcat.show(socket, msgspec.convert(options, LogOptions), out, err)
    return out.getvalue(), err.getvalue()


def test_logs_arrive_over_the_socket_from_a_moment_on_and_of_the_previous_attempt() -> None:
    asyncio.run(ask_for_logs())


async def ask_for_logs() -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = FakeSource(Path(folder) / "logs", 1)
        socket = Path(folder) / "s"
        pod = source.status.pods[0]
        uid, title = pod.uid, f"{pod.namespace}/{pod.name}"
        again = msgspec.structs.replace(pod.containers[0], container_id=f"{uid}.app.1", restarts=1)
        source.set_pod(0, containers=(again,))
        (source.logs / f"{uid}.app.1").write_bytes(
            b"2026-01-01T00:00:00.1Z stdout F old\n2026-01-01T00:00:09.1Z stderr F \xfe\n"
            b"2026-01-01T00:00:09.2Z stdout F newer\n"
        )
        async with ControlServer(socket, source, "no-such-group"):
            assert await shown(socket, pod=title) == (b"old\n\xfe\nnewer\n", "")
            assert await shown(socket, pod=title, tail=1) == (b"newer\n", "")
            assert await shown(socket, pod=title, since_wall=1767225605.0) == (b"\xfe\nnewer\n", "")
            assert await shown(socket, pod=title, since=60.0) == (b"", "")
            out, _ = await shown(socket, pod=title, previous=True, tail=2)
            assert out.decode().splitlines() == ["reading 28: 21.8 °C", "reading 29: 21.9 °C"]
            out, _ = await shown(socket, pod=title, timestamps=True, prefix=True, tail=1)
            assert out == f"[{pod.name}/app] 2026-01-01T00:00:09.2Z newer\n".encode()
