"""Two policies from the literature that book by predicted or remembered lengths: `s3` and `past-future`."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from presize.config import SchedulerOptions
from presize.core.admission import POLICIES, AdmissionPolicy, BookingPolicy, StepView
from presize.core.ledger import Pool
from presize.core.lengths import IntArray
from presize.core.request import Request


@POLICIES.register("s3")
class S3(BookingPolicy):
    """The paper's: ten equal buckets up to max_tokens, book the predicted bucket's upper edge, double after an overrun.

    Best with the order `longest-first`, which makes it decreasing first fit. A request that has used up its booking
    is preempted and comes back with twice as much.
    Source: S^3 (Jin, Wu, Brooks, Wei, NeurIPS 2023), sections on the scheduler and the supervisor.
    """

    first_fit = True
    binding = True
    _BUCKETS = 10

    def booking(self, request: Request) -> int:
        """Prompt + upper edge of the bucket of the predicted median, doubled per overrun; in tokens."""
        predicted = min(request.forecast.quantile(0.5), request.max_tokens)
        width = request.max_tokens / self._BUCKETS
        edge = int(np.ceil(np.ceil(predicted / width) * width)) << request.reservations_doubled
        return request.prompt_tokens + min(edge, request.max_tokens)

    def admits(self, request: Request) -> bool:
        tokens = max(self.booking(request), request.total_tokens + 1)
        if self.ledger.blocks_for(tokens) > self.ledger.unbooked_blocks:
            return False
        self.ledger.reserve(request.request_id, tokens)
        return True

    def ceiling(self, request: Request) -> float:
        reserved = self.ledger.reserved_blocks(request.request_id)
        return reserved * self.ledger.block_size if reserved else math.inf

    def preempted(self, request: Request, running: Sequence[Request]) -> None:
        request.reservations_doubled = min(request.reservations_doubled + 1, 4)  # 2**4 buckets are all ten

    def revised(self, request: Request) -> None:
        """Book by the new forecast, as far as the pool goes; the paper knows no second one."""
        booked = self.ledger.reserved_blocks(request.request_id)
        if booked:  # one that was started without a booking, because nothing ran, goes on without
            tokens = max(self.booking(request), request.total_tokens + 1)
            most = (booked + max(self.ledger.unbooked_blocks, 0)) * self.ledger.block_size
            self.ledger.reserve(request.request_id, min(tokens, most))


@POLICIES.register("past-future")
class PastFuture(AdmissionPolicy):
    """Sample each running request's final length from the recent ones that are longer than it is; admit while the
    largest sampled peak stays under 95 % of the pool.

    Source: Past-Future scheduler, LightLLM (ASPLOS 2025, arXiv 2507.10150): the last 200 output lengths, half of them
    first set to max_tokens; up to 5 scenarios; peak = max_i (i * r_i + sum_{j<=i} u_j), r descending.
    """

    refusal_steps = 1  # other draws, another answer
    _HISTORY, _SCENARIOS, _DRAWS, _FILL = 200, 5, 200, 0.95

    def __init__(self, options: SchedulerOptions, ledger: Pool) -> None:
        super().__init__(options, ledger)
        self._lengths: deque[int] = deque(maxlen=self._HISTORY)
        self._random = np.random.default_rng(0)
        self._live: list[Request] = []

    def begin(self, view: StepView) -> None:
        super().begin(view)
        self._live = list(view.running)

    def admits(self, request: Request) -> bool:
        live = [*self._live, request]
        if self._peak(live, self._random) >= self._FILL * self.ledger.capacity_tokens:
            return False
        self._live = live
        return True

    def finished(self, request: Request) -> None:
        self._lengths.append(request.output_tokens)

    def booked_tokens(self) -> int:
        return self._peak(self.view.running, np.random.default_rng(0)) if self.view.running else 0

    def _peak(self, requests: Sequence[Request], random: np.random.Generator) -> int:
        held = np.array([r.total_tokens for r in requests])
        scenarios = max(1, min(self._SCENARIOS, self._DRAWS // len(requests)))
        peaks = []
        for _ in range(scenarios):
            rest = self._sample_rest(requests, random)
            order = np.argsort(-rest, kind="stable")
            ranks = np.arange(1, len(requests) + 1)
            peaks.append(int(np.max(ranks * rest[order] + np.cumsum(held[order]))))
        return max(peaks)

    def _sample_rest(self, requests: Sequence[Request], random: np.random.Generator) -> IntArray:
        """(R,): to each request's end, a linear quantile of the past lengths beyond what it has, then max_tokens."""
        missing = max(self._HISTORY // 2 - len(self._lengths), 0)
        past = np.sort(np.array(self._lengths, dtype=np.int64))
        given = np.array([r.output_tokens for r in requests])
        limits = np.array([r.max_tokens for r in requests])
        first = np.searchsorted(past, given, side="right")
        place = random.random(len(requests)) * (len(past) - first + missing)
        ends = np.append(past, 2**62)
        low, high = (
            np.minimum(ends[np.minimum(first + rank, len(past))], limits)
            for rank in (np.floor(place).astype(np.int64), np.ceil(place).astype(np.int64))
        )
        drawn = (low + (place - np.floor(place)) * (high - low)).astype(np.int64)
        rest: IntArray = np.minimum(np.maximum(drawn, given + 1), limits) - given
        return rest
