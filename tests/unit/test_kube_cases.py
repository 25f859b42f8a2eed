"""Manifests and what is said about them: every file of tests/cases/kube is a test.

A file begins with `# what:` (one line) and a `# cause: reason | field | message` for each cause expected, in order;
none means that every document in it is accepted.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cloudlink.kube.parse import Invalid, dump, load_yaml, parse

CASES = sorted((Path(__file__).parent.parent / "cases/kube").glob("*.yaml"))


def causes_expected(text: str) -> list[str]:
    return [line.removeprefix("# cause: ").strip() for line in text.splitlines() if line.startswith("# cause:")]


def causes_found(text: str, source: str) -> list[str]:
    try:
        for document in load_yaml(text, source):
            obj = parse(document)
            assert parse(json.loads(json.dumps(dump(obj)))) == obj
    except Invalid as e:
        return [f"{c.reason} | {c.field} | {c.message}" for c in e.causes]
    return []


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_a_manifest_gets_exactly_the_causes_written_above_it(path: Path) -> None:
    text = path.read_text()
    assert causes_found(text, path.name) == causes_expected(text)


def test_the_cases_are_found_and_say_what_they_are_for() -> None:
    assert len(CASES) > 30
    assert not [p.name for p in CASES if not p.read_text().startswith("# what: ")]
