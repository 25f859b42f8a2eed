"""The commands of `edged` that end: they talk to the daemon's socket where it runs, and do without where they can."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

from edged import board_watchdog
from edged.config import NodeConfig
from edged.control import ControlClient
from edged.decide import budget as budgets
from edged.decide import plan as planning
from edged.decide.budget import format_bytes
from edged.errors import EdgedError, PermanentError
from edged.model import Observed, Phase, PodStatus


def dispatch(command: str, words: list[str], config: NodeConfig, usage: str) -> None:
    match (command, words):
        case ("plan", []):
            print(asyncio.run(plan(config)))
        case ("status", []):
            asyncio.run(status(config))
        case ("logs", [_, *_]):
            logs(config, words)
        case ("image", [_, *_]):
            image(config, words)
        case ("watchdog", [] | ["apply"] | ["apply", "--dry-run"]):
            watchdog(config, *(word in words for word in ("apply", "--dry-run")))
        case ("teardown", ["--yes"]):
            asyncio.run(teardown(config))
        case ("teardown", _):
            raise PermanentError("this stops and removes every pod on this node; say `edged teardown --yes` to mean it")
        case _:
            raise PermanentError(f'no such command: "{" ".join([command, *words])}"\n\n{usage}')


def client(config: NodeConfig) -> ControlClient:
    return ControlClient(config.control_socket)


def daemon_answers(config: NodeConfig) -> bool:
    try:
        asyncio.run(client(config).ping())
    except EdgedError:
        return False
    return True


def watchdog(config: NodeConfig, change: bool, dry_run: bool) -> None:
    """Show the board's own watchdog, or have systemd feed it; exit code 1 where a required one is missing."""
    policy = config.hardware_watchdog
    if change and board_watchdog.apply(policy, dry_run=dry_run):
        if dry_run:
            print(f"{board_watchdog.DROP_IN} would change")
            return
        board_watchdog.reload_systemd()
        print(f"{board_watchdog.DROP_IN} changed")
    found = board_watchdog.look()
    print(board_watchdog.told(policy, found))
    if said := board_watchdog.complaint(policy, found):
        raise PermanentError(said)


async def plan(config: NodeConfig) -> str:
    """Ask the daemon; where none runs, look at the machine ourselves. Nothing is changed either way."""
    try:
        return await client(config).plan()
    except EdgedError:
        from edged import host
        from edged.images.store import ImageStore
        from edged.runtime.pods import PodRuntime
        from edged.store import StateStore

        saved = StateStore(config.state).load()
        if saved is None:
            return "nothing to do: this node never accepted a desired state"
        runtime = PodRuntime(config)
        sandboxes, containers = runtime.observe()
        images = ImageStore(config.state / "images")
        observed = Observed(
            containers=tuple(containers),
            sandboxes=tuple(sandboxes),
            images=frozenset(i for i in planning.wanted_images(saved.desired) if images.resolve(i)),
            asked=frozenset(pod.uid for pod in saved.desired.pods),
            devices=runtime.devices(planning.claimed_devices(saved.desired.pods)),
            claims=runtime.claims(),
            claim_sizes={claim.uid: claim.size for claim in saved.desired.claims},
        )
        budget = budgets.of(host.capacity(config))
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        return planning.plan(saved.desired, observed, budget, now).describe()


async def status(config: NodeConfig) -> None:
    snapshot = await client(config).status()
    budget = snapshot.budget
    print(
        f"node {snapshot.status.node}, generation {snapshot.generation}, hub {snapshot.hub.state}; "
        f"memory for pods: {format_bytes(budget.used)} used, {format_bytes(budget.requested)} requested, "
        f"{format_bytes(budget.allocatable)} allocatable; daemon {format_bytes(snapshot.daemon.pss)}"
    )
    for condition in snapshot.status.conditions:
        print(f"{condition.kind}: {condition.message}")
    for sentence in snapshot.status.degraded:
        print(f"note: {sentence}")
    for pod in snapshot.status.pods:
        print(pod_line(pod))


def pod_line(pod: PodStatus) -> str:
    """As `kubectl get pods` would say it: how many of the init containers are through while they run."""
    everything = (*pod.init, *pod.containers)
    restarts = sum(c.restarts for c in everything)
    sidecars = [c for c in pod.init if pod.initialized and c.state == "running"]
    counted = (*sidecars, *pod.containers)
    ready = f"{sum(c.ready for c in counted)}/{len(counted)}"
    reason = next((c.reason for c in everything if c.reason and c.state != "terminated"), pod.reason)
    reason = reason or next((c.reason for c in pod.containers if c.reason), "")
    if pod.phase is Phase.FAILED and pod.reason:
        reason = pod.reason
    elif not pod.initialized and reason in ("", "PodInitializing", "ContainerCreating"):
        reason = f"Init:{sum(c.ready for c in pod.init)}/{len(pod.init)}"
    message = next((c.message for c in everything if c.message and c.state == "waiting"), pod.message)
    message = message or next((c.message for c in everything if c.message), "")
    words = f"{pod.namespace}/{pod.name:40} {ready:5} {reason or pod.phase:20} restarts {restarts:<4} {pod.ip:15}"
    return f"{words} {message}".rstrip()


def logs(config: NodeConfig, words: list[str]) -> None:
    import argparse

    from edged.control import logcat

    parser = argparse.ArgumentParser(prog="edged logs", description="what a pod's containers wrote")
    logcat.add_arguments(parser)
    options = logcat.options_of(parser.parse_args(words))
    try:
        asyncio.run(logcat.show(config.control_socket, options, sys.stdout.buffer, sys.stderr))
    except BrokenPipeError:  # somebody reads only our first lines
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def image(config: NodeConfig, words: list[str]) -> None:
    """The work is done by a process of its own that ends: unpacking needs memory that nobody here has."""
    from edged.images.cage import BY_HAND, ENTER, Cage
    from edged.images.settings import Job
    from edged.puller import in_memory, pull_config

    command, *rest = words
    wanted = needed_images(config) if command == "prune" and "--help" not in rest else frozenset()
    job = Job(pull_config(config.images), config.images.docker_config, wanted=tuple(sorted(wanted)))
    fd = in_memory(job)
    plain = ["--plain"] if command == "pull" else []
    argv = [sys.executable, "-m", "edged.images", command, "--root", os.fspath(config.state / "images")]
    argv += ["--job-fd", str(fd), *plain, *rest]
    if command in ("import", "pull", "verify"):
        places = Cage(config.cgroup_parent, config.images.memory_limit, name=BY_HAND).open()
        argv = [*ENTER, " ".join(places), *argv]
    done = subprocess.run(argv, check=False, pass_fds=[fd])
    if done.returncode == 0 and command != "list" and daemon_answers(config):
        asyncio.run(client(config).refresh())
    sys.exit(min(done.returncode, 1) if done.returncode >= 0 else 1)


def needed_images(config: NodeConfig) -> frozenset[str]:
    """References and image ids that this node needs: of the stored desired state, of every container that is here, and
    the pinned ones.

    :raises PermanentError: nothing was ever accepted, so nobody knows.
    """
    from edged.images.reference import normalise
    from edged.runtime.pods import PodRuntime
    from edged.store import StateStore

    saved = StateStore(config.state).load()
    if saved is None:
        raise PermanentError(
            "this node never accepted a desired state, so nobody knows which images it needs; remove images by name: "
            "edged image remove REFERENCE"
        )
    _, containers = PodRuntime(config).observe()
    references = {normalise(name) for name in (*planning.wanted_images(saved.desired), *config.images.pinned)}
    return frozenset(references | {c.image_id for c in containers if c.image_id})


async def teardown(config: NodeConfig) -> None:
    from edged.runtime.pods import PodRuntime

    try:
        await client(config).ping()
    except EdgedError:
        await PodRuntime(config).teardown()
        return
    raise PermanentError(f"the daemon of node {config.name} still runs; stop it first")
