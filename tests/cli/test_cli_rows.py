"""Input lines: what is a row, what is an error, and that an error is all that a line can cause."""

from __future__ import annotations

import io
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presize.cli import rows as rows_module
from presize.cli.generate_options import GenerateOptions
from presize.cli.rows import KNOWN_FIELDS, MAX_ERROR_LENGTH, Row, RowError, read_rows

DEFAULTS = GenerateOptions().sampling()


def read(*lines: bytes | dict[str, Any], chat: bool = False) -> list[Row | RowError]:
    data = b"\n".join(line if isinstance(line, bytes) else orjson.dumps(line) for line in lines)
    return list(read_rows(io.BytesIO(data), DEFAULTS, model="m", chat=chat))


def error_of(line: bytes | dict[str, Any]) -> str:
    (row,) = read(line)
    assert isinstance(row, RowError)
    return row.error


def row_of(line: bytes | dict[str, Any], chat: bool = False) -> Row:
    (row,) = read(line, chat=chat)
    assert isinstance(row, Row), row
    return row


def test_a_prompt_takes_the_commands_defaults_and_its_own_values() -> None:
    row = row_of({"prompt": "hello", "max_tokens": 7, "stop": "x", "temperature": None})
    assert (row.id, row.request_id, row.prompt, row.messages) == ("1", "1", "hello", None)
    assert (row.params.max_tokens, row.params.temperature, row.params.stop) == (7, 0.0, ("x",))


def test_max_completion_tokens_is_max_tokens() -> None:
    assert row_of({"prompt": "x", "max_completion_tokens": 9}).params.max_tokens == 9
    assert "are the same field" in error_of({"prompt": "x", "max_completion_tokens": 9, "max_tokens": 9})


def test_token_ids_messages_and_chat() -> None:
    assert row_of({"prompt": [1, 2]}, chat=True).prompt == [1, 2]
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": "hi"}]
    assert row_of({"messages": messages}).messages == messages
    row = row_of({"prompt": "hi"}, chat=True)
    assert (row.prompt, row.messages) == (None, [{"role": "user", "content": "hi"}])


def test_ids_are_strings_or_whole_numbers_and_unique() -> None:
    found = read({"id": 7, "prompt": "a"}, {"id": "x", "prompt": "b"}, {"id": "7", "prompt": "c"}, {"prompt": "d"})
    assert [row.id for row in found] == [7, "x", "7", "4"]
    assert isinstance(found[2], RowError)
    assert found[2].as_row() == {"id": "7", "line": 3, "error": "id '7' is already the id of line 1"}
    bad: Any
    for bad in (True, 1.5, [], "", "x" * 1025):
        assert error_of({"id": bad, "prompt": "a"}).startswith("id ")


def test_harmless_fields_are_accepted() -> None:
    row_of({"prompt": "x", "user": "u", "metadata": {}, "category": "c", "output_tokens": 5, "model": "m"})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "not JSON"),
        (b'{"prompt": NaN}', "not JSON"),
        (b'{"prompt": "\xff"}', "not UTF-8: byte 13"),
        (b"[1]", "the line is a list"),
        (b"null", "the line is null"),
        (b"3", "the line is a number"),
        (b"[" * 2000, "not JSON"),
        ({}, "exactly one of"),
        ({"prompt": "x", "messages": []}, "exactly one of"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": []}, "the prompt is empty"),
        ({"prompt": [1, -1]}, "list of token ids"),
        ({"prompt": [True]}, "list of token ids"),
        ({"prompt": 5}, "list of token ids"),
        ({"messages": []}, "at least one message"),
        ({"messages": ["x"]}, "message 1"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "content of message 1"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "known: system, user, assistant"),
        ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "and no more"),
        ({"prompt": "x", "stream": True}, "stream has no meaning"),
        ({"prompt": "x", "model": "other"}, "the model that runs is 'm'"),
        ({"prompt": "x", "temperature": "hot"}, "temperature is 'hot'"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens is 0"),
        ({"prompt": "x", "top_p": 0}, "top_p is 0"),
        ({"prompt": "x", "stop": {"a": 1}}, "stop must be"),
    ],
)
def test_errors_say_what_is_wrong(line: bytes | dict[str, Any], words: str) -> None:
    assert words in error_of(line)


def test_an_unknown_field_is_named_with_the_known_ones() -> None:
    error = error_of({"prompt": "x", "max_token": 5})
    assert "unknown field 'max_token'" in error
    assert "did you mean max_tokens?" in error
    assert all(name in error for name in KNOWN_FIELDS)


def test_blank_lines_are_skipped_but_counted_and_a_bom_is_ignored() -> None:
    found = read(b'\xef\xbb\xbf{"prompt": "a"}\r', b"", b"  \t", {"prompt": "b"}, b"")
    assert [(row.line, row.id) for row in found] == [(1, "1"), (4, "4")]


def test_a_line_that_is_too_long_is_an_error_and_the_next_one_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "MAX_LINE_BYTES", 20)
    monkeypatch.setattr(rows_module, "_CHUNK_BYTES", 7)
    found = read(b'{"prompt":"12345678"}', b'{"prompt":"' + b"x" * 50 + b'"}', b'{"prompt":"1234567"}', {"prompt": "b"})
    assert [row.error if isinstance(row, RowError) else "" for row in found] == [
        "the line is longer than 20 bytes",
        "the line is longer than 20 bytes",
        "",
        "",
    ]


def test_a_long_value_does_not_make_a_long_error() -> None:
    assert len(error_of({"prompt": "x", "temperature": "h" * 10_000})) <= MAX_ERROR_LENGTH
    assert len(error_of({"prompt": "x", "y" * 10_000: 1})) <= MAX_ERROR_LENGTH


def test_rows_are_read_lazily() -> None:
    class Endless(io.RawIOBase):
        def readline(self, size: int | None = -1, /) -> bytes:
            return b'{"prompt": "x"}\n'

    stream: Any = Endless()
    rows = read_rows(stream, DEFAULTS, model="m")
    assert [next(rows).id for _ in range(3)] == ["1", "2", "3"]


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "x"]), inner),
    max_leaves=6,
)
_objects = st.dictionaries(st.sampled_from([*KNOWN_FIELDS, "stream", "user", "other"]), _values, max_size=4)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_rows_or_errors(data: bytes) -> None:
    assert all(isinstance(row, Row | RowError) for row in read(data))


@settings(max_examples=500, deadline=None)
@given(_objects)
def test_any_object_is_a_row_or_an_error(value: dict[str, Any]) -> None:
    try:
        line = orjson.dumps(value)
    except orjson.JSONEncodeError:  # integers beyond 64 bits
        return
    (row,) = read(line)
    if isinstance(row, Row):
        assert (row.prompt is None) != (row.messages is None)
    else:
        assert row.error
        orjson.dumps(row.as_row())
