"""The simulator: jumping over steps changes nothing, and the steps are those of an independent loop over `core`."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presize.config import BLOCK_SIZE, SchedulerOptions
from presize.core.admission import POLICIES
from presize.core.ledger import Ledger
from presize.core.ordering import ORDERS
from presize.core.request import Request
from presize.core.scheduler import Scheduler
from presize.predict import Query
from presize.simulate.cluster import simulate, step_costs
from presize.simulate.costs import Chunk
from presize.simulate.options import SimulateOptions
from presize.simulate.predictions import KNOWN, make_predictor
from presize.simulate.router import ROUTERS
from presize.simulate.traces import SYNTHETIC, Trace, lengths_of, load_trace

FEW = settings(max_examples=max(settings().max_examples // 5, 1))


def make(count: int, seed: int, rate: float | None, **options: object) -> tuple[Trace, SimulateOptions]:
    made = SimulateOptions(
        **{
            "num_requests": count, "seed": seed, "request_rate": rate, "model": "gpt-j-6b", "device": "A100-80G",
            "input_len": 60, "output_len": 50, "max_tokens": 300, "kv_tokens": 2048, "max_num_batched_tokens": 64,
            "max_num_seqs": 24, **options,
        }
    )  # fmt: skip
    return load_trace(SYNTHETIC, made, 1024), made


@pytest.mark.parametrize("policy", sorted(POLICIES))
@FEW
@given(
    seed=st.integers(0, 2**20),
    rate=st.none() | st.floats(0.5, 60),
    order=st.sampled_from(sorted(ORDERS)),
    predictor=st.sampled_from(KNOWN),
    replicas=st.integers(1, 3),
    router=st.sampled_from(sorted(ROUTERS)),
    slo=st.none() | st.floats(10, 60),
)
def test_jumping_changes_no_digit(
    policy: str, seed: int, rate: float | None, order: str, predictor: str, replicas: int, router: str,
    slo: float | None,
) -> None:  # fmt: skip
    trace, options = make(40, seed, rate, replicas=replicas, router=router)
    scheduler = SchedulerOptions(policy=policy, order=order, predictor=predictor, slo_tpot_ms=slo)
    jumped, stepped = (simulate(trace, options, scheduler, step_by_step=flag) for flag in (False, True))
    assert jumped.figures == stepped.figures
    assert jumped.outcomes == stepped.outcomes


def test_the_last_token_of_a_prompt_alone_in_a_step_is_no_jump_over_the_answers_end() -> None:
    """64 tokens in a step of 64, with one that decodes: the token that is left decodes, too, before any was drawn."""
    _, options = make(1, 0, None, kv_tokens=32_768)
    prompts, answers = np.array([10, 64]), np.array([200, 3])
    trace = Trace(np.array([0.0, 0.1]), prompts, answers, np.array([300, 300]))
    jumped, stepped = (simulate(trace, options, SchedulerOptions(), step_by_step=flag) for flag in (False, True))
    assert jumped.outcomes == stepped.outcomes


def test_it_does_jump() -> None:
    trace, options = make(4, 0, None, kv_tokens=32_768)
    jumped, stepped = (simulate(trace, options, SchedulerOptions(), step_by_step=flag) for flag in (False, True))
    assert len(jumped.series[0]) < len(stepped.series[0]) / 5


def test_the_same_seed_gives_the_same_digits_and_another_one_others() -> None:
    results = [
        simulate(*make(60, seed, 10.0), SchedulerOptions(predictor="noisy", order="gittins")).figures
        for seed in (1, 1, 2)
    ]
    assert results[0] == results[1]
    assert results[0] != results[2]


def by_hand(
    trace: Trace, options: SimulateOptions, scheduler_options: SchedulerOptions
) -> dict[int, tuple[float, ...]]:
    """Every request's time of first and last token, by a plain loop of single steps with no state beside core's."""
    costs, lengths = step_costs(options), lengths_of(trace)
    predictor = make_predictor(scheduler_options, lengths, options, options.seed)
    scheduler = Scheduler(
        scheduler_options, Ledger(options.kv_tokens // BLOCK_SIZE, BLOCK_SIZE), max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
    )  # fmt: skip
    now, come, times = 0.0, 0, {}
    while come < len(trace) or scheduler.has_unfinished_requests():
        if not scheduler.has_unfinished_requests():
            now = max(now, trace.arrival_s[come])
        while come < len(trace) and trace.arrival_s[come] <= now:
            query = Query(str(come), (), int(trace.max_tokens[come]))
            (curve,) = predictor.predict([query])
            arrival = float(trace.arrival_s[come])
            scheduler.add(Request(str(come), int(trace.prompt_tokens[come]), query.max_tokens, curve, arrival))
            come += 1
        decision = scheduler.schedule()
        decodes = decision.work[: decision.num_decodes]
        chunks = [Chunk(w.num_tokens, w.request.computed_tokens, w.draws) for w in decision.work[len(decodes) :]]
        context = sum(w.request.total_tokens for w in decodes)
        seconds = costs.mixed(len(decodes), context, chunks)
        now += seconds
        scheduler.complete(decision, seconds)
        ended = []
        for work in decision.work:
            number = int(work.request.request_id)
            if work.draws:
                first, _ = times.setdefault(number, (now, now))
                times[number] = (first, now)
                if work.request.output_tokens == lengths[number]:
                    ended.append(work.request)
        for request in sorted(ended, key=lambda r: int(r.request_id)):
            scheduler.finish(request)
            natural = int(trace.output_tokens[int(request.request_id)])
            censored = natural > request.output_tokens
            predictor.observe(Query(request.request_id, (), 0), request.output_tokens, censored=censored)
        if ended:
            predictor.refresh(np.array([r.output_tokens for r in scheduler.running], dtype=np.int64))
    return times


@FEW
@given(st.integers(0, 2**20), st.sampled_from(["payback", "on-demand"]), st.none() | st.floats(3, 60))
def test_the_times_are_those_of_a_plain_loop(seed: int, policy: str, rate: float | None) -> None:
    trace, options = make(30, seed, rate)
    scheduler = SchedulerOptions(policy=policy)
    result, times = simulate(trace, options, scheduler), by_hand(trace, options, scheduler)
    assert len(result.outcomes) == len(times) == len(trace)
    for outcome in result.outcomes:
        arrival = trace.arrival_s[outcome.number]
        found = (outcome.ttft_s, outcome.latency_s)
        assert found == pytest.approx(np.subtract(times[outcome.number], arrival), rel=1e-6)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_answer_gets_to_its_length_and_nothing_is_left(policy: str) -> None:
    trace, options = make(80, 3, None)
    result = simulate(trace, options, SchedulerOptions(policy=policy, predictor="adversary"))
    lengths = lengths_of(trace)
    assert {o.number: o.tokens for o in result.outcomes} == dict(enumerate(lengths))
    assert result.figures["output_tokens"] == sum(lengths)
    assert result.figures["requests"] == len(trace)


def test_one_request_alone_takes_its_prefill_and_its_decodes() -> None:
    options = SimulateOptions(model="gpt-j-6b", device="A100-80G", kv_tokens=4096)
    trace = Trace(np.zeros(1), np.array([100]), np.array([5]), np.array([50]))
    (outcome,) = simulate(trace, options, SchedulerOptions()).outcomes
    costs = step_costs(options)
    first = costs.mixed(0, 0, [Chunk(100, 0, True)])
    assert outcome.ttft_s == first
    assert outcome.latency_s == pytest.approx(first + costs.decode(1, 101, 4).sum())
    assert outcome.tpot_s == pytest.approx(costs.decode(1, 101, 4).mean())


def test_what_can_never_fit_is_refused_and_counted() -> None:
    options = SimulateOptions(model="gpt-j-6b", device="A100-80G", kv_tokens=128)
    trace = Trace(np.zeros(3), np.array([10, 100, 10]), np.array([5, 5, 5]), np.array([50, 50, 50]))
    result = simulate(trace, options, SchedulerOptions(slo_ttft_ms=1e6))
    assert (result.figures["requests"], result.figures["failed"]) == (3, 1)
    assert result.figures["slo_attainment"] == pytest.approx(2 / 3)
    assert {o.number for o in result.outcomes} == {0, 2}


def test_preemptions_are_stalls_and_are_paid_for() -> None:
    trace, options = make(40, 1, None)
    figures = simulate(trace, options, SchedulerOptions(policy="on-demand")).figures
    assert figures["preemptions"] > 0
    assert figures["recomputed_tokens"] > 0
    assert figures["longest_stall_s"] > figures["itl_p99_s"]
    calm = simulate(trace, options, SchedulerOptions(policy="worst-case")).figures
    assert (calm["preemptions"], calm["recomputed_tokens"]) == (0, 0)


def test_a_replica_takes_its_share_of_time() -> None:
    """Round robin over two engines is the two halves of the trace by themselves."""
    trace, options = make(41, 5, 20.0)
    both = simulate(trace, replace(options, replicas=2), SchedulerOptions())
    alone = [simulate(trace.take(np.arange(start, 41, 2)), options, SchedulerOptions()) for start in (0, 1)]
    assert both.figures["output_tokens"] == sum(a.figures["output_tokens"] for a in alone)
    latencies = sorted(o.latency_s for a in alone for o in a.outcomes)
    assert sorted(o.latency_s for o in both.outcomes) == pytest.approx(latencies)


def test_routers_that_look_beat_one_that_does_not() -> None:
    """Heavy-tailed answers: who sees the queues, or the forecasts, does not put a short one behind long ones."""
    trace, options = make(600, 2, 60.0, replicas=4, output_len=80, length_distribution="zipf", length_spread=1.5)
    scheduler = SchedulerOptions(predictor="oracle", policy="watermark")
    p99 = {
        name: np.percentile([o.ttft_s for o in simulate(trace, replace(options, router=name), scheduler).outcomes], 99)
        for name in ROUTERS
    }
    assert p99["least-requests"] < p99["round-robin"]
    assert p99["least-forecast"] < p99["round-robin"]


def test_figures_of_an_empty_run_exist() -> None:
    options = SimulateOptions(model="gpt-j-6b", device="A100-80G", kv_tokens=64)
    trace = Trace(np.zeros(1), np.array([100]), np.array([5]), np.array([50]))
    figures = simulate(trace, options, SchedulerOptions()).figures
    assert figures["failed"] == 1
    assert all(not math.isnan(value) for value in figures.values() if value is not None)
