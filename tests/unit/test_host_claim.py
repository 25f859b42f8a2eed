"""One daemon for one node: the lock on its state folder."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from edged import host
from edged.errors import PermanentError


def test_a_second_daemon_is_refused_and_told_what_to_do(tmp_path: Path) -> None:
    held = host.claim(tmp_path)
    with pytest.raises(PermanentError, match=r"another edged already works in .*; stop it, or name another state_dir"):
        host.claim(tmp_path, patience=0.0)
    os.close(held)
    os.close(host.claim(tmp_path, patience=0.0))


def test_a_daemon_that_is_just_being_killed_is_waited_for(tmp_path: Path) -> None:
    """Its lock lasts as long as its last thread, or a helper that was forked and has not become itself yet."""
    gone = threading.Timer(0.2, os.close, [host.claim(tmp_path)])
    gone.start()
    try:
        os.close(host.claim(tmp_path, patience=30.0))
    finally:
        gone.join()
