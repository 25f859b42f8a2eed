"""What is left out of a document that is too large: as little as possible, and nothing that runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cloudlink.hub.fitting import Fitted, fit, largest_parts
from edged.errors import PermanentError
from edged.model import ConfigFiles, Container, Desired, Mount, Pod, SecretFiles, Service, ServicePort, Volume

LIMIT = 10_000  # bytes of content that may be sent in these tests


def pod(name: str, *configs: str, secret: str = "") -> Pod:
    volumes = [Volume(c, ConfigFiles(c)) for c in configs]
    volumes += [Volume(secret, SecretFiles(secret))] if secret else []
    mounts = tuple(Mount(v.name, f"/{v.name}") for v in volumes)
    return Pod("default", name, f"uid-{name}", (Container("main", "demo", mounts=mounts),), tuple(volumes))


def document(*pods: Pod, **sizes: int) -> Desired:
    configs = {f"default/{name}": {"k": b"x" * size} for name, size in sizes.items()}
    service = Service("default", "web", "10.96.0.1", (ServicePort(80, 80),), tuple(p.uid for p in pods))
    return Desired("lab", "pi", 1, pods, (service,), configs)


def size_of(desired: Desired) -> int:
    return sum(len(v) for data in desired.configs.values() for v in data.values()) + sum(
        map(len, desired.secrets.values())
    )


def problem(desired: Desired) -> str:
    return f"{size_of(desired)} bytes are too many" if size_of(desired) > LIMIT else ""


def names(fitted: Fitted) -> list[str]:
    return [p.name for p in fitted.desired.pods]


def test_a_document_that_can_be_sent_stays_as_it_is() -> None:
    whole = document(pod("a", "x"), x=100)
    assert fit(whole, None, problem) == Fitted(whole)


def test_the_largest_new_pod_is_left_out_and_named_with_what_makes_it_large() -> None:
    whole = document(pod("small", "x"), pod("greedy", "huge", "x"), x=100, huge=70 << 10)
    fitted = fit(whole, None, problem)
    assert names(fitted) == ["small"]
    assert list(fitted.desired.configs) == ["default/x"]
    assert fitted.desired.services[0].pods == ("uid-small",)
    assert fitted.left_out == {
        "uid-greedy": "the node isn't told of this pod: with it, 71780 bytes are too many;"
        " make smaller: config map default/huge (70 KiB)"
    }


def test_no_more_are_left_out_than_needed() -> None:
    whole = document(*(pod(f"p{n}", f"c{n}") for n in range(5)), c0=3000, c1=3000, c2=3000, c3=9000, c4=9000)
    assert names(fit(whole, None, problem)) == ["p0", "p1", "p2"]


def test_a_pod_that_the_node_has_is_never_left_out() -> None:
    before = document(pod("old", "x"), x=9000)
    after = document(pod("old", "x"), pod("new", "y"), x=9000, y=2000)
    assert names(fit(after, before, problem)) == ["old"]


def test_news_of_a_config_that_has_grown_too_large_are_held_back() -> None:
    before = document(pod("old", "x"), pod("other", "y"), x=100, y=100)
    after = document(pod("old", "x"), pod("other", "y"), x=90_000, y=200)
    fitted = fit(after, before, problem)
    assert fitted.desired.configs == {"default/x": before.configs["default/x"], "default/y": {"k": b"x" * 200}}
    assert list(fitted.held_back) == ["uid-old"]
    assert "keeps the earlier content of default/x" in fitted.held_back["uid-old"]
    assert fitted.left_out == {}


def test_a_secret_is_held_back_sealed_as_it_was() -> None:
    before = replace(document(pod("old", secret="s")), secrets={"default/s": b"small"})
    after = replace(before, secrets={"default/s": b"x" * 20_000})
    fitted = fit(after, before, problem)
    assert (fitted.desired.secrets, fitted.kept) == ({"default/s": b"small"}, {"default/s"})


def test_a_document_that_can_not_be_made_small_enough_is_a_sentence() -> None:
    before = document(pod("old", "x"), x=100 << 10)
    with pytest.raises(PermanentError, match=r"too many; make smaller: config map default/x \(100 KiB\)"):
        fit(before, before, problem)


def test_what_is_small_is_not_worth_naming() -> None:
    assert largest_parts(document(pod("a", "x"), x=100)) == ""


sizes = st.integers(0, 6000)
some_names = st.lists(st.sampled_from("abcdef"), unique=True, max_size=4)


@given(st.dictionaries(st.sampled_from("abcdef"), sizes), st.lists(some_names, max_size=6), st.data())
def test_whatever_was_sent_before_what_is_sent_now_fits_and_stops_nothing(
    contents: dict[str, int], wishes: list[list[str]], data: st.DataObject
) -> None:
    pods = [pod(f"p{n}", *(c for c in wish if c in contents)) for n, wish in enumerate(wishes)]
    whole = document(*pods, **contents)
    earlier = [p for p in pods if data.draw(st.booleans())]
    before = document(*earlier, **{name: data.draw(st.integers(0, size)) for name, size in contents.items()})
    try:
        fitted = fit(whole, before, problem)
    except PermanentError:
        return
    assert not problem(fitted.desired)
    assert {p.uid for p in before.pods} <= {p.uid for p in fitted.desired.pods}
    assert {p.uid for p in fitted.desired.pods} | fitted.left_out.keys() == {p.uid for p in pods}
    if not problem(whole):
        assert fitted.desired == whole
