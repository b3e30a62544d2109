"""The interface of a predictor, and the registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from presize.config import SchedulerOptions
from presize.core.lengths import IntArray, LengthDistribution
from presize.registry import Registry


@dataclass(frozen=True, slots=True)
class Query:
    """What is known of a request.

    state: (D,) the served model's hidden state of the prompt's last token, after the last norm; None before the run.
    tenant: whose request it is; what online learning keeps of one tenant is limited.
    """

    request_id: str
    prompt_token_ids: Sequence[int] | NDArray[np.integer[Any]]
    max_tokens: int
    temperature: float = 0.0
    system: bool = False  # the conversation starts with a system prompt of the client's own
    state: NDArray[np.float32] | None = None
    tenant: str = ""


class Predictor(ABC):
    """Forecasts output lengths, and may learn from what the lengths turned out to be.

    needs_states: `refine` is to be called, which the engine then gathers the states for.
    """

    needs_states: bool = False

    def __init__(self, options: SchedulerOptions) -> None:
        """Checks its own options; ConfigError if one it needs is missing."""

    @abstractmethod
    def predict(self, queries: Sequence[Query]) -> list[LengthDistribution]:
        """One curve a query. A predictor that learns may return a live curve, which it goes on updating."""

    def refine(self, queries: Sequence[Query], states: NDArray[np.float32]) -> list[LengthDistribution] | None:
        """Curves for requests whose prompt has been through the served model, or None: those there are stay.

        states: (N, D) its hidden states of the prompts' last tokens, after the last norm.
        """
        return None

    def observe(self, query: Query, output_tokens: int, *, censored: bool) -> None:
        """An answer ended after ``output_tokens``; censored: it was cut off, its own end was not seen."""

    def refresh(self, running: IntArray) -> None:
        """Called after answers ended: (R,) tokens that the running ones have so far, each known to be longer."""

    def describe(self) -> str:
        """What forecasts now, and which version of it, for people and metrics."""
        return type(self).__name__.lower()


PREDICTORS: Registry[type[Predictor]] = Registry("predictor")
