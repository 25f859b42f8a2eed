"""What is held once: objects stay what they were, equal parts are the same part, and nothing grows without bound."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cloudlink.hub.packing import Packed, Records
from cloudlink.hub.sharing import PARTS_KEPT, Pool
from cloudlink.kube.core import Pod
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.parse import Invalid, dump, load_yaml, parse, revive
from tests.bench.hub import _deployment, _pod, _replica_set
from tests.fakes.hub_brain import with_meta
from tests.fakes.hub_objects import config, pod, secret

encode = msgspec.json.Encoder().encode


def accepted() -> list[KubeObject]:
    """Every document of the cases that is a good one."""
    found = []
    for file in sorted((Path(__file__).parent.parent / "cases/kube").glob("*.yaml")):
        try:
            found += [parse(d) for d in load_yaml(file.read_text(), file.name)]
        except Invalid:
            continue
    return found


def test_every_object_of_the_cases_is_read_as_it_was_also_when_its_parts_are_known() -> None:
    pool, objects = Pool(), accepted()
    assert len(objects) > 5
    for _ in range(3):
        for obj in objects:
            raw = encode(dump(obj))
            read = pool.read(raw)
            assert read == obj == revive(msgspec.json.decode(raw))
            assert encode(dump(read)) == raw


def test_an_adopted_object_stays_equal_and_can_be_changed_like_any_other() -> None:
    pool = Pool()
    for obj in accepted():
        raw = encode(dump(obj))
        pool.adopt(obj, raw)
        assert obj == pool.read(raw)
        assert encode(dump(obj)) == raw
        renamed = obj.model_copy(update={"metadata": obj.metadata.model_copy(update={"labels": {"new": "label"}})})
        assert encode(dump(obj)) == raw
        assert parse(dump(renamed)) == renamed


def pods(count: int) -> list[KubeObject]:
    deployment = with_meta(_deployment("default", "web", count), uid="a")
    rs = with_meta(_replica_set(deployment, count), uid="b")
    return [_pod(rs, n, f"node-{n}") for n in range(count)]


def test_pods_of_one_replica_set_share_what_is_equal_whether_read_or_made_here() -> None:
    pool = Pool()
    one, two, three = pods(3)
    pool.adopt(one, encode(dump(one)))
    read = pool.read(encode(dump(two)))
    pool.adopt(three, encode(dump(three)))
    for other in (read, three):
        assert isinstance(one, Pod)
        assert isinstance(other, Pod)
        assert other.spec.containers is one.spec.containers
        assert other.spec.volumes is one.spec.volumes
        assert other.metadata.labels is one.metadata.labels
        assert other.metadata.owner_references is one.metadata.owner_references
        assert other.spec.node_name != one.spec.node_name


def test_equal_spelling_in_another_place_or_kind_is_not_mixed_up() -> None:
    pool = Pool()
    plain, hidden = config("a", {"k": "dg=="}), secret("a", {"k": b"v"})
    for obj in (plain, hidden, plain, hidden):
        assert pool.read(encode(dump(obj))) == obj


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.text(max_size=300), max_size=3), max_size=12))
def test_objects_of_any_content_are_read_as_they_were(contents: list[dict[str, str]]) -> None:
    pool = Pool()
    for n, content in enumerate(contents):
        obj = config(f"c{n % 3}", content)
        raw = encode(dump(obj))
        pool.adopt(config(f"c{n % 3}", content), raw)
        assert pool.read(raw) == obj


def test_what_is_known_is_bounded_and_the_used_stays() -> None:
    pool = Pool()
    kept = encode(dump(pod("kept", labels={"always": "here"})))
    first = pool.read(kept)
    for n in range(3 * PARTS_KEPT):
        pool.read(f'{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"c","labels":{{"n":"{n}"}}}}}}'.encode())
        if n % 1000 == 0:
            assert pool.read(kept).metadata.labels is first.metadata.labels
    assert len(pool._parts._new) + len(pool._parts._old) <= 2 * PARTS_KEPT


@pytest.mark.parametrize("size", [0, 1, 511, 512, 100_000])
def test_packed_json_comes_back_byte_for_byte(size: int) -> None:
    packed = Packed()
    raws = [b'{"n":"' + str(n).encode() + b"x" * size + b'"}' for n in range(3)]
    for n, raw in enumerate(raws):
        packed.put(("ConfigMap", "default", f"c{n}"), raw)
    assert [packed.get(("ConfigMap", "default", f"c{n}")) for n in range(3)] == raws
    packed.put(("ConfigMap", "default", "c0"), b"{}")
    assert packed.get(("ConfigMap", "default", "c0")) == b"{}"
    for n in range(3):
        packed.remove(("ConfigMap", "default", f"c{n}"))
    assert packed._packed["ConfigMap"] == {}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.binary(max_size=1500))))
def test_packed_records_come_back_whatever_they_are(puts: list[tuple[str, str, bytes]]) -> None:
    records, plain = Records(), dict[tuple[str, str], bytes]()
    for bucket, key, value in [*puts, ("a", "m", zstandard.FRAME_HEADER), ("b", "m", zstandard.FRAME_HEADER * 400)]:
        records.put(bucket, key, value)
        plain[bucket, key] = value
        assert records.get(bucket, key) == value
    for bucket in "ab":
        assert records.all(bucket) == {k: v for (b, k), v in plain.items() if b == bucket}
    records.remove("a", "m")
    records.remove("never", "was")
    assert records.get("a", "m") is None
