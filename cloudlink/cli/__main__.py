"""`edgectl`: see --help. Every command ends with 0, or with one sentence on stderr and 1.

75 instead of 1 (sysexits.h's EX_TEMPFAIL): it may work later, so a script may try again.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from cloudlink.cli.client import HubClient
from edged import config as configs
from edged.control import logcat
from edged.errors import EdgedError, PermanentError, RetryError


def main(argv: list[str] | None = None) -> None:
    arguments = parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except EdgedError as e:
        print(f"edgectl: {e}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(e, RetryError) else 1)
    except BrokenPipeError:  # somebody reads only our first lines
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="edgectl", description="operate a fleet of edged nodes")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    join = commands.add_parser("join", help="make this machine a node of a hub's fleet")
    join.add_argument("token", help="from `edgehub token create`; it works once; - reads it from stdin")
    join.add_argument("--name", default=os.uname().nodename, help="the node's name (default: the host name)")
    add_settings(join)
    join.add_argument("--check", action="store_true", help="check the token's form and the settings; do nothing")
    join.set_defaults(run=run_join)

    configuring = commands.add_parser("configure", help="write node.toml anew for a node that has joined")
    add_settings(configuring)
    configuring.add_argument("--print", action="store_true", help="print it, and write nothing")
    configuring.set_defaults(run=run_configure)

    applying = commands.add_parser("apply", help="apply manifests, for machines without kubectl")
    applying.add_argument("-f", "--filename", type=Path, required=True)
    add_kubeconfig(applying)
    applying.set_defaults(run=run_apply)

    add_fit(commands)

    get = commands.add_parser("get", help="list objects of any kind, for machines without kubectl")
    get.add_argument("what", metavar="KIND", help="such as pods, nodes, deploy, or the name of somebody's own kind")
    get.add_argument("-n", "--namespace", default="", help="default: all of them")
    add_kubeconfig(get)
    get.set_defaults(run=run_get)

    add_delete(commands)

    confirming = commands.add_parser("confirm", help="let a rollout in waves go on that waits for a person")
    confirming.add_argument("what", metavar="deployment/NAME")
    confirming.add_argument("-n", "--namespace", default="default")
    confirming.add_argument("--all", action="store_true", help="all further waves of this revision, too")
    add_kubeconfig(confirming)
    confirming.set_defaults(run=run_confirm)

    logs = commands.add_parser("logs", help="what a pod's containers wrote; on the node that runs it")
    logcat.add_arguments(logs)
    logs.add_argument("--config", type=Path, default=Path("/etc/edged/node.toml"), help="the node's settings")
    logs.set_defaults(run=run_logs)

    image = commands.add_parser(
        "image", help="the images of this node (run it there): import, list, pull, remove, prune"
    )
    image.add_argument("--config", type=Path, default=Path("/etc/edged/node.toml"), help="the node's settings")
    image.add_argument("words", nargs=argparse.REMAINDER, metavar="import|list|pull|remove|prune|verify ...")
    image.set_defaults(run=run_image)

    simulating = commands.add_parser("simulate", help="many nodes that run nothing, to try a hub out with")
    add_kubeconfig(simulating)
    simulate_arguments(simulating)
    simulating.set_defaults(run=run_simulate)

    demo = commands.add_parser("demo", help="hub, node and demo workload on this machine")
    demo.add_argument("what", choices=["run", "up", "down"])
    demo.set_defaults(run=run_demo)
    return top


def add_fit(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    fits = commands.add_parser("fit", help="how the nodes are packed; with -f: whether a manifest fits, and where")
    fits.add_argument("-f", "--filename", type=Path, help="a manifest that isn't applied yet; - for stdin")
    fits.add_argument("-n", "--namespace", default="", help="of documents that name none (default: the kubeconfig's)")
    add_kubeconfig(fits)
    fits.set_defaults(run=run_fit)

    packing = commands.add_parser("packing", help="how the nodes are packed, as `edgectl fit` without a manifest")
    add_kubeconfig(packing)
    packing.set_defaults(run=run_fit, filename=None, namespace="")


def add_delete(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    deleting = commands.add_parser("delete", help="delete one object, for machines without kubectl")
    deleting.add_argument("what", metavar="KIND", help="such as pod, node or deploy")
    deleting.add_argument("name")
    deleting.add_argument("-n", "--namespace", default="default")
    add_kubeconfig(deleting)
    deleting.set_defaults(run=run_delete)


def add_settings(to: argparse.ArgumentParser) -> None:
    to.add_argument("--config", type=Path, default=Path("/etc/edged/node.toml"), help="where to write the settings")
    to.add_argument("--state-dir", default="/var/lib/edged")
    to.add_argument("--run-dir", default="/run/edged")
    to.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of node.toml")
    to.add_argument("--settings", type=Path, metavar="FILE", help="TOML (or .json) with settings; --set wins over it")


def add_kubeconfig(to: argparse.ArgumentParser) -> None:
    default = os.environ.get("KUBECONFIG", ".demo/kubeconfig")
    to.add_argument("--kubeconfig", type=Path, default=Path(default), help="default: $KUBECONFIG, or the demo's")


def run_join(arguments: argparse.Namespace) -> None:
    from cloudlink.cli.join import join_and_write

    print(join_and_write(arguments))


def run_configure(arguments: argparse.Namespace) -> None:
    from cloudlink.cli.join import configure

    print(configure(arguments))


def run_image(arguments: argparse.Namespace) -> None:
    """What `edged image` does; it needs no daemon and no hub, but it must be this machine's node."""
    from edged import commands, config

    commands.image(config.load(arguments.config), arguments.words or ["--help"])


def run_apply(arguments: argparse.Namespace) -> None:
    from cloudlink.cli.resources import apply
    from cloudlink.kube.parse import load_yaml

    text = text_of(arguments.filename)
    client = HubClient(arguments.kubeconfig)
    for document in load_yaml(text, str(arguments.filename)):
        print(apply(client, document, client.namespace))


def text_of(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text()
    except OSError as e:
        raise PermanentError(f"{file}: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise PermanentError(f"{file} is no text: {e}") from e


def run_fit(arguments: argparse.Namespace) -> None:
    """Ends with 1 where it doesn't fit, for scripts."""
    from cloudlink.cli.fit import ask, checked, lines, usage

    client, file = HubClient(arguments.kubeconfig), arguments.filename
    manifest = checked(text_of(file), str(file)) if file is not None else ""
    if file is not None and not manifest.strip():
        raise PermanentError(f"{file}: there is nothing in it")
    status = ask(client, manifest, arguments.namespace)
    print("\n".join(lines(status, file is not None, usage(client) if file is None else None)))
    if not status.get("fits", True):
        sys.exit(1)


def run_get(arguments: argparse.Namespace) -> None:
    from cloudlink.cli.resources import table

    for line in table(HubClient(arguments.kubeconfig), arguments.what, arguments.namespace):
        print(line)


def run_delete(arguments: argparse.Namespace) -> None:
    from cloudlink.cli.resources import delete

    print(delete(HubClient(arguments.kubeconfig), arguments.what, arguments.name, arguments.namespace))


def run_confirm(arguments: argparse.Namespace) -> None:
    from cloudlink.cli.confirm import confirm

    print(confirm(HubClient(arguments.kubeconfig), arguments.what, arguments.namespace, arguments.all))


def run_logs(arguments: argparse.Namespace) -> None:
    options, config = logcat.options_of(arguments), configs.load(arguments.config)
    asyncio.run(logcat.show(config.control_socket, options, sys.stdout.buffer, sys.stderr))


def simulate_arguments(to: argparse.ArgumentParser) -> None:
    from cloudlink.cli import simulate

    simulate.add_arguments(to)


def run_simulate(arguments: argparse.Namespace) -> None:
    from cloudlink.cli import simulate

    simulate.run(arguments)


def run_demo(arguments: argparse.Namespace) -> None:
    from cloudlink.cli.demo import Demo

    demo = Demo()
    {"run": demo.run, "up": demo.up, "down": demo.down}[arguments.what]()


if __name__ == "__main__":
    main()
