"""Whatever a predictor says, the schedule is valid: forecasts decide what is fast, never what is right."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from driver import Job, Run, World, worlds
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from presize.config import SchedulerOptions
from presize.core.lengths import GRID, MAX_LENGTH, LengthDistribution
from presize.core.scheduler import Scheduler
from presize.predict.calibration import Calibration
from presize.predict.hazard import hazards_of, survival_of

FEW = settings(max_examples=max(settings().max_examples // 2, 1))
POLICIES, ORDERS = ("payback", "watermark", "s3"), ("fcfs", "gittins")

RISING = np.linspace(0.0, 1.0, GRID.size)
FALLING = np.exp(-GRID / 20.0)
OUTPUTS = {
    "NaN": np.full(GRID.size, math.nan),
    "NaN here and there": np.where(np.arange(GRID.size) % 3 == 0, math.nan, FALLING),
    "NaN from the start": np.where(GRID < 9, math.nan, FALLING),
    "inf": np.full(GRID.size, math.inf),
    "minus inf": np.full(GRID.size, -math.inf),
    "negative": -FALLING,
    "rising": RISING,
    "constant": np.full(GRID.size, 0.5),
    "all one": np.ones(GRID.size),
    "all zero": np.zeros(GRID.size),
    "per cent": 100 * FALLING,
    "log": np.log(FALLING + 1e-300),
    "huge": np.where(np.arange(GRID.size) % 2 == 0, 1e308, -1e308),
    "tiny": np.full(GRID.size, 5e-324),
    "zigzag": np.where(np.arange(GRID.size) % 2 == 0, 1.0, FALLING),
    "ends at once": (GRID < 1).astype(np.float64),
    "whole numbers": np.arange(GRID.size)[::-1],
    "half precision": FALLING.astype(np.float16),
}
ANY = st.sampled_from(sorted(OUTPUTS)).map(OUTPUTS.__getitem__) | arrays(
    np.float64, GRID.size, elements=st.floats(width=64), fill=st.floats(width=64)
)
LIMITS = st.sampled_from([-1, 0, 1, 7, 2**40]) | st.integers(1, 100)


def within_the_pool(scheduler: Scheduler) -> None:
    """Before every step, beside all that the driver looks at."""
    held = [scheduler.ledger.held(request.request_id) for request in scheduler.running]
    blocks = [block for table in held for block in table]
    assert len(blocks) == len(set(blocks)) <= scheduler.ledger.num_blocks
    assert all(0 <= block < scheduler.ledger.num_blocks for block in blocks)
    scheduler.ledger.check_integrity()


def run(world: World, policy: str, order: str, forecast: Callable[[int, Sequence[Job]], LengthDistribution]) -> Run:
    """To the end, where every request has its own length and every block is free again."""
    return Run(world, SchedulerOptions(policy=policy, order=order), forecast, within_the_pool).to_the_end()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("policy", POLICIES)
@FEW
@given(world=worlds(aborts=True), outputs=st.lists(st.tuples(ANY, LIMITS), min_size=1, max_size=4))
def test_any_output_yields_a_valid_schedule(
    policy: str, order: str, world: World, outputs: list[tuple[np.ndarray, int]]
) -> None:
    curves = [LengthDistribution.from_survival(raw, limit) for raw, limit in outputs]
    run(world, policy, order, lambda number, jobs: curves[number % len(curves)])


BUSY = World(tuple(Job(5 + i % 7, 1 + 6 * i, 80, arrival=i // 3) for i in range(12)), 30, 4, 8, 40)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("output", sorted(OUTPUTS))
def test_every_kind_of_nonsense_finishes_a_busy_world(output: str, policy: str, order: str) -> None:
    curve = LengthDistribution.from_survival(OUTPUTS[output])
    done = run(BUSY, policy, order, lambda number, jobs: curve)
    assert [request.output_tokens for request in done.requests] == [job.length for job in BUSY.jobs]


@given(ANY, LIMITS)
@example(OUTPUTS["NaN"], 0)
def test_any_output_becomes_a_curve_whose_figures_are_numbers(raw: np.ndarray, limit: int) -> None:
    curve = LengthDistribution.from_survival(raw, limit)
    assert curve.survival[0] == 1
    assert (np.diff(curve.survival) <= 0).all()
    assert ((curve.survival >= 0) & (curve.survival <= 1)).all()
    assert 1 <= curve.quantile(0.1) <= curve.quantile(0.5) <= curve.quantile(0.99) <= curve.limit <= MAX_LENGTH
    for generated in (0, 1, 50, 5000):
        assert 0 < curve.mean_remaining(generated) < math.inf
        assert 0 < curve.gittins_rank(generated) < math.inf
        ahead = curve.conditional(generated, [0, 1, 10, 10**6])
        assert ((ahead >= 0) & (ahead <= 1)).all()


@given(ANY, st.lists(st.floats(0.0, 1.0), max_size=20), st.integers(1, GRID.size - 1))
def test_a_repaired_curve_can_be_corrected_and_taught(raw: np.ndarray, levels: list[float], cells: int) -> None:
    """What a learned predictor's curve goes through after the net."""
    curve = LengthDistribution.from_survival(raw).survival[None]
    corrected = Calibration.fit(np.array(levels), np.zeros(len(levels), dtype=bool)).apply(curve)
    hazards = hazards_of(corrected, cells)
    assert ((hazards >= -1e-12) & (hazards <= 1)).all()
    again = survival_of(np.clip(hazards, 0.0, 1.0))
    np.testing.assert_array_equal(LengthDistribution.from_survival(again[0]).survival, again[0])
