"""How much a model attends to each word of a prompt, whatever tokens the words are made of."""

from __future__ import annotations

import numpy as np
import pytest
from explaining import FRAMED, Spot, attentive, bytes_reader, features
from hypothesis import assume, given
from hypothesis import strategies as st

from presize.predict.calibration import Calibration
from presize.predict.explain import Reader, explain
from presize.predict.features import MAX_READ
from presize.predict.learned import Learned

PROMPTS = [
    "Write a short story.", "🙂🙂 👩‍👩‍👧 🏴󠁧󠁢󠁥󠁮󠁧󠁿", "Fix this:\n\n  def f():\n\treturn 1\r\n", "写一个 故事。 naïve café ﬁn",
    "\ufffd \ufffd\ufffd x", "user <user> answer <answer> user", "\u3000a\u2003b\x1c c\x85d", " 0 1 ",
]  # fmt: skip


@pytest.mark.parametrize("text", ["Hi", "🙂", "👩‍👩‍👧", "\n Hi\n"])
def test_one_word_has_all_the_attention_and_no_effect(text: str) -> None:
    found = explain(Learned(attentive(), features(*FRAMED), Calibration()), bytes_reader(), text)
    assert [(word.text, word.effect) for word in found.words] == [(text.strip(), None)]
    assert found.words[0].attention == pytest.approx(1.0)
    assert found.left_out == 0


@pytest.mark.parametrize("stripped", [True, False])
@pytest.mark.parametrize("text", PROMPTS)
def test_attention_sums_to_one_over_the_words(text: str, stripped: bool) -> None:
    """With and without the template's tokens among those that the model reads."""
    seen = features(*FRAMED) if stripped else features()
    found = explain(Learned(attentive(), seen, Calibration()), bytes_reader(), text)
    shares = [word.attention or 0.0 for word in found.words]
    assert [word.text for word in found.words] == text.split()
    assert sum(shares) == pytest.approx(1.0)
    assert min(shares) > 0
    assert "".join(word.before + word.text for word in found.words) == text.rstrip()


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_can_be_explained(text: str) -> None:
    assume(text.split())
    found = explain(Learned(attentive(), features(*FRAMED), Calibration()), bytes_reader(), text)
    assert [word.text for word in found.words] == text.split()
    assert sum(word.attention or 0.0 for word in found.words) == pytest.approx(1.0)
    assert all(np.isfinite(word.effect or 0.0) for word in found.words)


@pytest.mark.parametrize("stripped", [True, False])
@pytest.mark.parametrize("text", ["Write a story", "🙂🙂 👩‍👩‍👧 🏴󠁧󠁢󠁥󠁮󠁧󠁿 x", "a\n\nnaïve 写一个\tb"])
def test_attention_to_a_token_is_attention_to_its_word(text: str, stripped: bool) -> None:
    """White space belongs to the word after it."""
    content = text.encode()
    for place in range(len(content)):
        token = place if stripped else place + len(FRAMED[0])
        seen = features(*FRAMED) if stripped else features()
        found = explain(Learned(Spot(token), seen, Calibration()), bytes_reader(), text)
        before = content[: place + 1].decode(errors="ignore") + ("x" if content[place] & 0x80 else "")
        blank = content[place : place + 1].isspace()
        expected = len(before.split()) - (0 if blank else 1)
        assert [word.attention for word in found.words] == [float(i == expected) for i in range(len(found.words))]


def test_attention_to_the_template_is_nobodys() -> None:
    for token in (0, len(FRAMED[0]) - 1, len(FRAMED[0]) + 5, len(FRAMED[0]) + 8):  # <, \n, \n, n
        found = explain(Learned(Spot(token), features(), Calibration()), bytes_reader(), "a b c")
        assert [word.attention for word in found.words] == [None] * 3
    for token in (1, 3):  # the template is part of the prompt, too
        words = explain(
            Learned(Spot(len(FRAMED[0]) + token), features(), Calibration()), bytes_reader(), "user b"
        ).words
        assert [word.attention for word in words] == [1.0, 0.0]


def test_a_tokenizer_that_changes_the_text_still_gets_a_share_for_each_word() -> None:
    def shouted(text: str) -> list[int]:
        return list(text.upper().encode())  # two letters for the one of \ufb01

    reader = Reader(shouted, lambda ids: bytes(ids).decode(errors="replace"))
    words = explain(Learned(attentive(), features(), Calibration()), reader, "\ufb01n \ufb01n we go").words
    assert sum(word.attention or 0.0 for word in words) == pytest.approx(1.0)


def test_a_prompt_that_just_fits_is_not_shortened() -> None:
    text = ("ab " * MAX_READ)[: MAX_READ - 2]
    found = explain(Learned(Spot(MAX_READ - 3), features(*FRAMED), Calibration()), bytes_reader(), text)
    assert found.words[-1].attention == 1.0
