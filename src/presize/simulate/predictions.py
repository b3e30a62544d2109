"""Predictors that know the true lengths of a trace, and what they make of them; and those that know none of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from presize.config import SchedulerOptions
from presize.core.lengths import GRID, FloatArray, LengthDistribution
from presize.errors import ConfigError
from presize.predict.base import PREDICTORS, Predictor, Query
from presize.simulate.options import ForecastOptions

Lengths = Sequence[int]  # of the answers, by the number of their request
# P(Z > z) on a table: numpy has no erf
_Z: FloatArray = np.linspace(-8.0, 8.0, 4001)
_ABOVE: FloatArray = np.array([0.5 * math.erfc(z / math.sqrt(2.0)) for z in _Z])
_LOG_GRID: FloatArray = np.log(np.maximum(GRID, 0.5))


class Exact(Predictor):
    """The truth: the registry's `oracle`, which reads a file, for a trace that has the lengths itself."""

    def __init__(self, options: SchedulerOptions, lengths: Lengths) -> None:
        self._lengths = lengths

    def predict(self, queries: Sequence[Query]) -> list[LengthDistribution]:
        return [LengthDistribution.exactly(self._lengths[int(query.request_id)]) for query in queries]


class Noisy(Exact):
    """log(median / length) is normal with deviation ``forecast_error``, plus log ``forecast_bias``.

    The curve is log-normal around that median, with the same deviation: the predictor knows how good it is, and not
    that it is biased.
    """

    def __init__(self, options: SchedulerOptions, lengths: Lengths, forecasts: ForecastOptions, seed: int) -> None:
        super().__init__(options, lengths)
        self._sigma = forecasts.forecast_error
        noise = np.random.default_rng([seed, 3]).standard_normal(len(lengths))
        self._medians = np.maximum(np.array(lengths) * forecasts.forecast_bias * np.exp(self._sigma * noise), 1.0)

    def predict(self, queries: Sequence[Query]) -> list[LengthDistribution]:
        return [self._curve(float(self._medians[int(q.request_id)])).capped(q.max_tokens) for q in queries]

    def _curve(self, median: float) -> LengthDistribution:
        if self._sigma < 0.01:  # finer than the grid
            return LengthDistribution.exactly(round(median))
        return LengthDistribution.from_survival(np.interp((_LOG_GRID - math.log(median)) / self._sigma, _Z, _ABOVE))


class Adversary(Exact):
    """The truth, but the longest answers are forecast to have a single token."""

    def __init__(self, options: SchedulerOptions, lengths: Lengths, forecasts: ForecastOptions) -> None:
        longest = np.quantile(lengths, 1 - forecasts.adversary_share) if forecasts.adversary_share else math.inf
        super().__init__(options, [1 if length > longest else length for length in lengths])


_WITH_TRUTH: dict[str, Callable[[SchedulerOptions, Lengths, ForecastOptions, int], Predictor]] = {
    "oracle": lambda options, lengths, forecasts, seed: Exact(options, lengths),
    "noisy": Noisy,
    "adversary": lambda options, lengths, forecasts, seed: Adversary(options, lengths, forecasts),
}
_WITHOUT_PROMPTS = ("kaplan-meier", "ewma", "max-tokens")
KNOWN = (*_WITHOUT_PROMPTS, *_WITH_TRUTH)


def check_options(options: SchedulerOptions) -> None:
    """ConfigError unless a trace of lengths is enough for the predictor, and all that is set has a meaning here."""
    name = options.predictor
    if options.learn_online is not None or options.lengths is not None:
        raise ConfigError("learn_online and lengths are not for the simulator: a trace has lengths, and no prompts")
    if name not in ("auto", *KNOWN):
        reads = "; predictors that were learned read prompts, which a trace has not" if name not in PREDICTORS else ""
        raise ConfigError(f"predictor is {name!r}; the simulator knows {', '.join(KNOWN)}{reads}")


def make_predictor(options: SchedulerOptions, lengths: Lengths, forecasts: ForecastOptions, seed: int) -> Predictor:
    """For a trace with these lengths; ``auto`` is kaplan-meier."""
    check_options(options)
    if options.predictor in _WITH_TRUTH:
        return _WITH_TRUTH[options.predictor](options, lengths, forecasts, seed)
    return PREDICTORS.get("kaplan-meier" if options.predictor == "auto" else options.predictor)(options)
