"""Prompts made of other prompts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presize.predict.train.augment import variants

TEXTS = [
    "Why is the sky blue?",
    "Translate to German:\n\nThe cat sat on the mat.",
    "one",
    "Summarise the text in three sentences.\n\nIt was a dark and stormy night.\n\nThe end",
]
ANY_TEXTS = st.lists(st.text(alphabet="ab \n", max_size=12), max_size=5)


def made(texts: list[str], count: int, seed: int = 0) -> list[str]:
    return list(variants(texts, count, np.random.default_rng(seed)))


@given(ANY_TEXTS, st.integers(0, 60), st.integers(0, 9))
def test_as_many_texts_as_asked_for_and_none_is_blank(texts: list[str], count: int, seed: int) -> None:
    found = made(texts, count, seed)
    assert len(found) == (count if any(text.strip() for text in texts) else 0)
    assert all(text.strip() for text in found)


@pytest.mark.parametrize("texts", [[], [""], ["", " \n", "\t"]])
def test_blank_texts_alone_make_nothing_and_come_to_an_end(texts: list[str]) -> None:
    assert made(texts, 5) == []


def words(texts: list[str]) -> set[str]:
    return {word for text in texts for word in text.split()}


@given(st.lists(st.sampled_from(TEXTS), min_size=1), st.integers(0, 99))
def test_every_word_comes_from_a_source(texts: list[str], seed: int) -> None:
    assert words(made(texts, 40, seed)) <= words(texts)


def test_a_seed_makes_the_same_texts_again_and_another_others() -> None:
    assert made(TEXTS, 50) == made(TEXTS, 50)
    assert made(TEXTS, 50) != made(TEXTS, 50, seed=1)


def test_most_are_new_mix_sources_and_vary() -> None:
    found = made(TEXTS, 400)
    assert len(set(found) - set(TEXTS)) > 200
    mixed = [text for text in found if "blue?" in text.split() and {"cat", "stormy", "German:"} & set(text.split())]
    assert len(mixed) > 10
    assert words(found) == words(TEXTS), "no word is lost"


def test_an_instruction_is_put_before_the_matter_of_another() -> None:
    assert "Translate to German:\n\nIt was a dark and stormy night.\n\nThe end" in made(TEXTS, 400)
