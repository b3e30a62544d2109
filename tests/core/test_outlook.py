"""The outlook against what then happens, step by step, and the objectives that go by it."""

from __future__ import annotations

import numpy as np
import pytest

from presize.config import SchedulerOptions
from presize.core.ledger import Ledger
from presize.core.lengths import LengthDistribution
from presize.core.request import Request
from presize.core.scheduler import Scheduler
from presize.errors import OverloadedError

FIXED, SEQUENCE, PREFILL = 0.02, 0.001, 0.0005  # seconds


def request(number: int, prompt: int, length: int, arrival: float = 0.0) -> Request:
    return Request(f"r{number}", prompt, length, LengthDistribution.exactly(length), arrival)


def scheduler(blocks: int = 64, seqs: int = 64, **options: float) -> Scheduler:
    return Scheduler(
        SchedulerOptions(**options), Ledger(blocks, 32), max_num_seqs=seqs, max_num_batched_tokens=512
    )  # fmt: skip


def step(scheduler: Scheduler, now: float) -> float:
    """One step of a device with these costs; the time after it."""
    decision = scheduler.schedule()
    seconds = FIXED + SEQUENCE * decision.num_decodes + PREFILL * decision.prefill_tokens
    scheduler.complete(decision, seconds)
    for work in decision.work:
        if work.request.output_tokens >= work.request.max_tokens:
            scheduler.finish(work.request)
    return now + seconds


@pytest.mark.parametrize(("blocks", "seqs"), [(64, 64), (4096, 8)])  # memory binds, slots bind
@pytest.mark.parametrize("seed", range(3))
def test_the_queue_time_is_about_what_it_turns_out_to_be(blocks: int, seqs: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    server = scheduler(blocks, seqs)
    for i in range(120):
        server.add(request(i, int(random.integers(10, 100)), int(random.integers(20, 300))))
    now = 0.0
    for _ in range(60):  # costs are learned
        now = step(server, now)
    last = request(1000, 50, 100, arrival=now)
    expected = server.outlook(last).queue_s
    began = now
    server.add(last)
    while last.admission is None:
        now = step(server, now)
    assert expected == pytest.approx(now - began, rel=0.4)


def test_an_idle_device_starts_at_once() -> None:
    server = scheduler()
    outlook = server.outlook(request(0, 50, 100))
    assert outlook.queue_s == 0.0
    assert outlook.ttft_s > 0


def test_only_those_that_go_before_count() -> None:
    server = scheduler(seqs=1, order="gittins", aging=1.0)
    for i in range(5):
        server.add(request(i, 50, 500))
    assert server.outlook(request(10, 50, 10)).queue_s < server.outlook(request(11, 50, 600)).queue_s
    patient = request(12, 50, 600)
    patient.priority = -1
    assert server.outlook(patient).queue_s < server.outlook(request(13, 50, 600)).queue_s


def test_what_can_not_start_in_time_is_refused_with_the_time_to_wait() -> None:
    server = scheduler(seqs=1, slo_ttft_ms=1000.0)
    server.check_attainable(request(0, 50, 100))
    for i in range(20):
        server.add(request(i, 50, 500))
    late = request(30, 50, 500)
    expected = server.outlook(late).ttft_s
    with pytest.raises(OverloadedError, match="slo_ttft_ms") as caught:
        server.check_attainable(late)
    assert caught.value.retry_after_s == pytest.approx(expected - 1.0)


def test_no_more_run_than_leave_each_token_its_time() -> None:
    server = scheduler(blocks=4096, slo_tpot_ms=30.0)
    for i in range(200):
        server.add(request(i, 10, 10 + i))
    now = 0.0
    for _ in range(400):  # costs are learned
        now = step(server, now)
    assert len(server.waiting) > 50
    # 20 ms + 1 ms each: ten sequences make 30 ms
    assert len(server.running) == pytest.approx(10, abs=1)


def test_a_queue_that_drains_is_forecast_to_drain_in_order() -> None:
    server = scheduler(seqs=2)
    for i in range(10):
        server.add(request(i, 20, 50))
    times = [server.seconds_until_started(count) for count in range(1, 11)]
    assert times == sorted(times)
    assert scheduler().seconds_until_started(3) == 0.0
