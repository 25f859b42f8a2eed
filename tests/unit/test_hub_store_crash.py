"""What was acknowledged survives `kill -9` in the middle of commits; what wasn't is there whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from cloudlink.hub.store import Create, Delete, Store
from tests.fakes.hub_objects import config

WRITER = """
import itertools, sys
from tests.fakes.hub_objects import config, pod
from cloudlink.hub.store import Create, PutRecord, Store
store = Store.open(sys.argv[1])
for i in itertools.count(int(sys.argv[2])):
    store.commit([Create(config(f"c{i}", {"n": str(i)})), Create(pod(f"p{i}")), PutRecord("r", str(i), b"x")])
    print(i, flush=True)
"""


@pytest.mark.parametrize("acknowledged_before_the_kill", [1, 7, 40])
def test_a_kill_in_the_middle_of_commits_loses_nothing_acknowledged(
    database: str, acknowledged_before_the_kill: int
) -> None:
    url = database
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = 0
    for _ in range(2):  # the second writer starts on what the first one's death left behind
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, url, str(done)], stdout=subprocess.PIPE, text=True, env=env
        )
        assert writer.stdout is not None
        try:
            for _ in range(acknowledged_before_the_kill):
                done = int(writer.stdout.readline()) + 1
        finally:
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read()
            writer.stdout.close()
            writer.wait()
        done = int(rest.split()[-1]) + 1 if rest.split() else done
        store = Store.open(url)
        there = len(store.list("ConfigMap"))
        assert there in (done, done + 1)  # the last one may have been on disk before it could say so
        assert len(store.list("Pod")) == len(store.records("r")) == there
        assert store.revision == max(int(o.metadata.resource_version) for o in store.list("Pod"))
        assert store.commit([Create(config("after", {}))])
        store.close()
        done = there
        _forget(url)


def _forget(url: str) -> None:
    store = Store.open(url)
    store.commit([Delete("ConfigMap", "default", "after")])
    store.close()
