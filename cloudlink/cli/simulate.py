"""`edgectl simulate`: a fleet that isn't there, for trying a hub out (docs/simulator.md)."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloudlink.cli.client import HubClient
from cloudlink.simulate.boards import Dice, Habits, board_of
from edged.errors import PermanentError

if TYPE_CHECKING:
    from cloudlink.simulate.fleet import Fleet

TOKEN_TTL = 300  # seconds; used within one
FILES = 8  # descriptors for a node: its connection, and what paho wakes itself with
MOST = 10_000  # nodes of one process
PATIENCE = 120.0  # seconds for all of them to be connected, before it is said how many are
PULSE = 0.5  # seconds between looks at what to say


def add_arguments(to: argparse.ArgumentParser) -> None:
    habits = Habits()
    to.add_argument("--nodes", type=int, default=10, metavar="N", help="default 10")
    to.add_argument("--seed", type=int, default=0, metavar="N", help="of all dice: boards, delays, crashes (default 0)")
    to.add_argument(
        "--state", type=Path, metavar="DIR", help="keep the nodes' identities there, to come back with them"
    )
    to.add_argument("--first", type=int, default=0, metavar="N", help="number of the first node (default 0: sim-0000)")
    to.add_argument("--crashes", type=float, default=habits.crashes, metavar="R", help="of a container, an hour")
    to.add_argument("--hangs", type=float, default=habits.hangs, metavar="R", help="of a container, an hour")
    to.add_argument("--vanishings", type=float, default=habits.vanishings, metavar="R", help="of a node, an hour")
    to.add_argument("--pull-failures", type=float, default=habits.pull_failures, metavar="P", help="share of the pulls")
    to.add_argument("--pull", type=float, nargs=2, default=habits.pull, metavar="S", help="seconds for an image")
    to.add_argument(
        "--away", type=float, nargs=2, default=habits.away, metavar="S", help="seconds, at least and at most"
    )
    to.add_argument("--broker", default="", metavar="HOST:PORT", help="where the broker is, if not where the hub says")
    to.add_argument("--every", type=float, default=10.0, metavar="S", help="seconds between two lines of JSON")


def run(arguments: argparse.Namespace) -> None:
    """Until SIGTERM or SIGINT."""
    if not 0 < arguments.nodes <= MOST:
        raise PermanentError(f"--nodes {arguments.nodes}: between 1 and {MOST}; start a second process for more")
    for name in ("crashes", "hangs", "vanishings"):
        if getattr(arguments, name) < 0:
            raise PermanentError(f"--{name} {getattr(arguments, name):g}: how often in an hour, 0 or more")
    if not 0 <= arguments.pull_failures <= 1:
        raise PermanentError(f"--pull-failures {arguments.pull_failures:g}: a share, between 0 and 1")
    for name in ("pull", "away"):
        least, most = getattr(arguments, name)
        if not 0 <= least <= most:
            raise PermanentError(f"--{name} {least:g} {most:g}: seconds, at least and at most")
    _broker(arguments.broker)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    _raise_limit(arguments.nodes)
    if arguments.state is not None:
        arguments.state.mkdir(parents=True, exist_ok=True)
        asyncio.run(simulate(arguments, arguments.state))
        return
    with tempfile.TemporaryDirectory(prefix="edged-simulated-") as folder:
        asyncio.run(simulate(arguments, Path(folder)))


async def simulate(arguments: argparse.Namespace, folder: Path) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    work = asyncio.create_task(_simulate(arguments, folder), name="simulated fleet")
    ending = asyncio.create_task(stop.wait(), name="signal")
    await asyncio.wait({work, ending}, return_when=asyncio.FIRST_COMPLETED)
    ending.cancel()
    if work.done():
        work.result()
    work.cancel()
    await asyncio.wait({work})


async def _simulate(arguments: argparse.Namespace, folder: Path) -> None:
    from cloudlink.simulate.fleet import Fleet  # and MQTT and certificates, which no other command of edgectl needs
    from cloudlink.simulate.joining import join_all, name_of

    client = HubClient(arguments.kubeconfig, timeout=60.0)

    def token(node: str) -> str:
        try:
            answer = client.call("POST", "/enroll/v1/tokens", {"node": node, "ttl": TOKEN_TTL})
        except PermanentError as e:
            who = f"the user of {arguments.kubeconfig}"
            hint = "`edgehub kubeconfig` on the hub writes one that may"
            raise PermanentError(f"{who} may not make join tokens at {client.server}: {e}; {hint}") from e
        return str(answer["token"])

    names = [name_of(arguments.first + n) for n in range(arguments.nodes)]
    boards = [board_of(Dice(arguments.seed, name)) for name in names]
    habits = Habits(
        crashes=arguments.crashes,
        hangs=arguments.hangs,
        vanishings=arguments.vanishings,
        pull_failures=arguments.pull_failures,
        pull=(arguments.pull[0], arguments.pull[1]),
        away=(arguments.away[0], arguments.away[1]),
    )
    begun = time.monotonic()
    members = await join_all(names, boards, folder, token)
    say("joined", nodes=len(members), seconds=round(time.monotonic() - begun, 2))
    fleet = Fleet(members, boards, folder, arguments.seed, habits, _broker(arguments.broker))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fleet.run(), name="fleet")
        tasks.create_task(tell(fleet, arguments.every), name="lines")


async def tell(fleet: Fleet, every: float) -> None:
    """A line when all are connected, and then one as often as asked for."""
    begun = time.monotonic()
    while fleet.counts().connected < len(fleet.nodes):
        if time.monotonic() - begun > PATIENCE:
            break
        await asyncio.sleep(PULSE)
    say("connected", seconds=round(time.monotonic() - begun, 2), **fleet.counts()._asdict())
    while True:
        await asyncio.sleep(every)
        say("fleet", **fleet.counts()._asdict())


def say(what: str, **more: Any) -> None:
    print(json.dumps({"what": what, **more}), flush=True)


def _broker(text: str) -> tuple[str, int] | None:
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise PermanentError(f"--broker {text}: must be HOST:PORT, e.g. hub.local:8883")
    return host, int(port)


def _raise_limit(nodes: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES * nodes + 256
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    if hard < wanted:
        print(
            f"edgectl: {nodes} nodes may want {wanted} open files, this shell allows {hard} (`ulimit -Hn`)",
            file=sys.stderr,
        )
