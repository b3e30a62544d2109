"""The Kaplan-Meier predictor, against the textbook and against the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from presize.config import SchedulerOptions
from presize.core.lengths import GRID, LengthDistribution
from presize.predict import KaplanMeier, Query

EXACT = int(np.flatnonzero(np.diff(GRID) > 1)[0])  # up to this length the grid has every token
QUERY = Query("r", [1, 2, 3], 10**9)
SMALL = st.lists(st.integers(1, EXACT - 1), max_size=30)


class Unbiased(KaplanMeier):
    """What was seen and nothing else."""

    _PRIOR_WEIGHT = 1e-9


def learned(
    ended: list[int], censored: list[int], running: list[int], kind: type[KaplanMeier] = Unbiased
) -> LengthDistribution:
    predictor = kind(SchedulerOptions())
    for length in ended:
        predictor.observe(QUERY, length, censored=False)
    for length in censored:
        predictor.observe(QUERY, length, censored=True)
    predictor.refresh(np.array(running, dtype=np.int64))
    return predictor.predict([QUERY])[0]


def textbook(ended: list[int], cut: list[int]) -> tuple[list[float], list[int]]:
    """Product over the lengths at which answers ended; and how many were at risk at each.

    Who was cut off at c is known to be longer than c: at risk of ending at every length up to c, and at none beyond.
    """
    survival, at_risk = [1.0], [len(ended) + len(cut)]
    for length in range(1, EXACT):
        n = sum(e >= length for e in ended) + sum(c >= length for c in cut)
        at_risk.append(n)
        survival.append(survival[-1] * (1 - ended.count(length) / n) if n else survival[-1])
    return survival, at_risk


@given(SMALL, st.lists(st.integers(0, EXACT - 1), max_size=30), st.lists(st.integers(0, EXACT - 1), max_size=10))
@example([1], [], [0])  # one that has just started says nothing about ending at one token
def test_is_the_textbooks_product(ended: list[int], censored: list[int], running: list[int]) -> None:
    assume(ended)
    curve = learned(ended, censored, running)
    expected, at_risk = textbook(ended, censored + running)
    for length, (value, n) in enumerate(zip(expected, at_risk, strict=True)):
        if n:
            assert curve.at(length) == pytest.approx(value, abs=1e-6), length


@given(SMALL)
def test_without_censoring_it_is_the_share_of_longer_answers(ended: list[int]) -> None:
    assume(ended)
    curve = learned(ended, [], [])
    for length in range(EXACT):
        assert curve.at(length) == pytest.approx(sum(e > length for e in ended) / len(ended), abs=1e-6)


@settings(max_examples=settings().max_examples // 2)
@given(st.lists(st.tuples(st.integers(0, 5000), st.booleans()), max_size=40), st.lists(st.integers(0, 5000)))
def test_the_curve_is_always_valid(seen: list[tuple[int, bool]], running: list[int]) -> None:
    for kind in (KaplanMeier, Unbiased):
        ended, censored = [n for n, cut in seen if not cut], [n for n, cut in seen if cut]
        survival = learned(ended, censored, running, kind).survival
        assert survival[0] == 1.0
        assert (np.diff(survival) <= 0).all()
        assert (survival >= 0).all()


def simulate(
    median: float, spread: float, cut: float, seed: int
) -> tuple[LengthDistribution, np.ndarray, np.ndarray, np.ndarray]:
    """20,000 lognormal lengths; clients leave after a time of their own. The curve, lengths, cuts, and who was cut."""
    rng = np.random.default_rng(seed)
    lengths = np.ceil(rng.lognormal(np.log(median), spread, 20_000)).astype(np.int64)
    cuts = np.floor(rng.exponential(cut, lengths.size)).astype(np.int64)
    off = lengths > cuts
    return learned(lengths[~off].tolist(), cuts[off].tolist(), []), lengths, cuts, off


@pytest.mark.parametrize(("median", "spread", "cut"), [(12, 0.6, 15), (200, 1.0, 300), (900, 0.8, 700)])
def test_comes_to_the_truth_under_heavy_censoring(median: float, spread: float, cut: float) -> None:
    curve, lengths, cuts, off = simulate(median, spread, cut, 1)
    assert off.mean() > 0.4, "else it is not heavy"
    for quantile in (0.1, 0.25, 0.5, 0.75):
        point = int(np.quantile(lengths, quantile))
        # Greenwood's formula with few of the cut-off ones still at risk, and cells that are a tenth of their count
        at_risk = (np.minimum(lengths, cuts) >= point).sum()
        tolerance = 4 * np.sqrt(quantile * (1 - quantile) / at_risk) + 0.01
        assert curve.at(point) == pytest.approx((lengths > point).mean(), abs=tolerance)


@pytest.mark.parametrize("seed", range(3))
def test_running_answers_keep_the_first_to_finish_from_biasing_the_curve(seed: int) -> None:
    """All start together and the clock stops at 20 tokens: what has ended is short, but half are still running."""
    rng = np.random.default_rng(seed)
    lengths = rng.geometric(0.04, 5000)
    stop = 20
    ended = lengths[lengths <= stop].tolist()
    running = [stop] * int((lengths > stop).sum())
    curve = learned(ended, [], running)
    blind = learned(ended, [], [])
    truth = 0.96**stop
    assert curve.at(stop) == pytest.approx(truth, abs=4 * np.sqrt(truth * (1 - truth) / 5000))
    assert blind.at(stop) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("hazard", "oldest", "points"), [(0.08, 31, (1, 5, 10, 20, 28)), (0.01, 400, (20, 90, 270))])
def test_staggered_starts_converge_too(hazard: float, oldest: int, points: tuple[int, ...]) -> None:
    """The clock stops when the answers have ages of all kinds; every running one counts up to its own."""
    rng = np.random.default_rng(7)
    lengths, age = rng.geometric(hazard, 80_000), rng.integers(0, oldest, 80_000)
    curve = learned(lengths[lengths <= age].tolist(), [], age[lengths > age].tolist())
    for point in points:
        assert curve.at(point) == pytest.approx((1 - hazard) ** point, abs=0.006)


@given(st.lists(st.integers(1, 5000), max_size=20), st.lists(st.integers(0, 5000), min_size=1, max_size=20))
def test_a_running_answer_teaches_what_one_that_was_cut_off_there_does(ended: list[int], others: list[int]) -> None:
    cut_off, running = learned(ended, others, [], KaplanMeier), learned(ended, [], others, KaplanMeier)
    np.testing.assert_allclose(running.survival, cut_off.survival, atol=1e-12)


def test_curves_handed_out_before_learn_too_and_keep_their_limits() -> None:
    predictor = KaplanMeier(SchedulerOptions())
    short, long = predictor.predict([Query("a", [1], 10), Query("b", [1], 1000)])
    before = long.quantile(0.5)
    for _ in range(300):
        predictor.observe(QUERY, 7, censored=False)
    assert long.quantile(0.5) == before, "nothing changes but at a refresh"
    predictor.refresh(np.array([], dtype=np.int64))
    assert before != 7
    assert short.quantile(0.5) == long.quantile(0.5) == 7
    for _ in range(3000):
        predictor.observe(QUERY, 500, censored=False)
    predictor.refresh(np.array([], dtype=np.int64))
    assert short.quantile(0.5) == 10
    assert 450 <= long.quantile(0.5) <= 550


def test_two_predictors_share_nothing() -> None:
    one, other = KaplanMeier(SchedulerOptions()), KaplanMeier(SchedulerOptions())
    untouched = other.predict([QUERY])[0].survival.copy()
    one.observe(QUERY, 3, censored=False)
    one.refresh(np.array([4]))
    np.testing.assert_array_equal(other.predict([QUERY])[0].survival, untouched)
    assert (one.predict([QUERY])[0].survival != untouched).any()


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=20))
def test_before_anything_is_seen_it_is_lindys_law(steps: list[int]) -> None:
    """S(t) = m / (m + t) at the grid's points, m being its own median."""
    curve = KaplanMeier(SchedulerOptions()).predict([QUERY])[0]
    median = curve.quantile(0.5)
    for t in GRID[:-1][np.searchsorted(GRID[:-2], steps)]:
        assert curve.at(t) == pytest.approx(median / (median + t), rel=0.05)
