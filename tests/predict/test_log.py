"""The log: good lines become what they say, a bad one is one sentence that names the file and the line."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from presize.errors import ConfigError, InvalidRequestError
from presize.predict.base import Query
from presize.predict.log import Log, Observation, read_log, read_prompts

GOOD = {"prompt": "ab", "output_tokens": 7}
TALK = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
MAX_LENGTH = 2**20


class Characters:
    """A token a character."""

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        if "\ud800" in text:
            raise InvalidRequestError("prompt holds half of a surrogate pair; it is not valid text")
        return [ord(character) for character in text]

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        return self.encode("".join(f"<{message['role']}>{message['content']}" for message in messages))

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(map(chr, token_ids))

    def fingerprint(self) -> str:
        return "characters"

    def content(self) -> bytes:
        return b"{}"


Read = Callable[..., Any]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """``read(row, b"raw line", ...)`` is the log of a file with them."""

    def get(*rows: dict[str, Any] | bytes, reader: Callable[..., Any] = read_log) -> Any:
        path = tmp_path / "log.jsonl"
        path.write_bytes(b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in rows))
        return reader(path, Characters())

    return get


def complaint(read: Read, *rows: dict[str, Any] | bytes) -> str:
    """What is said of rows, after the name of the file."""
    with pytest.raises(ConfigError) as caught:
        read(*rows)
    text = str(caught.value)
    assert "log.jsonl" in text
    assert "\n" not in text
    assert len(text) < 700
    return text.partition("log.jsonl")[2]


def test_a_line_is_an_answer_with_all_that_was_known(read: Read) -> None:
    log = read(
        {**GOOD, "id": "x", "censored": True, "temperature": 0.5, "max_tokens": 7, "prompt_tokens": 2, "sample": 0,
         "samples": 2, "finish_reason": "length"},
        b"",
        {"messages": TALK, "output_tokens": 3},
        {"prompt": [5, 6, 7], "output_tokens": 1, "temperature": 1},
    )  # fmt: skip
    assert [(row.query.request_id, row.output_tokens, row.censored) for row in log.rows] == [
        ("x", 7, True), ("3", 3, False), ("4", 1, False),
    ]  # fmt: skip
    first, second, third = log.queries
    assert (first.max_tokens, first.temperature, first.system) == (7, 0.5, False)
    assert (second.max_tokens, second.temperature, second.system) == (MAX_LENGTH, 0.0, True)
    assert Characters().decode(second.prompt_token_ids) == "<system>be brief<user>hi"
    assert [list(query.prompt_token_ids) for query in (first, third)] == [[97, 98], [5, 6, 7]]
    assert (log.lengths.tolist(), log.censored.tolist(), len(log)) == ([7, 3, 1], [True, False, False], 3)


def test_rows_that_failed_are_counted_and_passed_over(read: Read) -> None:
    log = read({"id": 1, "line": 1, "error": "too long"}, GOOD, {"error": "x"})
    assert (len(log), log.errors) == (1, 2)


@pytest.mark.parametrize("rows", [[], [b""], [b"  "], [{"id": 1, "error": "too long"}] * 3])
def test_a_log_without_answers_says_how_to_get_one(rows: list[Any], read: Read) -> None:
    assert complaint(read, *rows) == " has no answers; `presize collect` writes such a log"


BAD: dict[str, tuple[dict[str, Any] | bytes, str]] = {
    "length 0": ({**GOOD, "output_tokens": 0}, "output_tokens is 0; it must be a whole number from 1 to 1,048,576"),
    "length below 0": ({**GOOD, "output_tokens": -3}, "output_tokens is -3;"),
    "length a fraction": ({**GOOD, "output_tokens": 2.0}, "output_tokens is 2.0;"),
    "length text": ({**GOOD, "output_tokens": "7"}, "output_tokens is '7';"),
    "length a boolean": ({**GOOD, "output_tokens": True}, "output_tokens is True;"),
    "length null": ({**GOOD, "output_tokens": None}, "output_tokens is None;"),
    "length too large": ({**GOOD, "output_tokens": MAX_LENGTH + 1}, "output_tokens is 1048577;"),
    "length huge": ({**GOOD, "output_tokens": 10**4000}, "output_tokens is 1000"),
    "length NaN": (b'{"prompt": "a", "output_tokens": NaN}', "output_tokens is nan;"),
    "length missing": ({"prompt": "ab"}, "output_tokens is None;"),
    "long text": ({**GOOD, "output_tokens": "x" * 10**6}, "output_tokens is 'xxx"),
    "longer than allowed": ({**GOOD, "max_tokens": 6}, "output_tokens is 7, more than max_tokens, which is 6"),
    "max_tokens 0": ({**GOOD, "max_tokens": 0}, "max_tokens is 0;"),
    "censored a number": ({**GOOD, "censored": 1}, "censored is 1; it must be true or false"),
    "temperature below 0": ({**GOOD, "temperature": -0.1}, "temperature is -0.1; it must be a number from 0 to 100"),
    "temperature text": ({**GOOD, "temperature": "hot"}, "temperature is 'hot';"),
    "temperature a boolean": ({**GOOD, "temperature": True}, "temperature is True;"),
    "temperature NaN": (b'{"prompt": "a", "output_tokens": 7, "temperature": NaN}', "temperature is nan;"),
    "unknown field": ({**GOOD, "output_token": 7}, "unknown field 'output_token'; known: "),
    "unknown long field": ({**GOOD, "y" * 10**5: 7}, "unknown field 'yyy"),
    "both": ({**GOOD, "messages": TALK}, "a row needs exactly one of `prompt` and `messages`"),
    "neither": ({"output_tokens": 7}, "a row needs exactly one of `prompt` and `messages`"),
    "empty prompt": ({**GOOD, "prompt": ""}, "the prompt is empty"),
    "no token ids": ({**GOOD, "prompt": []}, "the prompt is empty"),
    "prompt a number": ({**GOOD, "prompt": 5}, "prompt must be text or a list of token ids"),
    "token ids below 0": ({**GOOD, "prompt": [1, -1]}, "prompt must be text or a list of token ids"),
    "token ids true": ({**GOOD, "prompt": [True]}, "prompt must be text or a list of token ids"),
    "token ids huge": ({**GOOD, "prompt": [2**31]}, "prompt must be text or a list of token ids"),
    "half a pair": (b'{"prompt": "\\ud800", "output_tokens": 7}', "surrogate"),
    "no messages": ({"messages": [], "output_tokens": 7}, "messages must be a list of objects"),
    "messages an object": ({"messages": TALK[0], "output_tokens": 7}, "messages must be a list of objects"),
    "message without role": ({"messages": [{"content": "a"}], "output_tokens": 7}, "messages must be"),
    "message with parts": ({"messages": [{"role": "user", "content": [1]}], "output_tokens": 7}, "both text"),
    "message with more": ({"messages": [{**TALK[1], "name": "x"}], "output_tokens": 7}, "and no more"),
    "another tokenizer": ({**GOOD, "prompt_tokens": 3}, "has 3 tokens, this model's tokenizer makes 2"),
    "not JSON": (b"{'prompt': 1}", "is not JSON"),
    "half a line": (b'{"prompt": "a", "output_', "is not JSON"),
    "a list": (b"[1]", "is not an object"),
    "a number": (b"7", "is not an object"),
    "not UTF-8": ('{"prompt": "é", "output_tokens": 7}'.encode("latin-1"), "is not UTF-8"),
    "nested too deep": (b'{"prompt": ' + b"[" * 100_000, "is not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(BAD))
def test_a_bad_line_is_one_sentence_that_names_it(case: str, read: Read) -> None:
    row, words = BAD[case]
    text = complaint(read, GOOD, b"", row)
    assert text.startswith(", line 3")
    assert words in text


@pytest.mark.parametrize("place", ["id", "censored", "output_tokens", "prompt", "prompt_tokens", "messages", "content"])
def test_however_deep_a_line_is_nested_it_is_read_or_refused(place: str, read: Read) -> None:
    for depth in [*range(300, 1000, 25), *range(960, 1000)]:
        nest = b"[" * depth + b"]" * depth
        if place == "content":
            row = b'{"output_tokens": 7, "messages": [{"role": "user", "content": "a", "x": ' + nest + b"}]}"
        else:
            row = json.dumps({**GOOD, place: "HERE"}).encode().replace(b'"HERE"', nest)
        if place == "id":
            try:
                assert len(read(row)) == 1
                continue
            except ConfigError:
                pass
        complaint(read, row)


def test_a_log_of_another_model_says_what_to_do(read: Read) -> None:
    assert "--model" in complaint(read, {**GOOD, "prompt_tokens": 5})


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.jsonl", tmp_path):
        for reader in (read_log, read_prompts):
            with pytest.raises(ConfigError, match=f"can not read {path}"):
                reader(path, Characters())


def test_progress_is_told_every_byte(tmp_path: Path) -> None:
    path, sizes = tmp_path / "log.jsonl", []
    path.write_bytes(b"\n".join([json.dumps(GOOD).encode(), b"", b'{"error": "x"}', json.dumps(GOOD).encode()]))
    read_log(path, Characters(), sizes.append)
    assert (len(sizes), sum(sizes)) == (4, path.stat().st_size)


def test_prompts_without_answers_need_a_prompt_alone(read: Read) -> None:
    first, second = read({"prompt": "ab", "anything": 1}, {"messages": TALK, "output_tokens": 0}, reader=read_prompts)
    assert (list(first.prompt_token_ids), second.system) == ([97, 98], True)
    with pytest.raises(ConfigError, match=r"log.jsonl, line 2: a row needs exactly one"):
        read({"prompt": "ab"}, {"text": "ab"}, reader=read_prompts)


ROWS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), min_size=1, max_size=60)


def log_of(rows: Sequence[tuple[int, int]]) -> Log:
    """An answer of a length to one of a few prompts, as a list or an array."""
    kinds = (list, np.array, lambda ids: np.array(ids, dtype=np.int32))
    return Log([Observation(Query(str(i), kinds[i % 3]([p, 7]), 99), n, False) for i, (p, n) in enumerate(rows)])


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(ROWS, st.floats(0.01, 0.99), st.integers(0, 2**31))
def test_a_split_keeps_every_row_once_and_a_prompts_answers_together(
    rows: list[tuple[int, int]], share: float, seed: int
) -> None:
    log = log_of(rows)
    rest, out = log.split(share, seed)
    for part in (rest, out):
        assert [row for row in log.rows if row in part.rows] == part.rows
    assert len(rest) + len(out) == len(log)
    prompts = [{tuple(map(int, query.prompt_token_ids)) for query in part.queries} for part in (rest, out)]
    assert not prompts[0] & prompts[1]
    again = log_of(rows[::-1]).split(share, seed)[1]
    assert {tuple(map(int, query.prompt_token_ids)) for query in again.queries} == prompts[1]


def test_the_share_held_out_is_about_the_one_asked_for_and_the_seed_draws_it() -> None:
    log = log_of([(i, 1) for i in range(4000)])
    for share in (0.01, 0.1, 0.5):
        held = len(log.split(share)[1]) / 4000
        assert held == pytest.approx(share, abs=4 * (share * (1 - share) / 4000) ** 0.5)
    ids = [{query.request_id for query in log.split(0.5, seed)[1].queries} for seed in (0, 1)]
    assert len(ids[0] & ids[1]) == pytest.approx(1000, abs=120)
