"""`s3` and `past-future`, against their papers' definitions in whole numbers and by brute force."""

from __future__ import annotations

import math

import pytest
from driver import FORECASTERS, Job, Run, World
from hypothesis import assume, given
from hypothesis import strategies as st

from presize.config import SchedulerOptions
from presize.core.admission import POLICIES, StepView
from presize.core.admission_history import S3, PastFuture
from presize.core.costs import StepCosts
from presize.core.ledger import Ledger
from presize.core.lengths import LengthDistribution
from presize.core.request import Request

COSTS = StepCosts(0.02, 0.0005, 0.001)
SMALL = st.tuples(st.integers(1, 60), st.integers(1, 200), st.floats(0, 0.99))  # prompt, max_tokens, share done


def request(prompt: int, max_tokens: int, done: float = 0.0, predicted: int = 1, name: str = "r") -> Request:
    curve = LengthDistribution.exactly(predicted)
    return Request(name, prompt, max_tokens, curve, output_tokens=int(done * max_tokens))


def s3(ledger: Ledger) -> S3:
    policy = S3(SchedulerOptions(policy="s3"), ledger)
    policy.begin(StepView([], COSTS))
    return policy


def upper_edge(predicted: int, max_tokens: int, doubled: int) -> int:
    """Upper edge, in whole tokens, of the first of ten equal buckets that reaches ``predicted``."""
    bucket = next(k for k in range(1, 11) if k * max_tokens >= 10 * min(predicted, max_tokens))
    edge = -(-bucket * max_tokens // 10)
    for _ in range(doubled):
        edge *= 2
    return min(edge, max_tokens)


@pytest.mark.parametrize("max_tokens", [1, 3, 7, 10, 12, 30, 57, 100, 333, 1000, 1023, 4096])
def test_s3_books_the_upper_edge_of_the_bucket(max_tokens: int) -> None:
    policy = s3(Ledger(1, 1))
    for predicted in range(1, max_tokens + 2, max(max_tokens // 500, 1)):
        found = policy.booking(request(5, max_tokens, predicted=predicted))
        assert found == 5 + upper_edge(predicted, max_tokens, 0), predicted


@given(st.integers(1, 5000), st.integers(1, 6000), st.integers(0, 4))
def test_s3_doubles_the_edge_for_each_overrun(max_tokens: int, predicted: int, doubled: int) -> None:
    r = request(5, max_tokens, predicted=predicted)
    r.reservations_doubled = doubled
    assert s3(Ledger(1, 1)).booking(r) == 5 + upper_edge(predicted, max_tokens, doubled)


@given(st.lists(st.tuples(SMALL, st.integers(1, 250)), max_size=6), st.integers(1, 80), st.sampled_from([1, 8]))
def test_s3_admits_what_its_booking_leaves_room_for(
    rows: list[tuple[tuple[int, int, float], int]], blocks: int, size: int
) -> None:
    policy, left = s3(Ledger(blocks, size)), blocks
    for number, ((prompt, max_tokens, done), predicted) in enumerate(rows):
        r = request(prompt, max_tokens, done, predicted, str(number))
        # one that comes back needs room for its next token at the least
        tokens = max(prompt + upper_edge(predicted, max_tokens, 0), prompt + r.output_tokens + 1)
        needed = math.ceil(tokens / size)
        assert policy.admits(r) == (needed <= left)
        left -= needed if needed <= left else 0
        assert policy.booked_tokens() == (blocks - left) * size


def test_s3_throws_out_a_request_that_outgrows_its_booking_and_doubles_it() -> None:
    """Ten buckets of 8 tokens, the shortest predicted: the bookings are 8, 16, 32, 64 and at last all 80."""
    world = World((Job(4, 80, 80), Job(4, 80, 80)), 1000, 1, 2, 128)
    run = Run(world, SchedulerOptions(policy="s3"), FORECASTERS["one"])
    oldest, second = run.requests
    outputs = []

    def watch(scheduler: object) -> None:
        if second.preemptions > len(outputs):
            outputs.append(second.output_tokens)

    run.before_step = watch
    run.to_the_end()
    assert outputs == [8 + 1, 16 + 1, 32 + 1, 64 + 1]
    assert oldest.preemptions == 0


def brute_peak(live: list[tuple[int, int]]) -> int:
    """Most tokens held at once by (held now, tokens to come) pairs, one by one until all have ended."""
    return max(
        sum(held + step for held, rest in live if rest >= step) for step in range(1, max(rest for _, rest in live) + 1)
    )


@given(st.lists(SMALL, min_size=1, max_size=5), st.integers(50, 1500))
def test_past_future_without_history_is_the_peak_of_the_longest(
    rows: list[tuple[int, int, float]], capacity: int
) -> None:
    policy = PastFuture(SchedulerOptions(policy="past-future"), Ledger(capacity, 1))
    policy.begin(StepView([], COSTS))
    live: list[tuple[int, int]] = []
    for number, row in enumerate(rows):
        r = request(*row, name=str(number))
        tried = [*live, (r.total_tokens, r.max_tokens - r.output_tokens)]
        assume(all(rest >= 1 for _, rest in tried))
        admitted = brute_peak(tried) < 0.95 * capacity
        assert policy.admits(r) == admitted
        live = tried if admitted else live


@given(st.lists(SMALL, min_size=1, max_size=5), st.lists(st.integers(1, 200), min_size=200, max_size=220))
def test_past_future_samples_between_the_shortest_and_the_longest_that_are_left(
    rows: list[tuple[int, int, float]], lengths: list[int]
) -> None:
    policy = PastFuture(SchedulerOptions(policy="past-future"), Ledger(10_000, 1))
    for length in lengths:
        policy.finished(Request("old", 1, 200, LengthDistribution.exactly(1), output_tokens=length))
    running = [request(*row, name=str(number)) for number, row in enumerate(rows)]
    policy.begin(StepView(running, COSTS))
    low, high = [], []
    for r in running:
        longer = [n for n in lengths[-200:] if n > r.output_tokens]
        shortest = min(max(min(longer, default=r.max_tokens), r.output_tokens + 1), r.max_tokens)
        low.append((r.total_tokens, shortest - r.output_tokens))
        high.append((r.total_tokens, r.max_tokens - r.output_tokens))
    assert brute_peak(low) <= policy.booked_tokens() <= brute_peak(high)


def test_past_future_learns_that_answers_are_short() -> None:
    """With 1,000 tokens and max_tokens 400 two requests fit blindly; when answers are known to take 20, many do."""

    def admitted(policy: PastFuture) -> int:
        policy.begin(StepView([], COSTS))
        return sum(policy.admits(request(10, 400, name=str(i))) for i in range(30))

    options = SchedulerOptions(policy="past-future")
    blind, wise = (PastFuture(options, Ledger(1000, 1)) for _ in range(2))
    for _ in range(200):
        wise.finished(request(10, 400, 20 / 400))
    assert admitted(blind) == 2
    assert admitted(wise) > 4


def test_past_future_learns_from_what_the_scheduler_finishes() -> None:
    world = World((Job(10, 1, 400),) * 130, 1000, 1, 64, 1024)
    run = Run(world, SchedulerOptions(policy="past-future"), FORECASTERS["truth"]).to_the_end()
    for number in range(30):
        run.scheduler.add(request(10, 400, name=f"later {number}"))
    assert len(run.scheduler.schedule().work) > max(len(work) for work in run.trace[:20])


def test_the_policies_of_this_file_are_registered() -> None:
    assert POLICIES.get("s3") is S3
    assert POLICIES.get("past-future") is PastFuture
