"""One curve for all requests: the survival of the answers so far, cut-off and running ones counted as censored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from presize.config import SchedulerOptions
from presize.core.lengths import GRID, WIDTHS, FloatArray, IntArray, LengthDistribution, cell_of
from presize.predict.base import PREDICTORS, Predictor, Query


@PREDICTORS.register("kaplan-meier")
class KaplanMeier(Predictor):
    """Discrete-time Kaplan-Meier estimate on the grid's cells (Kaplan and Meier 1958).

    hazard_k = (ended_k + w h0_k) / (at_risk_k + w): the prior h0 is that of S0(t) = m / (m + t), Lindy's law, and
    weighs as much as ``w`` answers; it decides where nothing has been seen yet. Answers that still run count as
    at risk up to what they have: without them the first to finish, the short ones, would bias the curve.
    """

    _PRIOR_WEIGHT = 2.0
    _PRIOR_MEDIAN = 128.0

    def __init__(self, options: SchedulerOptions) -> None:
        self._ended: FloatArray = np.zeros(GRID.size - 1)
        self._censored: FloatArray = np.zeros(GRID.size - 1)  # by the cell in which they were last seen
        self._exposure: FloatArray = np.zeros(GRID.size - 1)  # the part of that cell that they were seen to survive
        prior = self._PRIOR_MEDIAN / (self._PRIOR_MEDIAN + GRID)
        self._prior_hazard: FloatArray = 1.0 - prior[1:] / prior[:-1]
        self._curve = LengthDistribution.from_survival(prior)

    def predict(self, queries: Sequence[Query]) -> list[LengthDistribution]:
        """The same live curve for every query, cut off at its max_tokens."""
        return [self._curve.capped(query.max_tokens) for query in queries]

    def observe(self, query: Query, output_tokens: int, *, censored: bool) -> None:
        # a length L lies in the cell (GRID[k], GRID[k + 1]]; a cut-off at L is known to exceed L
        if censored:
            cell, part = _seen(np.array([output_tokens]))
            self._censored[cell] += 1
            self._exposure[cell] += part
        else:
            self._ended[cell_of(max(output_tokens - 1, 0))] += 1

    def refresh(self, running: IntArray) -> None:
        cells, parts = _seen(running)
        exposure = self._exposure + np.bincount(cells, parts, minlength=GRID.size - 1)
        leaving = self._ended + self._censored + np.bincount(cells, minlength=GRID.size - 1)
        beyond = np.cumsum(leaving[::-1])[::-1] - leaving
        at_risk = beyond + self._ended + exposure
        hazard = (self._ended + self._PRIOR_WEIGHT * self._prior_hazard) / (at_risk + self._PRIOR_WEIGHT)
        # in place: every waiting and running request sees the new curve
        self._curve.survival[1:] = np.cumprod(1.0 - np.minimum(hazard, 1.0))


def _seen(counts: IntArray) -> tuple[IntArray, FloatArray]:
    """Cell that each count lies in, and how much of it lies below the count."""
    cells = cell_of(counts).astype(np.int64)
    return cells, np.minimum((counts - GRID[cells]) / WIDTHS[cells], 1.0)
