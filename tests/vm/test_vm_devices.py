"""A device that is plugged in and out while its pod runs: through the kernel, udev, the daemon and the cgroup."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from edged.model import Container, Limits, Pod
from tests.vm.node import IMAGE, MIB, PATIENCE, PODS, Node

DEVICE = "input/by-path/pci-0000:00:10.0-event-kbd"
LINK = f"/dev/{DEVICE}"
KEYBOARD = "device_add virtio-keyboard-pci,id=keys,addr=0x10"
TABLET = "device_add virtio-tablet-pci,id=tablet,addr=0x11"
WATCH = f"""
while true; do
    if dd if={LINK} of=/dev/null bs=1 count=0 2>/dev/null; then echo opens; else echo is away; fi > /dev/shm/new
    mv /dev/shm/new /dev/shm/seen; sleep 1
done
"""


@pytest.fixture
def slot(node: Node) -> Iterator[Node]:
    """Whatever was plugged in goes at the end."""
    yield node
    for device in ("keys", "tablet"):
        node.machine.monitor(f"device_del {device}")
    until(node, "ls -d /sys/bus/pci/devices/0000:00:1[01].0 2>/dev/null | wc -l", "0")
    node.desire(PODS)
    node.all_running()


def plug(node: Node, command: str) -> None:
    said = node.machine.monitor(command)
    assert "Error" not in said, said


def until(node: Node, command: str, wanted: str) -> str:
    deadline = time.monotonic() + PATIENCE
    while (said := node.machine.try_run(command).stdout.decode().strip()) != wanted:
        if time.monotonic() > deadline:
            journal = node.machine.run("journalctl -b -u edged -n 40 --no-pager; ls -lR /dev/input")
            raise AssertionError(f"waited for {wanted!r} of {command!r}, saw {said!r}\n{journal}")
        time.sleep(0.3)
    return said


def seen(node: Node, wanted: str) -> None:
    until(node, f"cat /proc/{node.processes()['uid-reader'].pid}/root/dev/shm/seen", wanted)


def test_a_device_that_leaves_and_comes_back_under_another_number_is_given_back_to_its_pod(slot: Node) -> None:
    node = slot
    plug(node, KEYBOARD)
    until(node, f"ls {LINK}", LINK)
    first = node.machine.run(f"readlink {LINK}").strip()
    main = Container(
        "main",
        IMAGE,
        command=("/bin/sh", "-c", WATCH),
        limits=Limits(memory_request=4 * MIB, memory_limit=16 * MIB),
        devices=(DEVICE,),
    )
    node.desire((*PODS, Pod("default", "reader", "uid-reader", (main,), termination_grace=0.0)))
    node.until(lambda s: any(p.uid == "uid-reader" and p.ready for p in s.status.pods), "the pod with the device")
    assert DEVICE in node.snapshot().status.capacity.devices
    seen(node, "opens")
    before = node.processes()["uid-reader"]

    node.machine.monitor("device_del keys")
    until(node, f"ls {LINK} 2>/dev/null | wc -l", "0")
    seen(node, "is away")
    assert DEVICE not in node.snapshot().status.capacity.devices

    plug(node, TABLET)  # takes the number that the keyboard had
    until(node, f"ls /dev/input/{first.removeprefix('../')}", f"/dev/input/{first.removeprefix('../')}")
    plug(node, KEYBOARD)
    until(node, f"ls {LINK}", LINK)
    assert node.machine.run(f"readlink {LINK}").strip() != first
    seen(node, "opens")
    assert node.processes()["uid-reader"] == before  # nothing was restarted


def test_a_pod_whose_device_is_not_there_waits_and_says_so(slot: Node) -> None:
    node = slot
    main = Container("main", IMAGE, command=("/bin/sh", "-c", WATCH), devices=(DEVICE,))
    node.desire((*PODS, Pod("default", "reader", "uid-reader", (main,), termination_grace=0.0)))

    def waits(container_message: str) -> bool:
        return DEVICE in container_message and "not found on this node" in container_message

    node.until(
        lambda s: any(p.uid == "uid-reader" and any(waits(c.message) for c in p.containers) for p in s.status.pods),
        "the pod to say what it waits for",
    )
    plug(node, KEYBOARD)
    node.until(lambda s: any(p.uid == "uid-reader" and p.ready for p in s.status.pods), "the pod with the device")
    seen(node, "opens")
