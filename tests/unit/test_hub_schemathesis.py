"""schemathesis at the API's own description: whatever its OpenAPI documents allow gets an answer that they foretell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from cloudlink.hub.api import openapi
from cloudlink.hub.api.server import create_app
from cloudlink.hub.store import Store
from cloudlink.kube.catalogue import BUILT_IN
from tests.fakes.hub_client import TOKEN

CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)
EXAMPLES = 3  # for each operation; there are some four hundred of them
STREAMS = ("/log", "/exec", "/attach", "/portforward")
LONG = {"watch", "sendInitialEvents", "timeoutSeconds"}  # a watch ends when its client wants


def operations(path: str, methods: set[str]) -> Any:
    """A document's operations with these methods, without those that are conversations."""
    made = openapi.document(BUILT_IN, path)
    assert made is not None
    document = json.loads(made.body())
    for url, item in list(document["paths"].items()):
        kept = {m: o for m, o in item.items() if m in methods}
        for operation in kept.values():
            operation["parameters"] = [p for p in operation["parameters"] if p["name"] not in LONG]
        if url.endswith(STREAMS) or not kept:
            del document["paths"][url]
        else:
            document["paths"][url] = kept | {"parameters": item.get("parameters", [])}
    return document


def tried(path: str, methods: set[str], folder: Path) -> int:
    store = Store.open(f"sqlite:///{folder}/hub.db")
    app = create_app(store, {TOKEN: "tester"}.get)
    schema = schemathesis.openapi.from_dict(operations(path, methods))
    schema.app = app
    schema.config.base_url = "http://hub"
    count = 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def holds(case: schemathesis.Case) -> None:
            answer = case.call(headers={"authorization": f"Bearer {TOKEN}"})
            case.validate_response(answer, checks=CHECKS)

        holds()
        count += 1
    store.close()
    return count


@pytest.mark.parametrize("path", sorted(openapi.addresses(BUILT_IN)))
def test_reading_and_deleting_as_described_is_answered_as_described(path: str, tmp_path: Path) -> None:
    assert tried(path, {"get", "delete"}, tmp_path) or path.startswith("apis/auth")


@pytest.mark.parametrize("path", ["apis/coordination.k8s.io/v1", "apis/scheduling.k8s.io/v1", "apis/policy/v1"])
def test_writing_as_described_is_answered_as_described(path: str, tmp_path: Path) -> None:
    assert tried(path, {"post", "put", "patch"}, tmp_path)
