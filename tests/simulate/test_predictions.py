"""Forecasts with a known error: how large it is, and which answers it hits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presize.config import SchedulerOptions
from presize.core.lengths import LengthDistribution
from presize.errors import ConfigError
from presize.predict import Query
from presize.simulate.cluster import simulate
from presize.simulate.options import ForecastOptions, SimulateOptions
from presize.simulate.predictions import check_options, make_predictor
from presize.simulate.traces import SYNTHETIC, load_trace

LENGTHS = np.random.default_rng(0).integers(20, 800, 1500).tolist()


def curves(name: str, lengths: list[int] = LENGTHS, seed: int = 0, **forecasts: float) -> list[LengthDistribution]:
    predictor = make_predictor(SchedulerOptions(predictor=name), lengths, ForecastOptions(**forecasts), seed)
    return predictor.predict([Query(str(i), (), 10_000) for i in range(len(lengths))])


@pytest.mark.parametrize(("sigma", "bias"), [(0.3, 1.0), (0.5, 2.0), (1.0, 0.5)])
def test_the_error_is_as_large_as_asked_for(sigma: float, bias: float) -> None:
    made = curves("noisy", forecast_error=sigma, forecast_bias=bias)
    errors = np.log([curve.quantile(0.5) / length for curve, length in zip(made, LENGTHS, strict=True)])
    assert np.median(errors) == pytest.approx(np.log(bias), abs=0.05)
    assert errors.std() == pytest.approx(sigma, rel=0.1)


def test_an_unbiased_forecast_is_calibrated() -> None:
    made = curves("noisy", forecast_error=0.5)
    below = np.mean([length <= c.quantile(0.9) for c, length in zip(made, LENGTHS, strict=True)])
    assert below == pytest.approx(0.9, abs=0.025)


def test_no_error_is_the_truth() -> None:
    for name in ("oracle", "noisy"):
        assert [curve.quantile(0.5) for curve in curves(name, forecast_error=0.0)] == LENGTHS


def test_the_adversary_hits_the_longest() -> None:
    made = [curve.quantile(0.5) for curve in curves("adversary", adversary_share=0.1)]
    hit = [length for length, forecast in zip(LENGTHS, made, strict=True) if forecast == 1]
    assert len(hit) == pytest.approx(150, abs=5)
    assert min(hit) >= np.quantile(LENGTHS, 0.89)
    assert [f for f in made if f != 1] == [length for length in LENGTHS if length not in hit]
    assert [curve.quantile(0.5) for curve in curves("adversary", adversary_share=0.0)] == LENGTHS


@given(st.integers(0, 50), st.integers(0, 50))
def test_noise_is_drawn_from_the_seed(a: int, b: int) -> None:
    first, second = (
        [curve.quantile(0.5) for curve in curves("noisy", LENGTHS[:40], seed, forecast_error=1.0)] for seed in (a, b)
    )
    assert (first == second) == (a == b)


@pytest.mark.parametrize(
    ("name", "words"),
    [("attention", "learned read prompts"), ("hidden", "learned read prompts"), ("x", "the simulator")],
)
def test_a_predictor_that_reads_prompts_is_refused(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_options(SchedulerOptions(predictor=name))


@pytest.mark.parametrize("option", [{"learn_online": "x"}, {"lengths": "x"}])
def test_options_that_mean_nothing_here_are_refused(option: dict[str, str]) -> None:
    trace = load_trace(SYNTHETIC, SimulateOptions(num_requests=1), 1024)
    with pytest.raises(ConfigError, match="not for the simulator"):
        simulate(trace, SimulateOptions(num_requests=1), SchedulerOptions(**option))
