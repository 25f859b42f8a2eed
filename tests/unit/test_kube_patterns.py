"""Patterns of other people's schemas are in RE2's syntax, which Python's own nearly is."""

from __future__ import annotations

import re

import pytest

from cloudlink.kube.jsonschema import compiled


@pytest.mark.parametrize(
    ("pattern", "fits", "fits_not"),
    [
        ("^(?i)(abort|warn)?$", "WARN", "stop"),
        ("^((?i)january|february|[1-9])(?:((:((?i)january|february|[1-9]))$)|$)", "January:FEBRUARY", "march"),
        ("(?i)^a[(]?b$", "A(B", "c"),
        ("^a((?i)b)c$", "aBc", "aBC"),
        (r"^\d+\z", "12", "12\n"),
        ("^[[:alpha:]_]+$", "a_b", "a1"),
    ],
)
def test_flags_scopes_ends_and_classes_mean_what_they_mean_there(pattern: str, fits: str, fits_not: str) -> None:
    assert compiled(pattern).search(fits)
    assert not compiled(pattern).search(fits_not)


def test_flags_in_the_middle_of_a_group_are_refused_rather_than_misread() -> None:
    with pytest.raises(re.error):
        compiled("a(?i)b|c")
