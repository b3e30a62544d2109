"""Prompts that nobody wrote, made of those that somebody did: a student learns its teacher's answers to them.

A teacher can label any text, so the student is not limited to the prompts whose answers were measured; near ones are
worth most (Tang et al. 2019 and Jiao et al. 2020 make them by replacing words).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

_MAX_SPAN = 3  # words


def variants(texts: Sequence[str], count: int, rng: np.random.Generator) -> Iterator[str]:
    """``count`` texts: spans swapped between two, one's beginning with another's end, words left out.

    None where all of ``texts`` are blank.
    """
    texts = [text for text in texts if text.strip()]
    words = [text.split(" ") for text in texts]
    parts = [text.split("\n\n", 1) for text in texts]
    made = 0
    while texts and made < count:
        a, b = rng.integers(len(texts), size=2)
        kind = rng.random()
        if kind < 0.5:
            text = " ".join(_swap(words[a], words[b], rng))
        elif kind < 0.7:
            cut = rng.integers(len(words[a]) + 1)
            text = " ".join(words[a][:cut] + words[b][rng.integers(len(words[b]) + 1) :])
        elif kind < 0.85:
            text = " ".join(word for word in words[a] if rng.random() > 0.15)
        else:
            text = "\n\n".join([parts[a][0], *parts[b][1:]])
        if text.strip():
            made += 1
            yield text


def _swap(one: list[str], other: list[str], rng: np.random.Generator) -> list[str]:
    """``one`` with one to three of its spans replaced by spans of ``other``."""
    for _ in range(int(rng.integers(1, 4))):
        start, source = rng.integers(len(one) + 1), rng.integers(len(other))
        length, taken = rng.integers(_MAX_SPAN + 1), rng.integers(1, _MAX_SPAN + 1)
        one = one[:start] + other[source : source + taken] + one[start + length :]
    return one
