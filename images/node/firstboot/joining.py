"""Joining the fleet with the token that the first boot has kept: what to do after each try, and the loop around it."""

from __future__ import annotations

import random
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

from . import files, plan
from .apply import Board, Run
from .facts import Completed, join_command, sentence
from .plan import Facts
from .steps import Remove, Step, Tell

LATER = 75  # edgectl's exit code for "it may work later" (sysexits.h)
FIRST, LONGEST = (
    5.0,
    300.0,
)  # seconds between two tries: a router that starts with the board is there in a minute or two
SPREAD = 0.2  # a hundred boards that were switched on together don't come all at once
TOLD_AFTER = 5  # tries, which are two and a half minutes: then a person may want to know


@dataclass(frozen=True, slots=True)
class Joined:
    pass


@dataclass(frozen=True, slots=True)
class Refused:
    said: str


@dataclass(frozen=True, slots=True)
class Later:
    """:ivar seconds: to wait. :ivar tell: it is worth a line on the boot partition."""

    seconds: float
    said: str
    tell: bool


def after(done: Completed, attempt: int, dice: float) -> Joined | Refused | Later:
    """:param attempt: from 1. :param dice: 0 to 1."""
    if done.returncode == 0:
        return Joined()
    said = sentence(done.stderr)
    # A tool that was killed (out of memory, a version on trial that was rolled back meanwhile) has said nothing.
    if done.returncode == LATER or done.returncode < 0:
        wait = min(LONGEST, FIRST * 2 ** min(attempt - 1, 10))
        return Later(wait * (1 + SPREAD * (2 * dice - 1)), said, attempt == TOLD_AFTER)
    return Refused(said)


def names_to_try(given: str, hostname: str) -> tuple[str, ...]:
    """ "" = the name that the token was made for; where it was made for any, the host's."""
    return (given,) if given else ("", hostname)


def joined_steps(facts: Facts, node: str, fleet: str, told: str) -> tuple[Step, ...]:
    """:param told: what edged-joined.txt says now."""
    name = facts.hostname
    steps: tuple[Step, ...] = (Remove(plan.TOKEN),)
    if name == plan.default_name(facts.machine_id):  # nobody gave one: then the fleet's
        name = node
        steps = (*plan.hostname(facts, name), *steps)
    return (*steps, Tell("error"), Tell("joined", files.joined(told, node, fleet, name)))


def refused_steps(said: str) -> tuple[Step, ...]:
    return (Remove(plan.TOKEN), Tell("error", files.refused(said)))


def join(board: Board, facts: Facts, run: Run) -> int:
    """Returns when the board has joined (0) or needs a new token (1)."""
    token = board.at(plan.TOKEN).read_text().strip()
    kept = facts.node
    attempt = 0
    while True:
        attempt += 1
        done = Completed(1, "", "")
        for name in names_to_try(kept.get("name", ""), facts.hostname):
            done = join_command(run, board.at("/"), "--name", name, token=token, node=kept.get("settings", {}))
            if done.returncode in (0, LATER):
                break
        match after(done, attempt, random.random()):
            case Joined():
                member = tomllib.loads(board.at("/etc/edged/node.toml").read_text())
                board.carry_out(joined_steps(facts, member["name"], member["fleet"], _told(board)))
                # With --no-block: this is a unit, too, and must not wait for another that may be ordered behind it.
                run(["systemctl", "--no-block", "restart", "edged.service"])
                return 0
            case Refused(said):
                board.carry_out(refused_steps(said))
                return 1
            case Later(seconds, said, tell):
                if tell:
                    board.carry_out([Tell("error", files.waiting(said))])
                board.say(f"not joined yet: {said}; again in {seconds:.0f} s")
                time.sleep(seconds)


def _told(board: Board) -> str:
    path: Path = board.boot("edged-joined.txt")
    return path.read_text() if path.exists() else ""
