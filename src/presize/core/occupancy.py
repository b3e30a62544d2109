"""The occupancy forecast: how many KV tokens the running requests will hold, tau steps from now.

mean(tau)     = sum_i (c_i + tau) s_i(tau)
variance(tau) = sum_i (c_i + tau)^2 s_i(tau) (1 - s_i(tau))

c_i: tokens held once what is known of the request is computed, rounded up by half a block, which is what paging
wastes on average; s_i(tau): its survival given what it has generated. The requests are taken as independent, so their
sum is far better known than any of them; that is why this packs more than booking an upper bound for each.
Shapes: R requests, K look-ahead points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from presize.core.lengths import GRID, FloatArray, IntArray, conditional_survival
from presize.core.request import Request


class Share(NamedTuple):
    """One request's part of the forecast: (K,) mean and variance, in tokens and tokens squared."""

    mean: FloatArray
    variance: FloatArray


class OccupancyForecast:
    """Forecast for a set of requests; candidates are tried and added one by one, each in O(K)."""

    def __init__(self, running: Sequence[Request], block_size: int, horizon: int) -> None:
        """``horizon``: how many steps ahead matter, at most (no request lasts longer)."""
        points = int(np.searchsorted(GRID, max(horizon, 1))) + 1  # the first grid point at or past the horizon counts
        self.steps: IntArray = GRID[:points]
        self._half_block = (block_size - 1) / 2
        self.mean: FloatArray = np.zeros(self.steps.size)
        self.variance: FloatArray = np.zeros(self.steps.size)
        if running:
            mean, variance = self._rows(running)
            self.mean, self.variance = mean.sum(axis=0), variance.sum(axis=0)

    def _rows(self, requests: Sequence[Request]) -> tuple[FloatArray, FloatArray]:
        survival = conditional_survival(
            np.stack([r.forecast.survival for r in requests]),
            np.array([r.forecast.limit for r in requests]),
            np.array([r.max_tokens for r in requests]),
            np.array([r.output_tokens for r in requests]),
            self.steps,
        )
        held = np.array([r.total_tokens for r in requests])[:, None] + (self.steps + self._half_block)
        mean = held * survival
        held -= mean
        held *= mean  # (c + tau)^2 s (1 - s)
        return mean, held

    def share(self, request: Request) -> Share:
        """What ``request`` would add."""
        mean, variance = self._rows([request])
        return Share(mean[0], variance[0])

    def first_overflow(self, capacity: int, risk: float, candidate: Share) -> float:
        """Steps until mean + risk * sqrt(variance) exceeds ``capacity`` with the candidate in; inf if never."""
        level = self.mean + candidate.mean + risk * np.sqrt(self.variance + candidate.variance)
        over = level > capacity
        first = int(np.argmax(over))
        return float(self.steps[first]) if over[first] else math.inf

    def add(self, share: Share) -> None:
        """Count the candidate in."""
        self.mean = self.mean + share.mean
        self.variance = self.variance + share.variance

    def peak(self, risk: float) -> int:
        """Highest level of mean + risk * sqrt(variance), in tokens: what the forecast has booked."""
        return int(np.max(self.mean + risk * np.sqrt(self.variance)))
