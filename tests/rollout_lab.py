"""A Deployment on real nodes that can be made to fail in each way, and what a person sees of its rollouts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cloudlink.cli import leftovers
from cloudlink.cli.house import CHECKOUT, House, environment, is_ready
from cloudlink.kube.annotations import PROVEN_AFTER, SUCCEEDED, WAVE
from tests.houses import container_pids, deployment
from tests.kubectl_lab import Kubectl

# What its environment says decides how a revision fares: MODE=crash | hungry | slow, or any other word for a good one.
PROGRAM = """
case "$MODE" in
crash) exit 3 ;;
hungry) exec tail /dev/zero ;;
esac
exec sleep 1d
"""
NEVER_READY = {"exec": {"command": ["sh", "-c", 'test "$MODE" != slow']}, "periodSeconds": 1}


class Web:
    """The Deployment `web` of one namespace. Every revision is told by its MODE; the first one's is "".

    :param houses: the one with the hub first.
    """

    def __init__(self, houses: Sequence[House], kubectl: Kubectl) -> None:
        self.houses, self.kubectl = houses, kubectl
        self.client = houses[0].client
        self._home = f"/apis/apps/v1/namespaces/{kubectl.namespace}"

    def manifest(
        self,
        replicas: int,
        annotations: Mapping[str, str] | None = None,
        container: Mapping[str, Any] | None = None,
        pod: Mapping[str, Any] | None = None,
        **spec: Any,
    ) -> dict[str, Any]:
        made = deployment("web", replicas, PROGRAM, **(container or {}))
        made["spec"]["template"]["spec"] |= pod or {}
        made["metadata"]["annotations"] = {PROVEN_AFTER: "1s", **(annotations or {})}
        made["spec"] |= spec
        return made

    def begin(self, replicas: int = 3, annotations: Mapping[str, str] | None = None, **more: Any) -> None:
        """Apply it and wait until its first revision counts as a good one. `more` as for `manifest`."""
        self.kubectl.ok("apply", "-f", "-", stdin=self.manifest(replicas, annotations, **more))
        self.kubectl.ok("rollout", "status", "deployment/web", "--timeout=60s")
        self.until_good("")

    def use(self, mode: str) -> None:
        """Roll out another revision."""
        self.kubectl.ok("set", "env", "deployment/web", f"MODE={mode}")

    # ------------------------------------------------------------ what is there

    def get(self) -> dict[str, Any]:
        return dict(self.client.call("GET", f"{self._home}/deployments/web"))

    def sets(self) -> list[dict[str, Any]]:
        return list(self.client.call("GET", f"{self._home}/replicasets")["items"])

    def pods(self, mode: str | None = None) -> list[dict[str, Any]]:
        """Those that aren't on their way out; of one revision, where it is named."""
        found = [p for p in self.houses[0].pods(self.kubectl.namespace) if "deletionTimestamp" not in p["metadata"]]
        return [p for p in found if mode is None or mode_of(p["spec"]) == mode]

    def ready(self, mode: str | None = None) -> int:
        return sum(is_ready(p) for p in self.pods(mode))

    def pids(self, mode: str | None = None) -> dict[str, list[int]]:
        """Pod -> its processes, whichever node it is on; once each of them has some."""
        found: dict[str, list[int]] = {}

        def everywhere() -> bool:
            found.clear()
            for pod in self.pods(mode):
                found[pod["metadata"]["name"]] = [pid for h in self.houses for pid in container_pids(h, pod)]
            return all(found.values())

        self.until("every pod to have a process", everywhere)
        return found

    def nodes(self, mode: str) -> set[str]:
        return {p["spec"]["nodeName"] for p in self.pods(mode)}

    def condition(self, kind: str) -> tuple[str, str, str]:
        """Status, reason, message."""
        found = (c for c in self.get().get("status", {}).get("conditions", ()) if c["type"] == kind)
        return next(((c["status"], c["reason"], c.get("message", "")) for c in found), ("", "", ""))

    def annotation_of_set(self, mode: str, key: str) -> str:
        found = (s for s in self.sets() if mode_of(s["spec"]["template"]["spec"]) == mode)
        return next((s["metadata"]["annotations"].get(key, "") for s in found), "")

    def wave(self, mode: str) -> int:
        """Which wave this revision is in; 0 = none."""
        found = re.search(r'"wave":(\d+)', self.annotation_of_set(mode, WAVE))
        return int(found[1]) if found else 0

    def events(self, reason: str) -> list[str]:
        """What was said of `web`."""
        path = f"/api/v1/namespaces/{self.kubectl.namespace}/events"
        return [
            e["message"]
            for e in self.client.call("GET", path)["items"]
            if e["reason"] == reason and e["involvedObject"]["name"] == "web"
        ]

    # ------------------------------------------------------------ waiting

    def until(self, what: str, true: Callable[[], Any]) -> None:
        self.houses[0].wait(what, lambda: bool(true()), self.explain)

    def explain(self) -> str:
        return self.kubectl.run("describe", "deployment", "web")[1] + self.kubectl.run("get", "pods", "-o", "wide")[1]

    def until_good(self, mode: str) -> None:
        """All its pods have been ready for long enough."""
        self.until(f'revision "{mode}" to be a good one', lambda: self.annotation_of_set(mode, SUCCEEDED))

    def until_complete(self, mode: str) -> None:
        self.until(
            f'"{mode}" to be all that runs',
            lambda: len(self.pods()) == self.ready(mode) == self.get()["spec"]["replicas"],
        )

    def until_held(self, mode: str, pods: int) -> None:
        """A wave of so many pods runs and waits."""
        waits = ("WaveHeld", "WaitingForConfirmation")
        self.until(
            f'{pods} pods of "{mode}" to wait',
            lambda: self.ready(mode) == pods and self.condition("Progressing")[1] in waits,
        )

    def until_undone(self) -> str:
        """What the event says."""
        self.until("a revision to be undone", lambda: self.condition("RolledBack")[0] == "True")
        self.until("the event", lambda: self.events("RolledBack"))
        return self.events("RolledBack")[-1]


def mode_of(spec: Mapping[str, Any]) -> str:
    return next((e["value"] for e in spec["containers"][0].get("env", ()) if e["name"] == "MODE"), "")


def edgectl(house: House, *words: str) -> str:
    """A command of edgectl that works; what it printed."""
    done = tried(house, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tried(house: House, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of edgectl, whatever comes of it."""
    argv = [sys.executable, "-m", "cloudlink.cli", *words, "--kubeconfig", os.fspath(house.kubeconfig)]
    return subprocess.run(argv, cwd=CHECKOUT, env=environment(), capture_output=True, text=True, check=False)


def kill_hub(house: House) -> None:
    """As if its power was cut; nothing is started again."""
    pid = house.pids["hub"]
    os.kill(pid, signal.SIGKILL)
    house.wait("the hub to be dead", lambda: not leftovers.alive(pid))
