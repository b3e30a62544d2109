"""When requests are sent, with a client that answers when the test lets it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presize.load.outcome import UNFINISHED, Failure, Outcome
from presize.load.rows import Sample
from presize.load.runner import Run, Tally, drive


class Slow:
    """Each answer takes as many turns of the event loop as its sample's limit; counts those at the same time."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.order: list[str] = []
        self.stop: asyncio.Event
        self.on_ask: Callable[[], None] = lambda: None

    async def ask(self, sample: Sample, *, ignore_eos: bool) -> Outcome:
        self.now += 1
        self.most = max(self.most, self.now)
        self.order.append(str(sample.prompt))
        self.on_ask()
        try:
            for _ in range(sample.output_len):
                await asyncio.sleep(0)
        finally:
            self.now -= 1
        failure = Failure("http 500", "no") if sample.output_len == 3 else None
        return Outcome(output_tokens=sample.output_len, failure=failure)


def go(
    lengths: list[int], client: Any, *, times: Any = None, limit: int | None = None, on_tick: Callable[[], None] = int
) -> tuple[Run, Tally]:
    """Drive a request of each length; the client's ``stop`` ends the run, if it has one."""
    samples = [Sample(str(i), length) for i, length in enumerate(lengths)]
    tally = Tally(len(samples))

    async def run() -> Run:
        client.stop = asyncio.Event()
        arrivals = np.zeros(len(samples)) if times is None else times
        return await drive(
            client, samples, arrivals, tally, ignore_eos=False, max_concurrency=limit, stop=client.stop, on_tick=on_tick
        )

    return asyncio.run(run()), tally


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=40), limit=st.none() | st.integers(1, 8))
def test_all_are_sent_in_order_and_never_more_than_allowed_at_once(lengths: list[int], limit: int | None) -> None:
    client = Slow()
    run, tally = go(lengths, client, limit=limit)
    assert client.order == [str(i) for i in range(len(lengths))]
    assert client.most == tally.peak == run.peak == min(len(lengths), limit or len(lengths))
    assert [outcome.output_tokens for outcome in run.outcomes] == lengths
    assert (tally.sent, tally.done, tally.in_flight) == (len(lengths), len(lengths), 0)
    assert tally.failed == lengths.count(3)


def test_requests_wait_for_their_time() -> None:
    times = np.array([0.0, 0.01, 0.02])
    run, _ = go([1, 1, 1], Slow(), times=times)
    started = [outcome.started_s for outcome in run.outcomes]
    assert all(start >= at - 0.001 for start, at in zip(started, times, strict=True))  # a timer may be early by a tick
    assert [outcome.scheduled_s for outcome in run.outcomes] == times.tolist()
    assert run.duration_s >= started[-1]


def test_requests_do_not_wait_for_earlier_ones() -> None:
    """The first has no end of its own: it is the last one that ends the run."""
    client = Slow()
    client.on_ask = lambda: client.stop.set() if len(client.order) == 3 else None
    run, tally = go([10**9, 1, 1], client, times=np.array([0.0, 0.001, 0.002]))
    assert (tally.sent, run.outcomes[0].failure) == (3, UNFINISHED)


def test_a_stop_keeps_what_has_ended() -> None:
    client = Slow()
    client.on_ask = lambda: client.stop.set() if len(client.order) == 3 else None
    run, _ = go([1, 10**9, 1, 10**9, 1], client, limit=2)
    assert [outcome.failure for outcome in run.outcomes[:2]] == [None, UNFINISHED]
    assert [sample.prompt for sample in run.samples] == client.order != ["0", "1", "2", "3", "4"]
    assert client.now == 0  # nothing is left behind


def test_a_bug_is_not_hidden() -> None:
    class Broken:
        async def ask(self, sample: Sample, *, ignore_eos: bool) -> Outcome:
            raise AssertionError("a bug")

    with pytest.RaisesGroup(pytest.RaisesExc(AssertionError, match="a bug")):
        go([1], Broken())


def test_the_run_is_shown_while_it_lasts() -> None:
    seen: list[int] = []
    go([5], Slow(), on_tick=lambda: seen.append(1))
    assert seen
