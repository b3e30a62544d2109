"""What clients get, for the OpenAPI document alone: answers are made as plain dicts and not checked against this."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

FinishReason = Literal["stop", "length"]


class Reply(BaseModel):
    """Base: every field is there, and no other one."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Usage(Reply):
    """Tokens of prompts and answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Forecast(Reply):
    """What `return_forecast` adds; lists have an entry for each prompt, times are seconds from the arrival."""

    predicted_tokens: list[int]
    predicted_range: list[tuple[int, int]]
    queue_s: list[float]
    ttft_s: list[float]
    latency_s: list[float]
    preemptions: int


class Likely(Reply):
    """A token and how likely it was."""

    token: str
    logprob: float
    bytes: list[int]


class Chosen(Likely):
    """With the likeliest ones in its place."""

    top_logprobs: list[Likely]


class ChatLogprobs(Reply):
    """Of every token of an answer."""

    content: list[Chosen]
    refusal: None


class ChatMessage(Reply):
    """The answer."""

    role: Literal["assistant"]
    content: str
    refusal: None


class Choice(Reply):
    """What the choices of both endpoints have; stop_reason: the stop string or token id that ended the answer."""

    index: int
    finish_reason: FinishReason
    stop_reason: str | int | None


class ChatChoice(Choice):
    """One answer."""

    message: ChatMessage
    logprobs: ChatLogprobs | None


class TextLogprobs(Reply):
    """Of every token of a text; text_offset: characters before it."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(Choice):
    """One text."""

    text: str
    logprobs: TextLogprobs | None


class Completion(Reply):
    """What the bodies of both endpoints have."""

    id: str
    created: int
    model: str
    usage: Usage
    presize: Forecast | None = None


class ChatReply(Completion):
    """Body of an answer to /v1/chat/completions."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class TextReply(Completion):
    """Body of an answer to /v1/completions."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class TokenizeReply(Reply):
    """Body of an answer to /tokenize."""

    count: int
    max_model_len: int
    tokens: list[int]


class DetokenizeReply(Reply):
    """Body of an answer to /detokenize."""

    prompt: str


class ModelCard(Reply):
    """The model; max_model_len is null until it is loaded."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int | None


class ModelList(Reply):
    """Body of an answer to /v1/models."""

    object: Literal["list"]
    data: list[ModelCard]


class Health(Reply):
    """Body of an answer of /health."""

    status: Literal["ok", "loading", "draining", "stuck", "dead"]


class Version(Reply):
    """Body of an answer of /version."""

    version: str


class Picture(BaseModel):
    """Body of an answer of /live, for the page that comes with this version: what else it holds may change."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    status: str
    model: str


class Problem(Reply):
    """What is wrong; param: the field."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(Reply):
    """Body of every error."""

    error: Problem


def documented(body: type[BaseModel], *, streams: bool = False) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route whose answer is ``body``; with ``streams`` it may also be server-sent events."""
    found: dict[str, Any] = {"model": body}
    if streams:
        data = {"type": "string", "description": "a chunk; of the last event [DONE]"}
        an_event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
        found["content"] = {"text/event-stream": {"schema": {"description": "with stream: true", **an_event}}}
    return {200: found}
