"""Quantities: exact, rounded up, canonical."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlink.kube.quantity import QuantityError, canonical, exact, format_bytes, format_milli, to_int, to_milli

suffixes = st.sampled_from(["", "Ki", "Mi", "Gi", "Ti", "n", "u", "m", "k", "M", "G", "T", "e3", "E-2", "e0"])
numbers = st.from_regex(r"\A[+-]?(0|[1-9][0-9]{0,5})(\.[0-9]{0,4})?\Z")
quantities = st.builds(str.__add__, numbers, suffixes)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("64Mi", 64 << 20),
        ("1e3", 1000),
        ("1E3", 1000),
        ("1.5Gi", 3 << 29),
        ("0.1Gi", 107374183),  # rounded up
        ("128974848", 128974848),
        ("129M", 129_000_000),
        ("400m", 1),
        ("1Ei", 1 << 60),
        ("1E", 10**18),
        (".5Ki", 512),
        ("5.", 5),
        ("+1k", 1000),
        ("-1.5", -1),
        ("100Ei", (1 << 63) - 1),  # capped, as in Kubernetes
        (2, 2),
        (1.5, 2),
        (1e3, 1000),
    ],
)
def test_a_quantity_is_whole_units_rounded_up(text: str | float, number: int) -> None:
    assert to_int(text) == number


@pytest.mark.parametrize(
    ("text", "milli"), [("100m", 100), ("0.5", 500), (2, 2000), (0.1, 100), ("1u", 1), ("0.0001", 1), ("1k", 1_000_000)]
)
def test_cpu_is_thousandths_rounded_up(text: str | float, milli: int) -> None:
    assert to_milli(text) == milli


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("0.5", "500m"),
        ("1000m", "1"),
        ("1000", "1k"),
        (2, "2"),
        (0.25, "250m"),
        ("0Mi", "0"),
        ("0.5Mi", "512Ki"),
        ("1e3", "1e3"),
        ("12e6", "12e6"),
        ("100", "100"),
        ("512Ki", "512Ki"),
        ("1000Ki", "1000Ki"),
        ("-1.5Gi", "-1536Mi"),
    ],
)
def test_the_canonical_text_is_the_one_kubernetes_shows(text: str | float, shown: str) -> None:
    assert canonical(text) == shown


@given(quantities)
def test_the_canonical_text_means_the_same_and_stays_as_it_is(text: str) -> None:
    shown = canonical(text)
    assert exact(shown) == exact(text)
    assert canonical(shown) == shown
    assert Fraction(to_int(text)) >= exact(text) > to_int(text) - 1
    if abs(exact(text)) < 2**53:
        assert Fraction(to_milli(text), 1000) >= exact(text) > Fraction(to_milli(text) - 1, 1000)


@given(st.integers(0, 1 << 50))
def test_formatted_bytes_and_cores_read_back_exactly(number: int) -> None:
    assert to_int(format_bytes(number)) == number
    assert to_milli(format_milli(number)) == number


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1 ", "64MB", "Mi", "1.2.3", "1e", "1e1.5", "1KiB", "--1", "0x10", "1_000", "١", "1ki", "NaN", "9" * 65],
)
def test_an_error_names_the_text(text: str) -> None:
    with pytest.raises(QuantityError) as caught:
        exact(text)
    assert f'"{text[:64]}' in str(caught.value)


@pytest.mark.parametrize("value", [True, None, [], {}, float("nan"), float("inf"), b"1"])
def test_what_is_no_quantity_at_all_is_refused(value: object) -> None:
    with pytest.raises(QuantityError):
        canonical(value)  # type: ignore[arg-type]


@given(st.text(max_size=80) | st.floats() | st.integers())
def test_any_text_or_number_is_a_quantity_or_an_error(value: str | float) -> None:
    try:
        shown = canonical(value)
    except QuantityError:
        return
    assert canonical(shown) == shown


def test_thousandths_stay_within_what_travels() -> None:
    assert to_milli("9E") == to_milli(18_446_744_073_709_552) == 2**63 - 1
