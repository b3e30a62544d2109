"""A decision that is repeated is the same as deciding again and again, and a refusal stands no longer than it may."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from driver import FORECASTERS, Run, World, worlds
from hypothesis import given
from hypothesis import strategies as st

from presize.config import SchedulerOptions
from presize.core.admission import POLICIES, AdmissionPolicy
from presize.core.ledger import Ledger
from presize.core.lengths import LengthDistribution
from presize.core.ordering import ORDERS
from presize.core.request import Request
from presize.core.scheduler import Scheduler


def state(scheduler: Scheduler) -> list[tuple[object, ...]]:
    """All that later decisions depend on, by request, and the costs."""
    requests = [*scheduler.running, *scheduler.waiting]
    rows: list[tuple[object, ...]] = [
        (r.request_id, r.state, r.output_tokens, r.computed_tokens, r.kv_capacity, r.preemptions) for r in requests
    ]
    return [*rows, (scheduler.costs.costs, scheduler.ledger.held_blocks, scheduler._refusal.steps)]


@pytest.mark.parametrize("policy", sorted(POLICIES))
@given(world=worlds(), order=st.sampled_from(sorted(ORDERS)), forecaster=st.sampled_from(sorted(FORECASTERS)))
def test_repeating_is_deciding_again(policy: str, world: World, order: str, forecaster: str) -> None:
    """At every step of a world: as many steps at once as may be, beside a copy that takes them one by one."""

    def check(scheduler: Scheduler) -> None:
        many, single = copy.deepcopy(scheduler), copy.deepcopy(scheduler)
        decision = many.schedule()
        held = many.repeats(decision, 7)
        seconds = 0.01 * (1.0 + np.arange(len(held)))
        many.complete(decision, seconds)
        for blocks, step_s in zip(held.tolist(), seconds.tolist(), strict=True):
            again = single.schedule()
            assert [(w.request.request_id, w.num_tokens) for w in again.work] == [
                (w.request.request_id, w.num_tokens) for w in decision.work
            ]
            assert single.ledger.held_blocks == blocks
            single.complete(again, step_s)
        assert state(many) == state(single)
        many.ledger.check_integrity()

    Run(world, SchedulerOptions(policy=policy, order=order), FORECASTERS[forecaster], before_step=check).to_the_end()


def test_decodes_are_repeated_until_the_pool_is_short() -> None:
    scheduler = Scheduler(SchedulerOptions(policy="on-demand"), Ledger(6, 4), max_num_seqs=4, max_num_batched_tokens=64)
    for name in "ab":
        scheduler.add(Request(name, 4, 20, LengthDistribution.exactly(20)))
    first = scheduler.schedule()
    assert scheduler.repeats(first, 100).tolist() == [2], "a prefill is done once"
    scheduler.complete(first, 0.1)
    decision = scheduler.schedule()
    # both hold 5 tokens in 2 blocks; from 9 tokens on it is 3 each, from 13 on 4, which the pool has not
    assert scheduler.repeats(decision, 100).tolist() == [4] * 4 + [6] * 4
    assert scheduler.repeats(decision, 3).tolist() == [4] * 3


class Counting(AdmissionPolicy):
    """Refuses, and counts how often it is asked."""

    asked = 0

    def admits(self, request: Request) -> bool:
        self.asked += 1
        return False


@pytest.fixture
def refusing() -> tuple[Scheduler, Counting]:
    """One request runs and one has been refused."""
    scheduler = Scheduler(SchedulerOptions(), Ledger(100, 4), max_num_seqs=9, max_num_batched_tokens=64)
    policy = Counting(scheduler.options, scheduler.ledger)
    scheduler.policy = policy
    for name in ("runs", "waits"):
        scheduler.add(Request(name, 4, 300, LengthDistribution.exactly(300), arrival_s=1.0))
    for _ in range(2):
        scheduler.complete(scheduler.schedule(), 0.1)
    policy.asked = 0
    return scheduler, policy


def test_a_refusal_stands_for_so_many_steps(refusing: tuple[Scheduler, Counting]) -> None:
    scheduler, policy = refusing
    for _ in range(10 * policy.refusal_steps):
        scheduler.complete(scheduler.schedule(), 0.1)
    assert policy.asked == 10


@pytest.mark.parametrize("event", ["a new head", "an end", "another forecast", "one behind the head"])
def test_what_ends_a_refusal(refusing: tuple[Scheduler, Counting], event: str) -> None:
    scheduler, policy = refusing
    if event == "another forecast":
        scheduler.revise(scheduler.running[0], LengthDistribution.exactly(7))
    elif event == "an end":
        scheduler.finish(scheduler.waiting.first(1)[0])
        scheduler.add(Request("next", 4, 30, LengthDistribution.exactly(30), arrival_s=2.0))
    else:
        arrival_s = 0.5 if event == "a new head" else 2.0
        scheduler.add(Request("new", 4, 30, LengthDistribution.exactly(30), arrival_s=arrival_s))
    scheduler.schedule()
    assert policy.asked == (0 if event == "one behind the head" else 1)


def test_a_preempted_request_keeps_its_place_among_those_of_one_moment() -> None:
    """It had come first: a crowd that came with it does not go before it."""
    scheduler = Scheduler(SchedulerOptions(policy="on-demand"), Ledger(4, 4), max_num_seqs=4, max_num_batched_tokens=64)
    for name in "abcd":
        scheduler.add(Request(name, 7, 9, LengthDistribution.exactly(9)))
    preempted = []
    while not preempted:
        decision = scheduler.schedule()
        preempted = decision.preempted
        scheduler.complete(decision, 0.1)
    assert [r.request_id for r in preempted] == ["b"]
    assert [r.request_id for r in scheduler.waiting] == ["b", "c", "d"]


def test_who_starts_again_is_said() -> None:
    scheduler = Scheduler(SchedulerOptions(policy="on-demand"), Ledger(4, 4), max_num_seqs=4, max_num_batched_tokens=64)
    requests = [Request(name, 7, 9, LengthDistribution.exactly(9)) for name in "ab"]
    for request in requests:
        scheduler.add(request)
    started: list[tuple[str, ...]] = []
    while scheduler.has_unfinished_requests():
        decision = scheduler.schedule()
        started += [("first", r.request_id) for r in decision.admitted]
        started += [("again", r.request_id) for r in decision.resumed]
        scheduler.complete(decision, 0.1)
        for request in [r for r in scheduler.running if r.output_tokens == 9]:
            scheduler.finish(request)
    assert started == [("first", "a"), ("first", "b"), ("again", "b")]
