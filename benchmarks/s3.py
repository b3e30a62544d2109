"""S^3's own experiments on the modelled A100, and the same with the policies that came later.

Alpaca prompts with the dataset's answers, maximum length 2,048, everything waiting at the start; three draws of the
requests, medians. `orca` books 2,048 tokens for each; `s3` books buckets of a tenth of that, on forecasts with a log
error; `s3 oracle` books what each will really hold. With --slo-tpot the batch is kept to what gives each token in
0.1875 s, the reading speed of the paper.

python benchmarks/s3.py --save
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace
from typing import Any

import numpy as np
from corpus import alpaca, joined
from filing import report, rounded

from presize.config import SchedulerOptions
from presize.simulate.cluster import simulate
from presize.simulate.options import SimulateOptions
from presize.simulate.traces import Trace

MAX_LENGTH = 2048
SLO_MS = 187.5
MODELS: dict[str, dict[str, Any]] = {
    "gpt-j-6b": {}, "llama-7b": {}, "llama-13b": {}, "llama-33b": {}, "gpt-neox-20b": {}, "opt-30b": {},
}  # fmt: skip
LONGEST_FIRST = {"order": "longest-first", "aging": 1e6}
POLICIES: dict[str, dict[str, Any]] = {
    "orca": {"policy": "worst-case", "reserve_tokens": MAX_LENGTH},
    "s3": {"policy": "s3", "predictor": "noisy", **LONGEST_FIRST},
    "s3 oracle": {"policy": "worst-case", "predictor": "oracle", **LONGEST_FIRST},
    "on-demand": {"policy": "on-demand"},
    "watermark": {"policy": "watermark"},
    "past-future": {"policy": "past-future"},
    "payback": {"policy": "payback"},
    "payback noisy": {"policy": "payback", "predictor": "noisy"},
}
GPT3 = ((6, "s3"), (6, "payback"), (6, "orca"), (8, "orca"), (10, "orca"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--error", type=float, default=0.5, help="log error of the forecasts (default: %(default)s)")
    parser.add_argument("--save", action="store_true", help="file the result under benchmarks/results/")
    options = parser.parse_args()
    rows = []
    for model in MODELS:
        for slo in (None, SLO_MS):
            rows.append({"model": model, "slo_tpot_ms": slo, "cells": cells(model, options, slo)})
            show(rows[-1])
    gpt3 = {f"{policy} on {size}": cell("gpt-3-175b", policy, options, None, size) for size, policy in GPT3}
    show({"model": "gpt-3-175b", "cells": gpt3})
    settings = {name: value for name, value in vars(options).items() if name != "save"}
    report("s3", rounded({"settings": settings, "max_length": MAX_LENGTH, "models": rows, "gpt3": gpt3}),
           save=options.save)  # fmt: skip


def cells(model: str, options: argparse.Namespace, slo: float | None) -> dict[str, dict[str, float]]:
    found = {policy: cell(model, policy, options, slo) for policy in POLICIES}
    base = found["orca"]["requests_per_second"]
    for figures in found.values():
        figures["over_orca"] = figures["requests_per_second"] / base
    return found


def cell(model: str, policy: str, options: argparse.Namespace, slo: float | None, stages: int = 1) -> dict[str, float]:
    """Medians over the draws."""
    runs = [run(model, policy, options, slo, stages, seed) for seed in range(options.seeds)]
    return {name: statistics.median(one[name] for one in runs) for name in runs[0]}


def run(
    model: str, policy: str, options: argparse.Namespace, slo: float | None, stages: int, seed: int
) -> dict[str, float]:
    trace = alpaca_trace(options.count, seed)
    if policy == "s3 oracle":
        trace = replace(trace, max_tokens=trace.output_tokens)  # so that the worst case is the truth
    settings = SimulateOptions(
        device="A100-80G", model=model, pipeline_parallel=stages, max_num_seqs=4096, max_num_batched_tokens=8192,
        forecast_error=options.error, seed=seed,
    )  # fmt: skip
    figures = simulate(trace, settings, SchedulerOptions(**POLICIES[policy], slo_tpot_ms=slo)).figures
    return {
        "requests_per_second": figures["requests"] / figures["seconds"],
        **{name: figures[name] for name in ("tokens_per_second", "batch_mean", "preemptions", "latency_mean_s")},
        **{name: figures[name] for name in ("tpot_mean_s", "tpot_p99_s", "kv_utilization_mean")},
    }


def alpaca_trace(count: int, seed: int) -> Trace:
    """``count`` rows of the shared Alpaca file; a prompt's tokens are taken as a quarter of its characters."""
    rows = alpaca()
    drawn = [rows[i] for i in np.random.default_rng(seed).choice(len(rows), count, replace=False)]
    prompts = np.array([-(-len(joined(row["instruction"], row["input"])) // 4) for row in drawn])
    answers = np.array([max(row["L_gt"], 1) for row in drawn])
    return Trace(np.zeros(count), prompts, answers, MAX_LENGTH - prompts)


def show(row: dict[str, Any]) -> None:
    print(row["model"], row.get("slo_tpot_ms"), file=sys.stderr)
    for name, figures in row["cells"].items():
        text = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
        print(f"  {name}: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
