"""A request that runs gets another forecast: everything that was made of the old one goes by the new one."""

from __future__ import annotations

import numpy as np
import pytest

from presize.config import SchedulerOptions
from presize.core.admission import POLICIES
from presize.core.ledger import Ledger
from presize.core.lengths import GRID, LengthDistribution
from presize.core.occupancy import OccupancyForecast
from presize.core.request import Request, RequestState
from presize.core.scheduler import Scheduler

BLOCK = 16


def exponential(mean: float, limit: int = 1000) -> LengthDistribution:
    return LengthDistribution.from_survival(np.exp(-GRID / mean), limit)


def running(policy: str, count: int = 3, blocks: int = 210) -> tuple[Scheduler, list[Request]]:
    """``count`` requests of a prompt of 20 tokens, with the first token out."""
    ledger = Ledger(blocks, BLOCK)
    scheduler = Scheduler(SchedulerOptions(policy=policy), ledger, max_num_seqs=count, max_num_batched_tokens=512)
    requests = [Request(str(i), 20, 1000, exponential(300.0), float(i)) for i in range(count)]
    for request in requests:
        scheduler.add(request)
    scheduler.complete(scheduler.schedule(), 0.1)
    assert all(r.state is RequestState.RUNNING and r.output_tokens == 1 for r in requests)
    return scheduler, requests


@pytest.mark.parametrize("outputs", [1, 40, 500])
def test_the_occupancy_forecast_goes_by_the_new_curve_at_its_next_update(outputs: int) -> None:
    requests = [Request(str(i), 20, 1000, exponential(300.0), output_tokens=outputs) for i in range(4)]
    forecast = OccupancyForecast(BLOCK, 4096)
    forecast.update(requests)
    requests[1].forecast = exponential(30.0)
    forecast.revised(requests[1])
    forecast.update(requests)
    fresh = OccupancyForecast(BLOCK, 4096)
    fresh.update(requests)
    np.testing.assert_allclose(forecast.mean, fresh.mean)
    np.testing.assert_allclose(forecast.variance, fresh.variance)


def test_one_that_the_forecast_does_not_hold_is_no_matter() -> None:
    forecast = OccupancyForecast(BLOCK, 4096)
    forecast.revised(Request("a", 1, 1, exponential(3.0)))
    forecast.update([])
    assert not forecast.mean.any()


@pytest.mark.parametrize("policy", list(POLICIES))
def test_every_policy_takes_another_forecast_and_the_pool_stays_whole(policy: str) -> None:
    scheduler, requests = running(policy)
    for request, mean in zip(requests, (2.0, 50.0, 900.0), strict=True):
        scheduler.revise(request, exponential(mean))
        assert request.forecast.quantile(0.99) + 1 == request.overrun_at
    for _ in range(30):
        scheduler.complete(scheduler.schedule(), 0.1)
        assert 0 <= scheduler.booked_tokens() <= scheduler.ledger.capacity_tokens
    for request in requests:
        scheduler.finish(request)
    scheduler.ledger.check_integrity()
    assert scheduler.ledger.unbooked_blocks == 210


def test_payback_books_less_for_answers_that_turn_out_short() -> None:
    scheduler, requests = running("payback")
    scheduler.schedule()
    before = scheduler.booked_tokens()
    for request in requests:
        scheduler.revise(request, LengthDistribution.exactly(4))
    scheduler.schedule()
    assert scheduler.booked_tokens() < before / 4


def test_the_supervisor_spares_one_whose_new_forecast_is_long_enough() -> None:
    scheduler, (request, *_) = running("payback")
    scheduler.revise(request, LengthDistribution.exactly(1))
    request.output_tokens = 9
    assert request.overrun
    scheduler.revise(request, exponential(300.0))
    assert not request.overrun


def test_s3_books_by_the_new_forecast_as_far_as_the_pool_goes() -> None:
    scheduler, (first, second) = running("s3", 2, 66)  # 20 + 300 tokens each, 20 blocks
    ledger = scheduler.ledger
    assert [ledger.reserved_blocks(r.request_id) for r in (first, second)] == [20, 20]
    scheduler.revise(first, exponential(5.0))
    assert ledger.reserved_blocks("0") == ledger.blocks_for(20 + 100)
    scheduler.revise(second, exponential(1e6))
    assert ledger.reserved_blocks("1") == 66 - 8
    assert ledger.unbooked_blocks == 0
    scheduler.revise(first, exponential(1e6))
    assert ledger.reserved_blocks("0") == 8  # nothing is left


def test_s3_gives_no_booking_to_one_that_was_started_without() -> None:
    scheduler, (request,) = running("s3", 1, 64)
    scheduler.ledger.reserve("0", 0)
    scheduler.revise(request, exponential(5.0))
    assert scheduler.ledger.reserved_blocks("0") == 0


def test_one_that_does_not_run_is_refused() -> None:
    scheduler, _ = running("payback")
    waiting = Request("w", 20, 1000, exponential(300.0))
    scheduler.add(waiting)
    with pytest.raises(AssertionError):
        scheduler.revise(waiting, exponential(3.0))
