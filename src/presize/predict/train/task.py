"""What a trainer is given, and the trainers there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from presize.core.lengths import IntArray
from presize.predict.base import Query
from presize.predict.features import Features, Float32
from presize.predict.learned import Learned
from presize.predict.log import Log, ServedTokenizer
from presize.predict.model import AnyModel, Progress
from presize.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to learn. held_out: share of the prompts that decides when to stop, calibrates and gives the figures.

    teacher: a predictor whose curves are learned as well, on ``prompts`` that have no answer and on ``variants`` made
    of the log's; both need one.
    """

    kind: str = "attention"
    seed: int = 0
    held_out: float = 0.1
    teacher: Learned | None = None
    prompts: Sequence[Query] = ()
    variants: int = 120_000


@dataclass(frozen=True, slots=True)
class Answers:
    """N requests, what is read of their prompts, (N, 4) side inputs, (N,) lengths, (N,) true where cut off."""

    queries: Sequence[Query]
    prompts: Sequence[IntArray]
    sides: Float32
    lengths: IntArray
    censored: Any

    @classmethod
    def of(cls, log: Log, features: Features) -> Answers:
        """As a model sees a log."""
        prompts = [features.tokens(query) for query in log.queries]
        sides = features.sides(log.queries, [len(prompt) for prompt in prompts])
        return cls(log.queries, prompts, sides, log.lengths, log.censored)

    def by_prompt(self) -> list[list[int]]:
        """Row numbers of the answers to each prompt."""
        found: dict[bytes, list[int]] = {}
        for row, prompt in enumerate(self.prompts):
            found.setdefault(prompt.tobytes(), []).append(row)
        return list(found.values())


@dataclass(frozen=True, slots=True)
class Task:
    """What a trainer is given. cells: K, how many cells of the grid the log can tell something about."""

    answers: Answers
    held_out: Answers
    cells: int
    features: Features
    tokenizer: ServedTokenizer
    recipe: Recipe
    report: Progress


Trainer = Callable[[Task], AnyModel]
TRAINERS: Registry[Trainer] = Registry("kind of learned predictor")
