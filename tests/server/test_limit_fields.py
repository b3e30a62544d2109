"""SECURITY.md's limits on fields; after every test the server still answers and holds no memory."""

from __future__ import annotations

import re
from typing import Any

import pytest
from limited import CHAT, DEFAULTS, JSON, LEAST, PROMPT, TALK, TEXT, Limited, refused
from pydantic import ValidationError

from presize.engine.sampling_params import MAX_LOGPROBS, MAX_N, MAX_STOP_LENGTH, MAX_STOPS, MAX_TOKENS, SEED_RANGE
from presize.server.protocol import (
    MAX_FIELDS,
    MAX_MESSAGES,
    MAX_PRIORITY,
    MAX_PROMPTS,
    ChatRequest,
    CompletionRequest,
    Generation,
)

OVER: list[tuple[str, dict[str, Any], str]] = [
    (TEXT, {"n": MAX_N + 1}, "n"),
    (CHAT, {"n": MAX_N + 1}, "n"),
    (TEXT, {"max_tokens": MAX_TOKENS + 1}, "max_tokens"),
    (CHAT, {"max_completion_tokens": MAX_TOKENS + 1}, "max_completion_tokens"),
    (TEXT, {"min_tokens": MAX_TOKENS + 1}, "min_tokens"),
    (TEXT, {"stop": ["a"] * (MAX_STOPS + 1)}, "stop"),
    (TEXT, {"stop": "a" * (MAX_STOP_LENGTH + 1)}, "stop"),
    (CHAT, {"stop": ["a", "a" * (MAX_STOP_LENGTH + 1)]}, "stop.1"),
    (TEXT, {"stop_token_ids": [1] * (MAX_STOPS + 1)}, "stop_token_ids"),
    (TEXT, {"prompt": ["a"] * (MAX_PROMPTS + 1)}, "prompt"),
    (TEXT, {"prompt": [[1]] * (MAX_PROMPTS + 1)}, "prompt"),
    (TEXT, {"prompt": ["a"] * MAX_PROMPTS, "n": MAX_N}, "n"),
    (TEXT, {"logprobs": MAX_LOGPROBS + 1}, "logprobs"),
    (CHAT, {"logprobs": True, "top_logprobs": MAX_LOGPROBS + 1}, "top_logprobs"),
    (CHAT, {"messages": TALK["messages"] * (MAX_MESSAGES + 1)}, "messages"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 1025}]}, "messages.0.content"),
    (TEXT, {"seed": SEED_RANGE[1] + 1}, "seed"),
    (TEXT, {"priority": -MAX_PRIORITY - 1}, "priority"),
    (TEXT, {"temperature": 101}, "temperature"),
]


@pytest.mark.parametrize(("path", "change", "field"), OVER)
def test_more_than_a_limit_is_refused_with_the_fields_name(
    usual: Limited, path: str, change: dict[str, Any], field: str
) -> None:
    refused(usual.post(path, {**LEAST[path], **change}), 400, field)


@pytest.mark.parametrize(
    ("path", "change"),
    [
        (TEXT, {"n": MAX_N}),
        (TEXT, {"prompt": ["a"] * MAX_PROMPTS}),
        (TEXT, {"stop": ["b" * MAX_STOP_LENGTH] * MAX_STOPS}),
        (TEXT, {"logprobs": MAX_LOGPROBS}),
        (CHAT, {"logprobs": True, "top_logprobs": MAX_LOGPROBS}),
        (TEXT, {"seed": SEED_RANGE[1], "priority": -MAX_PRIORITY}),
    ],
)
def test_just_a_limit_is_served(usual: Limited, path: str, change: dict[str, Any]) -> None:
    assert usual.post(path, {**LEAST[path], **change}).status_code == 200


@pytest.mark.parametrize("field", ["n", "max_tokens", "top_k", "seed", "logprobs", "priority", "temperature", "top_p"])
def test_numbers_that_are_none_are_refused(usual: Limited, field: str) -> None:
    for value in (10**30, -(10**30), float("nan"), float("inf"), "1", True, [1], {"a": 1}):
        refused(usual.post(TEXT, {**PROMPT, field: value}), 400, field)


def test_the_context_is_a_limit(usual: Limited) -> None:
    response = usual.post(TEXT, {**PROMPT, "max_tokens": MAX_TOKENS})
    assert "512" in refused(response, 400)
    assert response.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("path", [TEXT, CHAT])
def test_what_can_not_fit_is_refused_by_its_bytes_before_it_is_tokenized(usual: Limited, path: str) -> None:
    text = "the cat " * (DEFAULTS.max_body_bytes // 16)
    body = {**PROMPT, "prompt": text} if path == TEXT else {**TALK, "messages": [{"role": "user", "content": text}]}
    response = usual.post(path, body)
    assert re.search(r"prompt has \d+ bytes, which are \d+ tokens at least; .* fit 512", refused(response, 400))
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert usual.post("/tokenize", {"prompt": text}).json()["count"] > 512


def test_an_object_has_only_so_many_fields(usual: Limited) -> None:
    assert str(MAX_FIELDS) in refused(usual.post(TEXT, {str(i): i for i in range(MAX_FIELDS + 1)}), 400)
    message = {str(i): i for i in range(MAX_FIELDS + 1)}
    assert str(MAX_FIELDS) in refused(usual.post(CHAT, {"messages": [message]}), 400, "messages.0")


@pytest.mark.parametrize(
    "prompt", [[-1] * 100_000, ["a"] * 100_000, [[]] * 100_000, [["a"]] * 100_000, [1] * 100_000 + [-1]]
)
def test_a_long_list_of_wrong_things_is_one_error(prompt: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        CompletionRequest.model_validate({"prompt": prompt})
    assert caught.value.error_count() < 10  # one for each thing that a prompt may be


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"n":' + b"9" * 5000 + b"}", b"", b"null", b"\xff", b'{"prompt": "a"', b'{"\\ud800": 1}']
)
def test_what_is_no_request_is_refused(usual: Limited, body: bytes) -> None:
    refused(usual.http.post(TEXT, content=body, headers=JSON), 400)


def test_no_template_no_tensor_and_no_address_is_taken(usual: Limited) -> None:
    for field in ("chat_template", "chat_template_kwargs", "tools", "audio", "prompt_embeds", "guided_regex"):
        assert "not supported" in refused(usual.post(CHAT, {**TALK, field: "{{ 7 * 7 }}"}), 400, field)
    picture = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/"}}
    message = {"role": "user", "content": [picture]}
    refused(usual.post(CHAT, {"messages": [message]}), 400, "messages.0.content.0.type")
    refused(usual.post(CHAT, {**TALK, "an_invention": 1}), 400, "an_invention")


@pytest.mark.parametrize("kind", [CompletionRequest, ChatRequest])
def test_every_refused_field_is_refused_by_name(usual: Limited, kind: type[Generation]) -> None:
    path = CHAT if kind is ChatRequest else TEXT
    for field in kind.REFUSED:
        refused(usual.post(path, {**LEAST[path], field: "surely not this"}), 400, field)


def test_text_that_looks_like_a_template_stays_text(usual: Limited) -> None:
    ids = usual.post("/tokenize", {"messages": [{"role": "user", "content": "{{ 7 * 7 }}"}]}).json()["tokens"]
    assert "{{ 7 * 7 }}" in usual.post("/detokenize", {"tokens": ids}).json()["prompt"]
