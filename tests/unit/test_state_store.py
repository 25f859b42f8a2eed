"""The two slots: whoever pulls the plug leaves the old state or the new."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edged.model import Desired
from edged.store import Saved, StateStore


def saved(generation: int) -> Saved:
    return Saved(Desired("fleet", "node", generation, secrets={"default/s": b"x" * generation}), b"digest")


def test_what_was_saved_last_is_loaded(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    assert store.load() is None
    for generation in range(1, 6):
        store.save(saved(generation))
        assert StateStore(tmp_path).load() == saved(generation)


@given(st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_write_cut_at_any_byte_leaves_the_old_state_or_the_new(tmp_path: Path, data: st.DataObject) -> None:
    for file in tmp_path.iterdir():
        file.unlink()
    store = StateStore(tmp_path)
    generations = data.draw(st.integers(2, 5))
    for generation in range(1, generations):
        store.save(saved(generation))
    before = {f: f.read_bytes() for f in tmp_path.iterdir()}
    store.save(saved(generations))
    torn = next(f for f in tmp_path.iterdir() if before.get(f) != f.read_bytes())
    new, old = torn.read_bytes(), before.get(torn, b"")
    cut = data.draw(st.integers(0, len(new)))
    torn.write_bytes(new[:cut] + old[cut:])
    found = StateStore(tmp_path).load()
    assert found is not None
    assert found.desired.generation in (generations - 1, generations)


def test_garbage_in_both_slots_is_reported_and_never_raises(tmp_path: Path) -> None:
    (tmp_path / "desired.a").write_bytes(b"garbage")
    (tmp_path / "desired.b").write_bytes(b"edgedst1" + bytes(100))
    store = StateStore(tmp_path)
    assert store.load() is None
    assert len(store.damaged) == 2


def test_a_folder_that_can_not_be_written_gives_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    from edged.errors import PermanentError

    with pytest.raises(PermanentError, match="can't save desired state"):
        StateStore(tmp_path / "file").save(saved(1))
