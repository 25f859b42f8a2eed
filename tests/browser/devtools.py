"""A real headless Chromium, driven through the DevTools protocol over a pipe: no port, no driver, no extra library.

Chromium reads NUL-ended JSON from its file descriptor 3 and writes it to 4 (--remote-debugging-pipe).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
# Puts the pipes where Chromium wants them, whatever numbers they have here: first out of the way, then into place.
LAUNCH = """
import fcntl, os, sys
ours = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for number, place in zip(ours, (3, 4)):
    os.dup2(number, place)
os.execv(sys.argv[3], sys.argv[3:])
"""
PATIENCE = 60.0  # seconds for anything to appear; a busy machine may need many, a good run needs few


def chromium() -> str | None:
    """Where a Chromium is, if there is one."""
    return next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )


class Page:
    """One tab. Everything is asked with a deadline and nothing is waited for by sleeping a fixed time."""

    def __init__(self, reader: asyncio.StreamReader, send: Any) -> None:
        self._reader = reader
        self._send = send
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._session: str | None = None
        self.problems: list[str] = []  # exceptions, console errors and CSP violations of the page

    async def listen(self) -> None:
        while True:
            message = json.loads((await self._reader.readuntil(b"\0"))[:-1])
            future = self._answers.pop(message.get("id", 0), None)
            if future is not None and not future.done():
                future.set_result(message)
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        match message.get("method"):
            case "Runtime.exceptionThrown":
                details = message["params"]["exceptionDetails"]
                self.problems.append(details.get("exception", {}).get("description", details["text"]))
            case "Log.entryAdded" if message["params"]["entry"]["level"] == "error":
                entry = message["params"]["entry"]
                self.problems.append(f"{entry['text']} {entry.get('url', '')}")

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        request: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            request["sessionId"] = self._session
        self._answers[number] = asyncio.get_running_loop().create_future()
        self._send(json.dumps(request).encode() + b"\0")
        answer = await asyncio.wait_for(self._answers[number], PATIENCE)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']['message']}")
        return dict(answer["result"])

    async def attach(self) -> None:
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")

    async def go(self, url: str) -> None:
        await self.call("Page.navigate", url=url)

    async def look(self, width: int, height: int, dark: bool = False) -> None:
        """Choose the window's size and colour scheme."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def evaluate(self, expression: str) -> Any:
        answer = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"].get("exception", {}).get("description", "exception"))
        return answer["result"].get("value")

    async def text(self) -> str:
        return str(await self.evaluate("document.body.innerText"))

    async def until(self, expression: str, patience: float = PATIENCE) -> None:
        """Returns once the expression is truthy; fails on the deadline with what the page shows instead."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while loop.time() < deadline:
            with contextlib.suppress(AssertionError):  # between two documents there is no body yet
                if await self.evaluate(f"Boolean({expression})"):
                    return
            await asyncio.sleep(0.05)
        raise AssertionError(f"never became true: {expression}\nproblems: {self.problems}\n{await self.text()}")

    async def screenshot(self, path: Path, whole: bool = False) -> None:
        answer = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))


@contextlib.asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[Page]:
    """A fresh Chromium with its own profile; gone with all its children afterwards."""
    program = chromium()
    assert program is not None, "no chromium on this machine"
    their_in, our_out = os.pipe()
    our_in, their_out = os.pipe()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-ISc", LAUNCH, str(their_in), str(their_out), program, *FLAGS, f"--user-data-dir={profile}",
        pass_fds=(their_in, their_out), start_new_session=True,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    os.close(their_in)
    os.close(their_out)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=64 << 20)
    incoming, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(our_in, "rb", 0))
    outgoing, _ = await loop.connect_write_pipe(asyncio.Protocol, os.fdopen(our_out, "wb", 0))
    page = Page(reader, outgoing.write)
    listening = loop.create_task(page.listen(), name="devtools")
    try:
        await page.attach()
        yield page
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        incoming.close()
        outgoing.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
