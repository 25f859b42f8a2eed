"""Lifecycle hooks: postStart and preStop. Kubernetes' handlers: exec, httpGet, sleep; tcpSocket is not one of them.

A hook is run by whoever asks and judged by nobody here: it succeeds, or there is a sentence.
"""

from __future__ import annotations

import asyncio

from edged.errors import EdgedError, PermanentError
from edged.model import ExecAction, Hook, HttpAction, Probe, SleepAction
from edged.runtime import probes
from edged.runtime.api import Verdict

SHOWN = 256  # characters of a command's output in a message


async def run(hook: Hook, ip: str, timeout: float, execute: probes.Exec) -> None:
    """:param timeout: seconds; infinity = as long as it takes.
    :raises PermanentError: it failed, or took too long.
    """
    match hook:
        case SleepAction(seconds=seconds):
            try:
                async with asyncio.timeout(timeout):
                    await asyncio.sleep(max(seconds, 0.0))
            except TimeoutError as e:
                raise PermanentError(f"the hook's sleep of {seconds:g} s was cut off after {timeout:g} s") from e
        case ExecAction():
            await _exec(hook, timeout, execute)
        case HttpAction():
            result = await probes.ask(Probe(hook, timeout=timeout), ip, execute)
            if result.verdict is not Verdict.SUCCESS:
                raise PermanentError(f"the hook failed: {result.message}")
        case _:
            raise PermanentError("a hook can't be a tcpSocket; use exec, httpGet or sleep")


async def _exec(hook: ExecAction, timeout: float, execute: probes.Exec) -> None:
    try:
        done = await execute(hook.command, timeout)
    except EdgedError as e:
        raise PermanentError(f"the hook failed: {e}") from e
    if done.code != 0:
        said = (done.stdout + done.stderr).decode(errors="replace").strip()[-SHOWN:]
        raise PermanentError(f"the hook failed: {hook.command[0]} ended with {done.code}{': ' + said if said else ''}")
