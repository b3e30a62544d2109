"""How good forecasts are: rank, distance, spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from presize.core.lengths import FloatArray, IntArray, LengthDistribution
from presize.errors import require

_LEVELS = np.round(np.arange(0.1, 0.95, 0.1), 1)
_BUCKETS = 10
_MAX_SUMMED = 8192  # tokens up to which a score over all lengths is summed


def evaluate(curves: Sequence[LengthDistribution], lengths: IntArray, censored: Any) -> dict[str, float]:
    """Figures of N forecasts against N answers; every forecast ends at its request's max_tokens.

    An answer that was cut off counts with the length it had. coverage: share of the answers within the central 50 or
    90 %; one that was cut off before max_tokens counts as inside unless it was above already.
    mae, median_absolute_error: of the median, tokens. log_r2: of the log of the median. crps: tokens (Gneiting and
    Raftery 2007); up to the cut-off for an answer that was cut off. pinball: mean over the quantiles 0.1 to 0.9,
    tokens. bucket_accuracy_10: ten equal buckets up to the largest max_tokens, as in S^3.
    """
    median = np.array([curve.quantile(0.5) for curve in curves], dtype=np.float64)
    error = np.abs(median - lengths)
    logs, guess = np.log(lengths), np.log(median)
    spread = float(((logs - logs.mean()) ** 2).sum()) if np.ptp(lengths) else 0.0  # not what rounding makes of it
    longest = max(curve.limit for curve in curves)
    longest = min(longest, int(lengths.max())) if longest > _MAX_SUMMED else longest
    bucket = longest / _BUCKETS
    return {
        "n": len(curves),
        "kendall_tau": kendall_tau(median, lengths),
        "mae": float(error.mean()),
        "median_absolute_error": float(np.median(error)),
        "log_r2": 1.0 - float(((logs - guess) ** 2).sum()) / spread if spread > 0 else 0.0,
        "crps": _crps(curves, lengths, censored),
        "pinball": _pinball(curves, lengths),
        "coverage_50": _coverage(curves, lengths, censored, 0.5),
        "coverage_90": _coverage(curves, lengths, censored, 0.9),
        "bucket_accuracy_10": float((np.ceil(median / bucket) == np.ceil(lengths / bucket)).mean()),
    }


def kendall_tau(guess: FloatArray, truth: IntArray) -> float:
    """Kendall's tau-b; 0 where either is constant."""
    require("scipy", "learn", "evaluating")
    from scipy.stats import kendalltau

    if len(guess) < 2 or np.ptp(guess) == 0 or np.ptp(truth) == 0:
        return 0.0
    return float(kendalltau(guess, truth).statistic)


def _coverage(curves: Sequence[LengthDistribution], lengths: IntArray, censored: Any, share: float) -> float:
    """Share of the answers whose level, half way between F(L - 1) and F(L), is in the central ``share`` of [0, 1].

    Lengths are whole: the interval between two quantiles with both its ends holds more than its share, without one of
    them less (Czado, Gneiting and Held 2009 on counts).
    """
    inside = 0
    for curve, length, cut in zip(curves, lengths, censored, strict=True):
        before, after = 1.0 - curve.at([length - 1, length])
        if cut and length < curve.limit:
            inside += after <= 0.5 + share / 2
        else:
            inside += abs(0.5 * (before + after) - 0.5) <= share / 2
    return inside / len(curves)


def _pinball(curves: Sequence[LengthDistribution], lengths: IntArray) -> float:
    guesses = np.array([[curve.quantile(float(q)) for q in _LEVELS] for curve in curves], dtype=np.float64)
    over = lengths[:, None] - guesses
    return float(np.maximum(_LEVELS * over, (_LEVELS - 1.0) * over).mean())


def _crps(curves: Sequence[LengthDistribution], lengths: IntArray, censored: Any) -> float:
    """Sum over t of (F(t) - [L <= t])^2, mean over the answers."""
    total = 0.0
    for curve, length, cut in zip(curves, lengths, censored, strict=True):
        t = np.arange(min(int(length) if cut else curve.limit, _MAX_SUMMED))
        total += float((((1.0 - curve.at(t)) - (length <= t)) ** 2).sum())
    return total / len(curves)
