"""A join token is one pasteable word; a damaged one is told from a wrong one, and none is ever printed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlink import trust
from edged.errors import PermanentError

TOKEN = trust.JoinToken("https://hub.example:7443", bytes(range(32)), b"s" * 32)
TEXT = trust.format_token(TOKEN)


def test_a_token_is_one_ascii_word_and_comes_back() -> None:
    assert TEXT.isascii()
    assert TEXT.startswith("edgejoin1.")
    assert not set(TEXT) & set(" \n\"'$`\\&|;<>(){}#*?!=")
    assert trust.parse_token(TEXT) == TOKEN


def test_a_terminal_may_wrap_it() -> None:
    assert trust.parse_token(f"  {TEXT[:40]}\n{TEXT[40:80]}\r\n {TEXT[80:]}\n") == TOKEN


@given(st.integers(len("edgejoin1."), len(TEXT) - 1), st.sampled_from("Aa0_-"))
def test_a_mistyped_token_is_damaged(at: int, char: str) -> None:
    text = TEXT[:at] + char + TEXT[at + 1 :]
    if char != TEXT[at]:
        with pytest.raises(PermanentError) as caught:
            trust.parse_token(text)
        assert text[20:] not in str(caught.value)


@given(st.text(max_size=100))
def test_anything_else_is_no_token(text: str) -> None:
    for candidate in (text, "edgejoin1." + text, TEXT[: len(text)]):
        with pytest.raises(PermanentError):
            trust.parse_token(candidate)


def test_a_token_does_not_show_its_secret() -> None:
    assert "sss" not in repr(TOKEN)


def test_a_token_for_plain_http_is_refused() -> None:
    with pytest.raises(PermanentError, match="https"):
        trust.parse_token(trust.format_token(trust.JoinToken("http://hub", bytes(32), b"s")))
