"""Brings images here and takes them away, each time in a process of its own that ends."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence

from edged.config import NodeConfig
from edged.errors import PermanentError, RetryError

TRY_LATER = 3  # exit code of `python -m edged.images pull`


class ImageWorker:
    """Implements edged.apply.Puller."""

    def __init__(self, config: NodeConfig) -> None:
        self._root = os.fspath(config.state / "images")

    async def pull(self, reference: str, logins: Sequence[Mapping[str, bytes]]) -> None:
        await self._run("pull", "--root", self._root, reference)

    async def remove(self, references: Sequence[str]) -> None:
        await self._run("remove", "--root", self._root, *references)

    async def _run(self, *words: str) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "edged.images",
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, err = await process.communicate()
        if process.returncode == 0:
            return
        sentence = err.decode(errors="replace").strip().rpartition("\n")[2].removeprefix("edged image: ")
        if process.returncode == TRY_LATER:
            raise RetryError(sentence, after=5.0)
        raise PermanentError(sentence)
