"""Whatever is asked for: no device, port or storage is promised twice, and no claim is in two places."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cloudlink.hub.schedule.fleet import fleet_with
from cloudlink.hub.schedule.place import Binding, place
from cloudlink.hub.schedule.sizes import size_of
from cloudlink.hub.schedule.storage import claims_of, places
from cloudlink.kube.core import PersistentVolumeClaim, Pod
from tests.fakes.hub_brain import pod
from tests.unit.test_schedule_claims import claim
from tests.unit.test_schedule_resources import board, container

MIB = 1 << 20
NODES = [board("pi-1", "100Mi", devices={"i2c-1": 2, "cam": 1}), board("pi-2", "60Mi", devices={"i2c-1": 1})]
CLAIMS = ["a", "b", "c"]


@st.composite
def pods(draw: st.DrawFn, name: str) -> Pod:
    limits: dict[str, Any] = dict.fromkeys(draw(st.sets(st.sampled_from(["edged.dev/i2c-1", "edged.dev/cam"]))), 1)
    if storage := draw(st.integers(0, 50)):
        limits["ephemeral-storage"] = f"{storage}Mi"
    ports = [{"containerPort": 80, "hostPort": p} for p in draw(st.sets(st.sampled_from([80, 81]), max_size=1))]
    volumes = [
        {"name": c, "persistentVolumeClaim": {"claimName": c}}
        for c in sorted(draw(st.sets(st.sampled_from(CLAIMS), max_size=2)))
    ]
    return pod(name, containers=[container(ports=ports, resources={"limits": limits})], volumes=volumes)


@st.composite
def fleets(draw: st.DrawFn) -> tuple[list[Pod], list[PersistentVolumeClaim]]:
    claims = [
        claim(name, draw(st.sampled_from(["", "", "pi-1", "pi-2"])), size=f"{draw(st.integers(1, 40))}Mi")
        for name in CLAIMS
    ]
    return [draw(pods(f"p{n}")) for n in range(draw(st.integers(1, 6)))], claims


@given(fleets())
def test_nothing_is_promised_twice_and_claims_stay_where_they_are(
    fleet: tuple[list[Pod], list[PersistentVolumeClaim]],
) -> None:
    pending, claims = fleet
    before = places(claims, [])
    free = fleet_with(NODES, [], before)
    rows = free.map.rows
    bound = [v for v in place(pending, fleet_with(NODES, [], before), before) if isinstance(v, Binding)]
    homes = {title: place.node for title, place in before.items() if place.node}
    made: dict[str, int] = Counter()
    for verdict in bound:
        for title in claims_of(verdict.pod):
            if title not in homes:
                made[verdict.node] += before[title].size
            assert homes.setdefault(title, verdict.node) == verdict.node
    for node in NODES:
        name = node.metadata.name
        here = [v.pod for v in bound if v.node == name]
        devices = Counter(d for p in here for d in size_of(p.spec).devices)
        assert all(count <= free.resource(f"device/{d}")[rows[name]] for d, count in devices.items())
        ports = Counter(port.host_port for p in here for port in p.spec.containers[0].ports)
        assert max(ports.values(), default=0) <= 1
        taken = sum(size_of(p.spec).storage for p in here) + made[name]
        assert not here or taken <= max(free.resource("storage")[rows[name]], 0)
