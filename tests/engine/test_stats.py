"""Figures of runs whose every step was counted by hand, on a clock that the test holds."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest
from tiny import options_for

from presize.engine.engine import Engine
from presize.engine.outputs import RequestOutput
from presize.engine.sampling_params import SamplingParams
from presize.figures import Sample


@pytest.fixture
def engine(engine_of, checkpoint) -> Engine:
    """A clock that moves on by a second each time it is read: once a request, twice a step. A pool of two blocks."""
    made = engine_of(kv_tokens=64)
    options = options_for(checkpoint("llama")[1], 64)
    ticks = count()
    engine = Engine(options, made.runner, made.tokenizer, clock=lambda: float(next(ticks)))
    engine.restart(policy="on-demand")
    return engine


def params(max_tokens: int, **more: object) -> SamplingParams:
    return SamplingParams(**{"temperature": 0, "max_tokens": max_tokens, "ignore_eos": True, **more})


def drain(engine: Engine) -> dict[str, RequestOutput]:
    found = {}
    while engine.has_unfinished_requests():
        found |= {output.request_id: output for output in engine.step()}
    return found


def test_an_engine_that_did_nothing_has_figures_too(engine):
    figures = engine.stats.summary()
    assert set(figures.values()) == {0}
    assert engine.stats.summary(failed=2)["requests"] == 2


def test_two_requests_side_by_side(engine):
    # a arrives at 0, b at 2, a forecast takes 1; steps run 4..5, 6..7, 8..9, 10..11: a says 4 tokens, b 3
    engine.add_request("a", [5] * 10, params(4))
    engine.add_request("b", [6] * 20, params(3))
    found = drain(engine)
    a, b = found["a"].metrics, found["b"].metrics
    assert (a.ttft_s, a.latency_s, a.token_gaps_s) == (5.0, 11.0, [2.0, 2.0, 2.0])
    assert (b.ttft_s, b.latency_s, b.token_gaps_s) == (3.0, 7.0, [2.0, 2.0])
    assert [(m.queue_s, m.forecast_s) for m in (a, b)] == [(4.0, 1.0), (2.0, 1.0)]
    figures = engine.stats.summary(failed=1)
    assert figures == pytest.approx(
        {
            "requests": 3,
            "failed": 1,
            "output_tokens": 7,
            "seconds": 7.0,  # from the start of the first step to the end of the last
            "tokens_per_second": 1.0,
            "preemptions": 0,
            "recomputed_tokens": 0,
            "kv_utilization_mean": (3 * 1.0 + 0.5) / 4,  # both hold one of two blocks for three of four steps
            "batch_mean": 7 / 4,
            "latency_mean_s": 9.0,
            "latency_p99_s": np.percentile([11, 7], 99),
            "ttft_mean_s": 4.0,
            "itl_p99_s": 2.0,
            "longest_stall_s": 2.0,
        }
    )


def test_a_preemption_is_counted_with_what_it_costs(engine):
    # both say their 13th token at step 13 and hold 33; the second block goes to a, b comes back when a has its 20
    engine.add_request("a", [5] * 20, params(20))
    engine.add_request("b", [6] * 20, params(20))
    found = drain(engine)
    assert (found["a"].metrics.preemptions, found["b"].metrics.preemptions) == (0, 1)
    # step k ends at 2 k + 3: the 13th token at 29, the 14th in step 21, which prefills 33 tokens, at 45
    assert found["b"].metrics.token_gaps_s == [2.0] * 12 + [16.0] + [2.0] * 6
    assert found["b"].metrics.latency_s == 57 - 2
    figures = engine.stats.summary()
    assert figures["preemptions"] == 1
    assert figures["recomputed_tokens"] == 32
    assert figures["longest_stall_s"] == 16.0
    assert figures["output_tokens"] == 40
    assert figures["batch_mean"] == pytest.approx((13 * 2 + 7 + 7) / 27)
    assert figures["itl_p99_s"] == pytest.approx(np.percentile([2.0] * 37 + [16.0], 99))


def test_several_answers_count_as_one_request_and_all_their_tokens(engine):
    engine.add_request("a", [5] * 10, params(4, n=2))
    metrics = drain(engine)["a"].metrics
    assert (metrics.ttft_s, metrics.latency_s, metrics.token_gaps_s) == (3.0, 9.0, [2.0] * 6)
    figures = engine.stats.summary()
    assert (figures["requests"], figures["output_tokens"], figures["latency_mean_s"]) == (1, 8, 9.0)


def test_a_request_given_up_before_its_first_token_has_no_times_to_average(engine):
    engine.add_request("a", [5] * 10, params(4))
    engine.add_request("b", [5] * 60, params(4))
    engine.step()
    engine.abort("b")
    drain(engine)
    figures = engine.stats.summary()
    assert (figures["requests"], figures["output_tokens"]) == (2, 4)
    assert (figures["ttft_mean_s"], figures["latency_mean_s"]) == (5.0, 11.0)


def test_the_snapshot_counts_what_runs_what_waits_and_what_is_held(engine):
    engine.add_request("a", [5] * 33, params(20))
    engine.add_request("b", [5] * 3, params(20))
    shot = engine.snapshot()
    assert (shot.running, shot.waiting, shot.kv_used_tokens, shot.kv_capacity_tokens) == (0, 2, 0, 64)
    engine.step()
    shot = engine.snapshot()
    assert (shot.running, shot.waiting, shot.kv_used_tokens, shot.output_tokens) == (1, 1, 64, 1)
    assert shot.kv_booked_tokens == 64
    drain(engine)
    assert engine.snapshot().output_tokens == 40


def test_predicted_tokens_are_the_median_of_the_forecast_at_arrival(engine):
    engine.restart(predictor="max-tokens")
    engine.add_request("a", [5], params(7))
    assert drain(engine)["a"].metrics.predicted_tokens == 7


def test_a_sample_keeps_so_many_and_knows_the_mean_of_all():
    values = np.random.default_rng(0).exponential(size=20_000)
    sample = Sample(size=2000)
    sample.add(values)
    assert 1000 <= len(sample._kept) <= 2000
    assert (sample.count, sample.largest) == (20_000, values.max())
    assert sample.mean() == pytest.approx(values.mean())
    assert sample.percentile(50) == pytest.approx(np.median(values), rel=0.1)
    whole = Sample()
    whole.add(values)
    assert whole.percentile(99) == np.percentile(values, 99)
