"""docs/pod-api.md says what the models say."""

from __future__ import annotations

from pathlib import Path

from cloudlink.kube import core, reference
from cloudlink.kube.meta import Model

PAGE = Path(__file__).parents[2] / "docs" / "pod-api.md"


def every_model(model: type[Model] = Model) -> list[type[Model]]:
    return [model, *(m for sub in model.__subclasses__() for m in every_model(sub))]


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == reference.page(), "run: python -m cloudlink.kube.reference > docs/pod-api.md"


def test_notes_are_about_fields_that_are_there() -> None:
    for model in every_model():
        _, notes = reference.described(model)
        wrong = notes.keys() - model.model_fields.keys()
        assert not wrong, f"{model.__name__}: {wrong}"


def test_reasons_are_about_fields_that_are_refused() -> None:
    for model in every_model():
        assert model.why_not.keys() <= model.unsupported, model.__name__
        known = {f.alias or n for n, f in model.model_fields.items()}
        assert not known & model.unsupported, model.__name__


def test_the_page_shows_fields_values_defaults_notes_and_refusals() -> None:
    page = reference.page()
    assert "| `fsGroupChangePolicy` | `Always`, `OnRootMismatch` |" in page
    assert "| `successThreshold` | number | `1` |" in page
    assert "| `mountPath` | text | required |" in page
    assert "`spec.containers[]`, `spec.initContainers[]`" in page
    assert "| `hostPID` | `true`, `false` | `false` | only false: a pod that sees every process" in page
    assert "`runtimeClassName` (there is one runtime here" in page
    assert set(core.PodSpec.unsupported) <= set(page.replace("`", " ").split())
