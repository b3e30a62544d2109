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
    """Forecast for the requests that run; candidates are tried and counted in one by one, each in O(K).

    The rows s_i are kept from step to step, since they change slowly: a row is made anew when its request has grown
    by a sixteenth, at the latest after sixteen tokens. c_i is always exact.
    """

    _REFRESH_SHARE, _REFRESH_MOST = 16, 16

    def __init__(self, block_size: int, horizon: int) -> None:
        """``horizon``: how many steps ahead matter; no request lasts longer than pool or grid are large."""
        self.steps: IntArray = GRID[: int(np.searchsorted(GRID, max(horizon, 1))) + 1]
        points = len(self.steps)
        self._half_block = (block_size - 1) / 2
        self._slots: dict[Request, int] = {}
        self._free: list[int] = []
        self._due: list[int] = []  # by slot: output tokens from which the row must be made anew
        # by slot, (slots, K) each, zero in free slots: s and s (1 - s)
        self._survival: FloatArray = np.zeros((0, points))
        self._spread: FloatArray = np.zeros((0, points))
        self.mean: FloatArray = np.zeros(points)
        self.variance: FloatArray = np.zeros(points)

    def update(self, running: Sequence[Request]) -> None:
        """Forecast for exactly these requests, as they are now."""
        stale = self._take_stock(running)
        if stale:
            slots = [self._slots[r] for r in stale]
            rows = self._rows(stale)
            self._survival[slots] = rows
            self._spread[slots] = rows * (1.0 - rows)
            for slot, request in zip(slots, stale, strict=True):
                grown = min(request.output_tokens // self._REFRESH_SHARE, self._REFRESH_MOST)
                self._due[slot] = request.output_tokens + max(grown, 1)
        held = np.zeros(len(self._survival))
        held[[self._slots[r] for r in running]] = [r.prompt_tokens + r.output_tokens for r in running]
        held += self._half_block
        # sums over requests of s and c s; of v, c v and c^2 v with v = s (1 - s): no array of the table's size is made
        weights = np.stack((np.ones_like(held), held, held * held))
        s0, s1 = weights[:2] @ self._survival
        v0, v1, v2 = weights @ self._spread
        self.mean = s1 + self.steps * s0
        self.variance = v2 + self.steps * (2.0 * v1 + self.steps * v0)

    def _take_stock(self, running: Sequence[Request]) -> list[Request]:
        """Give a slot to every running request and take those of the others back; the requests whose row is due."""
        if self._slots.keys() != set(running):
            present = set(running)
            for gone in [r for r in self._slots if r not in present]:
                slot = self._slots.pop(gone)
                self._survival[slot] = self._spread[slot] = 0.0
                self._free.append(slot)
            for request in [r for r in running if r not in self._slots]:
                if not self._free:
                    self._free.append(len(self._due))
                    self._due.append(0)
                slot = self._slots[request] = self._free.pop()
                self._due[slot] = 0
            if missing := len(self._due) - len(self._survival):
                room = np.zeros((missing, self.steps.size))
                self._survival = np.concatenate((self._survival, room))
                self._spread = np.concatenate((self._spread, room))
        return [r for r in running if r.output_tokens >= self._due[self._slots[r]]]

    def revised(self, request: Request) -> None:
        """The request has another forecast: its row is made anew at the next `update`."""
        if (slot := self._slots.get(request)) is not None:
            self._due[slot] = 0

    def _rows(self, requests: Sequence[Request]) -> FloatArray:
        return conditional_survival(
            np.stack([r.forecast.survival for r in requests]),
            np.array([r.forecast.limit for r in requests]),
            np.array([r.max_tokens for r in requests]),
            np.array([r.output_tokens for r in requests]),
            self.steps,
        )

    def share(self, request: Request) -> Share:
        """What ``request``, which does not run yet, would add."""
        if request.output_tokens:
            survival = self._rows([request])[0]
        else:  # nothing to condition on, and the steps are the grid: the curve itself
            survival = request.forecast.survival[: self.steps.size].copy()
            survival[self.steps >= min(request.forecast.limit, request.max_tokens)] = 0.0
        held = request.total_tokens + self._half_block + self.steps
        mean = held * survival
        return Share(mean, mean * (held - mean))

    def first_overflow(self, capacity: int, risk: float, candidate: Share) -> float:
        """Steps until mean + risk * sqrt(variance) exceeds ``capacity`` with the candidate in; inf if never."""
        level = self.mean + candidate.mean + risk * np.sqrt(self.variance + candidate.variance)
        over = level > capacity
        first = int(np.argmax(over))
        return float(self.steps[first]) if over[first] else math.inf

    def add(self, share: Share) -> None:
        """Count the candidate in, until the next `update`."""
        self.mean = self.mean + share.mean
        self.variance = self.variance + share.variance

    def peak(self, risk: float) -> int:
        """Highest level of mean + risk * sqrt(variance), in tokens: what the forecast has booked."""
        return int(np.max(self.mean + risk * np.sqrt(self.variance)))
