"""The page in a real Chromium: what a person sees, live, also with a node that lies and a daemon that goes away."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from edged.control import HubLink, LinkState
from edged.model import ContainerStatus, Event, NodeCondition, Phase
from tests.browser.devtools import PATIENCE, Page, browser
from tests.fakes.dashboard import Dashboard, dashboard

pytestmark = pytest.mark.browser

HOSTILE = (
    "<img src=x onerror=window.hacked=1>",
    "<script>window.hacked=1</script>",
    "\"'><svg onload=window.hacked=1>",
    "javascript:window.hacked=1",
    "</textarea></style><b id=injected>bold</b>",
    "\u202egnp.exe\u0000\u001b[31m",
    "a" * 3000,
)
PHONE, DESKTOP = (390, 844), (1280, 900)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(3 * PATIENCE):
            await scenario()

    asyncio.run(bounded())


@contextlib.asynccontextmanager
async def opened(pods: int = 3, size: tuple[int, int] = DESKTOP) -> AsyncIterator[tuple[Page, Dashboard]]:
    with tempfile.TemporaryDirectory(prefix="edged-chromium-", ignore_cleanup_errors=True) as profile:
        async with dashboard(pods=pods) as board, browser(Path(profile)) as page:
            await page.look(*size)
            await page.go(board.login)
            await page.until("document.querySelectorAll('tr.pod').length")
            yield page, board


def says(text: str) -> str:
    return f"document.body.innerText.includes({msgspec.json.encode(text).decode()})"


def test_the_page_shows_the_node_its_pods_and_events_after_one_link() -> None:
    async def scenario() -> None:
        async with opened() as (page, board):
            assert await page.evaluate("location.href") == f"{board.url}/"  # the token has left the address bar
            assert await page.evaluate("document.cookie") == ""  # and scripts can't read the session
            text = await page.text()
            for expected in (
                "pi-kitchen", "Raspberry Pi 4 Model B Rev 1.4", "Debian 12", "4 cores", "Hub connected",
                "Generation 42", "sensor-reader", "mosquitto", "10.88.0.2", "Running", "1/1", "48\u202fMiB",
                "NodeReady", "edged 0.1.0",
            ):  # fmt: skip
                assert expected in text, expected
            assert await page.evaluate("document.title") == "pi-kitchen · edged"
            await page.until("document.querySelector('tr.pod [data-label=CPU]').textContent.includes('%')")
            assert page.problems == []

    run(scenario)


def test_a_change_at_the_node_appears_without_a_reload() -> None:
    async def scenario() -> None:
        async with opened() as (page, board):
            await page.evaluate("window.mine = document.querySelector('tr.pod')")  # gone after any reload
            board.source.crash(1, restarts=7)
            await page.until(says("CrashLoopBackOff"))
            await page.until(says("1 not as wanted"))
            first = await page.evaluate("document.querySelector('tr.pod').innerText")
            assert "readings-page" in first  # what needs attention comes first
            assert "OOMKilled (137)" in first
            assert "BackOff" in await page.evaluate("document.querySelector('#events li').innerText")
            announced = await page.evaluate("document.querySelector('#announce').textContent")
            assert "CrashLoopBackOff" in announced
            board.source.set(pods=board.source.status.pods[1:])
            await page.until("document.querySelectorAll('tr.pod').length === 2")
            board.source.hub = HubLink(LinkState.AWAY, time.time() - 780, "connection refused by hub.example.net:8883")
            board.source.tell()
            await page.until(says("The hub is away"))
            assert "Connection refused by hub.example.net" in await page.text()
            board.source.set(degraded=("memory.high needs cgroup v2",), pods=())
            await page.until(says("Nothing runs here yet"))
            await page.evaluate("document.querySelector('details').open = true")
            assert "memory.high needs cgroup v2." in await page.text()
            assert await page.evaluate("window.mine !== undefined")
            assert page.problems == []

    run(scenario)


def test_a_pod_opens_by_keyboard_and_its_log_follows() -> None:
    async def scenario() -> None:
        async with opened() as (page, board):
            await page.evaluate("document.querySelector('.toggle').focus()")
            for kind in ("rawKeyDown", "char", "keyUp"):
                await page.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r",
                                windowsVirtualKeyCode=13)  # fmt: skip
            await page.until("document.querySelector('.toggle').getAttribute('aria-expanded') === 'true'")
            await page.until(says("registry.local/sensor-reader:1.4.2"))
            await page.evaluate("document.querySelector('.container button').click()")
            await page.until("document.querySelector('.lines')?.innerText.includes('reading 29: 21.9 °C')")
            container = board.source.status.pods[0].containers[0].container_id
            board.source.write_log(container, "<b>fresh</b> line", "stderr")
            await page.until("document.querySelector('.lines .stderr')?.innerText.includes('<b>fresh</b> line')")
            board.source.set(generation=43)
            await page.until(says("Generation 43"))
            assert await page.evaluate("document.activeElement.className") == "toggle"  # focus survives updates
            board.source.crash(0)
            await page.until(says("The container has ended"))
            await page.until(says("exit code 137"))
            assert await page.evaluate("document.activeElement.className") == "toggle"  # and moving the row
            assert page.problems == []

    run(scenario)


def test_a_pod_that_is_being_initialised_and_a_board_under_pressure_are_told() -> None:
    async def scenario() -> None:
        async with opened() as (page, board):
            waiting = ContainerStatus("page", "page:1", "waiting", reason="PodInitializing")
            ended = ContainerStatus("fetch", "fetch:1", "terminated", reason="Completed", exit_code=0)
            running = ContainerStatus("migrate", "migrate:1", "running", working_set_p95=12 << 20)
            board.source.set_pod(
                0, phase=Phase.PENDING, ready=False, init=(ended, running), containers=(waiting,), initialized=False
            )
            await page.until(says("Init:1/2"))
            await page.evaluate("document.querySelector('.toggle').click()")
            await page.until(says("migrate init"))
            assert "mostly below 12\u202fMiB" in await page.text()
            failed = ContainerStatus(
                "migrate", "migrate:1", "waiting", reason="CrashLoopBackOff", message="no database"
            )
            board.source.set_pod(0, init=(ended, failed))
            await page.until(says("Init:CrashLoopBackOff"))
            assert "migrate: no database" in await page.text()
            board.source.set(conditions=(NodeCondition("DiskPressure", "DiskFull", "3 MB are free on /var/lib/edged"),))
            await page.until(says("The board is short of storage"))
            assert "3 MB are free on /var/lib/edged." in await page.text()
            assert page.problems == []

    run(scenario)


def test_the_page_outlives_its_daemon_and_its_own_server() -> None:
    async def scenario() -> None:
        async with opened() as (page, board):
            await page.evaluate("window.mine = 1")
            await board.stop_daemon()
            await page.until(says("The daemon has not answered since"))
            assert "sensor-reader" in await page.text()  # what was known stays readable
            assert await page.evaluate("document.body.classList.contains('stale')")
            board.source.set(generation=44)
            await board.start_daemon()
            await page.until(says("Generation 44"))
            assert not await page.evaluate("document.body.classList.contains('stale')")
            board.process.kill()
            await page.until(says("This page has lost its server"))
            assert await page.evaluate("window.mine") == 1

    run(scenario)


def test_names_and_messages_from_outside_are_text_and_nothing_else() -> None:
    async def scenario() -> None:
        async with opened() as (page, board):
            pods = []
            for n, text in enumerate(HOSTILE):
                old = board.source.status.pods[0]
                container = msgspec.structs.replace(
                    old.containers[0], name=text, image=text, state="waiting", reason=text, message=text,
                    last_reason=text, last_exit_code=1, ready=False, image_id=text,
                )  # fmt: skip
                pods.append(
                    msgspec.structs.replace(
                        old, uid=f"uid-{n}", name=text, namespace=text, ip=text, message=text, containers=(container,)
                    )
                )
            events = tuple(Event(n, time.time(), text, text, text, title=text) for n, text in enumerate(HOSTILE))
            board.source.hub = HubLink(LinkState.AWAY, time.time(), HOSTILE[0])
            board.source.set(
                node=HOSTILE[0],
                version=HOSTILE[1],
                address=HOSTILE[2],
                pods=tuple(pods),
                events=events,
                degraded=HOSTILE,
            )
            await page.until(f"document.querySelectorAll('tr.pod').length === {len(HOSTILE)}")
            await page.evaluate("[...document.querySelectorAll('.toggle')].forEach((b) => b.click())")
            await page.evaluate("document.querySelector('details').open = true")
            await page.until(f"document.querySelectorAll('.container').length === {len(HOSTILE)}")
            known = pods[0].containers[0].container_id
            board.source.write_log(known, "\n".join(text.replace("\0", "") for text in HOSTILE))
            await page.evaluate("document.querySelector('.container button').click()")
            await page.until("document.querySelector('.lines')?.innerText.includes('onload=window.hacked')")
            for text in HOSTILE[:5]:
                assert text in await page.evaluate("document.body.textContent")
            assert await page.evaluate("window.hacked === undefined")
            assert await page.evaluate("document.querySelector('#injected, main img, main script, main b') === null")
            width = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert width <= 0  # a name of three thousand letters doesn't break the page either
            assert page.problems == []

    run(scenario)


@pytest.mark.parametrize("size", [PHONE, (320, 640), (768, 1024), DESKTOP])
def test_nothing_hangs_over_the_edge_on_any_screen(size: tuple[int, int]) -> None:
    async def scenario() -> None:
        async with opened(pods=40, size=size) as (page, board):
            board.source.crash(3)
            await page.until(says("CrashLoopBackOff"))
            await page.evaluate("document.querySelector('.toggle').click()")
            await page.until("document.querySelector('.container')")
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            outside = await page.evaluate(
                "[...document.querySelectorAll('main *, header *')].filter((e) => !e.closest('svg, .lines, .hidden')"
                " && getComputedStyle(e).position !== 'absolute' && !e.closest('thead')"
                " && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 80))"
            )
            assert outside == []

    run(scenario)


CONTRAST = """
(() => {
  const rgb = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c.slice(0, 3); } return [255, 255, 255]; };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.closest('.hidden, noscript')) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${e.outerHTML.slice(0, 80)}`);
  }
  return found;
})()
"""


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_can_be_read_in_light_and_in_dark(dark: bool) -> None:
    """WCAG 2.2, 1.4.3: a contrast of at least 4.5 to 1."""

    async def scenario() -> None:
        async with opened(pods=10) as (page, board):
            await page.look(*DESKTOP, dark=dark)
            board.source.crash(1)
            board.source.hub = HubLink(LinkState.AWAY, time.time() - 5, "no route to host")
            board.source.set(degraded=("memory.high needs cgroup v2",))
            await page.until(says("The hub is away"))
            await page.evaluate("document.querySelector('.toggle').click()")
            await page.until("document.querySelector('.container')")
            assert await page.evaluate(CONTRAST) == []

    run(scenario)


def test_without_the_token_there_is_a_door_and_the_token_opens_it() -> None:
    async def scenario() -> None:
        with tempfile.TemporaryDirectory(prefix="edged-chromium-", ignore_cleanup_errors=True) as profile:
            async with dashboard() as board, browser(Path(profile)) as page:
                await page.go(board.url)
                await page.until("document.querySelector('input[name=token]')")
                assert "sensor-reader" not in await page.text()
                await page.evaluate("document.querySelector('input').value = 'wrong'; document.forms[0].submit()")
                await page.until(says("That is not this node's token."))
                await page.evaluate(
                    f"document.querySelector('input').value = '{board.token}'; document.forms[0].submit()"
                )
                await page.until("document.querySelectorAll('tr.pod').length === 3")
                assert await page.evaluate("location.search") == ""

    run(scenario)
