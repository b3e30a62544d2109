"""Schemathesis on the OpenAPI document, with valid and with invalid data: no 5xx, no hang, all as documented."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks
from serving import Server

from presize.server import replies

AS_DOCUMENTED = (checks.status_code_conformance, checks.content_type_conformance, checks.response_schema_conformance)
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
        case.validate_response(response, checks=AS_DOCUMENTED)

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


@pytest.mark.parametrize(
    ("path", "body", "reply"),
    [
        ("chat/completions", {"messages": [{"role": "user", "content": "the"}], "top_logprobs": 2}, replies.ChatReply),
        ("completions", {"prompt": ["the", "cat"]}, replies.TextReply),
    ],
)
def test_an_answer_with_all_there_is_to_it_is_as_documented(
    server: Server, path: str, body: dict[str, Any], reply: type[replies.Completion]
) -> None:
    logprobs = True if "top_logprobs" in body else 2
    asked = {"n": 2, "max_tokens": 3, "return_forecast": True, "logprobs": logprobs, "stop_token_ids": [7], **body}
    answer = reply.model_validate_json(server.post(f"/v1/{path}", asked).content, strict=True)
    assert answer.presize is not None
    assert all(choice.logprobs is not None for choice in answer.choices)
    plain = reply.model_validate_json(
        server.post(f"/v1/{path}", {**body, "max_tokens": 1, "top_logprobs": None}).content
    )
    assert plain.presize is None
