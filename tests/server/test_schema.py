"""Schemathesis on the OpenAPI document, with valid and with invalid data: no 5xx, no hang, errors in the envelope."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from serving import Server

POSITIVE, NEGATIVE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE


@pytest.fixture(scope="module")
def brief(tiny_model: Path) -> Iterator[Server]:
    """Answers of at most 48 tokens, so that nothing that is generated takes long."""
    made = Server(tiny_model, "--max-model-len", "48")
    yield made
    assert made.stop() == 0


def operations(server: Server) -> dict[str, Any]:
    document = server.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    return {operation.label: operation for result in schema.get_all_operations() for operation in [result.ok()]}


def statuses_of(operation: Any, mode: GenerationMode, url: str) -> set[int]:
    """Call an operation with drawn data; the statuses it gave, each checked."""
    seen: set[int] = set()

    @settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        response = case.call(base_url=url, timeout=60)
        seen.add(response.status_code)
        assert response.status_code < 500, response.text
        assert response.status_code != 422
        if response.status_code >= 400:
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    run()
    return seen


@pytest.mark.parametrize("mode", [POSITIVE, NEGATIVE], ids=lambda mode: mode.name.lower())
def test_no_request_breaks_the_server(brief: Server, mode: GenerationMode) -> None:
    found = operations(brief)
    assert {"POST /v1/chat/completions", "POST /v1/completions", "POST /tokenize"} <= set(found)
    statuses: dict[str, set[int]] = {}
    for label, operation in found.items():
        if mode is POSITIVE or label.startswith("POST"):  # nothing in the others can be wrong
            statuses[label] = statuses_of(operation, mode, brief.url)
    if mode is NEGATIVE:
        assert all(400 in seen for seen in statuses.values()), statuses
    assert brief.get("/health").json() == {"status": "ok"}
    brief.until(lambda: brief.metric("presize_kv_cache_usage_perc") == 0)
