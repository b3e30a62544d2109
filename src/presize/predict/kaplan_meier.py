"""One curve for all requests: the survival of the answers so far, cut-off and running ones counted as censored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from presize.config import SchedulerOptions
from presize.core.lengths import GRID, FloatArray, IntArray, LengthDistribution, cell_of
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
        self._censored: FloatArray = np.zeros(GRID.size - 1)
        prior = self._PRIOR_MEDIAN / (self._PRIOR_MEDIAN + GRID)
        self._prior_hazard: FloatArray = 1.0 - prior[1:] / prior[:-1]
        self._curve = LengthDistribution.from_survival(prior)

    def predict(self, queries: Sequence[Query]) -> list[LengthDistribution]:
        """The same live curve for every query, cut off at its max_tokens."""
        return [self._curve.capped(query.max_tokens) for query in queries]

    def observe(self, query: Query, output_tokens: int, *, censored: bool) -> None:
        # a length L lies in the cell (GRID[k], GRID[k + 1]]; a cut-off at L is known to exceed L
        if censored:
            self._censored[cell_of(output_tokens)] += 1
        else:
            self._ended[cell_of(max(output_tokens - 1, 0))] += 1

    def refresh(self, running: IntArray) -> None:
        leaving = self._censored + np.bincount(cell_of(running), minlength=GRID.size - 1)
        at_risk = np.cumsum((self._ended + leaving)[::-1])[::-1]
        # actuarial rule: those cut off inside a cell were at risk for half of it, but for one that starts it
        at_risk = at_risk - 0.5 * leaving
        hazard = (self._ended + self._PRIOR_WEIGHT * self._prior_hazard) / (at_risk + self._PRIOR_WEIGHT)
        # in place: every waiting and running request sees the new curve
        self._curve.survival[1:] = np.cumprod(1.0 - np.minimum(hazard, 1.0))
