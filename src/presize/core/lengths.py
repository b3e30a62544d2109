"""A length as a survival curve: S(t) = P(output length > t).

The curve is kept on one grid of token counts for the whole program: every count up to 32, then steps of ten per cent
up to 2**20. Between grid points it is linear. The answer is cut off at ``limit``: S(t) = 0 for t >= limit.
Shapes: R requests, G grid points, K look-ahead points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MAX_LENGTH = 2**20
_EXACT = 32
_RATIO = 1.1


def _make_grid() -> IntArray:
    counts = list(range(_EXACT + 1))
    while counts[-1] < MAX_LENGTH:
        counts.append(min(MAX_LENGTH, max(counts[-1] + 1, round(counts[-1] * _RATIO))))
    return np.array(counts, dtype=np.int64)


GRID: IntArray = _make_grid()
WIDTHS: IntArray = np.diff(GRID)
# cell of every count, so that a lookup is one gather instead of a binary search
_CELL = np.repeat(np.arange(len(WIDTHS), dtype=np.int16), WIDTHS)
_CELL = np.append(_CELL, np.int16(len(WIDTHS) - 1))
_GRID_F = GRID.astype(np.float64)
_INVERSE_WIDTH = 1.0 / WIDTHS
_TINY = 1e-9


def cell_of(counts: ArrayLike) -> NDArray[np.int16]:
    """Index k with GRID[k] <= count < GRID[k + 1]; counts at or beyond the grid's end fall into the last cell."""
    return _CELL[np.minimum(np.asarray(counts, dtype=np.int64), MAX_LENGTH)]


@dataclass(frozen=True, eq=False, slots=True)
class LengthDistribution:
    """Distribution of an answer's length in tokens (at least 1).

    survival: (G,) float64, starts at 1, never rises, stays in [0, 1]; build it with `from_survival`, which repairs
    anything. limit: the answer is cut off there, in tokens.
    """

    survival: FloatArray
    limit: int = MAX_LENGTH

    @classmethod
    def from_survival(cls, raw: ArrayLike, limit: int = MAX_LENGTH) -> LengthDistribution:
        """A valid curve from any (G,) numbers: NaN carries the value before it on, then clipped and made monotone."""
        values = np.array(raw, dtype=np.float64).reshape(-1)
        if values.shape != GRID.shape:
            raise ValueError(f"survival has {values.size} points; it must have {GRID.size}")
        values = np.where(np.isnan(values), np.inf, values)  # inf never lowers the running minimum
        values = np.minimum.accumulate(np.clip(values, 0.0, 1.0))
        values[0] = 1.0
        return cls(values, int(min(max(limit, 1), MAX_LENGTH)))

    @classmethod
    def exactly(cls, tokens: int) -> LengthDistribution:
        """Known length: S is 1 before it, 0 from it on."""
        return cls(_ONES, int(min(max(tokens, 1), MAX_LENGTH)))

    def capped(self, limit: int) -> LengthDistribution:
        """The same curve, cut off at ``limit`` if that is earlier; shares the survival array."""
        return self if limit >= self.limit else LengthDistribution(self.survival, max(int(limit), 1))

    def at(self, counts: ArrayLike) -> FloatArray:
        """S at each count, in the shape of ``counts``."""
        t = np.asarray(counts, dtype=np.int64)
        return np.where(t >= self.limit, 0.0, _interpolate(self.survival, t))

    def conditional(self, generated: int, steps: ArrayLike) -> FloatArray:
        """P(more than ``steps`` tokens still come | ``generated`` are out), in the shape of ``steps``."""
        t = np.atleast_1d(np.asarray(steps, dtype=np.int64))
        row = conditional_survival(
            self.survival[None], np.array([self.limit]), np.array([self.limit]), np.array([generated]), t.reshape(-1)
        )
        return row.reshape(np.shape(steps))

    def quantile(self, q: float) -> int:
        """Smallest count n with P(length <= n) >= q, at most ``limit``."""
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"q is {q}; it must be in [0, 1]")
        target = 1.0 - q
        below = np.flatnonzero(self.survival <= target + _TINY)
        if below.size == 0:
            return self.limit
        k = int(below[0])
        if k == 0:
            return 1
        high, low = self.survival[k - 1], self.survival[k]
        exact = _GRID_F[k - 1] + (high - target) / max(high - low, _TINY) * WIDTHS[k - 1]
        return int(min(max(np.ceil(exact - _TINY), 1), self.limit))

    def mean_remaining(self, generated: int = 0, at_most: int = MAX_LENGTH) -> float:
        """Expected tokens still to come after ``generated`` (0: the mean length), with a cut-off at ``at_most``."""
        return float(self._work(generated, at_most)[0][-1])

    def gittins_rank(self, generated: int = 0, at_most: int = MAX_LENGTH) -> float:
        """1 / Gittins index, in tokens: min over horizons d of E[min(rest, d)] / P(rest <= d).

        Small means "likely over soon"; for a known length it is what is left. (Gittins 1979; Scully and
        Harchol-Balter 2020 for its use with unknown sizes.)
        """
        work, done = self._work(generated, at_most)
        return float(np.min(work / np.maximum(done, _TINY)))

    def _work(self, generated: int, at_most: int) -> tuple[FloatArray, FloatArray]:
        """E[min(rest, d)] and P(rest <= d) for horizons d on the grid, the last one where the answer is cut off.

        E[min(rest, d)] is the sum of P(rest > t) over t < d; a cell of width w with ends a, b adds w (a + b) / 2 +
        (a - b) / 2.
        """
        end = at_most if generated >= self.limit else min(self.limit, at_most)
        left = max(end - generated, 1)
        points = int(np.searchsorted(GRID, left))
        steps = np.append(GRID[:points], left)
        # not cut off at the end itself, where the height just before the cut is needed
        if generated == 0:  # nothing to condition on: the curve itself
            last = min(points, GRID.size - 1)
            share = min((left - GRID[last - 1]) * _INVERSE_WIDTH[last - 1], 1.0)
            before, after = self.survival[last - 1 : last + 1]
            s = np.append(self.survival[:points], before + (after - before) * share)
        else:
            beyond = np.array([MAX_LENGTH + left + 1])
            forecast_end = np.array([self.limit]) if generated >= self.limit else beyond
            s = conditional_survival(self.survival[None], forecast_end, beyond, np.array([generated]), steps)[0]
        cells = 0.5 * (np.diff(steps) * (s[:-1] + s[1:]) + (s[:-1] - s[1:]))
        done = 1.0 - s[1:]
        done[-1] = 1.0
        return np.cumsum(cells), done


_ONES: FloatArray = np.ones(GRID.size)


def _interpolate(survival: FloatArray, counts: IntArray) -> FloatArray:
    cell = cell_of(counts)
    fraction = np.minimum((counts - _GRID_F[cell]) * _INVERSE_WIDTH[cell], 1.0)
    left = survival[cell]
    return np.asarray(left + (survival[cell + 1] - left) * fraction)


def conditional_survival(
    survivals: FloatArray, forecast_limits: IntArray, hard_limits: IntArray, generated: IntArray, steps: IntArray
) -> FloatArray:
    """(R, K): P(request r is still running ``steps[k]`` tokens from now | ``generated[r]`` are out).

    survivals (R, G); forecast_limits (R,) where each forecast ends; hard_limits (R,) max_tokens; generated (R,);
    steps (K,). A request that has outlived its forecast (S(generated) = 0) is expected to last about as long again
    as it has lasted: s(tau) = g / (g + tau), Lindy's law, so a wrong forecast is never trusted twice.
    """
    # the first column is that of now
    ahead = generated[:, None] + np.concatenate(([0], steps))
    table = _row_interpolate(survivals, ahead)
    now = table[:, 0] * (generated < forecast_limits)
    ahead, result = ahead[:, 1:], table[:, 1:]
    result *= (1.0 / np.maximum(now, _TINY))[:, None]
    limits = np.minimum(forecast_limits, hard_limits)
    outlived = now <= _TINY
    if outlived.any():
        g = np.maximum(generated[outlived], 1)[:, None]
        result[outlived] = g / (g + steps[None, :])
        limits = np.where(outlived, hard_limits, limits)
    result[ahead >= limits[:, None]] = 0.0
    return np.minimum(result, 1.0, out=result)


def _row_interpolate(survivals: FloatArray, counts: IntArray) -> FloatArray:
    """survivals (R, G) at counts (R, K), row by row. `take` on flat arrays: half the time of fancy indexing."""
    counts = np.minimum(counts, MAX_LENGTH)
    place = _CELL.take(counts).astype(np.int64)
    fraction = counts - _GRID_F.take(place)
    fraction *= _INVERSE_WIDTH.take(place)
    place += (np.arange(len(survivals)) * GRID.size)[:, None]
    left = survivals.take(place)
    place += 1
    right = survivals.take(place)
    right -= left
    right *= fraction
    left += right
    return left
