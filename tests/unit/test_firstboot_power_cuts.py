"""A model of the first boot: the power goes at every moment in turn, and the next boot must end where one without a cut
ends, with the token nowhere lost and nowhere left."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from images.node.firstboot import facts as looking
from images.node.firstboot import joining, plan
from images.node.firstboot.apply import Board
from images.node.firstboot.facts import Completed
from images.node.firstboot.plan import Facts
from images.node.firstboot.settings import Settings
from images.node.firstboot.steps import Grow, Step, Tell, Wipe

TOKEN = "edged1.abcdefghijklmnopqrstuvwxyz0123456789"
PASSWORD = "a secret for the air"
FILE = f'''token = "{TOKEN}"
hostname = "roof"
timezone = "Europe/Berlin"
ssh_authorized_keys = []
[wifi]
country = "DE"
ssid = "air"
password = "{PASSWORD}"
[network]
address = "192.168.1.50/24"
[node]
labels = {{ place = "roof" }}
'''
ID = "0123456789abcdef0123456789abcdef"


class CutError(Exception):
    """The power is gone."""


class Card:
    """A flashed card in a folder, and the boots it goes through."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("data/first-boot", "data/etc", "boot/firmware", "etc/edged", "usr/lib/edged/versions/1", "dev"):
            (root / folder).mkdir(parents=True)
        (root / "usr/share/zoneinfo/Europe").mkdir(parents=True)
        (root / "usr/share/zoneinfo/Europe/Berlin").touch()
        (root / "usr/lib/edged/read-only-root").touch()
        (root / "etc/machine-id").write_text(f"{ID}\n")
        self.hostname = ""
        self.edgectl = Completed(0, "", "")
        self.said = ""

    @property
    def boot_partition(self) -> Path:
        return self.root / "boot/firmware"

    def put(self, text: str | bytes, name: str = "edged.toml") -> None:
        (self.boot_partition / name).write_bytes(text.encode() if isinstance(text, str) else text)

    def read(self, path: str) -> str:
        file = self.root / path
        return file.read_text() if file.exists() else ""

    def facts(self) -> Facts:
        facts = looking.look(self.root, True, lambda path: True)
        settings = plan.asked(facts)
        return looking.checked(facts, settings, self.root, self.run) if isinstance(settings, Settings) else facts

    def steps(self) -> tuple[Step, ...]:
        return plan.decide(self.facts())

    def run(self, argv: Sequence[str], given: str = "") -> subprocess.CompletedProcess[str]:
        if argv[0] == "ssh-keygen":
            for name in (argv[-1], f"{argv[-1]}.pub"):
                Path(name).write_text("a key")
        elif "cloudlink.cli" in argv:
            if "--check" not in argv and self.edgectl.returncode == 0:
                (self.root / "etc/edged/node.toml").write_text('name = "roof"\nfleet = "greenhouse"\n')
            return subprocess.CompletedProcess(argv, *self.edgectl)
        return subprocess.CompletedProcess(argv, 0, "", "")

    def board(self, moments: int = 1_000_000) -> Board:
        left = [moments]

        def moment() -> None:
            left[0] -= 1
            if left[0] < 0:
                raise CutError

        def say(text: str) -> None:
            self.said += f"{text}\n"

        def set_hostname(name: str) -> None:
            self.hostname = name

        return Board(self.root, self.root / "dev", self.run, set_hostname, moment, say, largest_fill=0)

    def first_boot(self, moments: int = 1_000_000) -> bool:
        """Whether it got to its end."""
        try:
            self.board(moments).carry_out(self.steps())
        except CutError:
            return False
        return True

    def join(self) -> int:
        return joining.join(self.board(), self.facts(), self.run)

    def content(self) -> dict[str, object]:
        return {
            str(p.relative_to(self.root)): str(p.readlink()) if p.is_symlink() else p.read_bytes()
            for p in sorted(self.root.rglob("*"))
            if not p.is_dir() or p.is_symlink()
        }


@pytest.fixture
def card(tmp_path: Path) -> Card:
    card = Card(tmp_path / "card")
    (card.root / "dev").rmdir()
    (card.root / "dev").write_bytes(b"")  # what the boot partition is read from
    return card


def test_a_first_boot_makes_the_board_what_the_file_says(card: Card) -> None:
    card.put(FILE)
    assert card.first_boot()
    assert card.read("data/etc/hostname") == "roof\n"
    assert card.hostname == "roof"
    assert (card.root / "data/etc/localtime").readlink() == Path("/usr/share/zoneinfo/Europe/Berlin")
    assert card.read("data/first-boot/token") == f"{TOKEN}\n"
    assert (card.root / "data/first-boot/token").stat().st_mode & 0o777 == 0o600
    assert (card.root / "data/etc/wifi.conf").stat().st_mode & 0o777 == 0o600
    assert "Address=192.168.1.50/24" in card.read("data/etc/network/50-edged-wifi.network")
    assert (card.root / "data/opt/edged/current").readlink() == Path("versions/1")
    assert (card.root / "data/opt/edged/versions/1").readlink() == Path("/usr/lib/edged/versions/1")
    assert card.read("data/etc/machine-id") == f"{ID}\n"
    assert sorted(p.name for p in card.boot_partition.iterdir()) == ["edged-joined.txt"]
    everything = card.said + card.read("boot/firmware/edged-joined.txt") + card.read("data/etc/wifi.conf")
    assert TOKEN not in everything
    assert PASSWORD not in everything


def test_whenever_the_power_is_cut_the_next_boot_ends_where_one_without_a_cut_does(card: Card, tmp_path: Path) -> None:
    card.put(FILE)
    kept = tmp_path / "kept"
    shutil.copytree(card.root, kept, symlinks=True)
    assert card.first_boot()
    wanted = card.content()
    moments = 0
    while True:
        shutil.rmtree(card.root)
        shutil.copytree(kept, card.root, symlinks=True)
        ended = card.first_boot(moments)
        # The token is whole in one of the two places, always.
        assert TOKEN in card.read("boot/firmware/edged.toml") + card.read("data/first-boot/token")
        assert card.first_boot()
        left = card.content()
        left.pop("boot/firmware/edged-joined.txt", None), wanted.pop("boot/firmware/edged-joined.txt", None)
        assert {k: v for k, v in left.items() if not k.endswith(".new")} == wanted, moments
        if ended:
            break
        moments += 1
    assert moments > 30  # the model has looked at more than a few


def test_a_boot_that_is_cut_twice_and_thrice_is_finished_all_the_same(card: Card) -> None:
    card.put(FILE)
    for moments in range(60):
        card.first_boot(moments)
        assert TOKEN in card.read("boot/firmware/edged.toml") + card.read("data/first-boot/token")
    assert card.first_boot()
    assert not (card.boot_partition / "edged.toml").exists()
    assert card.steps() == ()


def test_a_wrong_file_is_not_used_at_all_and_the_mended_one_is(card: Card) -> None:
    card.put(FILE.replace("DE", "Germany") + "lables = 1\n")
    assert card.first_boot()
    said = card.read("boot/firmware/edged-error.txt")
    assert "line 6: wifi.country" in said
    assert not card.read("data/first-boot/token") + card.read("data/etc/wifi.conf")
    assert card.read("data/etc/hostname") == f"edged-{ID[:6]}\n"  # a board has a name of its own all the same
    assert PASSWORD not in said + card.said
    card.put(FILE)
    assert card.first_boot()
    assert not card.read("boot/firmware/edged-error.txt")
    assert card.read("data/etc/hostname") == "roof\n"


def test_what_the_daemons_own_tool_says_against_the_settings_is_told_before_anything_is_done(card: Card) -> None:
    card.put(FILE)
    card.edgectl = Completed(1, "", "edgectl: settings: unknown field `lables`")
    assert card.first_boot()
    assert "settings: unknown field `lables`" in card.read("boot/firmware/edged-error.txt")
    assert card.read("boot/firmware/edged.toml") == FILE
    assert not card.read("data/first-boot/token")


def test_a_new_file_that_comes_while_an_old_one_is_being_wiped_is_read_and_not_taken_for_it(card: Card) -> None:
    card.put(FILE)
    steps = card.steps()
    wipe = next(n for n, step in enumerate(steps) if isinstance(step, Wipe))
    card.board().carry_out(steps[:wipe])
    card.put(FILE.replace("roof", "cellar"))
    assert card.first_boot()
    assert card.read("data/etc/hostname") == "cellar\n"


def test_notepads_second_name_is_read_too_and_both_together_are_a_mistake(card: Card) -> None:
    card.put(FILE, "edged.toml.txt")
    card.put(FILE)
    assert card.first_boot()
    assert "there are edged.toml and edged.toml.txt" in card.read("boot/firmware/edged-error.txt")
    (card.boot_partition / "edged.toml").unlink()
    assert card.first_boot()
    assert not (card.boot_partition / "edged.toml.txt").exists()


def test_whoever_writes_into_the_example_is_told_where_to_write(card: Card) -> None:
    (card.root / "usr/lib/edged/edged.toml.example").write_text("#token\n")
    card.put("#token\r\n", "edged.toml.example")
    assert card.first_boot()
    assert not card.read("boot/firmware/edged-error.txt")
    card.put(FILE, "edged.toml.example")
    assert card.first_boot()
    assert "is only an example" in card.read("boot/firmware/edged-error.txt")


def test_a_later_file_changes_only_what_it_names(card: Card) -> None:
    card.put(FILE)
    assert card.first_boot()
    before = card.content()
    card.put('hostname = "cellar"\n')
    assert card.first_boot()
    after = card.content()
    changed = {k for k in before.keys() | after.keys() if before.get(k) != after.get(k)}
    assert changed == {"data/etc/hostname", "data/first-boot/node.json", "boot/firmware/edged-joined.txt"}


def test_a_joined_board_forgets_its_token_and_says_so(card: Card) -> None:
    card.put(FILE)
    assert card.first_boot()
    assert card.join() == 0
    assert not card.read("data/first-boot/token")
    assert "joined: this board is the node roof of fleet greenhouse" in card.read("boot/firmware/edged-joined.txt")


def test_a_refused_token_is_told_on_the_boot_partition_and_a_new_one_alone_is_enough(card: Card) -> None:
    card.put(FILE)
    assert card.first_boot()
    card.edgectl = Completed(1, "", "edgectl: this join token has been used already")
    assert card.join() == 1
    assert "this join token has been used already" in card.read("boot/firmware/edged-error.txt")
    assert not card.read("data/first-boot/token")
    card.edgectl = Completed(0, "", "")
    card.put(f'token = "{TOKEN}x"\n')
    assert card.first_boot()
    assert "roof" in card.read("data/first-boot/node.json"), "the settings were kept"
    assert card.join() == 0
    assert not card.read("boot/firmware/edged-error.txt")


def test_a_hub_that_is_away_is_asked_again_and_later_each_time() -> None:
    later = [joining.after(Completed(75, "", "edgectl: can't reach"), n, 0.5) for n in range(1, 12)]
    assert [x.seconds for x in later if isinstance(x, joining.Later)] == [5, 10, 20, 40, 80, 160, *[300] * 5]
    assert [isinstance(x, joining.Later) and x.tell for x in later].count(True) == 1
    assert joining.after(Completed(1, "", "edgectl: no"), 1, 0.5) == joining.Refused("no")
    assert joining.after(Completed(0, "", ""), 1, 0.5) == joining.Joined()


def test_a_board_that_nobody_named_gets_the_name_that_the_token_was_made_for() -> None:
    assert joining.names_to_try("", "edged-012345") == ("", "edged-012345")
    assert joining.names_to_try("roof", "edged-012345") == ("roof",)
    facts = Facts(hostname=f"edged-{ID[:6]}", machine_id=ID)
    paths = [getattr(step, "path", "") for step in joining.joined_steps(facts, "cellar", "f", "")]
    assert "/data/etc/hostname" in paths
    named = joining.joined_steps(replace(facts, hostname="roof"), "cellar", "f", "")
    assert "/data/etc/hostname" not in [getattr(step, "path", "") for step in named]


def test_a_board_without_its_data_partition_says_so_and_does_nothing_else() -> None:
    (step,) = plan.decide(Facts(no_data="there is no such partition", done=False))
    assert isinstance(step, Tell)
    assert "there is no such partition" in step.text


def test_a_partition_that_can_not_be_grown_is_told_and_stops_nothing(card: Card) -> None:
    def fails(argv: Sequence[str], given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(argv, 2, "FAILED: no such disk", "")

    board = Board(card.root, card.root / "dev", fails, lambda name: None, lambda: None, lambda text: None)
    board.carry_out([Grow("/dev/vda", 3, "/data"), Tell("error"), Tell("joined", "all is well")])
    assert "could not be grown: FAILED: no such disk" in card.read("boot/firmware/edged-error.txt")
    assert card.read("boot/firmware/edged-joined.txt") == "all is well"
