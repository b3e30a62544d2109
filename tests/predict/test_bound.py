"""No curve lies further from the base's than the stated factor."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from online_parts import PLAIN, linear

from presize.core.lengths import GRID, MAX_LENGTH, FloatArray, LengthDistribution
from presize.predict.calibration import Calibration
from presize.predict.learned import Learned
from presize.predict.linear import Linear
from presize.predict.online.bound import MAX_SHIFT, Served, bounded

CURVES = arrays(np.float64, GRID.size - 1, elements=st.floats(0, 1)).map(
    lambda raw: LengthDistribution.from_survival(np.concatenate([[1.0], np.sort(raw)[::-1]])).survival
)
# all at once, never, in one cell: what sorted noise hardly ever gives
STEPS = st.integers(1, GRID.size).map(lambda k: np.where(np.arange(GRID.size) < k, 1.0, 0.0))
ANY = CURVES | STEPS
LEVELS = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99]


def quantiles(curve: FloatArray, limit: int = MAX_LENGTH) -> FloatArray:
    distribution = LengthDistribution.from_survival(curve, limit)
    return np.array([distribution.quantile(level) for level in LEVELS], dtype=np.float64)


@given(ANY, ANY, st.integers(1, MAX_LENGTH))
def test_every_quantile_is_within_the_factor_of_the_bases(curve: FloatArray, base: FloatArray, limit: int) -> None:
    (found,) = bounded(curve[None], base[None])
    assert found[0] == 1.0
    assert (np.diff(found) <= 0).all()
    there, here = quantiles(base, limit), quantiles(found, limit)
    assert (here <= MAX_SHIFT * there).all()
    assert (here >= there / MAX_SHIFT).all()


@given(ANY, ANY, st.lists(st.integers(0, 2**19), min_size=1, max_size=30))
def test_the_bound_holds_between_the_points_of_the_grid(curve: FloatArray, base: FloatArray, counts: list[int]) -> None:
    t = np.array(counts)
    (found,) = bounded(curve[None], base[None])
    s, s0 = LengthDistribution(found, 2**30), LengthDistribution(base, 2**30)
    assert (s.at(2 * t) <= s0.at(t) + 1e-9).all()
    assert (s.at(t) >= s0.at(2 * t) - 1e-9).all()


@given(ANY)
def test_the_base_itself_is_within_the_bound(base: FloatArray) -> None:
    assert (bounded(base[None], base[None])[0] == base).all()


@pytest.mark.parametrize("factor", [0.6, 0.8, 1.25, 1.7])
def test_a_shift_that_is_well_within_the_bound_passes(factor: float) -> None:
    def curve(median: float) -> FloatArray:
        return linear(median).curves([np.array([1])], np.zeros((1, 4), dtype=np.float32))

    shifted = curve(200 * factor)
    assert bounded(shifted, curve(200)) == pytest.approx(shifted)


@pytest.mark.parametrize(("median", "asked"), [(100, 1), (130, 2)])
def test_a_model_that_was_only_calibrated_again_is_asked_once(
    median: float, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    ask = Linear.curves
    monkeypatch.setattr(Linear, "curves", lambda *args: calls.append(args) or ask(*args))
    corrected = Calibration(tuple((np.linspace(0, 1, 41) ** 1.2).tolist()))
    base, learned = Learned(linear(100), PLAIN, Calibration()), Learned(linear(median), PLAIN, corrected)
    prompts, sides = [np.array([1])], np.zeros((1, 4), dtype=np.float32)
    found = Served(base, learned).curves(prompts, sides)
    assert len(calls) == asked
    expected = bounded(corrected.apply(linear(median).curves(prompts, sides)), linear(100).curves(prompts, sides))
    assert found == pytest.approx(expected, abs=1e-12)
