"""edged-version decides over a small record; the power may go after each of its steps."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "systemd/edged_version.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("edged_version", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["edged_version"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


ev: Any = load()
WHEN = "2026-11-27T10:00:00Z"
A, B, C = "1.0-a", "1.1-b", "1.2-c"


class Board:
    """A model of the disk: each step is done or not, and `cut` says after how many of them the power goes.

    :ivar works: the versions that get ready.
    """

    def __init__(self, works: Sequence[str] = (A,), whole: Sequence[str] = (A, B, C), current: str | None = A) -> None:
        self.record = ev.Record()
        self.seen = ev.Seen(current, tuple(whole))
        self.works = works
        self.said: list[str] = []

    def do(self, steps: Sequence[Any], cut: int = 99) -> None:
        for step in steps[:cut]:
            match step:
                case ev.Write(record):
                    self.record = record
                case ev.Point(version):
                    self.seen = ev.Seen(version, self.seen.whole)
                case ev.Remove(version):
                    self.seen = ev.Seen(self.seen.current, tuple(v for v in self.seen.whole if v != version))
                case ev.Say(text):
                    self.said.append(text)

    def switch(self, version: str, again: bool = False, cut: int = 99) -> None:
        self.do(ev.switch(self.record, self.seen, version, again), cut)

    def start(self, cut: int = 99) -> None:
        """What the unit does: a start, and the end of a trial where the version gets ready."""
        self.do(ev.starting(self.record, self.seen, WHEN), cut)
        if cut < 99:
            return
        if self.seen.current in self.works:
            self.do(ev.confirm(self.record, self.seen))
        else:
            self.do(ev.ended(self.record, self.seen, "exit-code (exited 1)"))

    def starts(self, count: int) -> None:
        for _ in range(count):
            self.start()


# ---------------------------------------------------------------- a trial


def test_a_version_that_gets_ready_stays_and_ends_its_trial() -> None:
    board = Board(works=(A, B))
    board.switch(B)
    board.start()
    assert (board.seen.current, board.record.trial) == (B, None)
    assert board.record.good == (A, B)
    assert ev.way_back(board.record, board.seen) == A


def test_a_version_that_never_gets_ready_is_left_after_three_starts_and_says_why() -> None:
    board = Board()
    board.switch(B)
    board.starts(3)
    assert board.seen.current == B
    board.start()
    assert board.seen.current == A
    assert board.record.failed[B] == ev.Failure(
        "1.1-b was not ready after 3 starts; the last one ended with exit-code (exited 1)", WHEN
    )
    assert any(text.startswith("back to 1.0-a: 1.1-b was not ready") for text in board.said)


def test_power_cuts_and_hangs_count_as_starts_that_failed() -> None:
    board = Board()
    board.switch(B)
    for _ in range(4):  # nobody is there to say how they ended
        board.do(ev.starting(board.record, board.seen, WHEN))
    assert board.seen.current == A
    assert board.record.failed[B].why == "1.1-b was not ready after 3 starts"


def test_a_version_that_has_failed_is_not_tried_again_unless_asked() -> None:
    board = Board()
    board.switch(B)
    board.starts(4)
    with pytest.raises(ev.RefusedError, match=r"not ready after 3 starts.*switch --again"):
        board.switch(B)
    board.switch(B, again=True)
    assert board.seen.current == B
    assert B not in board.record.failed


def test_a_start_without_a_trial_writes_nothing() -> None:
    board = Board()
    assert ev.starting(board.record, board.seen, WHEN) == ()
    assert ev.confirm(board.record, board.seen) == ()
    assert ev.ended(board.record, board.seen, "signal (killed KILL)") == ()


def test_the_old_version_getting_ready_does_not_confirm_the_new_one() -> None:
    """`switch` came while the old version was starting."""
    board = Board(works=(A,))
    board.switch(B)
    board.do(ev.confirm(board.record, board.seen))
    assert board.record.trial == ev.Trial(B, A)


def test_a_switch_to_the_current_version_changes_nothing() -> None:
    board = Board()
    (only,) = ev.switch(board.record, board.seen, A)
    assert only == ev.Say("1.0-a is current already")
    board.switch(B)
    before = board.record
    board.switch(B)
    assert board.record == before


def test_a_version_that_is_not_installed_is_refused_with_what_there_is() -> None:
    with pytest.raises(ev.RefusedError, match=r"9\.9 isn't installed; there is 1\.0-a, 1\.1-b, 1\.2-c"):
        Board().switch("9.9")


def test_a_second_switch_during_a_trial_keeps_the_good_version_to_go_back_to() -> None:
    board = Board()
    board.switch(B)
    board.start()
    board.switch(C)
    board.starts(4)
    assert board.seen.current == A
    assert set(board.record.failed) == {C}


def test_switching_back_during_a_trial_ends_it() -> None:
    board = Board()
    board.switch(B)
    board.start()
    board.switch(A)
    assert (board.seen.current, board.record.trial, board.record.failed) == (A, None, {})


def test_the_first_version_is_tried_for_ever_and_wears_out_no_card() -> None:
    board = Board(works=(), current=None, whole=(A,))
    board.switch(A)
    board.starts(3)
    before = board.record
    steps = ev.starting(board.record, board.seen, WHEN)
    assert [type(s) for s in steps] == [ev.Say]
    assert "no other version" in steps[0].text
    board.starts(5)
    assert board.record == before
    assert board.seen.current == A


def test_a_link_that_leads_nowhere_is_mended_by_the_next_start() -> None:
    board = Board(works=(A, B))
    board.switch(B)
    board.start()
    board.seen = ev.Seen(B, (A,))  # somebody removed B's folder
    board.start()
    assert board.seen.current == A


def test_a_version_on_trial_that_is_not_whole_is_left_at_once() -> None:
    board = Board()
    board.switch(B)
    board.seen = ev.Seen(B, (A, C))
    board.start()
    assert board.seen.current == A
    assert "isn't whole" in board.record.failed[B].why


# ---------------------------------------------------------------- by hand


def test_a_rollback_by_hand_goes_to_the_good_version_before_and_marks_the_left_one() -> None:
    board = Board(works=(A, B))
    board.switch(B)
    board.start()
    board.do(ev.rollback(board.record, board.seen, WHEN))
    assert board.seen.current == A
    assert board.record.failed == {B: ev.Failure("rolled back by hand", WHEN)}
    with pytest.raises(ev.RefusedError, match="no version to go back to"):
        ev.rollback(board.record, board.seen, WHEN)


def test_prune_keeps_the_newest_and_whatever_is_needed() -> None:
    versions = tuple(f"1.{n}" for n in range(9))
    record = ev.Record(ev.Trial("1.2", "1.1"), good=("1.0", "1.1"))
    removed = ev.prune(record, ev.Seen("1.2", versions), 2, running={"1.4"})
    assert [r.version for r in removed] == ["1.0", "1.3", "1.5", "1.6"]


def test_what_is_remembered_of_failures_is_bounded() -> None:
    record = ev.Record()
    for n in range(40):
        record = ev._failed(record, f"1.{n}", "why", WHEN)
    assert list(record.failed) == [f"1.{n}" for n in range(24, 40)]


# ---------------------------------------------------------------- power cuts

VERSIONS = (A, B, C, "1.3-d")
cuts = st.one_of(st.just(99), st.integers(0, 3))
operations = st.lists(
    st.one_of(
        st.tuples(st.just("switch"), st.sampled_from(VERSIONS), st.booleans(), cuts),
        st.tuples(st.just("start"), cuts),
        st.tuples(st.just("rollback"), cuts),
        st.tuples(st.just("prune"), st.integers(1, 3), cuts),
        st.tuples(st.just("install"), st.sampled_from(VERSIONS)),
    ),
    max_size=25,
)


def play(board: Board, operation: tuple[Any, ...]) -> None:
    match operation:
        case ("switch", version, again, cut):
            board.switch(version, again, cut)
        case ("start", cut):
            board.start(cut)
        case ("rollback", cut):
            board.do(ev.rollback(board.record, board.seen, WHEN), cut)
        case ("prune", keep, cut):
            board.do(ev.prune(board.record, board.seen, keep, ()), cut)
        case ("install", version):
            whole = (*(v for v in board.seen.whole if v != version), version)
            board.seen = ev.Seen(board.seen.current, whole)


@settings(max_examples=600)
@given(operations, st.sets(st.sampled_from(VERSIONS[1:])))
def test_whenever_the_power_goes_there_is_a_usable_version_and_a_bad_one_is_left(
    steps: list[tuple[Any, ...]], others: set[str]
) -> None:
    board = Board(works=(A, *others), whole=VERSIONS)
    for step in steps:
        trial = board.record.trial
        with contextlib.suppress(ev.RefusedError):
            play(board, step)
        assert board.seen.current in board.seen.whole
        if trial is None and board.record.trial is None and board.seen.current in board.record.failed:
            assert step[0] == "switch"  # only a person brings a failed one back
    board.starts(ev.ATTEMPTS + 1)
    assert board.seen.current in board.works
    assert board.record.trial is None
    settled = (board.seen, board.record)
    board.starts(2)
    assert (board.seen, board.record) == settled


@settings(max_examples=60, deadline=None)
@given(operations)
def test_the_disk_holds_what_the_model_holds_whatever_the_cut_left_behind(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]]
) -> None:
    root = tmp_path_factory.mktemp("root")
    disk = make(root, *VERSIONS)
    disk.do([ev.Point(A)])

    class Real(Board):
        def do(self, steps: Sequence[Any], cut: int = 99) -> None:
            done = [s for s in steps[:cut] if not isinstance(s, ev.Say)]
            super().do(steps, cut)
            disk.do(done)
            (root / ".new-record").write_text('{"trial": ')  # half of a file that was to be renamed
            if not (root / ".new-current").is_symlink():
                (root / ".new-current").symlink_to("versions/nowhere")

    board = Real(whole=VERSIONS)
    for step in steps:
        if step[0] == "install":
            continue
        with contextlib.suppress(ev.RefusedError):
            play(board, step)
        seen = disk.seen()
        assert (seen.current, set(seen.whole)) == (board.seen.current, set(board.seen.whole))
        assert disk.record() == board.record
        board.seen = seen


def make(root: Path, *versions: str) -> Any:
    for version in versions:
        (root / "versions" / version).mkdir(parents=True)
        (root / "versions" / version / ".whole").touch()
    return ev.Disk(root)


# ---------------------------------------------------------------- the command


def run(root: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """As systemd runs it: the system's own interpreter, isolated."""
    argv = [sys.executable, "-IS", str(SCRIPT), "--root", str(root), *words]
    return subprocess.run(argv, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", **environment})


def test_the_command_tries_and_goes_back_and_tells_it_in_words_and_in_json(tmp_path: Path) -> None:
    make(tmp_path, A, B)
    assert run(tmp_path, "switch", A).returncode == 0
    run(tmp_path, "starting")
    assert run(tmp_path, "confirm").stdout == "1.0-a is good\n"
    assert "on trial: 3 starts to get ready, else back to 1.0-a" in run(tmp_path, "switch", B).stdout
    for _ in range(3):
        assert run(tmp_path, "starting").returncode == 0
        run(tmp_path, "ended", SERVICE_RESULT="timeout", EXIT_CODE="killed", EXIT_STATUS="TERM")
    assert "on trial: 3 of 3 starts, last ended with timeout (killed TERM)" in run(tmp_path, "list").stdout
    assert "back to 1.0-a: 1.1-b was not ready after 3 starts" in run(tmp_path, "starting").stdout
    assert (tmp_path / "current").resolve() == tmp_path / "versions" / A
    told = json.loads(run(tmp_path, "list", "--json").stdout)
    assert (told["current"], told["previous"], told["trial"]) == (A, None, None)
    found = {v["version"]: v for v in told["versions"]}
    assert found[A]["current"]
    assert found[A]["failed"] is None
    assert found[B]["failed"]["why"].endswith("the last one ended with timeout (killed TERM)")
    refused = run(tmp_path, "switch", B)
    assert refused.returncode == 1
    assert refused.stderr.startswith("edged-version: 1.1-b failed at ")
    assert "* 1.0-a" in run(tmp_path, "list").stdout


def test_a_confirmation_waits_until_the_process_has_lived_for_a_while(tmp_path: Path) -> None:
    make(tmp_path, A, B)
    ev.Disk(tmp_path).do([ev.Point(B), ev.Write(ev.Record(ev.Trial(B, A, 1)))])
    with subprocess.Popen(["sleep", "0"]) as short:
        assert run(tmp_path, "confirm", "--after", "60", MAINPID=str(short.pid)).returncode == 1
    assert ev.Disk(tmp_path).record().trial is not None
    with subprocess.Popen(["sleep", "600"]) as long:
        assert run(tmp_path, "confirm", "--after", "0.1", MAINPID=str(long.pid)).stdout == "1.1-b is good\n"
        long.kill()
    assert ev.Disk(tmp_path).record().trial is None


def test_a_record_that_cannot_be_read_does_not_keep_a_node_from_starting(tmp_path: Path) -> None:
    make(tmp_path, A)
    ev.Disk(tmp_path).do([ev.Point(A)])
    for nonsense in ("", "{", "[]", '{"trial": 3, "good": 1, "failed": []}'):
        (tmp_path / "versions.json").write_text(nonsense)
        done = run(tmp_path, "starting")
        assert done.returncode == 0
        assert "can't be read" in done.stderr


def test_no_trial_is_held_on_a_disk_that_takes_no_more_words(tmp_path: Path) -> None:
    disk = make(tmp_path, A, B)
    disk.do([ev.Write(ev.Record(ev.Trial(B, A, 1))), ev.Point(B)])
    (tmp_path / ".new-record").mkdir()  # the record can't be written; a link still can
    done = run(tmp_path, "starting")
    assert done.returncode == 0
    assert "back to 1.0-a: no trial can be held" in done.stdout
    assert disk.seen().current == A


def test_processes_tell_which_version_they_run(tmp_path: Path) -> None:
    disk = make(tmp_path, A, B)
    program = tmp_path / "versions" / B / "sleep"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([str(program), "600"]) as process:
        try:
            assert disk.running() == {B}
            assert run(tmp_path, "prune", "--keep", "1").returncode == 0
        finally:
            process.kill()
    assert disk.folders() == [B]


# ---------------------------------------------------------------- what can't be installed


def wheelhouse(folder: Path, version: str = B, pip: bool = True) -> Path:
    folder.mkdir()
    (folder / "VERSION").write_text(f"{version}\n")
    (folder / "requirements.txt").write_text("")
    if pip:
        with zipfile.ZipFile(folder / "pip-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr("pip/__main__.py", "raise SystemExit('pip says no')")
    return folder


def refused(root: Path, source: Path) -> str:
    done = run(root, "install", str(source))
    assert done.returncode == 1
    assert [p.name for p in (root / "versions").iterdir()] == []
    return done.stderr


def test_an_install_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "root"
    assert "VERSION can't be read" in refused(root, tmp_path)
    assert "can't be a version's name" in refused(root, wheelhouse(tmp_path / "a", "../up"))
    assert "has no pip-*.whl" in refused(root, wheelhouse(tmp_path / "b", pip=False))
    assert "pip says no" in refused(root, wheelhouse(tmp_path / "c"))
    assert "copy it again" in refused(root, wheelhouse(tmp_path / "d", "1.0-0123456789ab"))
    (wheelhouse(tmp_path / "e") / "x.whl").write_text("half a whe")
    assert "x.whl is damaged" in refused(root, tmp_path / "e")
    (tmp_path / "cut.tar").write_text("half a tar")
    assert "neither a folder nor a whole .tar" in refused(root, tmp_path / "cut.tar")
    assert "can't be installed: " in refused(root, tmp_path / "missing.tar")


def test_an_install_that_was_cut_off_is_removed_by_the_next_one_of_whatever_version(tmp_path: Path) -> None:
    half = tmp_path / "root" / "versions" / A / "lib"
    half.mkdir(parents=True)
    assert "pip says no" in refused(tmp_path / "root", wheelhouse(tmp_path / "w"))


def test_a_disk_that_is_too_full_is_told_before_anything_is_written(tmp_path: Path) -> None:
    source = wheelhouse(tmp_path / "w")
    with zipfile.ZipFile(source / "big.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("zeros", bytes(1 << 20))
    need = ev.needed_bytes(source)
    assert need == 2 * ((1 << 20) + len("raise SystemExit('pip says no')")) + ev.ROOM
    assert ev.too_full(tmp_path, need, need) == ""
    assert "50 MiB are needed, 49 are free" in ev.too_full(tmp_path, need, need - (1 << 20))


def test_only_what_belongs_to_a_wheelhouse_is_taken_out_of_an_archive(tmp_path: Path) -> None:
    source = wheelhouse(tmp_path / "w")
    (source / "extra.sh").write_text("echo")
    with tarfile.open(tmp_path / "w.tar", "w") as tar:
        tar.add(source, "w")
        tar.add(source / "VERSION", "../../outside.whl")
        link = tarfile.TarInfo("evil.whl")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    found = ev._unpack(tmp_path / "w.tar", tmp_path / "unpacked")
    names = sorted(p.name for p in found.iterdir())
    assert names == ["VERSION", "outside.whl", "pip-1-py3-none-any.whl", "requirements.txt"]
    assert not (tmp_path.parent / "outside.whl").exists()
