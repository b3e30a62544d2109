"""Datasets of prompts: ShareGPT's JSON, and JSON lines with `prompt` or `messages`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from presize.errors import ConfigError, shown
from presize.load.rows import Sample
from presize.traces.rows import BadRow, Rows, object_of, opened

_USERS = ("human", "user")
_LENGTHS = ("max_tokens", "output_len")  # names of a row's own limit


def sharegpt(path: str, output_len: int) -> Rows[Sample]:
    """The first human turn of every conversation. ConfigError if the file is not a JSON list."""
    with opened(path) as file:
        content = file.read()
    try:
        entries = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"dataset_path {path} is not JSON: {error.msg} at line {error.lineno}") from error
    if not isinstance(entries, list):
        raise ConfigError(f"dataset_path {path} holds {shown(entries)}; ShareGPT is a list of conversations")
    rows: Rows[Sample] = Rows()
    for number, entry in enumerate(entries, 1):
        try:
            rows.good.append(Sample(_first_turn(entry), output_len))
        except BadRow as reason:
            rows.bad.append(f"conversation {number}: {reason}")
    return rows


def custom(path: str, endpoint: str, output_len: int, *, fixed: bool) -> Rows[Sample]:
    """Lines that are objects with `prompt` or `messages`; other fields than the limit's are not looked at.

    output_len: the limit of a row without one, or, if it is ``fixed``, of every row.
    """
    rows: Rows[Sample] = Rows()
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = object_of(line, "`prompt` or `messages`")
                own = _own_limit(row)
                limit = output_len if fixed or own is None else own
                rows.good.append(Sample(_content(row, endpoint), limit))
            except BadRow as reason:
                rows.bad.append(f"line {number}: {reason}")
    return rows


def _first_turn(entry: object) -> str:
    turns = entry.get("conversations") if isinstance(entry, dict) else None
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise BadRow("it has no list `conversations` of objects")
    turn = turns[0]
    if turn.get("from") == "system" and len(turns) > 1:
        turn = turns[1]
    if turn.get("from") not in _USERS:
        raise BadRow(f"it begins with a turn from {shown(turn.get('from'))}, not from a human")
    return _text(turn.get("value"), "the value of its first turn")


def _own_limit(row: Mapping[str, Any]) -> int | None:
    given = [name for name in _LENGTHS if row.get(name) is not None]
    if not given:
        return None
    if len(given) > 1:
        raise BadRow(f"{' and '.join(given)} are the same field; give one of them")
    value = row[given[0]]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadRow(f"{given[0]} is {shown(value)}; it must be a whole number, at least 1")
    return value


def _content(row: Mapping[str, Any], endpoint: str) -> str | list[dict[str, str]]:
    prompt, messages = row.get("prompt"), row.get("messages")
    if (prompt is None) == (messages is None):
        raise BadRow("it needs exactly one of `prompt` and `messages`")
    if messages is None:
        return _text(prompt, "prompt")
    if endpoint != "chat":
        raise BadRow("messages need --endpoint chat")
    if not isinstance(messages, list) or not messages:
        raise BadRow(f"messages is {shown(messages)}; it must be a list of at least one message")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRow(f"a message is {shown(message)}; it must be an object with `role` and `content`")
        _text(message.get("content"), "the content of a message")
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"{name} is {shown(value)}; it must be text, and not empty")
    return value
