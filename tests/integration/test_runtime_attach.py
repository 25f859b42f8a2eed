"""Being attached to: conmon's socket, the container's stdin, and its terminal."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from edged.model.remote import STDERR, STDOUT, Size
from edged.runtime import attaching
from tests.runtime_lab import WAIT, Node, run

pytestmark = pytest.mark.root


async def heard(peer: object, until: bytes) -> dict[int, bytes]:
    """What comes until that was said."""
    said: dict[int, bytes] = {}
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(WAIT):
        while until not in b"".join(said.values()):
            packet = await loop.sock_recv(peer, attaching.PACKET + 1)  # type: ignore[arg-type]
            assert packet, said
            channel, body = attaching.unpack(packet)
            said[channel] = said.get(channel, b"") + body
    return said


def test_who_attaches_hears_both_streams_from_then_on() -> None:
    async def scenario(it: Node) -> None:
        talk = "while :; do echo out; echo err >&2; sleep 0.1; done"
        state = await it.start("/bin/sh", "-c", talk)
        await it.says(state, "out")
        with it.runtime.attach(state.id) as peer:
            said = await heard(peer, b"err\n")
            while STDOUT not in said:
                said |= await heard(peer, b"out\n")
            assert said[STDERR].startswith(b"err")
        await it.runtime.remove_container(state.id)

    run(scenario)


@pytest.mark.parametrize("once", [False, True])
def test_stdin_reaches_the_container_and_ends_with_the_first_attached_where_it_is_to_be_once(once: bool) -> None:
    async def scenario(it: Node) -> None:
        state = await it.start("/bin/sh", "-c", "cat; echo done; exec sleep 600", stdin=True, stdin_once=once)
        with it.runtime.attach(state.id) as peer:
            await asyncio.get_running_loop().sock_sendall(peer, b"hello\n")
            await heard(peer, b"hello\n")
        if once:
            await it.says(state, "done")
        else:
            with it.runtime.attach(state.id) as peer:
                await asyncio.get_running_loop().sock_sendall(peer, b"again\n")
                await heard(peer, b"again\n")
            assert "done" not in it.log(state)
        await it.runtime.remove_container(state.id)

    run(scenario)


def test_a_container_with_a_terminal_has_one_and_it_can_be_resized() -> None:
    async def scenario(it: Node) -> None:
        script = "tty; echo $TERM; while read -r line; do stty size; done"
        state = await it.start("/bin/sh", "-c", script, stdin=True, tty=True)
        await it.says(state, "xterm")
        assert it.log(state).startswith("/dev/pts/0")
        with it.runtime.attach(state.id) as peer:
            said: dict[int, bytes] = {}
            async with asyncio.timeout(WAIT):
                while b"33 77" not in b"".join(said.values()):
                    it.runtime.resize(state.id, Size(77, 33))
                    await asyncio.get_running_loop().sock_sendall(peer, b"x\n")
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(1.0):
                            said = await heard(peer, b"33 77")
            assert set(said) == {STDOUT}
        await it.runtime.remove_container(state.id)

    run(scenario)


def test_a_daemon_that_starts_anew_adopts_a_container_with_a_terminal() -> None:
    async def scenario(it: Node) -> None:
        state = await it.start("/bin/sh", "-c", "while read -r line; do echo got $line; done", stdin=True, tty=True)
        await it.restart()
        found = it.runtime.inspect(state.id)
        assert found is not None
        assert found.pid == state.pid
        with it.runtime.attach(state.id) as peer:
            await asyncio.get_running_loop().sock_sendall(peer, b"x\n")
            await heard(peer, b"got x")
        await it.runtime.remove_container(state.id)

    run(scenario)
