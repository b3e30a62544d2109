"""Who makes way for a shorter one."""

from __future__ import annotations

from typing import Any

import pytest
from driver import FORECASTERS, Job, Run, World
from hypothesis import given
from hypothesis import strategies as st

from presize.config import SchedulerOptions
from presize.core.costs import StepCosts
from presize.core.interruption import Interruption
from presize.core.lengths import LengthDistribution
from presize.core.request import Request

INTERRUPTING = SchedulerOptions(order="gittins-preemptive", aging=1.0)
CHEAP = StepCosts(1.0, 0.0, 1e-9)  # a prefill is next to free


def request(length: int, output: int = 0, admission: int | None = None, **fields: Any) -> Request:
    """Forecast to have ``length`` tokens, of which ``output`` are there."""
    return Request(
        str(admission),
        10,
        5000,
        LengthDistribution.exactly(length),
        output_tokens=output,
        admission=admission,
        **fields,
    )


@given(
    st.lists(st.tuples(st.integers(1, 400), st.integers(0, 300), st.integers(0, 300), st.integers(-1, 1)), max_size=6),
    st.integers(1, 400),
    st.floats(0, 0.2),
)
def test_the_victim_is_the_one_whose_absence_is_worth_most(
    rows: list[tuple[int, int, int, int]], head_length: int, prefill_s: float
) -> None:
    """Beside the rule spelled out for known lengths, where the rank is what is left."""
    running = [
        request(output + rest, output, admission, started_at=min(started, output), priority=priority)
        for admission, (rest, output, started, priority) in enumerate(rows)
    ]
    head = request(head_length)
    costs = StepCosts(0.5, 0.1, prefill_s)
    gains = {}
    for (rest, output, started, priority), r in list(zip(rows, running, strict=True))[1:]:
        cost = prefill_s * (10 + output) * len(rows) / (0.5 + 0.1 * len(rows))
        gain = rest - cost - head_length
        if priority >= 0 and output - min(started, output) >= 1.5 * cost and gain > 1e-9:
            gains[r] = gain
    victim = Interruption(INTERRUPTING).victim(head, running, costs)
    if victim is None:
        assert not [g for g in gains.values() if g > 1e-6]
    else:
        assert gains[victim] == pytest.approx(max(gains.values()), abs=1e-6)


def test_waiting_counts_for_one_that_waits_as_it_does_in_the_queue() -> None:
    """A newcomer that is shorter by less than the seconds of its age does not interrupt."""
    running = [request(50, 10, 0), request(100, 40, 1, arrival_s=0.0)]
    choose = Interruption(INTERRUPTING).victim
    assert choose(request(30, arrival_s=29.0), running, CHEAP) is running[1]
    assert choose(request(30, arrival_s=31.0), running, CHEAP) is None


def test_a_new_forecast_counts_at_once() -> None:
    interruption = Interruption(INTERRUPTING)
    running, head = [request(50, 10, 0), request(60, 40, 1)], request(30)
    assert interruption.victim(head, running, CHEAP) is None
    running[1].foresee(LengthDistribution.exactly(600))
    interruption.revised(running[1])
    assert interruption.victim(head, running, CHEAP) is running[1]


def test_short_answers_need_not_wait_for_long_ones() -> None:
    """Two long answers fill the pool; eight short ones come just after them."""
    jobs = (Job(4, 30, 30), *(Job(4, 40, 40) for _ in range(2)), *(Job(4, 4, 4, arrival=4) for _ in range(8)))
    world = World(jobs, num_blocks=100, block_size=1, max_num_seqs=2, token_budget=64, prefill_s=1e-5)
    steps = {}
    for order in ("gittins", "gittins-preemptive"):
        options = SchedulerOptions(order=order, aging=1.0)
        run = Run(world, options, FORECASTERS["truth"]).to_the_end()
        ends = {name: step for step, work in enumerate(run.trace) for name, _ in work}
        steps[order] = sum(ends[str(i)] for i in range(len(jobs)))
        assert run.scheduler.preemptions["order"] == run.preemptions
        assert bool(run.preemptions) == (order != "gittins")
    assert steps["gittins-preemptive"] < 0.7 * steps["gittins"]
