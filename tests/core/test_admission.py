"""Each policy's rule, worked out again from its definition: one request, one step at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from curves import curves
from driver import FORECASTERS, Job, Run, World
from hypothesis import assume, given
from hypothesis import strategies as st

from presize.config import SchedulerOptions
from presize.core.admission import POLICIES, AdmissionPolicy, StepView
from presize.core.costs import StepCosts
from presize.core.ledger import Ledger
from presize.core.lengths import GRID, LengthDistribution
from presize.core.request import Request

COSTS = StepCosts(0.02, 0.0005, 0.001)


CURVES = curves(400)
ANY_CURVE = st.just(LengthDistribution.exactly(5))  # for the policies that do not look at it


@st.composite
def requests(
    draw: st.DrawFn,
    max_size: int = 6,
    longest: int = 300,
    forecasts: st.SearchStrategy[LengthDistribution] = CURVES,
) -> list[Request]:
    """Requests with a part of their answers."""
    rows = draw(
        st.lists(
            st.tuples(st.integers(1, 60), st.integers(1, longest), st.floats(0, 0.99), forecasts), max_size=max_size
        )
    )
    return [
        Request(str(number), prompt, max_tokens, curve, output_tokens=int(done * max_tokens))
        for number, (prompt, max_tokens, done, curve) in enumerate(rows)
    ]


LONG_REQUESTS = requests(longest=9000, forecasts=ANY_CURVE)


def policy_of(
    name: str, ledger: Ledger, running: list[Request], costs: StepCosts = COSTS, **options
) -> AdmissionPolicy:
    policy = POLICIES.get(name)(SchedulerOptions(policy=name, **options), ledger)
    policy.begin(StepView(running, costs))
    return policy


@given(requests(forecasts=ANY_CURVE), st.integers(1, 60), st.sampled_from([1, 7, 32]), st.none() | st.integers(1, 400))
def test_worst_case_books_the_longest(candidates: list[Request], blocks: int, size: int, reserve: int | None) -> None:
    ledger = Ledger(blocks, size)
    policy = policy_of("worst-case", ledger, [], reserve_tokens=reserve)
    left = blocks
    for request in candidates:
        needed = math.ceil(max(request.prompt_tokens + request.max_tokens, reserve or 0) / size)
        assert policy.admits(request) == (needed <= left)
        left -= needed if needed <= left else 0
        assert policy.booked_tokens() == (blocks - left) * size


@pytest.mark.parametrize("name", ["on-demand", "watermark"])
@given(
    candidates=requests(forecasts=ANY_CURVE),
    blocks=st.integers(1, 60),
    held=st.integers(0, 60),
    share=st.floats(0, 0.9),
)
def test_on_demand_and_watermark_count_free_blocks(
    name: str, candidates: list[Request], blocks: int, held: int, share: float
) -> None:
    ledger = Ledger(blocks, 4)
    assume(ledger.allocate("held by somebody", held * 4))
    policy = policy_of(name, ledger, [], watermark=share)
    free = blocks - held - (math.floor(share * blocks) if name == "watermark" else 0)
    for request in candidates:
        needed = math.ceil((request.prompt_tokens + request.output_tokens) / 4)
        assert policy.admits(request) == (needed <= free)
        free -= needed if needed <= free else 0


@given(LONG_REQUESTS, LONG_REQUESTS, st.integers(1, 700), st.integers(1, 40_000))
def test_ratio_charges_what_sglang_charges(
    running: list[Request], candidates: list[Request], steps: int, capacity: int
) -> None:
    """new_token_ratio: 0.7 at first, down to 0.14 of that in 600 steps; clipped at 4,096 tokens."""
    policy = policy_of("ratio", Ledger(capacity, 1), running)
    for _ in range(steps - 1):
        policy.begin(StepView(running, COSTS))
    ratio = max(0.7 - steps * (0.7 - 0.7 * 0.14) / 600, 0.7 * 0.14)
    charge = sum(r.total_tokens + ratio * min(r.max_tokens - r.output_tokens, 4096) for r in running)
    for request in candidates:
        whole = request.total_tokens + min(request.max_tokens - request.output_tokens, 4096)
        assume(abs(charge + whole - capacity) > 1e-6)
        fits = charge + whole <= capacity
        assert policy.admits(request) == fits
        charge += whole if fits else 0


def test_ratio_rises_after_a_preemption() -> None:
    """To (decoded + 20 n) / (sum of max_tokens + 1) over the n requests that run on."""
    # admitted together, as answers are charged with at most 4,096 tokens; the pool is short when both are at 5,000
    world = World((Job(4, 6000, 6000),) * 2, 10_000, 1, 6, 64)
    run = Run(world, SchedulerOptions(policy="ratio"), FORECASTERS["one"])
    for request in run.requests:
        run.scheduler.add(request)
    for _ in range(6000):
        decision = run.scheduler.schedule()
        if decision.preempted:
            break
        run.scheduler.complete(decision, 0.1)
    running = run.scheduler.running
    decoded, longest = sum(r.output_tokens for r in running), sum(r.max_tokens for r in running)
    ratio = min((decoded + 20 * len(running)) / (longest + 1), 1.0)
    charge = sum(r.total_tokens + ratio * (r.max_tokens - r.output_tokens) for r in running)
    assert len(running) == 1
    assert charge < 10_000, "else the cap at the pool hides the ratio"
    assert run.scheduler.booked_tokens() == pytest.approx(charge, rel=0.02)


def survives(request: Request, tau: int) -> float:
    """P(still running tau steps from now), straight from the definition."""
    g, curve = request.output_tokens, request.forecast
    if g + tau >= request.max_tokens:
        return 0.0
    now, then = (float(np.interp(t, GRID, curve.survival)) if t < curve.limit else 0.0 for t in (g, g + tau))
    return then / now if now > 1e-9 else max(g, 1) / (max(g, 1) + tau)


def first_overflow(live: list[Request], ledger: Ledger, risk: float) -> float:
    for tau in GRID[ledger.capacity_tokens >= GRID].tolist():
        mean = variance = 0.0
        for r in live:
            held, s = r.total_tokens + (ledger.block_size - 1) / 2 + tau, survives(r, tau)
            mean += held * s
            variance += held**2 * s * (1 - s)
        level = mean + risk * math.sqrt(variance)
        assume(abs(level - ledger.capacity_tokens) > 1e-6)
        if level > ledger.capacity_tokens:
            return tau
    return math.inf


@given(
    requests(max_size=3), requests(max_size=4), st.integers(400, 1500), st.floats(0, 4), st.floats(0, 10),
    st.sampled_from([1e-5, 1e-3, 1e-1]),
)  # fmt: skip
def test_payback_admits_what_repays_its_prefill_before_the_overflow(
    running: list[Request], candidates: list[Request], capacity: int, risk: float, payback: float, prefill_s: float
) -> None:
    ledger = Ledger(capacity // 8, 8)
    costs = StepCosts(0.02, 0.0005, prefill_s)
    # the step before, in which something else ran, leaves no trace
    policy = policy_of("payback", ledger, running[1:] + candidates[:1], costs, risk=risk, payback=payback)
    policy.admits(Request("stranger", 5, 50, LengthDistribution.exactly(50)))
    policy.begin(StepView(running, costs))
    live = list(running)
    for request in candidates:
        tau = first_overflow([*live, request], ledger, risk)
        share_of_fixed_cost = costs.fixed_s / max(len(live), 1)
        needed = payback * prefill_s * request.total_tokens / share_of_fixed_cost
        assume(abs(tau - needed) > 1e-9 * max(needed, 1))
        admitted = tau >= 1 and tau >= needed
        assert policy.admits(request) == admitted
        live += [request] if admitted else []


@given(
    st.integers(0, 4), st.integers(0, 4), st.integers(2, 300), st.sampled_from([0.99, 1.01]), st.integers(20, 400)
)  # fmt: skip
def test_payback_divides_the_fixed_cost_among_what_runs(
    before: int, now: int, prompt: int, demand: float, capacity: int
) -> None:
    """Asked for a hair less than the steps until the overflow pay for, it admits; for a hair more, it does not.

    ``before``: how many run; ``now``: how many more were admitted in this very step.
    """
    others = before + now
    running = [Request(str(i), 1, 500, LengthDistribution.exactly(500)) for i in range(others)]
    candidate = Request("candidate", prompt, 500, LengthDistribution.exactly(500))
    ledger = Ledger(prompt + others + capacity, 1)
    tau = first_overflow([*running, candidate], ledger, 2.0)
    assume(1 <= tau < math.inf)
    saved = tau * COSTS.fixed_s / max(others, 1)
    payback = demand * saved / (COSTS.prefill_s * prompt)
    policy = policy_of("payback", ledger, running[:before], payback=payback)
    assume(all(policy.admits(r) for r in running[before:]))
    assert policy.admits(candidate) == (demand < 1)


@given(requests(max_size=4), st.integers(400, 1500), st.floats(0, 4))
def test_payback_has_booked_the_peak_of_its_forecast(running: list[Request], capacity: int, risk: float) -> None:
    ledger = Ledger(capacity, 1)
    policy = policy_of("payback", ledger, running, risk=risk)
    levels = []
    for tau in GRID[capacity >= GRID].tolist():
        terms = [(r.total_tokens + tau, survives(r, tau)) for r in running]
        spread = math.sqrt(sum(held**2 * s * (1 - s) for held, s in terms))
        levels.append(sum(held * s for held, s in terms) + risk * spread)
    assert policy.booked_tokens() == pytest.approx(max(levels), abs=1.001)


@pytest.mark.parametrize(
    ("policy", "options", "blocks", "size", "jobs"),
    [
        # 97 of 100 blocks for the first: over the watermark, but nothing else runs. 3 more would fill the pool.
        ("watermark", {"watermark": 0.05}, 100, 1, [Job(97, 1, 1), Job(3, 1, 1)]),
        # the first is let in because nothing runs; with it in, the second overflows the pool before it has paid
        ("payback", {"payback": 1e6}, 13, 8, [Job(63, 40, 40), Job(20, 20, 20)]),
    ],
)
def test_a_request_that_starts_because_nothing_runs_is_counted_in(
    policy: str, options: dict[str, float], blocks: int, size: int, jobs: list[Job]
) -> None:
    world = World(tuple(jobs), blocks, size, 4, 512)
    run = Run(world, SchedulerOptions(policy=policy, **options), FORECASTERS["truth"])
    for request in run.requests:
        run.scheduler.add(request)
    assert [w.request.request_id for w in run.scheduler.schedule().work] == ["0"]


def test_every_policy_admits_into_an_empty_pool() -> None:
    for name in POLICIES:
        request = Request("r", 10, 10, LengthDistribution.exactly(10))
        assert policy_of(name, Ledger(100, 1), []).admits(request), name
