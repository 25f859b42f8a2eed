"""python3 -m firstboot apply|join|plan: see edged-firstboot.service and edged-join.service. `plan` changes nothing."""

from __future__ import annotations

import sys
from pathlib import Path

from . import facts as looking
from . import joining, plan
from .apply import Board, FailedError, run, say
from .settings import Settings
from .steps import Step, Tell


def main(words: list[str]) -> int:
    if words not in (["apply"], ["join"], ["plan"]):
        say(__doc__ or "")
        return 2
    root = Path("/")
    device = looking.boot_device(Path("/proc/self/mountinfo").read_text())
    board = Board(root, device)
    facts = looking.look(root, device is not None)
    try:
        if words == ["join"]:
            return joining.join(board, facts, run)
        settings = plan.asked(facts)
        if isinstance(settings, Settings):
            facts = looking.checked(facts, settings, root, run)
        steps = plan.decide(facts)
        if words == ["plan"]:
            say("\n".join(step.describe() for step in steps) or "nothing to do")
            return 0
        board.carry_out(steps)
        return int(any(map(bad, steps)) or bool(board.failures))
    except FailedError as e:
        say(f"first boot: {e}")
        return 1


def bad(step: Step) -> bool:
    return isinstance(step, Tell) and step.kind == "error" and bool(step.text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
