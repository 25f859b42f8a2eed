"""YAML in, JSON's types out; whatever is wrong says where."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cloudlink.kube.parse import Invalid, load_yaml

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Co", "Cn", "Zl", "Zp"]), max_size=12)
values = st.recursive(
    leaves | words, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3)
)


@given(st.lists(st.dictionaries(words, values, min_size=1, max_size=4), min_size=1, max_size=3))
def test_json_is_yaml_and_means_the_same(documents: list[dict[str, Any]]) -> None:
    text = "\n---\n".join(json.dumps(d, ensure_ascii=False) for d in documents)
    found = load_yaml(text, "generated")
    assert found == [d for d in documents if not (d.get("kind") == "List" and isinstance(d.get("items"), list))]


@given(st.dictionaries(words, values, max_size=4))
def test_what_another_yaml_writer_quotes_as_text_stays_text(document: dict[str, Any]) -> None:
    texts = {k: v for k, v in document.items() if isinstance(v, str)}
    assert load_yaml(yaml.safe_dump(texts, allow_unicode=True), "dumped") == [texts]


@given(st.text(max_size=60) | st.text(alphabet="[]{}:,-&*!|>'\"#%@`?\n\t ab<1", max_size=60))
def test_any_text_is_documents_or_an_error_that_names_the_source(text: str) -> None:
    documents: list[dict[str, Any]] = []
    problem = "some.yaml"
    try:
        documents = load_yaml(text, "some.yaml")
    except Invalid as e:
        problem = str(e)
    assert problem.startswith("some.yaml")
    json.dumps(documents, allow_nan=False)
    assert all(isinstance(d, dict) for d in documents)


def test_scalars_are_read_as_kubernetes_reads_them() -> None:
    text = """
    boolean: yes
    octal: 0644
    new octal: 0o17
    hex: 0x1F
    negative: -010
    underscores: 1_000
    exponent: 1e3
    time: 12:30
    date: 2024-01-01
    infinite: .inf
    quoted: "1"
    tagged: !!str 1
    null: ~
    empty:
    on: key
    1: key
    """
    assert load_yaml(text, "x") == [
        {
            "boolean": True,
            "octal": 0o644,
            "new octal": 15,
            "hex": 31,
            "negative": -8,
            "underscores": 1000,
            "exponent": 1000.0,
            "time": "12:30",
            "date": "2024-01-01",
            "infinite": ".inf",
            "quoted": "1",
            "tagged": "1",
            "null": None,
            "empty": None,
            "on": "key",
            "1": "key",
        }
    ]


def test_empty_documents_are_passed_over_and_lists_of_objects_taken_apart() -> None:
    assert load_yaml("---\n---\na: 1\n---\n# nothing\n", "x") == [{"a": 1}]
    assert load_yaml("kind: List\nitems: [{a: 1}, {kind: List, items: [{b: 2}]}]", "x") == [{"a": 1}, {"b": 2}]


def test_an_aliased_value_and_a_merged_one_are_what_they_stand_for() -> None:
    assert load_yaml("a: &a {x: 1, y: 2}\nb: *a\nc: {<<: *a, x: 3}\nd: {<<: [{z: 0}, *a]}", "x") == [
        {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 2}, "c": {"x": 3, "y": 2}, "d": {"z": 0, "x": 1, "y": 2}}
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {c: 1, c: 2}", 'x, line 2, column 11: duplicate key "c"'),
        ("a: [1", "x, line 2, column 1: while parsing a flow sequence"),
        ("a: !!python/object:os.system {}", "x, line 1, column 4: the tag"),
        ("a: !!binary aaaa", "x, line 1, column 4: the tag"),
        ("a: &a [*a]", "x, line 1, column 8: an alias refers to a value that it is a part of"),
        ("a: *b", "x, line 1, column 4: no anchor &b before this alias"),
        ("? [a]\n: b", "x, line 1, column 3: a key must be a text"),
        ("a: {<<: 1}", "x, line 1, column 9: only mappings can be merged"),
        ("a: !!int x", 'x, line 1, column 4: "x" is not of the type'),
        ("a: \x01", "x, about line 1, column 4: control characters are not allowed"),
        ("just words", "x: document 1: a Kubernetes object is a mapping, not a string"),
        ("\ud800", "x: "),
    ],
)
def test_an_error_says_where_it_is(text: str, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        load_yaml(text, "x")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_nesting_without_end_is_refused(opening: str) -> None:
    with pytest.raises(Invalid, match=r"nested deeper|a key must be a text"):
        load_yaml(opening * 100_000, "x")


@pytest.mark.parametrize("form", ["[{}]", "{{<<: [{}]}}"])
def test_aliases_can_not_multiply_a_small_text_into_a_huge_document(form: str) -> None:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} " + form.format(",".join([f"*a{i - 1}"] * 10)) for i in range(1, 30)]
    with pytest.raises(Invalid, match="after following aliases"):
        load_yaml("\n".join(lines), "x")


def test_a_text_that_is_too_large_is_refused() -> None:
    with pytest.raises(Invalid, match="larger than 16 MiB"):
        load_yaml("#" * (17 << 20), "x")
