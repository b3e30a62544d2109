"""Coverage is judged fairly, a change is noticed soon, and nothing else is."""

from __future__ import annotations

import heapq
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from online_parts import SPREAD, linear

from presize.config import SchedulerOptions
from presize.core.lengths import FloatArray, LengthDistribution
from presize.predict.base import Query
from presize.predict.online.drift import LEAST, MAX_WEIGHT, WINDOW, Drift, miss


def curve(median: float, spread: float = SPREAD) -> FloatArray:
    survival = linear(median, spread).curves([np.array([1])], np.zeros((1, 4), dtype=np.float32))[0]
    return LengthDistribution.from_survival(survival).survival


def drift() -> tuple[Drift, list[tuple[str, bool]]]:
    notes: list[tuple[str, bool]] = []
    return Drift(SchedulerOptions(), lambda text, begins: notes.append((text, begins))), notes


def draw(rng: np.random.Generator, median: float) -> int:
    return max(math.ceil(rng.lognormal(np.log(median), SPREAD)), 1)


def one_by_one(watch: Drift, lengths: list[int], survival: FloatArray, version: int = 0, start: int = 0,
               tenant: str = "") -> None:  # fmt: skip
    for number, length in enumerate(lengths, start):
        query = Query(f"{tenant}{number}", [1], 10_000, tenant=tenant)
        watch.expect([query], [survival], version)
        watch.ended(query, length, censored=False)


def together(watch: Drift, lengths: list[int], survival: FloatArray, running: int) -> list[float]:
    """``running`` at a time, the next one starts when one ends; the coverage after each."""
    heap: list[tuple[int, int]] = []
    clock = started = 0
    seen = []
    while heap or started < len(lengths):
        while len(heap) < running and started < len(lengths):
            watch.expect([Query(str(started), [1], 10_000)], [survival], 0)
            heapq.heappush(heap, (clock + lengths[started], started))
            started += 1
        clock, number = heapq.heappop(heap)
        watch.ended(Query(str(number), [1], 10_000), lengths[number], censored=False)
        watch.running(len(heap))
        seen.append(watch.coverage)
    return seen


@pytest.mark.parametrize("median", [1.5, 4, 30, 300])
@pytest.mark.parametrize("cut", [None, 1.0, 3.0])
def test_a_right_forecast_is_missed_by_a_tenth_also_where_answers_are_cut_off(median: float, cut: float | None) -> None:
    """Short answers have few levels, and one that was cut off has a part of them: the mean is 10 % all the same."""
    rng = np.random.default_rng(3)
    survival = curve(median)
    distribution = LengthDistribution(survival)
    misses = []
    for level in rng.random(20_000).tolist():
        length, limit = distribution.quantile(level), math.inf if cut is None else max(round(cut * median), 1)
        misses.append(miss(survival, int(min(length, limit)), length > limit))
    assert np.mean(misses) == pytest.approx(0.1, abs=0.01)


@given(st.integers(1, 2**20), st.booleans(), st.floats(1, 5000), st.floats(0.05, 2))
def test_a_miss_is_a_share(length: int, censored: bool, median: float, spread: float) -> None:
    assert 0.0 <= miss(curve(median, spread), length, censored) <= 1.0


@pytest.mark.parametrize("seed", range(3))
def test_what_is_as_forecast_raises_no_alarm(seed: int) -> None:
    rng = np.random.default_rng(seed)
    watch, notes = drift()
    one_by_one(watch, [draw(rng, 100) for _ in range(3000)], curve(100))
    assert notes == []
    assert watch.weight == 0.0
    assert watch.coverage == pytest.approx(0.9, abs=0.08)


@pytest.mark.parametrize("running", [32, 1024])
def test_short_answers_that_end_first_raise_no_alarm(running: int) -> None:
    """The first to end of many that start together are the short ones; judged in that order they look like a change."""
    rng = np.random.default_rng(0)
    lengths = [draw(rng, 100) for _ in range(4000)]
    watch, notes = drift()
    coverages = together(watch, lengths, curve(100), running)
    assert notes == []
    assert np.nanmin(coverages) > 0.82
    if running == 1024:
        first = sorted(lengths[:running])[:LEAST]
        misses = np.mean([miss(curve(100), length, False) for length in first])
        assert 1.0 - misses < 0.9 - 4 * 0.03, "else there was nothing to withstand"


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_change_is_noticed_soon_widens_and_passes_when_it_has(factor: float) -> None:
    rng = np.random.default_rng(1)
    watch, notes = drift()
    one_by_one(watch, [draw(rng, 100) for _ in range(WINDOW)], curve(100))
    assert notes == []
    one_by_one(watch, [draw(rng, 100 * factor) for _ in range(WINDOW // 2)], curve(100), start=1000)
    ((text, begins),) = notes
    assert begins
    assert "drifted" in text
    assert watch.drifting
    assert 0.0 < watch.weight <= MAX_WEIGHT
    one_by_one(watch, [draw(rng, 100) for _ in range(WINDOW)], curve(100), start=5000)
    assert [begins for _, begins in notes] == [True, False]
    assert watch.weight == 0.0


def test_a_widened_curve_is_a_mixture_of_stated_weight() -> None:
    watch, _ = drift()
    plain = curve(100)
    assert watch.widened(plain) is plain
    one_by_one(watch, [400] * WINDOW, plain)
    assert watch.weight == MAX_WEIGHT
    wide = watch.widened(plain)
    history = (wide - (1 - MAX_WEIGHT) * plain) / MAX_WEIGHT
    assert ((history > -1e-9) & (history < 1 + 1e-9)).all()
    recent = LengthDistribution.from_survival(history)
    assert recent.quantile(0.1) == pytest.approx(400, rel=0.1)
    assert recent.quantile(0.9) == pytest.approx(400, rel=0.1)


def test_forecasts_that_are_too_wide_are_reported_and_not_widened() -> None:
    watch, notes = drift()
    one_by_one(watch, [100] * WINDOW, curve(100))
    assert watch.coverage == 1.0
    assert watch.drifting
    assert "wider than they need be" in notes[0][0]
    assert watch.weight == 0.0


def test_a_new_version_is_judged_by_its_own_forecasts() -> None:
    rng = np.random.default_rng(2)
    watch, notes = drift()
    one_by_one(watch, [draw(rng, 300) for _ in range(WINDOW)], curve(100))
    before = watch.coverage, watch.weight
    one_by_one(watch, [draw(rng, 300) for _ in range(LEAST - 10)], curve(300), version=1, start=1000)
    assert (watch.coverage, watch.weight) == before, "too little is known of it"
    one_by_one(watch, [draw(rng, 300) for _ in range(WINDOW)], curve(300), version=1, start=2000)
    assert watch.coverage == pytest.approx(0.9, abs=0.08)
    assert [begins for _, begins in notes] == [True, False]


def test_one_tenant_among_several_is_at_most_a_quarter_of_what_is_judged() -> None:
    rng = np.random.default_rng(4)
    watch, _ = drift()
    for turn in range(40):
        for tenant in ("a", "b", "c"):
            one_by_one(watch, [draw(rng, 100) for _ in range(5)], curve(100), start=100 * turn, tenant=tenant)
        one_by_one(watch, [1] * 100, curve(100), start=100 * turn, tenant="loud")
    assert watch.coverage == pytest.approx(0.75 * 0.9, abs=0.08)
    recent = (watch.widened(curve(100)) - (1 - watch.weight) * curve(100)) / watch.weight
    assert recent[5] == pytest.approx(0.75, abs=0.02), "of the recent lengths a quarter is one token"


def test_the_answers_to_one_request_count_as_one() -> None:
    watch, _ = drift()
    for number in range(LEAST - 1):
        queries = [Query(str(number), [1], 1000)] * 4
        watch.expect(queries, [curve(100)] * 4, 0)
        for query in queries:
            watch.ended(query, 100, censored=False)
    assert math.isnan(watch.coverage)


def test_requests_that_never_end_are_passed_over() -> None:
    watch, _ = drift()
    refused = [Query(f"refused {number}", [1], 10) for number in range(20_000)]  # after they were forecast
    watch.expect(refused, [curve(100)] * len(refused), 0)
    rng = np.random.default_rng(5)
    one_by_one(watch, [draw(rng, 100) for _ in range(600)], curve(100))
    assert watch.coverage == pytest.approx(0.9, abs=0.1)
    assert len(watch._pending) <= 4_096


def test_an_unknown_request_an_empty_answer_and_an_id_used_again_do_no_harm() -> None:
    watch, _ = drift()
    watch.ended(Query("unknown", [1], 10), 5, censored=False)
    for _ in range(3):
        watch.expect([Query("same", [1], 10)], [curve(100)], 0)
    watch.ended(Query("same", [1], 10), 0, censored=True)
    one_by_one(watch, [100] * LEAST, curve(100))
    assert watch.coverage == 1.0
    assert not watch._pending
    assert not watch._order
