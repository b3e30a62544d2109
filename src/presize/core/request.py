"""A request as the scheduler sees it: counts and a forecast, no text and no tensors."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from presize.core.lengths import LengthDistribution

OVERRUN_QUANTILE = 0.99  # an answer longer than this quantile of its forecast was under-predicted


class RequestState(enum.Enum):
    """WAITING -> RUNNING -> FINISHED; RUNNING -> PREEMPTED -> RUNNING when memory ran short."""

    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Request:
    """One sequence. All counts are in tokens; ``arrival_s`` is on the caller's clock, in seconds.

    computed_tokens: how many tokens have their keys and values in the cache. A running request whose
    ``uncomputed_tokens`` is 1 decodes; more than that, and it still prefills (its prompt, or, after a preemption,
    its prompt and what it had generated).
    """

    request_id: str
    prompt_tokens: int
    max_tokens: int
    forecast: LengthDistribution
    arrival_s: float = 0.0
    priority: int = 0
    state: RequestState = RequestState.WAITING
    output_tokens: int = 0
    computed_tokens: int = 0
    kv_capacity: int = 0  # tokens that its blocks can hold
    preemptions: int = 0
    started_at: int = 0  # output tokens when it was started or resumed last
    recomputed_tokens: int = 0
    entry: int | None = None  # rank among all that were ever queued; kept over preemptions
    admission: int | None = None  # rank among all first admissions; kept over preemptions
    expected_tokens: float = 1.0  # mean of the forecast when it was queued
    overrun_at: int = 0  # output tokens from which the request counts as under-predicted
    reservations_doubled: int = 0  # policy s3: times its reservation ran out

    @property
    def total_tokens(self) -> int:
        """Prompt and answer so far."""
        return self.prompt_tokens + self.output_tokens

    @property
    def uncomputed_tokens(self) -> int:
        """Tokens that must go through the model before the next one can be drawn."""
        return self.total_tokens - self.computed_tokens

    @property
    def longest(self) -> int:
        """Prompt and the longest answer allowed."""
        return self.prompt_tokens + self.max_tokens

    @property
    def overrun(self) -> bool:
        """True once the answer is longer than its forecast thought possible."""
        return self.output_tokens >= self.overrun_at

    def foresee(self, forecast: LengthDistribution) -> None:
        """Go by ``forecast`` from now on."""
        self.forecast = forecast
        self.overrun_at = forecast.quantile(OVERRUN_QUANTILE) + 1
