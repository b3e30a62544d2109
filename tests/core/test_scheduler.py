"""The promises of the scheduler, in simulated worlds under every policy, order and forecast, good or hostile."""

from __future__ import annotations

import re

import numpy as np
import pytest
from driver import FORECASTERS, Job, Run, World, worlds
from hypothesis import given, settings
from hypothesis import strategies as st

from presize.config import SchedulerOptions
from presize.core.admission import POLICIES, AdmissionPolicy
from presize.core.ledger import Ledger
from presize.core.lengths import GRID, LengthDistribution
from presize.core.ordering import ORDERS
from presize.core.request import Request, RequestState
from presize.core.scheduler import Scheduler
from presize.errors import CapacityError

FEW = settings(max_examples=max(settings().max_examples // 2, 1))
forecasters = st.sampled_from(sorted(FORECASTERS))


@pytest.mark.parametrize("order", sorted(ORDERS))
@pytest.mark.parametrize("policy", sorted(POLICIES))
@FEW
@given(world=worlds(), forecaster=forecasters, aging=st.sampled_from([1e-3, 1.0, 1e6]))
def test_every_request_ends_with_its_own_length(
    policy: str, order: str, world: World, forecaster: str, aging: float
) -> None:
    """The driver checks blocks, budgets, progress and the oldest at every step, and all lengths at the end."""
    Run(world, SchedulerOptions(policy=policy, order=order, aging=aging), FORECASTERS[forecaster]).to_the_end()


@pytest.mark.parametrize("policy", sorted(POLICIES))
@FEW
@given(world=worlds(aborts=True), order=st.sampled_from(sorted(ORDERS)), forecaster=forecasters)
def test_clients_may_leave_at_any_time(policy: str, world: World, order: str, forecaster: str) -> None:
    Run(world, SchedulerOptions(policy=policy, order=order), FORECASTERS[forecaster]).to_the_end()


class Erratic(AdmissionPolicy):
    """A policy with a bug: it answers by the bits of a number, and lets anybody be thrown out likewise."""

    first_fit = True
    bits, mask, calls = 0, 0, 0

    def _next(self) -> bool:
        self.calls += 1
        return bool(self.bits >> (self.calls % 61) & 1)

    def admits(self, request: Request) -> bool:
        return self._next()

    def ran_out(self, request: Request) -> bool:
        return self._next() and bool(self.mask >> (self.calls % 17) & 1)


@given(worlds(), st.integers(0, 2**61 - 1), st.sampled_from([0, 1]), forecasters)
def test_no_policy_can_stall_or_break_the_scheduler(world: World, bits: int, mask: int, forecaster: str) -> None:
    run = Run(world, SchedulerOptions(), FORECASTERS[forecaster])
    policy = Erratic(run.options, run.scheduler.ledger)
    policy.bits, policy.mask = bits, mask
    run.scheduler.policy = policy
    run.to_the_end()


@given(worlds(), st.sampled_from(sorted(ORDERS)), forecasters, st.none() | st.integers(1, 200))
def test_worst_case_never_preempts(world: World, order: str, forecaster: str, reserve: int | None) -> None:
    options = SchedulerOptions(policy="worst-case", order=order, reserve_tokens=reserve)
    assert Run(world, options, FORECASTERS[forecaster]).to_the_end().preemptions == 0


def test_the_small_worlds_do_preempt() -> None:
    """Else the tests above would prove nothing about preemption."""
    world = World(tuple(Job(4, 20, 20) for _ in range(6)), 12, 4, 6, 64)
    assert Run(world, SchedulerOptions(policy="on-demand"), FORECASTERS["one"]).to_the_end().preemptions > 0


@given(worlds(), st.sampled_from(sorted(POLICIES)), st.sampled_from(sorted(ORDERS)), st.integers(0, 2**32))
def test_a_live_curve_may_change_under_every_request(world: World, policy: str, order: str, seed: int) -> None:
    live, rng = LengthDistribution.from_survival(np.ones(GRID.size)), np.random.default_rng(seed)

    def learn(scheduler: Scheduler) -> None:
        live.survival[1:] = np.cumprod(1 - rng.random(GRID.size - 1) ** rng.integers(1, 9))

    options = SchedulerOptions(policy=policy, order=order)
    Run(world, options, lambda number, jobs: live.capped(jobs[number].max_tokens), before_step=learn).to_the_end()


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_asking_what_is_booked_changes_no_decision(policy: str) -> None:
    """A display polls it; how often must not matter."""
    rng = np.random.default_rng(0)
    sizes = zip(rng.integers(1, 10, 120).tolist(), rng.integers(1, 120, 120).tolist(), strict=True)
    jobs = tuple(Job(prompt, length, length + 8, int(i / 3)) for i, (prompt, length) in enumerate(sizes))
    world = World(jobs, 500, 1, 16, 64)

    def poll(scheduler: Scheduler) -> None:
        for _ in range(2):
            assert 0 <= scheduler.booked_tokens() <= scheduler.ledger.capacity_tokens

    quiet = Run(world, SchedulerOptions(policy=policy), FORECASTERS["random"]).to_the_end()
    polled = Run(world, SchedulerOptions(policy=policy), FORECASTERS["random"], before_step=poll).to_the_end()
    assert [step for step, (a, b) in enumerate(zip(quiet.trace, polled.trace, strict=False)) if a != b] == []


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_nothing_is_booked_when_nothing_runs(policy: str) -> None:
    """An idle server's display says so, without another step."""
    world = World((Job(4, 5, 50), Job(4, 9, 50)), 60, 4, 4, 32)
    run = Run(world, SchedulerOptions(policy=policy), FORECASTERS["huge"]).to_the_end()
    assert run.scheduler.booked_tokens() == 0


@given(st.integers(1, 20), st.integers(1, 8), st.integers(1, 100), st.integers(1, 100))
def test_what_can_never_fit_is_refused_at_once_with_the_numbers(
    blocks: int, size: int, prompt: int, max_tokens: int
) -> None:
    scheduler = Scheduler(SchedulerOptions(), Ledger(blocks, size), max_num_seqs=2, max_num_batched_tokens=16)
    request = Request("r", prompt, max_tokens, LengthDistribution.exactly(1))
    if prompt + max_tokens <= blocks * size:
        scheduler.add(request)
        assert request in scheduler.waiting
        return
    with pytest.raises(CapacityError) as caught:
        scheduler.add(request)
    numbers = [int(n) for n in re.findall(r"\d+", str(caught.value))]
    assert numbers == [prompt, max_tokens, prompt + max_tokens, blocks * size]
    assert not scheduler.has_unfinished_requests()


@given(st.integers(2, 100), st.data())
def test_a_budget_below_the_number_of_sequences_is_refused(sequences: int, data: st.DataObject) -> None:
    budget = data.draw(st.integers(1, sequences - 1))
    with pytest.raises(ValueError, match=rf"{budget};.*{sequences}"):
        Scheduler(SchedulerOptions(), Ledger(4, 4), max_num_seqs=sequences, max_num_batched_tokens=budget)


@given(st.integers(1, 30))
def test_an_overrun_begins_with_the_first_token_beyond_the_forecast(promised: int) -> None:
    scheduler = Scheduler(SchedulerOptions(), Ledger(8, 8), max_num_seqs=1, max_num_batched_tokens=64)
    request = Request("r", 4, 40, LengthDistribution.exactly(promised))
    scheduler.add(request)
    overrun = []
    for _ in range(promised + 3):
        scheduler.complete(scheduler.schedule(), 0.1)
        overrun.append((request.output_tokens, request.overrun))
    assert overrun == [(n, n > promised) for n in range(1, promised + 4)]


def test_a_preempted_request_can_be_aborted() -> None:
    world = World((Job(4, 20, 20), Job(4, 20, 20)), 6, 4, 2, 64)
    run = Run(world, SchedulerOptions(policy="on-demand"), FORECASTERS["one"])
    for request in run.requests:
        run.scheduler.add(request)
    for _ in range(40):
        run.scheduler.complete(run.scheduler.schedule(), 0.1)
        if run.requests[1].state is RequestState.PREEMPTED:
            break
    first, second = run.requests
    assert second.state is RequestState.PREEMPTED
    run.scheduler.finish(second)
    assert second.state is RequestState.FINISHED
    assert list(run.scheduler.waiting) == []
    run.scheduler.finish(first)
    assert run.scheduler.ledger.free_blocks == 6
    run.scheduler.ledger.check_integrity()
