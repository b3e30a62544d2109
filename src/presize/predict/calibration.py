"""Whether answers fall below a curve's quantiles as often as they should, and the correction where they do not.

F(L), the forecast's own distribution at the length that came, is uniform on [0, 1] if the forecast is calibrated (the
probability integral transform). Its distribution G, estimated on answers that were not learned from, is the
correction: G(F(t)) is calibrated (Kuleshov, Fenner and Ermon 2018). Answers that were cut off give a lower bound of
F(L), so G is a Kaplan-Meier estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from presize.core.lengths import FloatArray, IntArray, LengthDistribution

_KNOTS: FloatArray = np.linspace(0.0, 1.0, 41)
_PRIOR_WEIGHT = 100.0  # answers' worth of belief that the forecast is right: what is learned by likelihood nearly is


@dataclass(frozen=True, slots=True)
class Calibration:
    """values (41,): G at 0, 1/40, ... 1; never falls, starts at 0 and ends at 1."""

    values: tuple[float, ...] = tuple(_KNOTS.tolist())

    def __post_init__(self) -> None:
        values = np.array(self.values, dtype=np.float64)
        if values.shape != _KNOTS.shape or not (
            values[0] == 0.0 and values[-1] == 1.0 and (np.diff(values) >= 0.0).all()
        ):
            raise ValueError(f"calibration must be {_KNOTS.size} numbers that rise from 0 to 1")

    @classmethod
    def fit(cls, levels: FloatArray, censored: Any) -> Calibration:
        """From (N,) values of F(L); where ``censored`` is true the answer was cut off: F(L) is at least that."""
        order = np.lexsort((censored, levels))
        ended = ~np.asarray(censored, dtype=bool)[order]
        count = len(order)
        # the prior's weight: spread evenly, so that it is at risk in proportion to what is left of [0, 1]
        at_risk = count - np.arange(count) + _PRIOR_WEIGHT * (1.0 - levels[order])
        jumps = np.where(ended, 1.0 / np.maximum(at_risk, 1.0), 0.0)
        hazard = np.interp(_KNOTS, levels[order], np.cumsum(jumps), left=0.0) if count else np.zeros(_KNOTS.size)
        # the prior's own jumps: weight * du / at_risk(u)
        left = count - np.searchsorted(levels[order], _KNOTS) + _PRIOR_WEIGHT * (1.0 - _KNOTS)
        step = _PRIOR_WEIGHT / (_KNOTS.size - 1) / np.maximum(left[:-1], 1e-9)
        hazard[1:] += np.cumsum(step)
        values = 1.0 - np.exp(-np.maximum.accumulate(hazard))
        values[0], values[-1] = 0.0, 1.0
        return cls(tuple(np.clip(values, 0.0, 1.0).tolist()))

    def apply(self, curves: FloatArray) -> FloatArray:
        """Corrected survival, of any shape."""
        return np.asarray(1.0 - np.interp(1.0 - curves, _KNOTS, self.values))


def levels_of(curves: Sequence[LengthDistribution], lengths: IntArray, censored: Any) -> FloatArray:
    """(N,) F(L) of each answer; for one that ended, half way between F(L - 1) and F(L), for lengths are whole."""
    levels = np.empty(len(curves))
    for i, (curve, length, cut) in enumerate(zip(curves, lengths, censored, strict=True)):
        # the curve's own cut-off is no forecast of an end
        uncut = LengthDistribution(curve.survival)
        before, after = uncut.at([length - 1, length])
        levels[i] = 1.0 - (after if cut else 0.5 * (before + after))
    return levels
