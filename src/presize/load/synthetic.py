"""Prompts that are made up, of a length in the server's own tokens.

No tokenizer is loaded: the server says in `usage` how many tokens two probes had, and that gives a line, from words to
tokens. The words are common ones, a token each for most tokenizers; every prompt repeats them in an order of its own,
so that no two begin alike and a prefix cache finds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from presize.load.rows import Sample
from presize.traces.rows import Shape

_COMMON = "time year people way day man thing woman life child world school state family student group"
WORDS = tuple(_COMMON.split())
PROBES = (len(WORDS), 3 * len(WORDS))  # words: whole rounds, so that the order does not matter


@dataclass(frozen=True, slots=True)
class Ruler:
    """Tokens of a prompt: ``frame``, which is what a chat template adds, and ``per_word`` for each word."""

    frame: float = 0.0
    per_word: float = 1.0

    @classmethod
    def through(cls, short: int, long: int) -> Ruler:
        """From the tokens of two prompts of PROBES words; one token a word if they make no sense."""
        per_word = (long - short) / (PROBES[1] - PROBES[0])
        return cls(short - PROBES[0] * per_word, per_word) if per_word > 0 else cls()

    def words(self, tokens: int) -> int:
        """How many words come nearest to so many tokens; at least one."""
        return max(1, round((tokens - self.frame) / self.per_word))


def sentence(words: int, random: np.random.Generator) -> str:
    """So many words: WORDS in one random order, again and again."""
    order = [WORDS[i] for i in random.permutation(len(WORDS))]
    rounds, rest = divmod(words, len(order))
    return " ".join(order * rounds + order[:rest])


def made_up(shapes: Sequence[Shape], output_len: int | None, ruler: Ruler, random: np.random.Generator) -> list[Sample]:
    """A request for each shape; ``output_len`` overrules all of theirs."""
    return [
        Sample(
            prompt=sentence(ruler.words(shape.input_len), random),
            output_len=shape.output_len if output_len is None else output_len,
            asked_tokens=shape.input_len,
        )
        for shape in shapes
    ]


def random_shapes(
    count: int, input_len: int, output_len: int, spread: float, random: np.random.Generator
) -> list[Shape]:
    """``count`` shapes, both lengths drawn evenly from their mean x (1 - spread) to their mean x (1 + spread)."""
    inputs, outputs = (_lengths(count, mean, spread, random) for mean in (input_len, output_len))
    return [Shape(length, answer) for length, answer in zip(inputs, outputs, strict=True)]


def _lengths(count: int, mean: int, spread: float, random: np.random.Generator) -> list[int]:
    low, high = max(1, round(mean * (1 - spread))), max(1, round(mean * (1 + spread)))
    return [int(length) for length in random.integers(low, high + 1, count)]
