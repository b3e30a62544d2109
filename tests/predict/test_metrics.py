"""Figures of forecasts, each from its definition, one answer and one token at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presize.core.lengths import GRID, MAX_LENGTH, LengthDistribution
from presize.predict.metrics import evaluate, kendall_tau

DECILES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
Answer = tuple[LengthDistribution, int, bool]


def lognormal(median: float, spread: float, limit: int = MAX_LENGTH) -> LengthDistribution:
    z = np.log(np.maximum(GRID, 1e-9) / median) / spread
    return LengthDistribution.from_survival([0.5 * math.erfc(x / math.sqrt(2)) for x in z], limit)


@st.composite
def answers(draw: st.DrawFn, can_be_cut: bool = True) -> list[Answer]:
    """A dozen forecasts, each with a length up to its cut-off."""
    found = []
    for _ in range(draw(st.integers(1, 12))):
        limit = draw(st.integers(1, 600))
        if draw(st.booleans()):
            curve = lognormal(draw(st.floats(1, 800)), draw(st.floats(0.05, 2)), limit)
        else:
            curve = LengthDistribution.from_survival(draw(st.sampled_from(GRID[1:60])) > GRID, limit)
        found.append((curve, draw(st.integers(1, limit)), can_be_cut and draw(st.booleans())))
    return found


def figures(rows: list[Answer]) -> dict[str, float]:
    return evaluate([row[0] for row in rows], np.array([row[1] for row in rows]), np.array([row[2] for row in rows]))


def masses(curve: LengthDistribution) -> np.ndarray:
    """P(length = t) for t = 0 .. limit."""
    survival = np.interp(np.arange(curve.limit), GRID, curve.survival)
    return -np.diff(np.concatenate([[1.0], survival, [0.0]]))


@given(answers(can_be_cut=False))
def test_crps_is_the_distance_to_the_answer_less_half_the_distance_within(rows: list[Answer]) -> None:
    """E|X - L| - E|X - X'| / 2, its other form."""
    expected = []
    for curve, length, _ in rows:
        mass, t = masses(curve), np.arange(curve.limit + 1)
        within = mass @ np.abs(t[:, None] - t) @ mass
        expected.append(mass @ np.abs(t - length) - within / 2)
    assert figures(rows)["crps"] == pytest.approx(np.mean(expected), abs=1e-6)


@given(answers())
def test_crps_is_summed_up_to_a_cut_off_and_no_further(rows: list[Answer]) -> None:
    expected = []
    for curve, length, cut in rows:
        cdf, total = np.cumsum(masses(curve)), 0.0
        for t in range(length if cut else curve.limit):
            total += (cdf[t] - (length <= t)) ** 2
        expected.append(total)
    assert figures(rows)["crps"] == pytest.approx(np.mean(expected), abs=1e-6)


def quantile(curve: LengthDistribution, level: float) -> int:
    """Smallest count with that much at or below it."""
    return next(t for t, f in enumerate(np.cumsum(masses(curve))) if t and f >= level - 1e-8)


@given(answers())
def test_figures_of_the_quantiles_are_those_of_their_definitions(rows: list[Answer]) -> None:
    found = figures(rows)
    loss, inside, error = [], {0.5: 0, 0.9: 0}, []
    for curve, length, cut in rows:
        for level in DECILES:
            over = length - quantile(curve, level)
            loss.append(over * level if over >= 0 else -over * (1 - level))
        for share in inside:
            below = np.cumsum(masses(curve))
            before, after = below[min(length - 1, len(below) - 1)], below[min(length, len(below) - 1)]
            open_end = cut and length < curve.limit
            inside[share] += after <= 0.5 + share / 2 if open_end else abs(before + after - 1) <= share
        error.append(abs(length - quantile(curve, 0.5)))
    assert found["pinball"] == pytest.approx(np.mean(loss))
    assert found["coverage_50"] == pytest.approx(inside[0.5] / len(rows))
    assert found["coverage_90"] == pytest.approx(inside[0.9] / len(rows))
    assert found["mae"] == pytest.approx(np.mean(error))
    assert found["median_absolute_error"] == pytest.approx(np.median(error))
    assert found["n"] == len(rows)


@given(answers())
def test_buckets_are_ten_equal_parts_of_the_largest_limit(rows: list[Answer]) -> None:
    largest = max(row[0].limit for row in rows)
    right = [-(10 * length // -largest) == -(10 * quantile(curve, 0.5) // -largest) for curve, length, _ in rows]
    assert figures(rows)["bucket_accuracy_10"] == pytest.approx(np.mean(right))


@given(answers())
def test_log_r2_is_what_the_mean_leaves_less_what_the_forecast_leaves(rows: list[Answer]) -> None:
    logs = [math.log(length) for _, length, _ in rows]
    left = sum((log - math.log(quantile(curve, 0.5))) ** 2 for log, (curve, _, _) in zip(logs, rows, strict=True))
    spread = sum((log - sum(logs) / len(logs)) ** 2 for log in logs)
    assert figures(rows)["log_r2"] == pytest.approx(1 - left / spread if spread > 1e-12 else 0.0)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=25))
def test_kendalls_tau_is_a_count_of_pairs(points: list[tuple[int, int]]) -> None:
    pairs = [(points[i], points[j]) for i in range(len(points)) for j in range(i)]
    signs = [(np.sign(a[0] - b[0]), np.sign(a[1] - b[1])) for a, b in pairs]
    agree = sum(int(x * y) for x, y in signs)
    untied = [sum(x != 0 for x, _ in signs), sum(y != 0 for _, y in signs)]
    expected = agree / math.sqrt(untied[0] * untied[1]) if all(untied) else 0.0
    guess, truth = np.array(points).T
    assert kendall_tau(guess.astype(float), truth) == pytest.approx(expected)


LENGTHS = np.array([1, 3, 40, 77, 500, 2000])


def test_a_perfect_forecast_has_perfect_figures() -> None:
    found = evaluate([LengthDistribution.exactly(n) for n in LENGTHS], LENGTHS, np.zeros(6, dtype=bool))
    assert found.pop("n") == 6
    ones = {"kendall_tau", "log_r2", "coverage_50", "coverage_90", "bucket_accuracy_10"}
    assert found == pytest.approx({name: float(name in ones) for name in found}, abs=1e-12)


def test_a_forecast_the_wrong_way_round_and_one_that_knows_nothing() -> None:
    none = np.zeros(6, dtype=bool)
    wrong = evaluate([LengthDistribution.exactly(n) for n in LENGTHS[::-1]], LENGTHS, none)
    assert wrong["kendall_tau"] == pytest.approx(-1.0)
    assert wrong["log_r2"] < 0
    assert wrong["coverage_90"] == 0
    same = evaluate([LengthDistribution.exactly(50)] * 6, LENGTHS, none)
    assert same["kendall_tau"] == 0
    assert same["mae"] == pytest.approx(np.abs(LENGTHS - 50).mean())
    assert same["crps"] == pytest.approx(np.abs(LENGTHS - 50).mean() - np.maximum(LENGTHS - 50, 0).mean())


def test_a_sure_forecast_that_is_right_beats_a_wide_one_and_that_beats_a_sure_wrong_one() -> None:
    length, none = np.array([200]), np.array([False])
    ranked = [
        evaluate([curve], length, none)
        for curve in (LengthDistribution.exactly(200), lognormal(200, 0.7), lognormal(900, 0.1))
    ]
    for name in ("crps", "pinball"):
        assert ranked[0][name] < ranked[1][name] < ranked[2][name]


def test_a_true_forecast_covers_what_it_says() -> None:
    rng = np.random.default_rng(0)
    medians = rng.uniform(50, 800, 1500)
    lengths = np.ceil(rng.lognormal(np.log(medians), 0.6)).astype(np.int64)
    found = evaluate([lognormal(m, 0.6) for m in medians], lengths, np.zeros(1500, dtype=bool))
    assert found["coverage_50"] == pytest.approx(0.5, abs=0.05)
    assert found["coverage_90"] == pytest.approx(0.9, abs=0.03)


def test_answers_of_one_length_leave_nothing_to_explain() -> None:
    found = evaluate([lognormal(100, 0.5)] * 90, np.full(90, 9), np.zeros(90, dtype=bool))
    assert (found["kendall_tau"], found["log_r2"]) == (0.0, 0.0)


def test_one_answer_alone_has_figures_that_are_numbers() -> None:
    found = evaluate([lognormal(100, 0.5)], np.array([100]), np.array([True]))
    assert all(math.isfinite(value) for value in found.values())
