"""The hub's word to systemd: READY=1 when nodes and people can come, a sign of life, and when it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port

PATIENCE = 120.0  # seconds


@contextlib.contextmanager
def systemd(folder: Path) -> Iterator[socket.socket]:
    """The side of sd_notify(3) that listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(folder / "notify"))
        ear.settimeout(PATIENCE)
        yield ear


@contextlib.contextmanager
def a_hub(folder: Path, port: int, broker_port: int, *words: str) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "400000"}
    argv = [
        *(sys.executable, "-m", "cloudlink.hub", "run", "--data-dir", str(folder / "hub"), "--host", "127.0.0.1"),
        *("--port", str(port), "--broker-host", "127.0.0.1", "--broker-port", str(broker_port), *words),
    ]
    process = subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_hub_says_ready_when_it_serves_and_goes_on_saying_that_it_lives(tmp_path: Path) -> None:
    port, broker_port = free_port(), free_port()
    with systemd(tmp_path) as ear, a_hub(tmp_path, port, broker_port) as hub:
        assert ear.recv(4096).decode().splitlines() == ["READY=1", "STATUS=serving fleet default"]
        socket.create_connection(("127.0.0.1", broker_port), 5.0).close()
        trusted = ssl.create_default_context(cafile=str(tmp_path / "hub" / "ca" / "ca.pem"))
        with urllib.request.urlopen(f"https://127.0.0.1:{port}/readyz", context=trusted, timeout=30) as answer:
            assert answer.read() == b"ok"
        assert [ear.recv(4096) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        hub.send_signal(signal.SIGTERM)
        word = b"WATCHDOG=1"
        while word == b"WATCHDOG=1":
            word = ear.recv(4096)
        assert word == b"STOPPING=1"
        assert hub.wait(PATIENCE) == 0


def test_a_hub_that_can_not_start_its_broker_never_says_ready(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "mosquitto"
    program.write_text("#!/bin/sh\nsleep 0.2; exit 1\n")
    program.chmod(0o755)
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{tmp_path / 'bin'}:{path}"
    try:
        with systemd(tmp_path) as ear, a_hub(tmp_path, free_port(), free_port()) as hub:
            assert hub.stderr is not None
            assert any("mosquitto ended with" in line for line in hub.stderr)
            hub.send_signal(signal.SIGTERM)
            assert ear.recv(4096) == b"STOPPING=1"
    finally:
        os.environ["PATH"] = path


@pytest.mark.parametrize("words", [("--broker-url", "mqtts://127.0.0.1:1")])
def test_a_broker_that_others_run_may_be_away_when_a_hub_starts(tmp_path: Path, words: tuple[str, ...]) -> None:
    with systemd(tmp_path) as ear, a_hub(tmp_path, free_port(), free_port(), *words):
        assert ear.recv(4096).startswith(b"READY=1")
