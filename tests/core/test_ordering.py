"""The waiting queue: a sorted multiset, in which nobody starves."""

from __future__ import annotations

import numpy as np
import pytest
from curves import curves
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from presize.config import SchedulerOptions
from presize.core.lengths import LengthDistribution
from presize.core.ordering import ORDERS, WaitingQueue
from presize.core.request import Request

CURVES = curves()


@st.composite
def streams(draw: st.DrawFn, forecasts: st.SearchStrategy[LengthDistribution] = CURVES) -> list[Request]:
    """Requests in order of arrival; some were preempted, some have outlived their forecast."""
    waits = draw(st.lists(st.floats(0, 20), min_size=2, max_size=12))
    requests = []
    for number, arrival in enumerate(np.cumsum(waits).tolist()):
        max_tokens = draw(st.integers(1, 1500))
        generated = draw(st.just(0) | st.integers(0, max_tokens - 1))
        curve = draw(forecasts)
        requests.append(
            Request(str(number), 10, max_tokens, curve, arrival_s=arrival, output_tokens=generated, priority=0)
        )
    return requests


def overtakings(queue: WaitingQueue) -> list[tuple[Request, Request]]:
    """Every (overtaken, overtaker): the second stands before the first and came later."""
    order = list(queue)
    return [(b, a) for i, a in enumerate(order) for b in order[i + 1 :] if a.arrival_s > b.arrival_s]


def filled(order: str, aging: float, requests: list[Request]) -> WaitingQueue:
    queue = WaitingQueue(SchedulerOptions(order=order, aging=aging))
    for request in requests:
        queue.push(request)
    return queue


def expected_rest(request: Request) -> float:
    """Mean tokens to come; all that max_tokens leaves once the forecast is broken."""
    left = request.max_tokens - request.output_tokens
    if request.output_tokens >= request.forecast.limit:
        return left
    return min(request.forecast.capped(request.max_tokens).mean_remaining(request.output_tokens), left)


@given(streams(st.builds(LengthDistribution.exactly, st.integers(1, 2000))), st.floats(0.001, 10))
def test_fcfs_is_the_order_of_arrival(requests: list[Request], aging: float) -> None:
    pushed = list(reversed(requests))
    assert list(filled("fcfs", aging, pushed)) == sorted(pushed, key=lambda r: r.arrival_s)


@given(streams(), st.floats(0.001, 10))
def test_gittins_overtakes_only_what_came_little_earlier(requests: list[Request], aging: float) -> None:
    """At most ``aging`` seconds for each token that the overtaken one is expected to need."""
    for overtaken, overtaker in overtakings(filled("gittins", aging, requests)):
        assert overtaker.arrival_s - overtaken.arrival_s <= aging * expected_rest(overtaken) + 1e-6


@given(streams(), st.floats(0.001, 10))
def test_longest_first_overtakes_only_what_came_little_earlier(requests: list[Request], aging: float) -> None:
    """At most ``aging`` seconds for each token of the longer one, the overtaker."""
    for overtaken, overtaker in overtakings(filled("longest-first", aging, requests)):
        length = overtaker.forecast.capped(overtaker.max_tokens).mean_remaining()
        assert overtaker.arrival_s - overtaken.arrival_s <= aging * length + 1e-6


@pytest.mark.parametrize("order", sorted(ORDERS))
@settings(max_examples=settings().max_examples // 3)
@given(requests=streams(), aging=st.floats(0.001, 1))
def test_under_every_order_the_wait_of_the_first_is_bounded(order: str, requests: list[Request], aging: float) -> None:
    """Nobody starves: a bound from max_tokens alone, which no predictor can move."""
    longest = max(r.max_tokens for r in requests)
    for overtaken, overtaker in overtakings(filled(order, aging, requests)):
        assert overtaker.arrival_s - overtaken.arrival_s <= aging * (longest + 1)


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=8, unique=True))
def test_at_the_same_time_known_lengths_are_sorted(lengths: list[int]) -> None:
    requests = [Request(str(n), 5, 2000, LengthDistribution.exactly(n)) for n in lengths]
    assert list(filled("gittins", 0.01, requests)) == sorted(requests, key=lambda r: r.forecast.limit)
    assert list(filled("longest-first", 0.01, requests)) == sorted(requests, key=lambda r: -r.forecast.limit)


@pytest.mark.parametrize("generated", [5, 6, 50])
def test_gittins_does_not_trust_a_forecast_that_was_wrong(generated: int) -> None:
    """A request that was to end after 5 tokens and did not is no better than one of which one token is left."""
    broken = Request("broken", 10, 1000, LengthDistribution.exactly(5), output_tokens=generated)
    nearly_done = Request("nearly done", 10, 1000, LengthDistribution.exactly(100), output_tokens=99)
    assert [r.request_id for r in filled("gittins", 0.02, [broken, nearly_done])] == ["nearly done", "broken"]


@given(st.lists(st.tuples(st.integers(-3, 3), st.floats(0, 100)), min_size=1, max_size=10))
def test_a_lower_priority_value_goes_first_whatever_the_order(rows: list[tuple[int, float]]) -> None:
    curve = LengthDistribution.exactly(9)
    requests = [Request(str(i), 5, 20, curve, arrival_s=t, priority=p) for i, (p, t) in enumerate(rows)]
    for order in ORDERS:
        assert [r.priority for r in filled(order, 0.01, requests)] == sorted(p for p, _ in rows)


class QueueMachine(RuleBasedStateMachine):
    """Against a plain list, sorted anew at each look. The live curve changes under the queue's feet."""

    waiting = Bundle("waiting")

    def __init__(self) -> None:
        super().__init__()
        self.options = SchedulerOptions(order="gittins", aging=0.5)
        self.key = ORDERS.get("gittins")
        self.queue = WaitingQueue(self.options)
        self.model: list[tuple[int, float, int, Request]] = []
        self.live = LengthDistribution.from_survival(np.geomspace(1, 1e-9, LengthDistribution.exactly(1).survival.size))
        self.count = 0

    @rule(target=waiting, priority=st.integers(0, 1), arrival=st.integers(0, 3), generated=st.integers(0, 5))
    def push(self, priority: int, arrival: int, generated: int) -> Request:
        self.count += 1
        request = Request(
            str(self.count), 3, 99, self.live, arrival_s=arrival, priority=priority, output_tokens=generated
        )
        self.model.append((priority, self.key(request, self.options), self.count, request))
        self.queue.push(request)
        return request

    @rule(request=consumes(waiting))
    def remove(self, request: Request) -> None:
        self.queue.remove(request)
        self.model = [entry for entry in self.model if entry[3] is not request]
        assert request not in self.queue

    @rule(hazard=st.floats(0, 1))
    def predictor_learns(self, hazard: float) -> None:
        self.live.survival[1:] = np.cumprod(np.full(self.live.survival.size - 1, 1 - hazard))

    @invariant()
    def is_the_sorted_list(self) -> None:
        expected = [entry[3] for entry in sorted(self.model, key=lambda entry: entry[:3])]
        assert list(self.queue) == expected
        assert len(self.queue) == len(expected)
        assert all(request in self.queue for request in expected)
        assert self.queue.first(2) == expected[:2]


TestQueue = QueueMachine.TestCase
