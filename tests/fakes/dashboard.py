"""The dashboard as its own process in front of a fake node, for integration and browser tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from edged.control import ControlServer
from tests.fakes.control import FakeSource

PATIENCE = 60.0


class Dashboard:
    """A running page's process. `start_daemon` and `stop_daemon` are the fake node's own restarts."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process, url: str, source: FakeSource) -> None:
        self.folder = folder
        self.process = process
        self.url = url
        self.source = source
        self.token = (folder / "state" / "dashboard.token").read_text().strip()
        self._daemon: ControlServer | None = None

    @property
    def login(self) -> str:
        return f"{self.url}/?token={self.token}"

    async def start_daemon(self) -> None:
        self._daemon = ControlServer(self.folder / "run" / "control.sock", self.source, group="no-such-group")
        await self._daemon.__aenter__()

    async def stop_daemon(self) -> None:
        if self._daemon is not None:
            await self._daemon.__aexit__(None, None, None)
            self._daemon = None

    def client(self, **more: Any) -> httpx.AsyncClient:
        """An HTTP client that brings the token along."""
        return httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=PATIENCE,
            trust_env=False,
            **more,
        )


@contextlib.asynccontextmanager
async def dashboard(pods: int = 3, idle_seconds: float = 0, daemon: bool = True) -> AsyncIterator[Dashboard]:
    with tempfile.TemporaryDirectory(prefix="edged-page-") as name:
        folder = Path(name)
        (folder / "node.toml").write_text(
            f'name = "pi-kitchen"\nstate_dir = "{folder}/state"\nrun_dir = "{folder}/run"\n'
            f"[dashboard]\nport = 0\nidle_seconds = {idle_seconds}\n"
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "edged.dashboard", "--config", str(folder / "node.toml"),
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            page = Dashboard(folder, process, await _url(process), FakeSource(folder / "logs", pods))
            if daemon:
                await page.start_daemon()
            try:
                yield page
            finally:
                await page.stop_daemon()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _url(process: asyncio.subprocess.Process) -> str:
    """The port is chosen by the kernel and said in the log."""
    assert process.stderr is not None
    said = b""
    async with asyncio.timeout(PATIENCE):
        while line := await process.stderr.readline():
            said += line
            if found := re.search(rb"serves (http://\S+);", line):
                return found[1].decode()
    raise AssertionError(f"the dashboard did not start: {said.decode()}")


async def events(response: httpx.Response) -> AsyncIterator[tuple[str, Any]]:
    """Server-Sent Events as (event, data)."""
    event = ""
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            event = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield event, json.loads(line.removeprefix("data: "))
