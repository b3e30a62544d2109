"""Survival curves: what repairs them, and every figure that is read from them, against sums over single tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
from curves import aged_curves, curves, rest_by_token, survival_by_token
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from presize.core.lengths import GRID, MAX_LENGTH, LengthDistribution, cell_of, conditional_survival

ANY_FLOATS = arrays(np.float64, GRID.size, elements=st.floats(width=64), fill=st.floats(width=64))
FINE = int(np.flatnonzero(np.diff(GRID) > 1)[0])  # up to this count the grid has every token


@given(ANY_FLOATS, st.integers(-(2**40), 2**40))
def test_any_floats_become_a_valid_curve(raw: np.ndarray, limit: int) -> None:
    given_values = raw.copy()
    curve = LengthDistribution.from_survival(raw, limit)
    assert curve.survival[0] == 1.0
    assert (np.diff(curve.survival) <= 0).all()
    assert ((curve.survival >= 0) & (curve.survival <= 1)).all()
    assert 1 <= curve.limit <= MAX_LENGTH
    assert 1 <= curve.quantile(0.5) <= curve.limit
    np.testing.assert_array_equal(raw, given_values)  # a predictor's own array is not written to


@given(ANY_FLOATS)
def test_repair_is_clip_carry_on_and_running_minimum(raw: np.ndarray) -> None:
    raw[0] = 1.0
    expected = [1.0]
    for value in raw[1:]:
        expected.append(expected[-1] if math.isnan(value) else min(expected[-1], max(0.0, min(1.0, value))))
    np.testing.assert_array_equal(LengthDistribution.from_survival(raw).survival, expected)


@given(curves())
def test_a_valid_curve_is_left_as_it_is(curve: LengthDistribution) -> None:
    np.testing.assert_array_equal(LengthDistribution.from_survival(curve.survival).survival, curve.survival)


@pytest.mark.parametrize("size", [0, 1, GRID.size - 1, GRID.size + 1])
def test_wrong_size_is_refused_with_both_sizes(size: int) -> None:
    with pytest.raises(ValueError, match=rf"\b{size} points.*\b{GRID.size}\b"):
        LengthDistribution.from_survival(np.ones(size))


@given(st.lists(st.integers(0, 2 * MAX_LENGTH) | st.integers(0, 200) | st.sampled_from(GRID.tolist()), min_size=1))
def test_cell_of_is_a_binary_search(counts: list[int]) -> None:
    expected = np.clip(np.searchsorted(GRID, counts, side="right") - 1, 0, GRID.size - 2)
    np.testing.assert_array_equal(cell_of(counts), expected)
    assert cell_of(counts[0]) == expected[0]


@given(curves(), st.lists(st.integers(0, 3000), min_size=1, max_size=20))
def test_at_is_linear_interpolation_up_to_the_limit(curve: LengthDistribution, counts: list[int]) -> None:
    expected = survival_by_token(curve, 3001)[counts]
    np.testing.assert_allclose(curve.at(counts), expected, atol=1e-12)
    np.testing.assert_allclose(curve.at(np.array(counts).reshape(-1, 1))[:, 0], expected, atol=1e-12)


@given(curves(), st.floats(0.0, 1.0))
def test_quantile_is_the_inverse_of_at(curve: LengthDistribution, q: float) -> None:
    n = curve.quantile(q)
    assert 1 <= n <= curve.limit
    assert 1.0 - curve.at(n) >= q - 1e-8
    if n > 1:
        assert 1.0 - curve.at(n - 1) <= q + 1e-8


@pytest.mark.parametrize("q", [-0.01, 1.01, math.nan])
def test_a_quantile_outside_zero_to_one_is_refused(q: float) -> None:
    with pytest.raises(ValueError, match=str(q)):
        LengthDistribution.exactly(3).quantile(q)


@given(st.integers(1, MAX_LENGTH), st.floats(0.001, 1.0), st.data())
def test_a_known_length_is_known(n: int, q: float, data: st.DataObject) -> None:
    curve = LengthDistribution.exactly(n)
    assert curve.quantile(q) == n
    assert (curve.at(n - 1), curve.at(n)) == (1.0, 0.0)
    g = data.draw(st.integers(0, n - 1))
    assert curve.mean_remaining(g) == pytest.approx(n - g)
    assert curve.gittins_rank(g) == pytest.approx(n - g)


@given(curves(), st.integers(1, 3000), st.integers(0, 3000))
def test_a_cap_cuts_off_and_never_lengthens(curve: LengthDistribution, cap: int, count: int) -> None:
    capped = curve.capped(cap)
    assert capped.at(count) == (curve.at(count) if count < cap else 0.0)
    assert capped.quantile(0.5) == min(curve.quantile(0.5), cap)


@given(aged_curves(), st.lists(st.integers(0, 2500), min_size=2, max_size=20).map(sorted))
def test_conditional_is_a_ratio_of_survivals(aged: tuple[LengthDistribution, int], steps: list[int]) -> None:
    curve, generated = aged
    result = curve.conditional(generated, steps)
    now, then = curve.at(generated), curve.at(generated + np.array(steps))
    np.testing.assert_allclose(result, then / now, atol=1e-12)
    assert (np.diff(result) <= 1e-12).all()
    assert curve.conditional(generated, 0) == pytest.approx(1.0, abs=1e-12)


@given(st.integers(1, 500), st.integers(0, 1000), st.integers(1, 5000), st.lists(st.integers(0, 5000), min_size=1))
def test_beyond_the_forecast_lindys_law_holds(end: int, more: int, hard: int, steps: list[int]) -> None:
    generated = end + more
    promised = LengthDistribution.exactly(end)  # the forecast was wrong: more than ``end`` tokens came
    tau = np.array(steps)
    (row,) = conditional_survival(
        promised.survival[None], np.array([promised.limit]), np.array([hard]), np.array([generated]), tau
    )
    np.testing.assert_allclose(row, np.where(generated + tau < hard, generated / (generated + tau), 0.0))


@given(st.integers(1, FINE), st.integers(0, 200), st.integers(0, 5000))
def test_lindys_law_where_the_curve_itself_reaches_zero(end: int, more: int, step: int) -> None:
    curve = LengthDistribution.from_survival(np.where(end > GRID, 1.0, 0.0))
    generated = end + more
    assert curve.conditional(generated, step) == pytest.approx(generated / (generated + step))


@given(st.lists(st.tuples(curves(), st.integers(0, 2500), st.integers(1, 3000)), min_size=1, max_size=5))
def test_a_batch_of_curves_is_each_curve_alone(rows: list[tuple[LengthDistribution, int, int]]) -> None:
    steps = GRID[:90]
    arrays_of = [np.array([f(row) for row in rows]) for f in (lambda r: r[0].limit, lambda r: r[2], lambda r: r[1])]
    batch = conditional_survival(np.stack([row[0].survival for row in rows]), *arrays_of, steps)
    assert ((batch >= 0) & (batch <= 1)).all()
    for result, (curve, generated, hard) in zip(batch, rows, strict=True):
        if generated < min(curve.limit, hard) and curve.at(generated) > 1e-6:
            np.testing.assert_allclose(result, curve.capped(hard).conditional(generated, steps), atol=1e-12)


# one or two tokens, on average 1.5; and exactly one
TWO_OR_ONE = LengthDistribution.from_survival(np.where(GRID == 1, 0.5, GRID == 0))
ONE = LengthDistribution.from_survival(GRID == 0)


def best_ratio(rest: np.ndarray) -> float:
    """Smallest E[min(rest, d)] / P(rest <= d) over every horizon d, a token at a time."""
    work, done = np.cumsum(rest), 1.0 - np.append(rest[1:], 0.0)
    return min(w / d for w, d in zip(work, done, strict=True) if d > 1e-9)


@given(aged_curves(max_limit=FINE))
@example((TWO_OR_ONE, 0))
def test_mean_remaining_is_the_sum_of_survivals(aged: tuple[LengthDistribution, int]) -> None:
    assert aged[0].mean_remaining(aged[1]) == pytest.approx(rest_by_token(*aged).sum())


@given(aged_curves(max_limit=FINE))
@example((ONE, 0))
def test_gittins_rank_is_the_best_ratio_of_work_to_chance(aged: tuple[LengthDistribution, int]) -> None:
    assert aged[0].gittins_rank(aged[1]) == pytest.approx(best_ratio(rest_by_token(*aged)))


@given(aged_curves())
def test_on_the_coarse_grid_both_stay_close(aged: tuple[LengthDistribution, int]) -> None:
    """Far from zero a cell is a tenth of its count wide, and a horizon is a point of the grid."""
    curve, generated = aged
    rest = rest_by_token(curve, generated)
    assert curve.mean_remaining(generated) == pytest.approx(rest.sum(), rel=0.05)
    assert best_ratio(rest) * 0.9 <= curve.gittins_rank(generated) <= best_ratio(rest) * 1.2


@given(aged_curves(), st.integers(1, 2500))
def test_a_cut_off_in_the_question_is_a_cap_of_the_curve(aged: tuple[LengthDistribution, int], more: int) -> None:
    curve, generated = aged
    capped = curve.capped(generated + more)
    assert curve.mean_remaining(generated, generated + more) == pytest.approx(capped.mean_remaining(generated))
    assert curve.gittins_rank(generated, generated + more) == pytest.approx(capped.gittins_rank(generated))


@given(curves(max_limit=300), st.integers(0, 300), st.integers(1, 2000))
def test_a_broken_forecast_ranks_by_lindys_law(curve: LengthDistribution, late: int, more: int) -> None:
    """Not as nearly done: its sums are those of g / (g + t) up to the cut-off."""
    generated = curve.limit + late
    rest = generated / (generated + np.arange(more))
    assert curve.mean_remaining(generated, generated + more) == pytest.approx(rest.sum(), rel=0.02)
    assert curve.gittins_rank(generated, generated + more) == pytest.approx(best_ratio(rest), rel=0.1)
