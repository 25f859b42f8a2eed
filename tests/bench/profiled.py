"""A hub under cProfile, counted in CPU time: what others do on the machine is not in it.

python -m tests.bench.profiled FILE run --config hub.toml        then: python -m pstats FILE
"""

from __future__ import annotations

import cProfile
import sys
import time

from cloudlink.hub.__main__ import main

if __name__ == "__main__":
    profile = cProfile.Profile(time.process_time)
    try:
        profile.runcall(main, sys.argv[2:])
    finally:
        profile.dump_stats(sys.argv[1])
