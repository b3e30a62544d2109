"""Figures from outcomes that the test sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presize.load.options import LoadOptions
from presize.load.outcome import UNFINISHED, Failure, Outcome
from presize.load.remarks import remarks
from presize.load.report import details, figures, statistics
from presize.load.rows import Sample
from presize.load.runner import Run

# What `vllm bench serve` writes for a chat endpoint, in its order, as far as it has a meaning without a tokenizer.
VLLM_TEXT = """
    date endpoint_type backend label model_id tokenizer_id num_prompts request_rate burstiness max_concurrency duration
    completed failed total_input_tokens total_output_tokens request_throughput request_goodput output_throughput
    total_token_throughput max_concurrent_requests
    mean_ttft_ms median_ttft_ms std_ttft_ms p99_ttft_ms mean_tpot_ms median_tpot_ms std_tpot_ms p99_tpot_ms
    mean_itl_ms median_itl_ms std_itl_ms p99_itl_ms mean_e2el_ms median_e2el_ms std_e2el_ms p99_e2el_ms
"""
DETAILS_TEXT = "input_lens output_lens ttfts itls latencies start_times queue_times generated_texts errors"
VLLM, VLLM_DETAILS = VLLM_TEXT.split(), DETAILS_TEXT.split()
BUSY, GONE = Failure("http 429", "busy"), Failure("connection", "reset")


def whole(ttft_s: float = 1.0, e2el_s: float = 3.0, tokens: int = 5, **more: Any) -> Outcome:
    return Outcome(
        ttft_s=ttft_s, e2el_s=e2el_s, output_tokens=tokens, input_tokens=10, frames=tokens, finish_reason="stop",
        gaps_s=[(e2el_s - ttft_s) / (tokens - 1)] * (tokens - 1), **more,
    )  # fmt: skip


def report(*outcomes: Outcome, times: int | None = None, duration_s: float = 4.0, **options: Any) -> dict[str, Any]:
    run = Run([Sample("x", 5)] * len(outcomes), list(outcomes), duration_s, peak=2)
    count = len(outcomes) if times is None else times
    return figures(run, LoadOptions(**options), "m", np.arange(count) / 2)


def test_the_names_are_those_of_vllm_in_its_order() -> None:
    found = list(report(whole()))
    assert [name for name in found if name in VLLM] == VLLM
    run = Run([Sample("x", 5)], [whole()], 1.0, 1)
    assert [name for name in details(run) if name in VLLM_DETAILS] == VLLM_DETAILS
    assert all(len(column) == 1 for column in details(run).values())


@given(seconds=st.lists(st.floats(0, 1e4), min_size=1, max_size=50))
def test_statistics_are_numpys(seconds: list[float]) -> None:
    ms = np.array(seconds) * 1000
    expected = [ms.mean(), np.median(ms), ms.std(), np.percentile(ms, 90), np.percentile(ms, 99)]
    found = statistics("x", seconds)
    assert list(found) == ["mean_x_ms", "median_x_ms", "std_x_ms", "p90_x_ms", "p99_x_ms"]
    assert list(found.values()) == pytest.approx(expected)


def test_counts_and_rates() -> None:
    found = report(
        whole(), whole(ttft_s=2.0, tokens=3), Outcome(failure=BUSY), Outcome(failure=BUSY), Outcome(failure=GONE),
        Outcome(failure=UNFINISHED, frames=7), times=9,
    )  # fmt: skip
    assert (found["completed"], found["failed"], found["rejected"], found["unfinished"]) == (2, 3, 2, 4)
    assert found["failures"] == {"http 429": 2, "connection": 1}
    assert (found["num_prompts"], found["offered_request_rate"]) == (9, 2.0)
    assert (found["total_input_tokens"], found["total_output_tokens"], found["output_frames"]) == (20, 8, 8)
    assert (found["request_throughput"], found["output_throughput"]) == (0.5, 2.0)
    assert found["total_token_throughput"] == 7.0
    assert (found["mean_ttft_ms"], found["mean_e2el_ms"]) == (1500, 3000)
    assert found["mean_tpot_ms"] == pytest.approx(500)  # of two answers, one token of each apart
    assert found["request_goodput"] is None


@pytest.mark.parametrize(
    ("slo", "kept"),
    [
        ({"slo_ttft_ms": 1500.0}, 1),
        ({"slo_ttft_ms": 2000.0}, 2),
        ({"slo_tpot_ms": 499.0}, 0),
        ({"slo_tpot_ms": 500.0}, 2),
        ({"slo_e2el_ms": 2999.0}, 0),
        ({"slo_ttft_ms": 1500.0, "slo_tpot_ms": 500.0, "slo_e2el_ms": 3000.0}, 1),
    ],
)
def test_goodput_is_of_what_kept_every_objective(slo: dict[str, float], kept: int) -> None:
    found = report(whole(), whole(ttft_s=2.0, tokens=3), Outcome(failure=BUSY), Outcome(failure=UNFINISHED), **slo)
    assert found["request_goodput"] == kept / 4.0
    assert found["slo_attainment"] == pytest.approx(kept / 3)


def test_an_answer_of_one_token_misses_no_tpot() -> None:
    assert report(Outcome(ttft_s=1.0, e2el_s=9.0, output_tokens=1), slo_tpot_ms=1.0)["slo_attainment"] == 1


def test_without_an_answer_there_are_no_figures_but_counts() -> None:
    found = report(Outcome(failure=UNFINISHED), slo_ttft_ms=1.0)
    assert (found["completed"], found["slo_attainment"], found["request_goodput"]) == (0, None, 0)
    assert found["mean_ttft_ms"] is None
    assert found["p99_itl_ms"] is None


@pytest.mark.parametrize(
    ("options", "there"),
    [
        ({}, False),
        ({"request_rate": 5.0}, True),
        ({"dataset_path": "x.csv"}, True),
        ({"dataset_path": "x.csv", "time_scale": 0.0}, False),
    ],
)
def test_waiting_at_the_client_has_a_meaning_where_arrivals_have_times(options: dict[str, Any], there: bool) -> None:
    found = report(whole(scheduled_s=1.0, started_s=1.5), **options)
    assert found.get("mean_client_queue_time_ms") == (500.0 if there else None)


def test_infinite_rates_are_words() -> None:
    found = report(whole(), burstiness=float("inf"))
    assert (found["request_rate"], found["burstiness"]) == ("inf", "inf")


def said(*outcomes: Outcome, ignore_eos: bool = False, sample: Sample | None = None, **options: Any) -> list[str]:
    run = Run([sample or Sample("x", 5)] * len(outcomes), list(outcomes), 1.0, 1)
    return remarks(run, figures(run, LoadOptions(**options), "m", np.zeros(len(outcomes))), ignore_eos=ignore_eos)


def test_there_is_nothing_to_remark_about_a_plain_run() -> None:
    assert said(whole(), whole(), ignore_eos=True, sample=Sample("x", 5, asked_tokens=10)) == []


def test_each_kind_of_failure_is_remarked_once() -> None:
    other = Failure("http 429", "busier")
    assert said(Outcome(failure=BUSY), Outcome(failure=GONE), Outcome(failure=other)) == [
        "2 x http 429: busy",
        "1 x connection: reset",
    ]


def test_honest_remarks() -> None:
    (frames,) = said(Outcome(ttft_s=1, e2el_s=2, output_tokens=12, frames=3))
    assert "12 tokens came in 3 frames with text" in frames
    (uncounted,) = said(Outcome(ttft_s=1, e2el_s=2, frames=3))
    assert "tokens the server did not count: 1;" in uncounted
    (lengths,) = said(whole(), sample=Sample("x", 5, asked_tokens=20))
    assert "were to have 20 tokens in all, and had 10" in lengths
    (short,) = said(whole(tokens=4), ignore_eos=True)
    assert "shorter than was asked for: 1;" in short
    late = whole(scheduled_s=0.0, started_s=0.5)
    (lateness,) = said(late, request_rate=5.0)
    assert "late, p99 500 ms" in lateness
    assert said(late, request_rate=5.0, max_concurrency=1) == []
