"""The input: JSON lines, one request each. A bad line becomes a RowError and never stops the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, BinaryIO

import orjson

from presize.cli.text import did_you_mean
from presize.engine.sampling_params import SamplingParams
from presize.errors import InvalidRequestError, shown

MAX_LINE_BYTES = 16 * 2**20
MAX_ID_LENGTH = 1024  # characters
MAX_ERROR_LENGTH = 600  # characters; an error may repeat a user's value
ROLES = ("system", "user", "assistant")
SAMPLING_FIELDS = tuple(f.name for f in fields(SamplingParams))
KNOWN_FIELDS = ("id", "prompt", "messages", "model", *SAMPLING_FIELDS, "max_completion_tokens")
# Bookkeeping of API clients and data sets: it can not change an answer, so it is accepted and not looked at.
IGNORED_FIELDS = (
    "user",
    "metadata",
    "store",
    "category",
    "comment",
    "dataset",
    "language",
    "output_tokens",
    "reference",
    "source",
    "tags",
)
_CHUNK_BYTES = 2**20
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Row:
    """One request: exactly one of ``prompt`` (text or token ids) and ``messages`` is set."""

    line: int
    id: str | int
    prompt: str | list[int] | None
    messages: list[dict[str, str]] | None
    params: SamplingParams

    @property
    def request_id(self) -> str:
        """The id as the engine knows it; 7 and "7" are the same id."""
        return str(self.id)


@dataclass(frozen=True, slots=True)
class RowError:
    """A line that can not be served, and why."""

    line: int
    id: str | int
    error: str

    def as_row(self) -> dict[str, Any]:
        """The row of the output file."""
        return {"id": self.id, "line": self.line, "error": self.error}


def read_rows(
    stream: BinaryIO, defaults: Mapping[str, Any], *, model: str, chat: bool = False
) -> Iterator[Row | RowError]:
    """Rows of ``stream`` in order, read lazily; blank lines are skipped.

    ``defaults`` are arguments of SamplingParams that a row's own fields override; ``model`` is the only value that a
    row's ``model`` may have; with ``chat`` a prompt string becomes one user message.
    """
    first_lines: dict[str, int] = {}  # id -> the line that used it first
    for number, raw in _lines(stream):
        row_id: str | int = str(number)
        try:
            fields_of_row = _object(raw)
            row_id = _id(fields_of_row, row_id)
            if (first := first_lines.setdefault(str(row_id), number)) != number:
                raise InvalidRequestError(f"id {shown(row_id)} is already the id of line {first}")
            params = _params(fields_of_row, defaults, model)
            prompt, messages = _content(fields_of_row, chat=chat)
            yield Row(number, row_id, prompt, messages, params)
        except InvalidRequestError as error:
            yield row_error(number, row_id, error)


def row_error(line: int, row_id: str | int, error: Exception) -> RowError:
    """A RowError whose text is cut to a sensible length."""
    text = str(error)
    return RowError(line, row_id, text if len(text) <= MAX_ERROR_LENGTH else text[: MAX_ERROR_LENGTH - 3] + "...")


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """(number, content) of every line that is not blank; the content is None if it is too long to be read."""
    number = 0
    while raw := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
            while (rest := stream.readline(_CHUNK_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, None
            continue
        if number == 1:
            raw = raw.removeprefix(_BOM)
        if raw.strip():
            yield number, raw


def _object(raw: bytes | None) -> dict[str, Any]:
    if raw is None:
        raise InvalidRequestError(f"the line is longer than {MAX_LINE_BYTES:,} bytes")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as bad:
            raise InvalidRequestError(f"the line is not UTF-8: byte {bad.start + 1} is wrong") from error
        raise InvalidRequestError(f"the line is not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(value, dict):
        kind = {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "a number")
        raise InvalidRequestError(f"the line is {kind}; it must be an object with `prompt` or `messages`")
    return value


def _id(fields_of_row: Mapping[str, Any], default: str | int) -> str | int:
    value = fields_of_row.get("id")
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidRequestError(f"id is {shown(value)}; it must be a string or a whole number")
    if isinstance(value, str) and not 0 < len(value) <= MAX_ID_LENGTH:
        raise InvalidRequestError(f"id has {len(value):,} characters; it must have 1 to {MAX_ID_LENGTH:,}")
    return value


def _params(row: Mapping[str, Any], defaults: Mapping[str, Any], model: str) -> SamplingParams:
    """Sampling of one row, after a look at the names of all its fields."""
    for name in row:
        if name == "stream":
            raise InvalidRequestError("stream has no meaning in a file of rows; remove it")
        if name not in KNOWN_FIELDS and name not in IGNORED_FIELDS:
            hint = did_you_mean(name, KNOWN_FIELDS)
            raise InvalidRequestError(f"unknown field {shown(name)}; known: {', '.join(KNOWN_FIELDS)}{hint}")
    asked = row.get("model")
    if asked is not None and asked != model:
        raise InvalidRequestError(f"model is {shown(asked)}, but the model that runs is {model!r}")
    given = {name: value for name in SAMPLING_FIELDS if (value := row.get(name)) is not None}
    alias = row.get("max_completion_tokens")
    if alias is not None:
        if "max_tokens" in given:
            raise InvalidRequestError("max_tokens and max_completion_tokens are the same field; give one of them")
        given["max_tokens"] = alias
    return SamplingParams(**{**defaults, **given})


def _content(row: Mapping[str, Any], *, chat: bool) -> tuple[str | list[int] | None, list[dict[str, str]] | None]:
    """(prompt, messages), one of them None."""
    prompt, messages = row.get("prompt"), row.get("messages")
    if (prompt is None) == (messages is None):
        raise InvalidRequestError("a row needs exactly one of `prompt` and `messages`")
    if messages is not None:
        _check_messages(messages)
        return None, messages
    _check_prompt(prompt)
    if chat and isinstance(prompt, str):
        return None, [{"role": "user", "content": prompt}]
    return prompt, None


def _check_prompt(prompt: object) -> None:
    if isinstance(prompt, str | list) and not prompt:
        raise InvalidRequestError("the prompt is empty")
    if isinstance(prompt, str):
        return
    whole = isinstance(prompt, list) and all(type(token) is int and token >= 0 for token in prompt)
    if not whole:
        raise InvalidRequestError(f"prompt is {shown(prompt)}; it must be a string or a list of token ids")


def _check_messages(messages: object) -> None:
    if not isinstance(messages, list) or not messages:
        raise InvalidRequestError(f"messages is {shown(messages)}; it must be a list of at least one message")
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            raise InvalidRequestError(
                f"message {number} is {shown(message)}; it must be an object with `role` and `content`, and no more"
            )
        if message["role"] not in ROLES:
            raise InvalidRequestError(
                f"the role of message {number} is {shown(message['role'])}; known: {', '.join(ROLES)}"
            )
        if not isinstance(message["content"], str):
            raise InvalidRequestError(f"the content of message {number} must be a string")
