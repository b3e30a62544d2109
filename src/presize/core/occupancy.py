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
        self._horizon = max(horizon, 1)
        self.steps: IntArray = GRID[:1]  # as far ahead as any of the requests so far could last
        self._half_block = (block_size - 1) / 2
        # the requests by row of the tables, without gaps: the last one takes the place of one that is gone
        self._requests: list[Request] = []
        self._row: dict[Request, int] = {}
        self._due: IntArray = np.zeros(0, dtype=np.int64)  # output tokens from which the row must be made anew
        self._survival: FloatArray = np.zeros((0, 1))  # s
        self._spread: FloatArray = np.zeros((0, 1))  # s (1 - s)
        self.mean: FloatArray = np.zeros(1)
        self.variance: FloatArray = np.zeros(1)

    def update(self, running: Sequence[Request]) -> None:
        """Forecast for exactly these requests, as they are now."""
        if self._row.keys() != (present := set(running)):
            self._take_stock(running, present)
        requests, count = self._requests, len(self._requests)
        outputs = np.array([r.output_tokens for r in requests], dtype=np.int64)
        (stale,) = np.nonzero(outputs >= self._due[:count])
        if stale.size:
            grown = outputs[stale]
            rows = self._rows([requests[row] for row in stale.tolist()], grown)
            self._survival[stale] = rows
            self._spread[stale] = rows * (1.0 - rows)
            self._due[stale] = grown + np.minimum(np.maximum(grown // self._REFRESH_SHARE, 1), self._REFRESH_MOST)
        held = np.array([r.prompt_tokens for r in requests], dtype=np.int64) + outputs + self._half_block
        # sums over requests of s and c s; of v, c v and c^2 v with v = s (1 - s): no array of the table's size is made
        one, square = np.ones(count), held * held
        survival, spread = self._survival[:count], self._spread[:count]
        self.mean = held @ survival + self.steps * (one @ survival)
        self.variance = square @ spread + self.steps * (2.0 * (held @ spread) + self.steps * (one @ spread))

    def _take_stock(self, running: Sequence[Request], present: set[Request]) -> None:
        """Give every running request a row, and the rows of the others to those."""
        for gone in [r for r in self._requests if r not in present]:
            row, last = self._row.pop(gone), self._requests.pop()
            if last is not gone:
                self._requests[row], self._row[last] = last, row
                for table in (self._due, self._survival, self._spread):
                    table[row] = table[len(self._requests)]
        joined = [r for r in running if r not in self._row]
        self._look_ahead(max((r.max_tokens for r in joined), default=1))
        for request in joined:
            self._row[request] = len(self._requests)
            self._requests.append(request)
        if (missing := len(self._requests) - len(self._due)) > 0:
            room = np.zeros((missing, self.steps.size))
            self._due = np.concatenate((self._due, np.zeros(missing, dtype=np.int64)))
            self._survival = np.concatenate((self._survival, room))
            self._spread = np.concatenate((self._spread, room))
        self._due[len(self._requests) - len(joined) : len(self._requests)] = 0

    def _look_ahead(self, tokens: int) -> None:
        """See so many steps ahead, if it was less: all is zero between the old end and the new one."""
        points = min(int(np.searchsorted(GRID, min(tokens, self._horizon))) + 1, GRID.size)
        if (more := points - self.steps.size) > 0:
            self.steps = GRID[:points]
            self._survival, self._spread = (
                np.pad(table, ((0, 0), (0, more))) for table in (self._survival, self._spread)
            )
            self.mean, self.variance = np.pad(self.mean, (0, more)), np.pad(self.variance, (0, more))

    def revised(self, request: Request) -> None:
        """The request has another forecast or prompt: its row is made anew at the next `update`."""
        if (row := self._row.get(request)) is not None:
            self._due[row] = 0

    def _rows(self, requests: Sequence[Request], outputs: IntArray) -> FloatArray:
        return conditional_survival(
            np.array([r.forecast.survival for r in requests]),
            np.array([r.forecast.limit for r in requests]),
            np.array([r.max_tokens for r in requests]),
            outputs,
            self.steps,
        )

    def share(self, request: Request) -> Share:
        """What ``request``, which does not run yet, would add."""
        self._look_ahead(request.max_tokens)
        if request.output_tokens:
            survival = self._rows([request], np.array([request.output_tokens]))[0]
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
