"""`edged`: the node's daemon and what its owner asks of it on the spot.

edged run       [--config FILE]             run the node until SIGTERM; containers go on without it
edged plan      [--config FILE]             print what would be done now, and do nothing
edged status    [--config FILE]             pods, as the daemon sees them
edged logs      [--config FILE] POD [-c CONTAINER] [-f] [--since 10m] [--tail N] [--previous]; see edged logs --help
edged image     [--config FILE] import FILE [--name REFERENCE] | list | pull REFERENCE | remove REFERENCE
                                | prune [--dry-run] | verify
edged watchdog  [--config FILE] [apply [--dry-run]]   the board's hardware watchdog; arm it by the settings' policy
edged teardown  [--config FILE] --yes       remove every container, namespace, mount and cgroup of this node
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import signal
import sys
from pathlib import Path

from edged import bytecode
from edged import config as configs
from edged.errors import EdgedError, PermanentError

USAGE = __doc__


def main(argv: list[str] | None = None) -> None:
    """Entry point. argparse would cost the resident process half a megabyte; the grammar above is small."""
    words = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        config_file, words = take_option(words, "--config", str(configs.DEFAULT_FILE))
        command, rest = (words[0], words[1:]) if words else ("help", [])
        if command in ("help", "--help", "-h"):
            print(USAGE)
        elif command == "run" and not rest:
            config = configs.load(Path(config_file))
            bytecode.compile_first(config_file, config.uplink.factory)
            run(config)
        elif command == "precompile" and not rest:
            config = configs.load(Path(config_file))
            load_resident(config)
            bytecode.note_compiled(config.uplink.factory)
        else:
            from edged import commands

            commands.dispatch(command, rest, configs.load(Path(config_file)), USAGE or "")
    except EdgedError as e:
        print(f"edged: {e}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def take_option(words: list[str], name: str, default: str) -> tuple[str, list[str]]:
    """Split `--name value` or `--name=value` off the words."""
    for i, word in enumerate(words):
        if word == name:
            if i + 1 == len(words):
                raise PermanentError(f"{name} needs a value")
            return words[i + 1], words[:i] + words[i + 2 :]
        if word.startswith(name + "="):
            return word.partition("=")[2], words[:i] + words[i + 1 :]
    return default, words


RESIDENT = (
    "edged.board_watchdog",
    "edged.control",
    "edged.daemon",
    "edged.image_keeper",
    "edged.images.store",
    "edged.pressure",
    "edged.puller",
    "edged.remote.answers",
    "edged.runtime.pods",
    "edged.source",
    "edged.store",
    "edged.upkeep",
)


def load_resident(config: configs.NodeConfig) -> None:
    """Import what the daemon consists of. As a command of its own this writes the byte code caches (edged.bytecode)."""
    for module in RESIDENT:
        importlib.import_module(module)
    if config.uplink.factory:
        load_factory(config.uplink.factory)


def run(config: configs.NodeConfig) -> None:
    """The resident process. Imports are in here, so that the other commands don't pay for them."""
    os.umask(0o022)  # the mode of a container's "/" is made here; what must be secret says so itself
    from edged import host

    host.claim(config.state)
    host.lower_oom_score()
    load_resident(config)
    from edged.board_watchdog import BoardWatchdog
    from edged.control import ControlServer
    from edged.daemon import Daemon
    from edged.image_keeper import ImageKeeper
    from edged.images.store import ImageStore
    from edged.machine import boottime
    from edged.pressure import memory_pressure
    from edged.puller import ImageWorker
    from edged.remote.answers import Answers
    from edged.runtime.pods import PodRuntime
    from edged.source import DaemonSource
    from edged.sources import StepSource
    from edged.store import StateStore
    from edged.upkeep import upkeep
    from edged.uplink import LocalUplink, Uplink

    async def node() -> None:
        factory = config.uplink.factory
        uplink: Uplink = load_factory(factory)(config) if factory else LocalUplink(config.state)
        images, store = ImageStore(config.state / "images"), StateStore(config.state)
        worker = ImageWorker(config)
        minutely, working_sets = upkeep(config, boottime)
        sources: list[StepSource] = [memory_pressure(config, boottime), minutely, ImageKeeper(config, images, worker)]
        sources.append(BoardWatchdog(config))
        runtime = PodRuntime(config)
        daemon = Daemon(config, runtime, images, worker, store, uplink, sources, working_sets)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, daemon.stop)
        if isinstance(uplink, LocalUplink):
            loop.add_signal_handler(signal.SIGHUP, uplink.reload)
        control = ControlServer(config.control_socket, DaemonSource(daemon))
        await daemon.run([control.run()], Answers(daemon, runtime))

    gc.collect()
    gc.freeze()  # what was imported stays: the collector need not visit (and so dirty) its pages again
    asyncio.run(node())


def load_factory(name: str):  # type: ignore[no-untyped-def]  # whoever it names is above this package
    """ "package.module:function" -> the function."""
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as e:
        raise PermanentError(f'uplink factory "{name}" can\'t be loaded: {e}') from e


if __name__ == "__main__":
    main()
