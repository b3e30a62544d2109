"""The occupancy forecast, against lengths drawn from the same curves and against a step-by-step count."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from curves import curves, drawn_lengths
from hypothesis import assume, given
from hypothesis import strategies as st

from presize.core.lengths import GRID, MAX_LENGTH, LengthDistribution
from presize.core.occupancy import OccupancyForecast
from presize.core.request import Request

FINE = int(np.flatnonzero(np.diff(GRID) > 1)[0])  # up to this many steps the forecast looks at every step


def forecast_of(running: Sequence[Request], block_size: int, horizon: int) -> OccupancyForecast:
    """The forecast of these requests."""
    forecast = OccupancyForecast(block_size, horizon)
    forecast.update(running)
    return forecast


def request(prompt: int, curve: LengthDistribution, generated: int = 0, max_tokens: int = 2000) -> Request:
    return Request("r", prompt, max_tokens, curve, output_tokens=generated)


@st.composite
def known_requests(draw: st.DrawFn, longest: int = FINE) -> Request:
    length = draw(st.integers(1, longest))
    generated = draw(st.integers(0, length - 1))
    return request(draw(st.integers(1, 50)), LengthDistribution.exactly(length), generated)


def held_by_step(requests: list[Request], block_size: int, steps: int) -> list[int]:
    """Tokens of the blocks held ``tau`` steps from now, by counting; every request ends at its forecast."""
    held = []
    for tau in range(steps):
        alive = [r for r in requests if r.output_tokens + tau < r.forecast.limit]
        held.append(sum(math.ceil((r.total_tokens + tau) / block_size) * block_size for r in alive))
    return held


def first_above(levels: list[int], capacity: float) -> float:
    return next((float(tau) for tau, level in enumerate(levels) if level > capacity), math.inf)


@pytest.mark.parametrize("seed", range(4))
def test_mean_and_variance_are_those_of_drawn_lengths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    draws, requests = 20_000, []
    for _ in range(6):
        hazard = rng.uniform(0, 0.3, GRID.size - 1) * (rng.random(GRID.size - 1) < 0.4)
        curve = LengthDistribution.from_survival(np.append(1.0, np.cumprod(1 - hazard)), int(rng.integers(30, 400)))
        requests.append(request(int(rng.integers(1, 300)), curve, int(rng.integers(0, 20))))
    forecast = forecast_of(requests, 1, 400)
    lengths = [drawn_lengths(r.forecast, r.output_tokens, draws, rng) for r in requests]
    for tau, mean, variance in zip(forecast.steps, forecast.mean, forecast.variance, strict=True):
        level = np.zeros(draws)
        for r, length in zip(requests, lengths, strict=True):
            level += (r.total_tokens + tau) * (length > r.output_tokens + tau)
        # five standard errors, those of the forecast's own spread; a sum of few has a long tail, hence the 0.1
        assert abs(level.mean() - mean) <= 5 * math.sqrt(variance / draws) + 1e-6
        assert level.var() == pytest.approx(variance, rel=0.1, abs=5 * float(np.max(level)) ** 2 / draws)


@given(st.lists(known_requests(), min_size=1, max_size=6), st.integers(1, 400), st.floats(0, 10))
def test_known_lengths_overflow_when_a_count_of_steps_says_so(
    requests: list[Request], capacity: int, risk: float
) -> None:
    *running, candidate = requests
    forecast = forecast_of(running, 1, 10 * FINE)
    found = forecast.first_overflow(capacity, risk, forecast.share(candidate))
    assert found == first_above(held_by_step(requests, 1, FINE + 1), capacity)


@given(st.lists(known_requests(), min_size=1, max_size=6), st.integers(1, 600), st.integers(2, 64))
def test_blocks_are_counted_to_within_half_a_block_a_request(
    requests: list[Request], capacity: int, block_size: int
) -> None:
    *running, candidate = requests
    forecast = forecast_of(running, block_size, 10 * FINE)
    found = forecast.first_overflow(capacity, 2.0, forecast.share(candidate))
    levels = held_by_step(requests, block_size, FINE + 1)
    slack = len(requests) * (block_size - 1) / 2
    assert first_above(levels, capacity - slack) <= found <= first_above(levels, capacity + slack)


@given(st.lists(known_requests(600), min_size=1, max_size=6), st.integers(1, 2000))
def test_far_ahead_the_forecast_looks_at_the_steps_of_the_grid(requests: list[Request], capacity: int) -> None:
    forecast = forecast_of(requests[:-1], 1, 600)
    found = forecast.first_overflow(capacity, 2.0, forecast.share(requests[-1]))
    levels = held_by_step(requests, 1, 601)
    assert found == next((float(tau) for tau in GRID if tau <= 600 and levels[tau] > capacity), math.inf)


def test_a_pool_larger_than_the_longest_answer_looks_ahead_as_far_as_the_grid() -> None:
    running = [request(10, LengthDistribution.exactly(50))]
    far, near = (forecast_of(running, 16, horizon) for horizon in (2 * MAX_LENGTH, MAX_LENGTH))
    assert far.mean.tolist() == near.mean.tolist()


@given(st.lists(st.tuples(st.integers(1, 200), curves(), st.integers(0, 300)), min_size=1, max_size=5))
def test_adding_shares_is_forecasting_all_at_once(rows: list[tuple[int, LengthDistribution, int]]) -> None:
    requests = [request(prompt, curve, generated) for prompt, curve, generated in rows]
    whole = forecast_of(requests, 16, 500)
    grown = forecast_of([], 16, 500)
    for r in requests:
        grown.add(grown.share(r))
    np.testing.assert_allclose(grown.mean, whole.mean, atol=1e-6)
    np.testing.assert_allclose(grown.variance, whole.variance, rtol=1e-9, atol=1e-4)
    assert (whole.mean >= 0).all()
    assert (whole.variance >= 0).all()


@given(st.lists(known_requests(), max_size=6), st.floats(0, 10))
def test_the_peak_of_known_lengths_is_their_highest_count(requests: list[Request], risk: float) -> None:
    peak = forecast_of(requests, 1, FINE).peak(risk)
    assert peak == max(held_by_step(requests, 1, FINE + 1))


@given(st.integers(1, 40), curves(), st.integers(1, 300))
def test_nobody_is_expected_beyond_max_tokens(prompt: int, curve: LengthDistribution, max_tokens: int) -> None:
    """Also one that has outlived its forecast, whose rest is otherwise open."""
    assume(max_tokens > 1)
    generated = max_tokens - 1
    forecast = forecast_of([request(prompt, curve, generated, max_tokens)], 8, 500)
    assert forecast.mean[0] > 0  # it runs now
    assert (forecast.mean[1:] == 0).all()  # and the next token is its last


@given(curves(), st.integers(1, 600), st.floats(0, 5), st.floats(0, 5), st.integers(1, 3000))
def test_more_risk_averse_is_never_later(
    curve: LengthDistribution, prompt: int, one: float, two: float, capacity: int
) -> None:
    forecast = forecast_of([request(prompt, curve)], 8, 500)
    share = forecast.share(request(prompt, curve))
    low, high = sorted((one, two))
    assert forecast.first_overflow(capacity, high, share) <= forecast.first_overflow(capacity, low, share)
    assert forecast.peak(high) >= forecast.peak(low)


@given(st.lists(st.tuples(known_requests(500), st.integers(0, 12), st.integers(1, 40)), min_size=1, max_size=5))
def test_rows_kept_from_step_to_step_are_hardly_old(rows: list[tuple[Request, int, int]]) -> None:
    """Requests come and go. A row may be a sixteenth of its request's answer old, and 16 tokens; the rest is exact."""
    kept = OccupancyForecast(1, 600)
    for step in range(60):
        running = [r for r, start, stay in rows if start <= step < start + stay and r.output_tokens < r.forecast.limit]
        kept.update(running)
        newest, oldest = np.zeros(kept.steps.size), np.zeros(kept.steps.size)
        for r in running:
            held, left = r.total_tokens + kept.steps, r.forecast.limit - r.output_tokens
            newest += held * (kept.steps < left)
            oldest += held * (kept.steps < left + min(r.output_tokens // 16, 16))
        assert (newest - 1e-6 <= kept.mean).all()
        assert (kept.mean <= oldest + 1e-6).all()
        for r in running:
            r.output_tokens += 1


@given(
    st.lists(
        st.tuples(curves(), st.integers(1, 300), st.integers(1, 3000), st.integers(0, 8), st.integers(1, 6)),
        min_size=1, max_size=8,
    )
)  # fmt: skip
def test_whoever_came_and_went_before_the_forecast_is_that_of_what_runs(
    rows: list[tuple[LengthDistribution, int, int, int, int]],
) -> None:
    """Also as to how far ahead it looks: some may last longer than all before them, some are only looked at."""
    kept = OccupancyForecast(16, 2000)
    visits = [(request(prompt, curve, 0, most), start, stay) for curve, prompt, most, start, stay in rows]
    for step in range(12):
        running = [r for r, start, stay in visits if start <= step < start + stay]
        kept.update(running)
        fresh = forecast_of(running, 16, 2000)
        for candidate in [r for r, start, _ in visits if start == step + 1]:
            for forecast in (kept, fresh):
                forecast.add(forecast.share(candidate))
        for one, other in ((kept.mean, fresh.mean), (kept.variance, fresh.variance)):
            np.testing.assert_allclose(one[: other.size], other, rtol=1e-9, atol=1e-6)
            assert not one[other.size :].any()
        for r in running:
            r.output_tokens += 17  # a row is at most 16 tokens old
