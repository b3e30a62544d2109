"""The bound on tokens that is known from bytes alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from presize.engine.tokenizer import Tokenizer, longest_token
from presize.errors import CapacityError, InvalidRequestError

PIECES = st.sampled_from(
    ["the cat", " and", "<|end|>", "<|user", "é", "😀", "\n\n", "\x00", "e\u0301", "   ", "a" * 50]
)
TEXTS = st.lists(PIECES | st.text(max_size=5), max_size=20).map("".join)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Any) -> Tokenizer:
    return Tokenizer(tiny_model)


def content() -> dict[str, Any]:
    """A `tokenizer.json`, to be changed."""
    return json.loads(tiny.tokenizer().backend_tokenizer.to_str())


@given(TEXTS)
def test_a_text_never_has_fewer_tokens_than_its_bytes_ask_for(tokenizer: Tokenizer, text: str) -> None:
    longest = longest_token(content())
    assert longest > 5
    ids = tokenizer.encode(text)
    assert len(ids) * longest >= len(text.encode())
    assert tokenizer.encode(text, most=len(ids)) == ids, "what fits is never refused"


def test_what_is_certain_not_to_fit_is_refused_without_tokens(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "_inner", None)
    tokenizer.__dict__["_longest_token"] = 8
    with pytest.raises(CapacityError, match=r"has 90 bytes, which are 12 tokens at least; .* it must fit 12"):
        tokenizer.encode("é" * 45, most=11)
    with pytest.raises(InvalidRequestError, match="surrogate"):
        tokenizer.encode("\ud800", most=0)


CHANGES: dict[str, dict[str, Any]] = {
    "a normalizer": {"normalizer": {"type": "NFC"}},
    "truncation": {"truncation": {"max_length": 5}},
    "no byte level": {"pre_tokenizer": None},
    "spaces are dropped": {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "ByteLevel"}]}
    },
    "a token that takes spaces in": {"added_tokens": [{"content": "<|x|>", "lstrip": True, "rstrip": False}]},
    "another algorithm": {"model": {**content()["model"], "type": "WordPiece"}},
    "bytes that are unknown": {"model": {**content()["model"], "vocab": {"a": 0}}},
}


@pytest.mark.parametrize("name", CHANGES)
def test_where_bytes_may_be_lost_nothing_is_certain(name: str) -> None:
    assert longest_token({**content(), **CHANGES[name]}) == 0


def test_long_added_tokens_count_with_their_bytes() -> None:
    added = [{"content": "é" * 40, "lstrip": False, "rstrip": False}]
    assert longest_token({**content(), "added_tokens": added}) == 80
