"""How long after a write the last of many watchers has heard of it: over TLS, all of them in one client process."""

from __future__ import annotations

import asyncio
import json
import ssl
import time

PATH = "/api/v1/namespaces/team-3/configmaps"
WRITES = 20
PATIENCE = 60.0  # seconds for what takes tens of milliseconds


class Crowd:
    """Watchers of one collection. `heard`: name of an object -> when each watcher had its line."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._head = f"host: hub\r\nauthorization: Bearer {token}\r\n"
        self._tls = ssl._create_unverified_context()
        self._ready = 0
        self.heard: dict[str, list[float]] = {}

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._port, ssl=self._tls, limit=1 << 22)

    async def watch(self) -> None:
        reader, writer = await self._connect()
        writer.write(f"GET {PATH}?watch=1 HTTP/1.1\r\n{self._head}\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        self._ready += 1
        while line := await reader.readline():
            if line.startswith(b'{"type"'):
                now = time.perf_counter()
                self.heard.setdefault(json.loads(line)["object"]["metadata"]["name"], []).append(now)

    async def times(self, watchers: int) -> list[float]:
        """Seconds from the sending of a POST to the last watcher's line, for each of some writes."""
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
            watching = [tasks.create_task(self.watch()) for _ in range(watchers)]
            while self._ready < watchers:  # noqa: ASYNC110  (measuring is all this process does)
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)
            found = [await self._write(f"told-{n}", watchers) for n in range(WRITES)]
            for task in watching:
                task.cancel()
        return found

    async def _write(self, name: str, watchers: int) -> float:
        reader, writer = await self._connect()
        body = json.dumps({"metadata": {"name": name}, "data": {"a": "x" * 1000}})
        head = f"POST {PATH} HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{self._head}"
        begun = time.perf_counter()
        writer.write(f"{head}connection: close\r\n\r\n{body}".encode())
        assert b" 201 " in await reader.readline()
        while len(self.heard.get(name, ())) < watchers:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        writer.close()
        return max(self.heard[name]) - begun
