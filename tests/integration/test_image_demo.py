"""The demo's programs, run from the image as the store unpacks it: true readings, a guarding key, a page."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edged.images.importer import import_file
from edged.model import Image

pytestmark = pytest.mark.root
IMAGES = Path(__file__).resolve().parents[2] / "images"
KEY = 'k3y "with" $igns'

ASK = """
import sys, urllib.error, urllib.request
try:
    headers = dict([sys.argv[2:]] if sys.argv[2:] else [])
    answer = urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers=headers))
except urllib.error.HTTPError as e:
    answer = e
except OSError as e:
    sys.exit(str(e))
print(answer.status)
print(answer.read().decode())
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    folder = tmp_path_factory.mktemp("demo")
    build = [sys.executable, str(IMAGES / "build.py"), "demo", "--output", str(folder / "demo.tar")]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    [image] = import_file(folder / "store", folder / "demo.tar")
    return image


class Machine:
    """A network namespace in which containers of the image run, each with its own mounts and process ids."""

    def __init__(self, image: Image, folder: Path) -> None:
        self._image, self._folder = image, folder
        up = "ip link set lo up && echo up && exec sleep infinity"
        self._holder = subprocess.Popen(["unshare", "-n", "sh", "-c", up], stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "up\n"
        self._running: list[subprocess.Popen[str]] = []
        self.files: dict[str, str] = {"etc/hosts": "127.0.0.1 sensor\n"}
        self.sys: Path | None = None  # a made-up /sys; default: this machine's

    def start(self, program: str, **environment: str) -> subprocess.Popen[str]:
        work = self._folder / f"{len(self._running)}"
        for name in ("upper", "work", "root"):
            (work / name).mkdir(parents=True)
        for path, content in self.files.items():
            (work / "upper" / path).parent.mkdir(parents=True, exist_ok=True)
            (work / "upper" / path).write_text(content)
        # mount(8) of Debian 13 would use fsconfig(2), which takes at most 255 characters for all the layers.
        script = f"""
            cd {work}
            export LIBMOUNT_FORCE_MOUNT2=always
            mount -t overlay -o lowerdir={":".join(reversed(self._image.layers))},upperdir=upper,workdir=work o root
            mount -t proc proc root/proc
            mount --rbind /dev root/dev
            mount --rbind {self.sys or "/sys"} root/sys
            mount -t tmpfs -o mode=1777 tmpfs root/run/sensor
            exec /usr/sbin/chroot --userspec=1000:1000 root {program}
        """
        command = ["nsenter", "-t", str(self._holder.pid), "-n"]
        command += ["unshare", "-m", "-p", "-f", "--kill-child", "sh", "-ec", script]
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={"PATH": os.defpath} | environment
        )
        self._running.append(child)
        return child

    def ask(self, url: str, *header: str) -> tuple[int, str]:
        """Status and body, 0 if nobody answers."""
        command = ["nsenter", "-t", str(self._holder.pid), "-n", sys.executable, "-c", ASK, url, *header]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return 0, done.stderr
        status, _, body = done.stdout.partition("\n")
        return int(status), body

    def reading(self) -> dict[str, object]:
        status, body = self.ask("http://127.0.0.1:8080/readings.json", "X-Api-Key", KEY)
        assert status == 200
        return dict(json.loads(body))

    def close(self) -> None:
        for child in [*self._running, self._holder]:
            # The first process of each container by itself, and with it all that are in its namespace: changing the
            # user has made it forget that it shall die with its parent (prctl(2), PR_SET_PDEATHSIG).
            for pid in tree(child.pid)[1:2]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            child.kill()
            child.wait()
            if child.stdout:
                child.stdout.close()


@pytest.fixture
def machine(image: Image, tmp_path: Path) -> Iterator[Machine]:
    with contextlib.closing(Machine(image, tmp_path)) as machine:
        yield machine


def eventually(truth: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not truth():
        assert time.monotonic() < deadline, f"not within 20 s: {what}"
        time.sleep(0.02)


def start_sensor(machine: Machine, **environment: str) -> subprocess.Popen[str]:
    sensor = machine.start("/bin/sensor", API_KEY=KEY, SAMPLE_SECONDS="1", **environment)
    eventually(lambda: machine.ask("http://127.0.0.1:8080/readyz")[0] == 200, "the sensor is ready")
    return sensor


def start_page(machine: Machine, **environment: str) -> subprocess.Popen[str]:
    settings = {"PORT": "8081", "SENSOR_URL": "http://sensor:8080/readings.json", "API_KEY": KEY} | environment
    page = machine.start("/bin/page", **settings)
    eventually(lambda: machine.ask("http://127.0.0.1:8081/healthz")[0] == 200, "the page is up")
    return page


def tree(pid: int) -> list[int]:
    """The process and all below it, as far as they are still there."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(p for child in children for p in tree(int(child)))]


def first_process(container: subprocess.Popen[str]) -> int:
    return tree(container.pid)[1]


def memory_total() -> int:
    found = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    assert found is not None
    return int(found[1]) * 1024


def uptime() -> int:
    return int(float(Path("/proc/uptime").read_text().split()[0]))


def test_the_sensor_reads_this_very_board(machine: Machine) -> None:
    before = uptime()
    start_sensor(machine, LOCATION='the "cup\\board" <b>&\u00e9', HOSTNAME="sensor-1")
    reading = machine.reading()
    assert reading["memory_total_bytes"] == memory_total()
    assert 0 < int(str(reading["memory_available_bytes"])) < memory_total()
    assert before <= int(str(reading["uptime_seconds"])) <= uptime()
    assert reading["cores"] == len(os.sched_getaffinity(0))
    assert isinstance(reading["load"], list)
    assert len(reading["load"]) == 3
    assert (reading["sensor"], reading["location"]) == ("sensor-1", 'the "cup\\board" <b>&\u00e9')
    zones = list(Path("/sys/class/thermal").glob("thermal_zone*/temp"))
    assert (reading["temperature_celsius"] is None) == (not zones), "never made up, never left out"
    eventually(lambda: machine.reading()["time"] != reading["time"], "the next reading")


def test_a_board_with_a_thermometer_and_a_weak_power_supply_says_so(machine: Machine, tmp_path: Path) -> None:
    machine.sys = tmp_path / "sys"
    for number, (kind, value) in enumerate([("gpu-thermal", "30000"), ("cpu-thermal", "48312")]):
        zone = machine.sys / f"class/thermal/thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "type").write_text(kind + "\n")
        (zone / "temp").write_text(value + "\n")
    firmware = machine.sys / "devices/platform/soc/soc:firmware"
    firmware.mkdir(parents=True)
    (firmware / "get_throttled").write_text("50005\n")
    machine.files["etc/sensor/limits"] = "# comment\ntemperature_celsius 48\nmemory_used_percent x\n"
    start_sensor(machine)
    reading = machine.reading()
    assert (reading["temperature_celsius"], reading["undervoltage"]) == (48.3, True)
    assert reading["alerts"] == ["temperature above 48 \u00b0C"]
    start_page(machine)
    body = machine.ask("http://127.0.0.1:8081/")[1]
    for shown in ("<b>48.3</b> &deg;C", "under-voltage", "Alert: temperature above 48 \u00b0C"):
        assert shown in body


@pytest.mark.parametrize("header", [(), ("X-Api-Key", "wrong"), ("X-Api-Key", ""), ("X-Api-Key", "*")])
def test_readings_are_refused_without_the_right_key(machine: Machine, header: tuple[str, ...]) -> None:
    start_sensor(machine)
    for path in ("/readings.json", "/readings.json?x=1", "//readings.json", "/./readings.json"):
        status, body = machine.ask(f"http://127.0.0.1:8080{path}", *header)
        assert status in (400, 403, 404)
        assert "uptime" not in body
    assert machine.ask("http://127.0.0.1:8080/healthz") == (200, "ok\n\n")


def test_the_page_shows_what_the_sensor_reads_and_nothing_from_elsewhere(machine: Machine) -> None:
    start_sensor(machine, LOCATION="<script>Attic</script>", HOSTNAME="sensor-7")
    start_page(machine, HOSTNAME="page-1")
    status, body = machine.ask("http://127.0.0.1:8081/")
    assert status == 200
    assert f"of {memory_total() >> 20} MiB<" in body
    assert "by sensor-7, shown by page-1" in body
    assert "&lt;script&gt;Attic&lt;/script&gt;" in body
    assert "<script" not in body
    assert not re.search(r"https?://|src=|@import|url\(", body)
    assert KEY not in body


def test_the_page_takes_the_key_from_a_file_each_time(machine: Machine) -> None:
    start_sensor(machine)
    machine.files["etc/key"] = KEY  # without a newline at the end, as a Secret's file has none
    start_page(machine, API_KEY="", API_KEY_FILE="/etc/key")
    assert "Memory in use" in machine.ask("http://127.0.0.1:8081/")[1]


def test_the_page_says_why_it_has_nothing_to_show(machine: Machine) -> None:
    start_page(machine, API_KEY="wrong")
    assert "No answer from http://sensor:8080/readings.json" in machine.ask("http://127.0.0.1:8081/")[1]
    start_sensor(machine)
    assert "The sensor refuses the key" in machine.ask("http://127.0.0.1:8081/")[1]


@pytest.mark.parametrize("start", [start_sensor, start_page])
def test_a_program_ends_at_once_when_asked_although_it_is_the_first_process(
    machine: Machine, start: Callable[[Machine], subprocess.Popen[str]]
) -> None:
    container = start(machine)
    inside = tree(first_process(container))
    os.kill(inside[0], signal.SIGTERM)
    out, _ = container.communicate(timeout=20)
    assert "asked to end" in out
    assert not [pid for pid in inside if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize("start", [start_sensor, start_page])
def test_a_container_ends_badly_when_its_web_server_dies_so_that_it_is_started_again(
    machine: Machine, start: Callable[[Machine], subprocess.Popen[str]]
) -> None:
    container = start(machine)
    [server] = [
        p for p in tree(first_process(container)) if Path(f"/proc/{p}/cmdline").read_bytes().startswith(b"httpd")
    ]
    os.kill(server, signal.SIGKILL)
    assert "the web server ended" in container.communicate(timeout=20)[0]
    assert container.returncode == 1


@pytest.mark.parametrize(
    ("program", "environment", "complaint"),
    [
        ("/bin/sensor", {}, "API_KEY is empty"),
        ("/bin/sensor", {"API_KEY": KEY, "SAMPLE_SECONDS": "0"}, "'0', not a whole number"),
        ("/bin/sensor", {"API_KEY": KEY, "SAMPLE_SECONDS": "soon"}, "'soon', not a whole number"),
        ("/bin/page", {"API_KEY": KEY}, "SENSOR_URL and API_KEY"),
        ("/bin/page", {"SENSOR_URL": "http://sensor"}, "SENSOR_URL and API_KEY"),
    ],
)
def test_wrong_settings_end_a_program_with_a_sentence(
    machine: Machine, program: str, environment: dict[str, str], complaint: str
) -> None:
    out, _ = (container := machine.start(program, **environment)).communicate(timeout=20)
    assert container.returncode == 1
    assert complaint in out


def memory(pid: int, field: str) -> int:
    """One field of smaps_rollup in bytes; 0 for a process that has ended meanwhile."""
    with contextlib.suppress(OSError):
        found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
        return int(found[1]) << 10 if found else 0
    return 0


def test_sensor_and_page_take_half_a_megabyte_each_and_busybox_once(machine: Machine) -> None:
    """Containers of one layer share its pages, so busybox itself (1.9 MB) is there once, however many run."""
    containers = [tree(first_process(start(machine))) for start in (start_sensor, start_page)]
    for processes in containers:
        assert 0 < sum(memory(pid, "Private_Dirty") for pid in processes) <= 512 << 10
    assert 0 < sum(memory(pid, "Pss") for processes in containers for pid in processes) <= 3 << 20


def test_the_key_never_shows_among_the_arguments_of_a_process(machine: Machine) -> None:
    start_sensor(machine)
    page = start_page(machine)
    seen: set[bytes] = set()
    with subprocess.Popen(
        ["nsenter", "-t", str(machine._holder.pid), "-n", sys.executable, "-c", ASK, "http://127.0.0.1:8081/"],
        stdout=subprocess.DEVNULL,
    ) as asking:
        while asking.poll() is None:
            for pid in tree(page.pid):
                with contextlib.suppress(OSError):
                    seen.add(Path(f"/proc/{pid}/cmdline").read_bytes())
    assert seen
    assert not [c for c in seen if KEY.encode() in c]
