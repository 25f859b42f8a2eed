"""The plan of the cuts (from a seed), the loop over them, and the table of what was found.

boot, network unplugged -> look -> plug in -> (sometimes wait until all is done) -> begin a deed -> cut at the
moment of the plan -> boot, ...
"""

from __future__ import annotations

import base64
import contextlib
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cloudlink import trust
from edged.model import Desired
from tests.vm.node import ENABLE
from tests.vm.powercut import findings
from tests.vm.powercut.blocklog import Loss
from tests.vm.powercut.board import Board
from tests.vm.powercut.deeds import DEEDS, Scene, settle_in
from tests.vm.powercut.home import Home, Seen

USUAL_BOOT = 18.0  # seconds until ssh answers on a quiet machine: the measure of all windows
PATIENCE = 300.0
BURSTS = (1, 4, 16, 48)  # unflushed writes that a cut waits for
BURST_PATIENCE = 8.0  # seconds; ext4 commits every five
LOOK = Path(__file__).with_name("look.py")
SETTINGS = """
[images.registries."{registry}"]
insecure = true
"""
# A second version, so that there is always another one to upgrade to. Both read the checkout's own sources.
VERSIONS = "cd /opt/edged/versions && cp -al source source-2 && sync"


class Cut(NamedTuple):
    """One line of the plan.

    :ivar moment: share of the deed's window that has passed.
    :ivar burst: from then on the cut waits until so many writes are unflushed, or fewer as time goes by; 0: it doesn't.
    :ivar share: of the unflushed writes that the card loses; 0: the emulator is killed and no more.
    :ivar settled: all that earlier cuts have left undone is done first.
    """

    number: int
    deed: str
    moment: float
    burst: int
    share: float
    settled: bool
    seed: int


class Line(NamedTuple):
    """One line of the table. Seconds.

    :ivar harmed: writes that were lost or torn.
    :ivar spent: what the cut took of the test's time, by what it was spent on.
    """

    cut: Cut
    after: float
    loss: str
    harmed: int
    all_up: float
    pods: int
    found: str
    spent: dict[str, float]

    def text(self) -> str:
        return (
            f"{self.cut.number:3} | {self.cut.deed:7} | {self.after:5.1f} | {self.loss:30} | {self.all_up:5.1f} |"
            f" {self.pods:2} | {self.found}"
        )


HEAD = "cut | during  | after | the card lost                  | s up  | pods | found"


def plan(seed: int, node: str, count: int) -> list[Cut]:
    """Every deed comes as often as the others; all else is dice."""
    dice = random.Random(f"{seed} {node}")
    cuts = []
    order: list[str] = []
    for number in range(1, count + 1):
        if not order:
            order = sorted(DEEDS)
            dice.shuffle(order)
        share = dice.choice((0.0, 0.3, 0.5, 0.7, 1.0, 1.0))
        burst = dice.choice(BURSTS) if share else 0
        settled, bits = dice.random() < 0.3, dice.getrandbits(32)
        cuts.append(Cut(number, order.pop(), dice.random(), burst, share, settled, bits))
    return cuts


def summary(lines: Sequence[Line]) -> list[str]:
    """A sentence for each deed, and one for all."""
    said = []
    for deed in [*sorted({line.cut.deed for line in lines}), ""]:
        ups = sorted(line.all_up for line in lines if deed in ("", line.cut.deed))
        if ups:
            middle, worst = ups[len(ups) // 2], ups[-1]
            said.append(
                f"{deed or 'all':7}: {len(ups):3} cuts, kernel start to all pods up {middle:.1f} s, at most {worst:.1f}"
            )
    kinds = sorted({kind for line in lines for kind in line.spent})
    means = (f"{kind} {sum(line.spent.get(kind, 0.0) for line in lines) / len(lines):.1f} s" for kind in kinds)
    losing = sum(line.harmed > 0 for line in lines)
    return [*said, f"{losing} cuts lost writes or tore them; a cut took on average: {', '.join(means)}"] if said else []


def loss_of(loss: Loss | None, share: float) -> str:
    """For the table."""
    if loss is None:
        return "- (unknown, all kept)"
    if not share:
        return f"0 of {loss.unflushed}, kept on purpose"
    return f"{loss.lost} of {loss.unflushed}, {loss.torn} torn"


class Campaign:
    """One board and its cuts.

    :ivar failures: what was wrong after which cut; the disk of the first is failed.img in the board's folder.
    :param wheels: a folder of tools/wheelhouse.py. :param board: one of tests.vm.installed.
    :param tell: called with each line as it comes.
    """

    def __init__(self, home: Home, wheels: Path, board: Board, node: str, tell: Callable[[str], None]) -> None:
        self.home, self.wheels, self.board, self.node, self.tell = home, wheels, board, node, tell
        self.lines: list[Line] = []
        self.failures: list[str] = []
        self._known: set[str] = set()
        self._versions: set[str] = set()
        self._secrets: dict[int, str] = {}
        self._speed = 1.0
        self._key = b""
        self._plugged = True
        self._online = 0
        self._spent: dict[str, float] = {}

    # ------------------------------------------------------------ before

    def join(self) -> None:
        board, home = self.board, self.home
        self._boot(plugged=True)
        board.run(VERSIONS, timeout=600.0)
        home.house.join_machine(board, self.node)
        board.run("cat >> /etc/edged/node.toml", stdin=SETTINGS.format(registry=home.registry).encode())
        board.run(ENABLE)
        self._key = base64.b64decode(board.run("base64 -w0 /var/lib/edged/identity/seal.key"))
        settle_in(self._scene(Cut(0, "", 0, 0, 0, True, 0)))
        self._until_done("the first pods")

    def _scene(self, cut: Cut) -> Scene:
        return Scene(self.home, self.board, self.node, cut.number, random.Random(cut.seed), self.wheels)

    # ------------------------------------------------------------ one cut

    def run(self, cuts: list[Cut]) -> None:
        for cut in cuts:
            self.one(cut)
        self._plug_in()
        self._until_connected()
        self._until_done("all that was left undone at the last cut")

    def one(self, cut: Cut) -> None:
        scene, deed, self._spent = self._scene(cut), DEEDS[cut.deed], {}
        with self._spends("home"):
            self._plug_in()
            deed.prepare(scene)
            self._until_connected()
            if cut.settled:
                self._until_done("what earlier cuts have left undone")
        began = time.monotonic()
        with self._spends("deed"):
            deed.begin(scene)
            time.sleep(max(0.0, began + cut.moment * deed.window * self._speed - time.monotonic()))
            if cut.burst:
                self.board.await_unflushed(cut.burst, BURST_PATIENCE)
        seen = self.home.witness.of(self.node)
        after = time.monotonic() - began
        with self._spends("card"):
            loss = self.board.lose_power(scene.dice, cut.share)
            self.board.keep_card("cut.img")
        with self._spends("boot"):
            self._boot(plugged=False)
        with self._spends("look"):
            found = self._look(seen)
        expected = self._expected(seen)
        if wrong := findings.wrong(found, expected):
            self._note_failure(cut, wrong, found)
        self._known |= found["images"]["layers"].keys()
        self._versions = {v["version"] for v in found["versions"]["versions"] if v["whole"]}
        up = max((c["started"] for c in found["containers"] if c["pod"] in found["must"]), default=0.0)
        unusual, pods = findings.unusual(found, expected), len({c["pod"] for c in found["containers"]})
        harmed = loss.lost + loss.torn if loss else 0
        line = Line(cut, after, loss_of(loss, cut.share), harmed, up, pods, unusual, self._spent)
        self.lines.append(line)
        self.tell(f"{self.node} {line.text()} ({', '.join(f'{k} {v:.0f}' for k, v in self._spent.items())})")

    @contextlib.contextmanager
    def _spends(self, kind: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._spent[kind] = time.monotonic() - began

    def _boot(self, plugged: bool) -> None:
        self._plugged = plugged
        self.board.switch_on(plugged)
        self._speed = max(1.0, self.board.booted_in / USUAL_BOOT)

    def _look(self, seen: Seen) -> dict[str, Any]:
        asked = {
            "ran": sorted(seen.ran),
            "images": sorted(seen.images),
            "known": sorted(self._known),
            "versions": sorted(self._versions),
            "patience": PATIENCE,
        }
        return dict(self.board.python(LOOK.read_text(), json.dumps(asked), timeout=PATIENCE * 2))

    def _expected(self, seen: Seen) -> findings.Expected:
        documents = self.home.witness.of(self.node).documents
        for generation, document in documents.items():
            if generation not in self._secrets:
                self._secrets[generation] = self._version_in(document)
        return findings.Expected(seen, documents, self._secrets, self.home.layers)

    def _version_in(self, document: Desired) -> str:
        for name, sealed in document.secrets.items():
            content = trust.unseal(self._key, self.node, name, sealed)
            if "key0" in content:
                return content["key0"].decode().split()[0]
        return ""

    def _note_failure(self, cut: Cut, wrong: list[str], found: dict[str, Any]) -> None:
        """The first one's disk and findings stay, the others' sentences do."""
        folder = self.board.folder
        if not self.failures:
            (folder / "cut.img").rename(folder / "failed.img")
            (folder / "failed.json").write_text(json.dumps(found, indent=1))
        journal = self.board.try_run("journalctl -b -u edged -n 60 --no-pager").stdout.decode(errors="replace")
        sentences = "\n".join(f"  - {sentence}" for sentence in wrong)
        self.failures.append(f"{self.node}, {cut}:\n{sentences}\n{journal}")
        self.tell(f"{self.node} cut {cut.number} ({cut.deed}) WRONG:\n{sentences}")

    # ------------------------------------------------------------ at home again

    def _plug_in(self) -> None:
        if not self._plugged:
            self._online, self._plugged = self.home.witness.of(self.node).online, True
            self.board.link(True)

    def _until_connected(self) -> None:
        self._wait(lambda: self.home.witness.of(self.node).online > self._online, "the node to find its hub")

    def _until_done(self, what: str) -> None:
        """The newest document is in force, and all its pods run."""

        def done() -> bool:
            seen = self.home.witness.of(self.node)
            if seen.status is None or not seen.documents or seen.acknowledged < max(seen.documents):
                return False
            wanted = {p.uid for p in seen.documents[seen.acknowledged].pods}
            running = {p.uid for p in seen.status.pods if p.phase == "Running" and p.ready}
            quiet = self._deployments_done()
            return bool(wanted) and running == wanted == {p.uid for p in seen.status.pods} and quiet

        self._wait(done, what)

    def _deployments_done(self) -> bool:
        items = self.home.client.call("GET", "/apis/apps/v1/namespaces/default/deployments")["items"]
        mine = [d for d in items if d["metadata"]["name"].endswith(f"-{self.node}")]
        return all(
            d["spec"].get("replicas", 1)
            == d.get("status", {}).get("availableReplicas", 0)
            == d.get("status", {}).get("updatedReplicas", 0)
            == d.get("status", {}).get("replicas", 0)
            for d in mine
        )

    def _wait(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE * self._speed
        while not true():
            if time.monotonic() > deadline:
                seen = self.home.witness.of(self.node)
                journal = self.board.try_run("journalctl -b -u edged -n 60 --no-pager").stdout.decode(errors="replace")
                raise AssertionError(f"waited in vain for {what}: {seen.acknowledged} {seen.status}\n{journal}")
            time.sleep(0.5)
