"""python -m tests.simulation --seed 1234 --nodes 20 --days 365

Runs one seed, or with --seconds one after the other until the time is over; stops at the first that breaks an
invariant, says which events came before, and how to see it again.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time

from tests.simulation.simulation import Plan, simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--days", type=float, default=365.0)
    parser.add_argument("--storm", type=float, default=1.0, help="how many times as much goes wrong as usual")
    parser.add_argument("--seconds", type=float, default=0.0, help="go on with the next seeds for so long")
    parser.add_argument("--lines", type=int, default=60, help="of the story before a violation")
    asked = parser.parse_args()
    began = time.monotonic()
    years = 0.0
    for seed in itertools.count(asked.seed):
        report = simulate(Plan(seed, asked.nodes, asked.days, asked.storm))
        years += report.node_years
        print(report.text(asked.lines), flush=True)
        if report.violations:
            return 1
        if time.monotonic() - began >= asked.seconds:
            break
    if asked.seconds:
        print(f"{years:.0f} node-years, no invariant broken")
    return 0


if __name__ == "__main__":
    sys.exit(main())
