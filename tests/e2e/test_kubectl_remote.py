"""Every kubectl at the hub's doors: logs, exec, attach, cp, port-forward, with a node whose containers are processes of
this machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import termios
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fakes.place import Place, listening
from tests.fakes.shell_node import usage
from tests.kubectl_lab import programs

pytestmark = pytest.mark.kubectl

WAIT = 60


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("place"))
    with made.hub:
        made.furnish()
        yield made


@pytest.fixture(params=programs(), ids=lambda path: Path(path).name)
def kubectl(request: pytest.FixtureRequest, place: Place) -> Kubectl:
    return Kubectl(request.param, place)


class Kubectl:
    def __init__(self, binary: str, place: Place) -> None:
        self.binary, self.place = binary, place

    def run(self, *arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [self.binary, *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=WAIT,
            env=dict(self.place.hub.environment()),
        )

    def start(self, *arguments: str, stderr: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        environment = dict(self.place.hub.environment())
        return subprocess.Popen([self.binary, *arguments], stdout=subprocess.PIPE, stderr=stderr, env=environment)

    def ok(self, *arguments: str, stdin: bytes | None = None) -> bytes:
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr!r}{done.stdout!r}"
        return done.stdout


def test_exec_brings_output_errors_and_exit_code(kubectl: Kubectl) -> None:
    done = kubectl.run("exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.returncode) == (b"out\n", 7)
    assert done.stderr.splitlines() == [b"err", b"command terminated with exit code 7"]
    assert kubectl.run("exec", "web", "--", "true").returncode == 0


def test_exec_brings_input_to_its_end(kubectl: Kubectl) -> None:
    much = os.urandom(3 << 20)
    assert kubectl.ok("exec", "-i", "web", "--", "sh", "-c", "cat; echo end", stdin=much) == much + b"end\n"
    assert kubectl.ok("exec", "-i", "web", "--", "wc", "-c", stdin=b"").strip() == b"0"


def test_exec_in_a_terminal_of_its_own_has_the_clients_size(kubectl: Kubectl) -> None:
    typed = Typed(kubectl, "exec", "-it", "web", "--", "sh")
    typed.until(b"$ " if os.geteuid() else b"# ")
    typed.say(b"stty size; tty\n")
    typed.until(b"33 99")
    typed.until(b"/dev/pts/")
    typed.resize(44, 111)
    typed.say(b"while ! stty size | grep '44 111'; do sleep 0.1; done; exit 5\n")
    typed.until(b"44 111\r")
    assert typed.ends() == 5


def test_interrupting_a_terminal_interrupts_what_runs_there(kubectl: Kubectl) -> None:
    # exec: a shell that is just about to fork when it is interrupted waits for a child that was not
    typed = Typed(kubectl, "exec", "-it", "web", "--", "sh", "-c", "echo ready; exec sleep 1000")
    typed.until(b"ready")
    typed.say(b"\x03")
    assert typed.ends() == 130


def test_attach_reads_and_writes_the_containers_own_process(kubectl: Kubectl) -> None:
    done = kubectl.run("attach", "-i", "web", stdin=b"hello\n")
    assert done.stdout == b"here\ngot hello\n"
    assert done.returncode == 3


def test_a_command_that_is_not_there_is_told_as_an_error(kubectl: Kubectl) -> None:
    done = kubectl.run("exec", "web", "--", "no-such-command")
    assert done.returncode != 0
    assert b"executable file `no-such-command` not found in $PATH" in done.stderr


def test_who_leaves_ends_what_runs_at_the_node(kubectl: Kubectl) -> None:
    process = kubectl.start("exec", "web", "--", "sh", "-c", "echo $$; exec sleep 1000")
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the process outlived who had asked for it")


def test_files_are_copied_both_ways(kubectl: Kubectl, tmp_path: Path) -> None:
    large, back = tmp_path / "large", tmp_path / "back"
    large.write_bytes(os.urandom(20 << 20))
    there = tmp_path / "there"
    there.mkdir()
    kubectl.ok("cp", str(large), f"web:{there}/large")
    assert (there / "large").read_bytes() == large.read_bytes()
    kubectl.ok("cp", f"web:{there}/large", str(back))
    assert back.read_bytes() == large.read_bytes()
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "below" / "file").write_text("text")
    kubectl.ok("cp", str(tree), f"web:{there}")
    assert (there / "tree/below/file").read_text() == "text"


def test_ports_are_forwarded_for_many_connections_at_once(kubectl: Kubectl, backend: int) -> None:
    kubectl.place.node.ports = {80: backend}
    process = kubectl.start("port-forward", "web", ":80")
    try:
        local = forwarded(process)
        paths = [f"/{n}" for n in range(24)]
        with ThreadPoolExecutor(12) as pool:
            bodies = list(pool.map(lambda path: fetch(local, path), paths))
        assert bodies == [path.encode() + bytes(200_000) for path in paths]
        much = os.urandom(2 << 20)
        assert fetch(local, "/echo", much) == much
    finally:
        stop(process)
    eventually(lambda: kubectl.place.node.running == 0, "connections outlived the forwarding")


def test_a_port_where_nothing_listens_is_told_as_an_error(kubectl: Kubectl) -> None:
    kubectl.place.node.ports = {}
    process = kubectl.start("port-forward", "web", ":81", stderr=subprocess.STDOUT)
    local = forwarded(process)
    with socket.create_connection(("127.0.0.1", local), WAIT) as connection:
        connection.settimeout(WAIT)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if b"an error occurred forwarding" in line:
                assert b"error forwarding port 81 to pod web: port 81:" in line
                break
        else:
            pytest.fail("no error was told")
    finally:
        stop(process)


def test_logs_are_shown_as_asked_for(kubectl: Kubectl) -> None:
    node, now = kubectl.place.node, int(time.time())
    node.log().write_text(f"{now - 3600} old\n{now - 5} new\n{now - 4} newest\n")
    node.log("side").write_text(f"{now - 4} beside\n")
    assert kubectl.ok("logs", "web") == b"old\nnew\nnewest\n"
    assert kubectl.ok("logs", "web", "--tail=1") == b"newest\n"
    assert kubectl.ok("logs", "web", "--limit-bytes=5") == b"old\nn"
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - 60))
    assert kubectl.ok("logs", "web", f"--since-time={moment}") == b"new\nnewest\n"
    assert b"Z newest\n" in kubectl.ok("logs", "web", "--timestamps")
    assert kubectl.ok("logs", "-l", "app=web", "--prefix") == b"".join(
        b"[pod/web/main] %s\n" % word for word in (b"old", b"new", b"newest")
    )
    shown = kubectl.ok("logs", "pair", "--all-containers", "--prefix").splitlines()
    assert b"[pod/pair/side] beside" in shown
    assert b"[pod/pair/main] newest" in shown
    assert kubectl.ok("logs", "pair", "-c", "side") == b"beside\n"


def test_logs_are_followed_until_the_reader_leaves(kubectl: Kubectl) -> None:
    log = kubectl.place.node.log()
    log.write_text("1 first\n")
    process = kubectl.start("logs", "-f", "web")
    assert process.stdout is not None
    assert process.stdout.readline() == b"first\n"
    with log.open("a") as more:
        more.write("2 second\n")
    assert process.stdout.readline() == b"second\n"
    stop(process)
    eventually(lambda: kubectl.place.node.running == 0, "the node still tells a log that nobody reads")


def test_what_cant_be_shown_is_explained_as_kubelet_does(kubectl: Kubectl) -> None:
    said = kubectl.run("logs", "web", "--previous").stderr
    assert b'previous terminated container "main" in pod "web" not found' in said
    assert b"container nobody is not valid for pod web" in kubectl.run("logs", "web", "-c", "nobody").stderr
    assert (
        b"container nobody is not valid for pod web" in kubectl.run("exec", "web", "-c", "nobody", "--", "true").stderr
    )
    assert b'container "main" in pod "waiting" is waiting to start: Pulling' in kubectl.run("logs", "waiting").stderr
    assert b"pod nowhere does not have a host assigned" in kubectl.run("exec", "nowhere", "--", "true").stderr
    assert kubectl.ok("logs", "nowhere") == b""
    assert b'"missing" not found' in kubectl.run("exec", "missing", "--", "true").stderr


def test_a_node_that_cant_be_reached_is_told_at_once(kubectl: Kubectl) -> None:
    kubectl.place.remote.offline.add("pi-1")
    try:
        for command in (("logs", "web"), ("exec", "web", "--", "true")):
            done = kubectl.run(*command)
            assert done.returncode == 1
            assert b"node pi-1 is not connected to the hub" in done.stderr
    finally:
        kubectl.place.remote.offline.clear()


def test_what_nodes_and_pods_use_now_is_shown(kubectl: Kubectl) -> None:
    place = kubectl.place
    place.node.usage = usage(0.25, 96 << 20, {place.uids["pair"]: {"main": (0.5, 7 << 20), "side": (0.0021, 3 << 20)}})
    lines = kubectl.ok("top", "nodes").decode().splitlines()
    assert lines[0].split()[:3] == ["NAME", "CPU(cores)", "CPU%"] or lines[0].split()[:3] == [
        "NAME",
        "CPU(cores)",
        "CPU(%)",
    ]
    assert lines[1].split() == ["pi-1", "250m", "25%", "96Mi", "9%"]
    assert "pi-2" in lines[2]
    assert "<unknown>" in lines[2]
    assert [line.split() for line in kubectl.ok("top", "pods").decode().splitlines()[1:]] == [["pair", "503m", "10Mi"]]
    shown = kubectl.ok("top", "pods", "-l", "app=pair", "--containers", "--no-headers").decode().splitlines()
    assert [line.split() for line in shown] == [["pair", "main", "500m", "7Mi"], ["pair", "side", "3m", "3Mi"]]
    assert kubectl.ok("top", "pod", "pair", "--no-headers").split() == [b"pair", b"503m", b"10Mi"]
    assert b'"default/web" not found' in kubectl.run("top", "pod", "web").stderr
    assert b"metrics.k8s.io/v1beta1" in kubectl.ok("api-versions")


# ---------------------------------------------------------------- tools


def eventually(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def forwarded(process: subprocess.Popen[bytes]) -> int:
    """The local port that kubectl port-forward says it listens on."""
    assert process.stdout is not None
    told = process.stdout.readline()
    assert told.startswith(b"Forwarding from 127.0.0.1:"), told
    return int(told.split(b":")[1].split()[0])


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(WAIT)
    if process.stdout is not None:
        process.stdout.close()


def fetch(port: int, path: str, body: bytes | None = None) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", body, WAIT) as answer:
        return bytes(answer.read())


@pytest.fixture(scope="module")
def backend() -> Iterator[int]:
    with listening() as port:
        yield port


class Typed:
    """kubectl in a terminal of its own, 33 lines of 99 characters."""

    def __init__(self, kubectl: Kubectl, *arguments: str) -> None:
        self._ours, theirs = os.openpty()
        self.resize(33, 99)
        self._process = subprocess.Popen(
            [kubectl.binary, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env=dict(kubectl.place.hub.environment()),
        )
        os.close(theirs)
        self._seen = b""

    def say(self, text: bytes) -> None:
        os.write(self._ours, text)

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        if hasattr(self, "_process"):
            self._process.send_signal(signal.SIGWINCH)

    def until(self, text: bytes) -> None:
        while text not in self._seen:
            ready, _, _ = select.select([self._ours], [], [], WAIT)
            assert ready, f"waiting for {text!r}, seen {self._seen!r}"
            try:
                self._seen += os.read(self._ours, 65536)
            except OSError:
                pytest.fail(f"ended before {text!r}: {self._seen!r}")
        self._seen = self._seen.partition(text)[2]

    def ends(self) -> int:
        with contextlib.suppress(OSError):
            while select.select([self._ours], [], [], WAIT)[0] and os.read(self._ours, 65536):
                pass
        os.close(self._ours)
        return self._process.wait(WAIT)
