"""JSON documents with the lengths of requests: ShareGPT's conversations, and results of `presize bench serve`."""

from __future__ import annotations

from typing import Any

import orjson

from presize.errors import ConfigError, shown
from presize.traces.rows import BadRow, Rows, Shape, opened

CHARACTERS_A_TOKEN = 4  # of English text, as OpenAI's documentation of its tokenizers says


def read_document(path: str, name: str = "dataset_path") -> Rows[Shape]:
    """ShareGPT: the first two turns of each conversation, their tokens taken as a quarter of their characters.
    A result of `presize bench serve --save-result FILE --save-detailed`: the requests that got a whole answer.

    ConfigError, which calls the file ``name``, if it is neither.
    """
    with opened(path, name) as file:
        content = file.read()
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"{name} {path} is not JSON: {error.msg} at line {error.lineno}") from error
    if isinstance(document, list):
        return _conversations(document)
    if isinstance(document, dict) and "output_lens" in document:
        return _result(document, f"{name} {path}")
    raise ConfigError(
        f"{name} {path} is neither a list of conversations (ShareGPT) nor a result of `presize bench serve "
        "--save-detailed`"
    )


def _conversations(entries: list[Any]) -> Rows[Shape]:
    rows: Rows[Shape] = Rows(unit="conversation")
    for number, entry in enumerate(entries, 1):
        turns = entry.get("conversations") if isinstance(entry, dict) else None
        texts = [turn.get("value") if isinstance(turn, dict) else None for turn in turns or []][:2]
        if len(texts) < 2 or not all(isinstance(text, str) and text.strip() for text in texts):
            rows.bad.append(f"conversation {number}: it has no two turns of text")
            continue
        prompt, answer = (-(-len(text) // CHARACTERS_A_TOKEN) for text in texts if text is not None)
        rows.good.append(Shape(prompt, answer, row=number))
    return rows


def _result(document: dict[str, Any], file: str) -> Rows[Shape]:
    columns = [document.get(name) for name in ("input_lens", "output_lens", "start_times")]
    if any(not isinstance(column, list) or len(column) != len(columns[0] or ()) for column in columns):
        raise ConfigError(f"{file} must have lists of one length, input_lens, output_lens and start_times")
    rows: Rows[Shape] = Rows(unit="request", timed=True)
    for number, (given, made, start) in enumerate(zip(*(column or [] for column in columns), strict=True), 1):
        try:
            if made == 0:  # it failed
                rows.left_out += 1
                continue
            for value in (given, made):
                if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                    raise BadRow(f"a length is {shown(value)}; it must be a whole number, at least 1")
            if isinstance(start, bool) or not isinstance(start, int | float):
                raise BadRow(f"start_times has {shown(start)}; it must be a number")
            rows.good.append(Shape(given, made, float(start), row=number))
        except BadRow as reason:
            rows.bad.append(f"request {number}: {reason}")
    return rows
