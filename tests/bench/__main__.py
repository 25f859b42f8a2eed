"""`make bench`: a real house, measured from outside; then a node alone beside its peers. About twelve minutes.

python -m tests.bench [house] [starts] [memory] [cold_boot] [cycles] [pull] [neighbours] [hub]
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from cloudlink.cli.house import House
from tests.bench import alone, floors
from tests.bench.measure import cpu_seconds, median_ms, node_processes, pss, rss, spin_until, tell, total, written_bytes
from tests.houses import a_house, container_pids, deployment, pods_of

IDLE_SECONDS = 60.0
SAMPLES = 15


class Bench:
    def __init__(self, house: House) -> None:
        self.house = house
        self.marks = house.folder / "marks"  # a workload leaves a file here the moment it runs
        self.marks.mkdir()
        self.marks.chmod(0o777)

    def manifest(self, name: str, replicas: int) -> dict[str, object]:
        made = deployment(
            name,
            replicas,
            command="echo > /marks/$HOSTNAME-$(cut -d' ' -f1 /proc/uptime); exec sleep 1d",
            volumeMounts=[{"name": "marks", "mountPath": "/marks"}],
        )
        made["spec"]["template"]["spec"]["volumes"] = [{"name": "marks", "hostPath": {"path": str(self.marks)}}]
        return made

    def marked(self, name: str) -> int:
        return sum(entry.name.startswith(name + "-") for entry in self.marks.iterdir())

    def remove(self, name: str) -> None:
        self.house.client.call("DELETE", f"/apis/apps/v1/namespaces/default/deployments/{name}")
        self.house.wait(f"{name} to go", lambda: not pods_of(self.house, name))

    # ------------------------------------------------------------ numbers

    def memory(self, pods: int) -> float:
        """Tell PSS of daemon and helpers; returns all of it in MB."""
        time.sleep(12)  # the network worker ends after its idle time; what is left is what stays
        roles = node_processes(self.house)
        daemon = total(pss, roles["edged"])
        helpers = total(pss, [p for role in ("conmon", "dnsmasq", "worker") for p in roles[role]])
        peers = {0: "Docker 111, Swarm 124", 20: "Swarm 203, Docker 186, containerd 105"}
        tell(
            f"edged PSS, {pods} pods",
            daemon,
            "MB",
            floors.python_pss(),
            goal=30.0,
            floor_is="asyncio + ssl alone",
            rss=round(total(rss, roles["edged"]), 1),
        )
        conmons = floors.conmon_mb * len(roles["conmon"])
        tell(
            f"helpers PSS, {pods} pods",
            helpers,
            "MB",
            conmons,
            floor_is="as many conmons, each as one alone",
            count=len(roles["conmon"]),
        )
        tell(f"node without workloads PSS, {pods} pods", daemon + helpers, "MB", goal=45.0, peers=peers.get(pods, ""))
        return daemon + helpers

    def idle(self) -> None:
        pids = [p for role in node_processes(self.house).values() for p in role]
        cpu, wrote = total(cpu_seconds, pids), total(written_bytes, pids)
        time.sleep(IDLE_SECONDS)
        share = 100 * (total(cpu_seconds, pids) - cpu) / IDLE_SECONDS
        tell("idle CPU of the node, 20 pods", share, "% of a core", 0.0, goal=0.1, peers="Docker about 1")
        wrote = total(written_bytes, pids) - wrote
        tell("written while idle, 20 pods", wrote, f"bytes in {IDLE_SECONDS:.0f} s", 0.0, goal=0.0)

    def apply_one(self) -> None:
        """A Deployment at the hub to its process running, by the API and by kubectl."""
        client, times = self.house.client, []
        for n in range(SAMPLES):
            begun = time.perf_counter()
            apply_now(client, self.manifest(f"one{n}", 1))
            spin_until(lambda n=n: self.marked(f"one{n}") == 1)  # type: ignore[misc]
            times.append(time.perf_counter() - begun)
            self.remove(f"one{n}")
        floor = floors.crun_run_ms(self.house)
        tell(
            "apply at the hub to process running",
            median_ms(times),
            "ms",
            floor,
            goal=150.0,
            worst=round(max(times) * 1000, 1),
            floor_is="crun run of the same bundle",
            peers="Swarm 338, Ankaios 515, K3s 2306",
        )
        self.kubectl_apply(floor)

    def kubectl_apply(self, floor: float) -> None:
        if shutil.which("kubectl") is None:
            print("kubectl apply to process running: not measured, there is no kubectl here", file=sys.stderr)
            return
        times, alone = [], []
        for n in range(5):
            file = self.house.folder / f"kubectl{n}.json"
            import json

            file.write_text(json.dumps(self.manifest(f"kube{n}", 1)))
            command = ["kubectl", "--kubeconfig", str(self.house.kubeconfig), "apply", "-f", str(file)]
            begun = time.perf_counter()
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            spin_until(lambda n=n: self.marked(f"kube{n}") == 1)  # type: ignore[misc]
            times.append(time.perf_counter() - begun)
            child.wait()
            begun = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)  # nothing changes: kubectl's own time
            alone.append(time.perf_counter() - begun)
            self.remove(f"kube{n}")
        tell(
            "kubectl apply to process running",
            median_ms(times),
            "ms",
            median_ms(alone),
            floor_is="kubectl apply that changes nothing",
            crun_run=round(floor, 1),
        )

    def twenty(self) -> None:
        """Twenty replicas at once; they stay for the memory and idle numbers."""
        begun = time.perf_counter()
        apply_now(self.house.client, self.manifest("twenty", 20))
        spin_until(lambda: self.marked("twenty") == 20)
        took = time.perf_counter() - begun
        floor = floors.parallel_crun_run_ms(self.house, 20)
        tell(
            "20 replicas, apply to all running",
            took * 1000,
            "ms",
            floor,
            goal=1000.0,
            floor_is="20 parallel crun run",
            peers="Podman 1406, Swarm 2261, Docker 2562",
        )
        self.house.wait("the status of 20", lambda: self.house.ready_pods() == 20)

    def heal(self) -> None:
        """SIGKILL to the first process of each of the twenty in turn."""
        times = []
        for pod in pods_of(self.house, "twenty"):
            name = pod["metadata"]["name"]
            before = self.marked(name)
            pid = container_pids(self.house, pod)[0]
            begun = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            spin_until(lambda name=name, before=before: self.marked(name) > before)  # type: ignore[misc]
            times.append(time.perf_counter() - begun)
        tell(
            "container killed to running again",
            median_ms(times),
            "ms",
            floors.crun_run_ms(self.house),
            goal=60.0,
            worst=round(max(times) * 1000, 1),
            floor_is="crun run of the same bundle",
            peers="Podman 69, Docker 281, Swarm 5443",
        )


def apply_now(client: object, manifest: dict[str, object]) -> None:
    """POST without the GET that `edgectl apply` makes first."""
    client.call("POST", "/apis/apps/v1/namespaces/default/deployments", manifest)  # type: ignore[attr-defined]


def house() -> None:
    """The whole path: hub, broker, node."""
    with a_house() as house:
        bench = Bench(house)
        apply_now(house.client, bench.manifest("warm", 1))
        spin_until(lambda: bench.marked("warm") == 1)
        floors.measure(house)
        bench.remove("warm")
        empty = bench.memory(0)
        bench.apply_one()
        apply_now(house.client, bench.manifest("five", 5))
        house.wait("5 pods", lambda: house.ready_pods() == 5)
        bench.memory(5)
        bench.remove("five")
        bench.twenty()
        full = bench.memory(20)
        tell(
            "per pod beyond the workload",
            (full - empty) / 20,
            "MB",
            floors.conmon_mb,
            goal=0.6,
            floor_is="conmon alone",
            peers="Docker 3.6, Swarm 3.8",
        )
        bench.idle()
        bench.heal()


def module(name: str) -> None:
    """A bench of its own in this package."""
    subprocess.run([sys.executable, "-m", f"tests.bench.{name}"], check=False)


PARTS: dict[str, Callable[[], None]] = {
    "house": house,
    **{name: functools.partial(alone.measure, [name]) for name in alone.PARTS},
    **{name: functools.partial(module, name) for name in ("pull", "neighbours", "hub", "fleet", "pack")},
}


def main() -> None:
    if os.geteuid() != 0:
        sys.exit("make bench needs root: it starts containers")
    wanted = sys.argv[1:] or list(PARTS)
    unknown = [name for name in wanted if name not in PARTS]
    if unknown:
        sys.exit(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    for name in wanted:
        PARTS[name]()


if __name__ == "__main__":
    main()
