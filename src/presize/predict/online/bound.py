"""How far an online predictor may go from the one that it started from.

Whatever is learned, S0(MAX_SHIFT t) <= S(t) <= S0(t / MAX_SHIFT) for every t, where S0 is the curve of the predictor
that was learned offline, which traffic does not change: every quantile stays within that factor of S0's. That is the
promise to a tenant whose neighbours' answers are learned from. N requests, G grid points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from presize.core.lengths import GRID, MAX_LENGTH, WIDTHS, FloatArray, IntArray
from presize.predict.features import Float32
from presize.predict.learned import Learned
from presize.predict.model import AnyModel, LengthModel

MAX_SHIFT = 2.0


def _places(points: FloatArray) -> tuple[IntArray, FloatArray]:
    """Grid cell of each count, and how far it lies in it."""
    cells = np.clip(np.searchsorted(GRID, points, side="right") - 1, 0, GRID.size - 2)
    return cells, np.minimum((points - GRID[cells]) / WIDTHS[cells], 1.0)


def _bounds() -> tuple[FloatArray, FloatArray]:
    """(G,) counts at which S0 is the least, and the most, that S may be at each grid point.

    A curve is linear within a cell, and the bound holds there too: next to a cell of several tokens the count is that
    for the cell's other end.
    """
    grid = GRID.astype(np.float64)
    before = np.where(np.diff(grid, prepend=-1.0) > 1.0, np.roll(grid, 1), grid)
    after = np.where(np.diff(grid, append=grid[-1] + 1.0) > 1.0, np.roll(grid, -1), grid)
    return before * MAX_SHIFT, after / MAX_SHIFT


_LEAST, _MOST = _bounds()
_LEAST_AT, _MOST_AT = _places(_LEAST), _places(_MOST)


def bounded(curves: FloatArray, base: FloatArray) -> FloatArray:
    """(N, G) ``curves``, cut to what (N, G) ``base`` allows; both start at 1 and never rise."""
    least = np.where(MAX_LENGTH < _LEAST, 0.0, _at(base, *_LEAST_AT))
    return np.clip(curves, least, _at(base, *_MOST_AT))


def _at(curves: FloatArray, cells: IntArray, parts: FloatArray) -> FloatArray:
    left = curves[:, cells]
    return np.asarray(left + (curves[:, cells + 1] - left) * parts)


class Served:
    """``learned`` within the bound of ``base``, which reads the same of a prompt; without ``learned``, ``base``."""

    def __init__(self, base: Learned, learned: Learned | None = None) -> None:
        self._base, self._learned = base, learned
        # where only the calibration differs the model is asked once
        self._one_model = learned is None or _same(learned.model, base.model)

    def curves(self, prompts: Sequence[IntArray], sides: Float32) -> FloatArray:
        """(N, G) survival that ends nowhere."""
        told = _reading(self._base).curves(prompts, sides)
        anchor = self._base.calibration.apply(told)
        if self._learned is None:
            return anchor
        if not self._one_model:
            told = _reading(self._learned).curves(prompts, sides)
        return bounded(self._learned.calibration.apply(told), anchor)


def _reading(learned: Learned) -> LengthModel:
    assert isinstance(learned.model, LengthModel)
    return learned.model


def _same(a: AnyModel, b: AnyModel) -> bool:
    mine, other = a.arrays(), b.arrays()
    return type(a) is type(b) and mine.keys() == other.keys() and all(np.array_equal(mine[k], other[k]) for k in mine)
