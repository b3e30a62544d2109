"""Step costs: learned from noisy steps, whatever the unit, and not shaken by a step that went wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from presize.core.costs import CostEstimator, StepCosts

# seconds of a step, of a decoding sequence, of a prefilled token: a GPU, a CPU, and a machine with cheap sequences
MACHINES = [(8e-3, 5e-5, 4e-5), (5e-2, 2e-3, 3e-3), (2e-2, 1e-4, 1e-3)]


def as_tuple(costs: StepCosts) -> tuple[float, float, float]:
    return costs.fixed_s, costs.sequence_s, costs.prefill_s


def run_steps(
    estimator: CostEstimator, true: tuple[float, float, float], count: int, seed: int, noise: float = 0.03
) -> None:
    """``count`` steps, half of them without prefill, as a server's are."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        decodes = int(rng.integers(0, 128))
        prefill = int(rng.integers(1, 512)) if rng.random() < 0.5 or decodes == 0 else 0
        seconds = true[0] + true[1] * decodes + true[2] * prefill
        estimator.observe(decodes, prefill, seconds * float(rng.lognormal(0, noise)))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("true", MACHINES)
def test_recovers_what_a_step_costs(true: tuple[float, float, float], seed: int) -> None:
    estimator = CostEstimator()
    run_steps(estimator, true, 500, seed)
    assert as_tuple(estimator.costs) == pytest.approx(true, rel=0.15)


@pytest.mark.parametrize("true", MACHINES)
def test_follows_a_machine_that_slows_down(true: tuple[float, float, float]) -> None:
    estimator = CostEstimator()
    run_steps(estimator, true, 300, 1)
    slower = (2 * true[0], 2 * true[1], 2 * true[2])
    run_steps(estimator, slower, 2000, 2)
    assert as_tuple(estimator.costs) == pytest.approx(slower, rel=0.15)


@pytest.mark.parametrize("first", [1.0, 10.0, 1000.0])
def test_a_first_step_that_compiles_kernels_is_forgotten(first: float) -> None:
    estimator = CostEstimator()
    estimator.observe(0, 100, first)
    run_steps(estimator, MACHINES[1], 500, 0)
    assert as_tuple(estimator.costs) == pytest.approx(MACHINES[1], rel=0.15)


@pytest.mark.parametrize("true", MACHINES)
@pytest.mark.parametrize("factor", [100.0, 0.01])  # a page fault; a clock that was set back
def test_one_wild_step_moves_the_estimate_by_little(true: tuple[float, float, float], factor: float) -> None:
    estimator = CostEstimator()
    run_steps(estimator, true, 300, 0, noise=0.01)
    before = as_tuple(estimator.costs)
    estimator.observe(64, 100, factor * (true[0] + 64 * true[1] + 100 * true[2]))
    assert as_tuple(estimator.costs) == pytest.approx(before, rel=0.1)


@given(
    st.lists(
        st.tuples(st.integers(0, 2**16), st.integers(0, 2**20), st.floats(1e-7, 1e5)),
        min_size=1,
        max_size=60,
    )
)
@example([(0, 1, 27.0), (347, 168, 1e-5)])
def test_never_negative_whatever_the_steps_took(steps: list[tuple[int, int, float]]) -> None:
    estimator = CostEstimator()
    for step in steps:
        estimator.observe(*step)
        assert all(math.isfinite(cost) and cost > 0 for cost in as_tuple(estimator.costs))


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100), st.floats(min_value=0)), min_size=1, max_size=30))
@example([(1, 1, 1e200)])
@example([(1, 1, 1e-200)])
@example([(1, 1, math.inf)])
def test_never_nan_for_any_float(steps: list[tuple[int, int, float]]) -> None:
    """A virtual clock may have any unit, and a broken one may stand still or jump."""
    estimator = CostEstimator()
    for step in steps:
        estimator.observe(*step)
        assert all(math.isfinite(cost) and cost > 0 for cost in as_tuple(estimator.costs))


@pytest.mark.parametrize("step", [(0, 0, 1.0), (3, 5, 0.0), (3, 5, -1.0), (3, 5, math.nan)])
def test_a_step_that_says_nothing_is_ignored(step: tuple[int, int, float]) -> None:
    estimator, other = CostEstimator(), CostEstimator()
    for each in (estimator, other):
        run_steps(each, MACHINES[0], 30, 0)
    estimator.observe(*step)
    assert estimator.costs == other.costs
    for each in (estimator, other):
        run_steps(each, MACHINES[0], 1, 1)
    assert estimator.costs == other.costs


@given(st.floats(1e-2, 1e3), st.integers(0, 2**16))
def test_the_unit_of_time_does_not_matter(unit: float, seed: int) -> None:
    """Only ratios of costs enter a decision, so they must not depend on how fast the machine is."""
    one, other = CostEstimator(), CostEstimator()
    true = MACHINES[1]
    run_steps(one, true, 40, seed)
    run_steps(other, (true[0] * unit, true[1] * unit, true[2] * unit), 40, seed)
    assert np.array(as_tuple(other.costs)) / unit == pytest.approx(as_tuple(one.costs), rel=1e-3)
