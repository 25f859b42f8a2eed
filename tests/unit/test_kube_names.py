"""Names, labels and selectors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlink.kube import names
from cloudlink.kube.meta import LabelSelector, LabelSelectorRequirement, matches

labels = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"))


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (names.dns_label, ["a", "a-1", "1", "a" * 63], ["A", "-a", "a-", "a.b", "a_b", "", "a\n", "ä", "a" * 64]),
        (names.dns_label_1035, ["a", "a-1"], ["1a", "a-", "A", "a" * 64]),
        (names.dns_subdomain, ["a", "a.b", "1.2", "a" * 253], [".a", "a.", "a..b", "a.-b", "a" * 254]),
        (names.label_key, ["a", "A.b_c-d", "example.com/a"], ["", "/a", "a/", "a/b/c", "E.com/a", "-a", "a" * 64]),
        (names.label_value, ["", "a", "A.b_c-d", "a" * 63], ["-a", "a b", "a/b", "a" * 64]),
        (names.config_key, ["a", ".a", "a_B-c.1"], ["", ".", "..", "..a", "a/b", "a b", "a" * 254]),
        (names.env_name, ["A", "_", "a.b", "-x"], ["", "1A", "A=B", "A B"]),
        (names.port_name, ["http", "http-2", "1a"], ["", "80", "HTTP", "-a", "a-", "a--b", "a" * 16]),
    ],
)
def test_a_name_is_what_kubernetes_lets_it_be(check: object, good: list[str], bad: list[str]) -> None:
    assert callable(check)
    assert [g for g in good if check(g)] == []
    assert [b for b in bad if not check(b)] == []


@given(labels, labels)
def test_a_plain_selector_is_the_same_as_match_labels(selector: dict[str, str], found: dict[str, str]) -> None:
    assert matches(selector, found) == LabelSelector(match_labels=selector).matches(found)
    assert matches(selector, found) == (selector.items() <= found.items())


@given(labels, st.sampled_from("abc"), st.lists(st.sampled_from("xyz")))
def test_expressions_and_their_opposites_never_agree(found: dict[str, str], key: str, values: list[str]) -> None:
    def holds(operator: str) -> bool:
        requirement = LabelSelectorRequirement.model_validate({"key": key, "operator": operator, "values": values})
        return LabelSelector(match_expressions=(requirement,)).matches(found)

    assert holds("In") != holds("NotIn")
    assert holds("Exists") != holds("DoesNotExist")
    assert holds("In") == (found.get(key) in values)


def test_no_requirement_matches_everything() -> None:
    assert LabelSelector().matches({})
    assert LabelSelector().matches({"a": "b"})
