"""What a probe or hook that is a command may: no more than the container it is run in."""

from __future__ import annotations

import pytest

from edged.model import Env, ExecAction, Probe, Security
from tests.runtime_lab import Node, run

pytestmark = pytest.mark.root

WHO = 'echo $(id -u) $(id -g) $(id -G) $NAME $(pwd) $(grep -E "^(CapEff|CapBnd|NoNewPrivs|Seccomp):" /proc/self/status)'


@pytest.mark.parametrize("own_users", [False, True])
def test_a_command_that_is_run_inside_is_who_the_containers_process_is(own_users: bool) -> None:
    async def scenario(it: Node) -> None:
        state = await it.start(
            *("/bin/sh", "-c", f"{WHO}; exec sleep 600"),
            pod={"fs_group": 2000, "host_users": not own_users},
            security=Security(user=1000, group=3000, groups=(4000,), drop=("ALL",), add=("NET_BIND_SERVICE",)),
            env=(Env("NAME", "value"),),
            working_dir="/tmp",
        )
        await it.says(state, "Seccomp:")
        asked = await it.runtime.probe(state.id, Probe(ExecAction(("/bin/sh", "-c", WHO)), timeout=30.0), "")
        assert asked.message == it.log(state).strip()
        assert asked.message.startswith("1000 3000 ")
        await it.runtime.remove_container(state.id)

    run(scenario)


def test_a_command_that_is_run_inside_a_container_of_root_is_root_within_its_bounds() -> None:
    async def scenario(it: Node) -> None:
        state = await it.start("/bin/sh", "-c", f"{WHO}; exec sleep 600", security=Security(drop=("CHOWN",)))
        await it.says(state, "Seccomp:")
        asked = await it.runtime.probe(state.id, Probe(ExecAction(("/bin/sh", "-c", WHO)), timeout=30.0), "")
        assert asked.message == it.log(state).strip()
        await it.runtime.remove_container(state.id)

    run(scenario)
