"""The figures of a run, under the names that `vllm bench serve` has for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from presize.load.arrivals import Times, offered_rate
from presize.load.options import LoadOptions
from presize.load.outcome import REJECTED, UNFINISHED, Failure, Outcome
from presize.load.runner import Run

PERCENTILES = (90, 99)
LATENCIES: dict[str, Callable[[Outcome], Sequence[float | None]]] = {
    "ttft": lambda outcome: (outcome.ttft_s,),
    "tpot": lambda outcome: (outcome.tpot_s,),
    "itl": lambda outcome: outcome.gaps_s,
    "e2el": lambda outcome: (outcome.e2el_s,),
}
_BACKENDS = {"chat": "openai-chat", "completions": "openai"}  # vLLM's names of the endpoints


def figures(run: Run, options: LoadOptions, model: str, times: Times) -> dict[str, Any]:
    """JSON values only, in vLLM's order and names; a figure that does not exist is null.

    failed: every request that got no whole answer before the run's end, the rejected ones among them. What vLLM does
    not have: rejected, unfinished, retries, failures, output_frames, requests_without_usage, offered_request_rate,
    slo_attainment.
    """
    whole = [outcome for outcome in run.outcomes if outcome.failure is None]
    failures = Counter(failure.kind for failure in failures_of(run))
    given, made = sum(o.input_tokens or 0 for o in whole), sum(o.tokens for o in whole)
    seconds = max(run.duration_s, 1e-9)
    kept = sum(_kept(outcome, options) for outcome in whole) if _objectives(options) else None
    ended = len(whole) + failures.total()
    found: dict[str, Any] = {
        **_header(options, model, len(times)),
        "offered_request_rate": _finite(offered_rate(times)),
        "duration": run.duration_s,
        "completed": len(whole),
        "failed": failures.total(),
        "rejected": failures[REJECTED],
        "unfinished": len(times) - ended,
        "failures": dict(failures.most_common()),
        "retries": sum(outcome.retries for outcome in run.outcomes),
        "total_input_tokens": given,
        "total_output_tokens": made,
        "output_frames": sum(outcome.frames for outcome in whole),
        "requests_without_usage": sum(outcome.output_tokens is None for outcome in whole),
        "request_throughput": len(whole) / seconds,
        "request_goodput": None if kept is None else kept / seconds,
        "slo_attainment": None if kept is None or not ended else kept / ended,
        "output_throughput": made / seconds,
        "total_token_throughput": (given + made) / seconds,
        "max_concurrent_requests": run.peak,
    }
    for name, values_of in LATENCIES.items():
        values = [value for outcome in whole for value in values_of(outcome) if value is not None]
        found |= statistics(name, values)
    if _waits_at_client(options):
        found |= statistics("client_queue_time", [outcome.queued_s for outcome in whole])
    return found


def failures_of(run: Run) -> list[Failure]:
    """Of every request that ended without a whole answer, by itself and not by the run's end."""
    return [o.failure for o in run.outcomes if o.failure is not None and o.failure is not UNFINISHED]


def statistics(name: str, seconds: Sequence[float]) -> dict[str, float | None]:
    """``mean_NAME_ms`` and so on, in milliseconds; null if there are no values."""
    ms = np.asarray(seconds, dtype=np.float64) * 1000
    if not len(ms):
        return dict.fromkeys(_names(name))
    values = (ms.mean(), np.median(ms), ms.std(), *np.percentile(ms, PERCENTILES))
    return dict(zip(_names(name), map(float, values), strict=True))


def details(run: Run) -> dict[str, Any]:
    """Every request, in the order of the arrivals: seconds, tokens, texts; an empty error is none."""
    outcomes = run.outcomes
    return {
        "input_lens": [o.input_tokens or 0 for o in outcomes],
        "asked_input_lens": [sample.asked_tokens for sample in run.samples],
        "output_lens": [0 if o.failure else o.tokens for o in outcomes],
        "asked_output_lens": [sample.output_len for sample in run.samples],
        "ttfts": [o.ttft_s for o in outcomes],
        "itls": [o.gaps_s for o in outcomes],
        "latencies": [o.e2el_s for o in outcomes],
        "start_times": [o.started_s for o in outcomes],
        "queue_times": [o.queued_s for o in outcomes],
        "finish_reasons": [o.finish_reason for o in outcomes],
        "generated_texts": [o.text for o in outcomes],
        "errors": ["" if o.failure is None else f"{o.failure.kind}: {o.failure.message}" for o in outcomes],
    }


def _header(options: LoadOptions, model: str, count: int) -> dict[str, Any]:
    backend, rate = _BACKENDS[options.endpoint], options.request_rate
    return {
        "date": datetime.now().strftime("%Y%m%d-%H%M%S"),
        "endpoint_type": backend,
        "backend": backend,
        "label": None,
        "model_id": model,
        "tokenizer_id": None,  # none is loaded: the server counts
        "num_prompts": count,
        "dataset_name": options.dataset,
        "request_rate": "inf" if _finite(rate) is None else rate,
        "burstiness": "inf" if _finite(options.burstiness) is None else options.burstiness,
        "max_concurrency": options.max_concurrency,
    }


def _names(name: str) -> tuple[str, ...]:
    return (f"mean_{name}_ms", f"median_{name}_ms", f"std_{name}_ms", *(f"p{p}_{name}_ms" for p in PERCENTILES))


def _objectives(options: LoadOptions) -> bool:
    return any(slo is not None for slo in (options.slo_ttft_ms, options.slo_tpot_ms, options.slo_e2el_ms))


def _kept(outcome: Outcome, options: LoadOptions) -> bool:
    """An answer of one token, or none, has no time per further token to be missed."""
    pairs = (
        (outcome.ttft_s, options.slo_ttft_ms), (outcome.tpot_s, options.slo_tpot_ms),
        (outcome.e2el_s, options.slo_e2el_ms),
    )  # fmt: skip
    return all(slo_ms is None or value_s is None or value_s * 1000 <= slo_ms for value_s, slo_ms in pairs)


def _waits_at_client(options: LoadOptions) -> bool:
    """Whether arrivals have a time of their own, so that waiting for a place at the client has a meaning."""
    return _finite(options.request_rate) is not None or (options.dataset == "trace" and options.time_scale > 0)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
