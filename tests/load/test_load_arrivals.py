"""Arrivals are the processes that they are said to be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presize.load.arrivals import drawn, offered_rate, replayed

SEEDS = st.integers(0, 2**63)
RATES = st.floats(1e-3, 1e5)
COUNT = 20_000


@given(count=st.integers(0, 300), rate=RATES | st.just(math.inf), burstiness=st.floats(1e-3, 1e3), seed=SEEDS)
def test_arrivals_begin_at_zero_and_go_forward(count: int, rate: float, burstiness: float, seed: int) -> None:
    times = drawn(count, rate, burstiness, np.random.default_rng(seed))
    assert len(times) == count
    assert (times[:1] == 0).all()
    assert (np.diff(times) >= 0).all()
    assert np.isfinite(times).all()
    assert math.isfinite(rate) or not times.any()
    again = drawn(count, rate, burstiness, np.random.default_rng(seed))
    assert (times == again).all()


@given(rate=RATES, burstiness=st.floats(0.25, 64), seed=SEEDS)
def test_the_gaps_have_the_mean_and_the_spread_of_their_gamma_distribution(
    rate: float, burstiness: float, seed: int
) -> None:
    gaps = np.diff(drawn(COUNT, rate, burstiness, np.random.default_rng(seed))) * rate
    spread = burstiness**-0.5
    assert gaps.mean() == pytest.approx(1, abs=8 * spread / COUNT**0.5)
    assert gaps.std() / gaps.mean() == pytest.approx(spread, rel=0.2)


@given(rate=RATES, seed=SEEDS)
def test_poisson_gaps_forget(rate: float, seed: int) -> None:
    """Of those that have lasted for the mean already, a share of 1/e lasts for as long again."""
    gaps = np.diff(drawn(COUNT, rate, 1.0, np.random.default_rng(seed))) * rate
    assert (gaps[gaps > 1] > 2).mean() == pytest.approx(math.exp(-1), abs=0.06)


@given(count=st.integers(2, 50), rate=RATES, seed=SEEDS)
def test_without_bursts_it_is_a_fixed_beat(count: int, rate: float, seed: int) -> None:
    times = drawn(count, rate, math.inf, np.random.default_rng(seed))
    assert times == pytest.approx(np.arange(count) / rate)
    assert offered_rate(times) == pytest.approx(rate)


@given(stamps=st.lists(st.floats(-1e9, 1e9), max_size=50).map(sorted), scale=st.floats(0, 100))
def test_a_trace_keeps_its_gaps_scaled(stamps: list[float], scale: float) -> None:
    times = replayed(stamps, scale)
    assert (times[:1] == 0).all()
    assert np.diff(times) == pytest.approx(np.diff(stamps) * scale, abs=1e-3)


def test_all_at_once_has_no_rate() -> None:
    assert offered_rate(np.zeros(5)) == math.inf
    assert offered_rate(np.zeros(0)) == math.inf
