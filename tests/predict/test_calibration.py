"""Calibration: forecasters that are wrong in a known way, corrected on some answers and tried on others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import ndtr

from presize.core.lengths import GRID, LengthDistribution
from presize.predict.calibration import Calibration, levels_of
from presize.predict.hazard import survival_of

KNOTS = np.linspace(0.0, 1.0, 41)
LEVEL = st.floats(0.0, 1.0)


@dataclass(frozen=True)
class World:
    """Lognormal lengths with a median of their own, and what a forecaster says of them."""

    lengths: np.ndarray
    curves: np.ndarray


def world(count: int, seed: int, *, shift: float = 1.0, widen: float = 1.0) -> World:
    """The forecaster takes the medians to be ``shift`` and the log spread ``widen`` times the true ones."""
    rng = np.random.default_rng(seed)
    median, spread = rng.uniform(60.0, 900.0, count), 0.7
    lengths = np.maximum(np.ceil(rng.lognormal(np.log(median), spread)), 1).astype(np.int64)
    logs = np.log(np.maximum(GRID, 1e-3))
    curves = 1.0 - ndtr((logs - np.log(shift * median)[:, None]) / (spread * widen))
    return World(lengths, np.where(GRID == 0, 1.0, curves))


def forecasts(curves: np.ndarray) -> list[LengthDistribution]:
    return [LengthDistribution.from_survival(curve) for curve in curves]


def coverage(curves: np.ndarray, lengths: np.ndarray) -> float:
    """Share of the lengths in the central 90 %."""
    return float(
        np.mean([c.quantile(0.05) <= n <= c.quantile(0.95) for c, n in zip(forecasts(curves), lengths, strict=True)])
    )


def fitted(known: World, cut_at: np.ndarray | None = None) -> Calibration:
    cut = np.zeros(len(known.lengths), dtype=bool) if cut_at is None else known.lengths > cut_at
    lengths = known.lengths if cut_at is None else np.minimum(known.lengths, cut_at)
    return Calibration.fit(levels_of(forecasts(known.curves), lengths, cut), cut)


WRONG = {"too short": {"shift": 0.5}, "too long": {"shift": 2.0}, "too wide": {"widen": 2.5}}


@pytest.mark.parametrize("fault", sorted(WRONG))
def test_a_forecaster_that_is_wrong_the_same_way_each_time_is_corrected(fault: str) -> None:
    calibration = fitted(world(1500, 1, **WRONG[fault]))
    fresh = world(1500, 2, **WRONG[fault])
    assert abs(coverage(fresh.curves, fresh.lengths) - 0.9) > 0.06, "else there is nothing to correct"
    corrected = calibration.apply(fresh.curves)
    assert coverage(corrected, fresh.lengths) == pytest.approx(0.9, abs=0.035)
    below = np.mean([c.quantile(0.5) >= n for c, n in zip(forecasts(corrected), fresh.lengths, strict=True)])
    assert below == pytest.approx(0.5, abs=0.05)


def test_it_is_corrected_as_well_where_answers_were_cut_off() -> None:
    known = world(4000, 3, shift=0.65)
    cut_at = np.random.default_rng(4).integers(50, 1200, len(known.lengths))
    assert (known.lengths > cut_at).mean() > 0.25, "else few are cut off"
    fresh = world(1500, 5, shift=0.65)
    assert coverage(fitted(known, cut_at).apply(fresh.curves), fresh.lengths) == pytest.approx(0.9, abs=0.04)
    blind = fitted(World(np.minimum(known.lengths, cut_at), known.curves))
    below = [np.mean(levels_of(forecasts(c.apply(fresh.curves)), fresh.lengths, np.zeros(1500, dtype=bool)) < 0.5)
             for c in (fitted(known, cut_at), blind)]  # fmt: skip
    assert below[0] == pytest.approx(0.5, abs=0.05)
    assert below[1] < 0.42, "taking cut-offs for ends would not do"


def test_a_known_distribution_of_levels_comes_back_from_cut_off_ones() -> None:
    rng = np.random.default_rng(0)
    levels, cuts = rng.random(20_000) ** 2, rng.random(20_000)
    cut = levels > cuts
    values = np.array(Calibration.fit(np.minimum(levels, cuts), cut).values)
    np.testing.assert_allclose(values, np.sqrt(KNOTS), atol=0.03)
    assert cut.mean() > 0.3


@pytest.mark.parametrize("count", [0, 10, 5000])
def test_a_calibrated_forecaster_is_left_nearly_as_it_is(count: int) -> None:
    levels = (np.arange(count) + 0.5) / max(count, 1)
    np.testing.assert_allclose(Calibration.fit(levels, np.zeros(count, dtype=bool)).values, KNOTS, atol=0.02)


@pytest.mark.parametrize("level", [0.0, 0.31, 1.0])
@pytest.mark.parametrize("cut", [False, True])
def test_one_answer_moves_little(level: float, cut: bool) -> None:
    np.testing.assert_allclose(Calibration.fit(np.array([level]), np.array([cut])).values, KNOTS, atol=0.08)


@given(st.lists(st.tuples(LEVEL | st.sampled_from([0.0, 0.5, 1.0]), st.booleans()), max_size=60))
def test_whatever_came_the_correction_is_a_distribution(seen: list[tuple[float, bool]]) -> None:
    levels, cut = np.array([s[0] for s in seen]), np.array([s[1] for s in seen], dtype=bool)
    values = np.array(Calibration.fit(levels, cut).values)
    assert values.shape == KNOTS.shape
    assert (values[0], values[-1]) == (0.0, 1.0)
    assert (np.diff(values) >= 0).all()


@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("cut", [False, True])
def test_many_equal_levels_pull_the_correction_to_their_side(level: float, cut: bool) -> None:
    values = np.array(Calibration.fit(np.full(2000, level), np.full(2000, cut)).values)
    if cut:  # all are known to lie above, and nothing more
        assert values[level > KNOTS].max(initial=0.0) < 0.06
    else:
        assert values[level - 0.03 > KNOTS].max(initial=0.0) < 0.06
        assert values[level < KNOTS].min(initial=1.0) > 0.9


@given(
    arrays(np.float64, (3, GRID.size - 1), elements=LEVEL),
    st.lists(st.tuples(LEVEL, st.booleans()), max_size=40),
)
def test_corrected_curves_are_valid(hazards: np.ndarray, seen: list[tuple[float, bool]]) -> None:
    calibration = Calibration.fit(np.array([s[0] for s in seen]), np.array([s[1] for s in seen], dtype=bool))
    curves = calibration.apply(survival_of(hazards))
    assert curves.shape == (3, GRID.size)
    assert (curves[:, 0] == 1).all()
    assert (np.diff(curves, axis=1) <= 1e-12).all()
    assert ((curves >= 0) & (curves <= 1)).all()


@given(arrays(np.float64, (2, 50), elements=LEVEL))
def test_without_a_correction_nothing_changes(hazards: np.ndarray) -> None:
    curves = survival_of(hazards)
    np.testing.assert_allclose(Calibration().apply(curves), curves, atol=1e-12)


@pytest.mark.parametrize(
    "values",
    [
        (),
        (0.0, 1.0),
        tuple(KNOTS[:-1]),
        tuple(KNOTS[::-1]),
        (0.1, *KNOTS[1:]),
        (*KNOTS[:-1], 0.99),
        (*KNOTS[:20], 0.1, *KNOTS[21:]),
        (*KNOTS[:20], math.nan, *KNOTS[21:]),
    ],
)
def test_values_that_are_no_distribution_are_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="rise from 0 to 1"):
        Calibration(values)


@given(st.integers(1, 5000), st.floats(0.001, 0.2), st.integers(1, 6000))
def test_an_end_lies_half_way_over_its_token_and_a_cut_off_at_its_end(length: int, rate: float, limit: int) -> None:
    """The curve's own cut-off is no forecast: it has no say."""
    survival = np.exp(-rate * GRID)
    curve = LengthDistribution.from_survival(survival, limit)
    ended, cut = levels_of([curve, curve], np.array([length, length]), [False, True])
    before, after = np.interp([length - 1, length], GRID, survival)
    assert ended == pytest.approx(1.0 - (before + after) / 2)
    assert cut == pytest.approx(1.0 - after)


def test_levels_of_a_true_forecast_are_even_on_both_sides_though_answers_are_of_few_tokens() -> None:
    rng = np.random.default_rng(0)
    curve = LengthDistribution.from_survival(np.where(GRID < 4, 1.0 - GRID / 4, 0.0))  # 1 to 4 tokens
    lengths = rng.integers(1, 5, 4000)
    levels = levels_of([curve] * 4000, lengths, np.zeros(4000, dtype=bool))
    assert levels.mean() == pytest.approx(0.5, abs=4 * 0.29 / 4000**0.5)
    assert (levels < 0.5).mean() == pytest.approx(0.5, abs=4 * 0.5 / 4000**0.5)
