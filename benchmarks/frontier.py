"""Which policy stands where: tokens/s, latencies, gaps and preemptions together, for watermarks, orders and `payback`.

Azure's conversations, Alpaca's lengths and a heavy tail, on the H100 and the CPU model; a closed batch, and arrivals at
0.7, 0.9 and 1.1 of what the 5 % watermark can do; medians over draws. A cell is on the frontier if no other one of its
workload and load is at least as good in all five figures and better in one, with a tolerance of half a per cent.

python benchmarks/frontier.py --save
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace
from typing import Any

import numpy as np
from filing import report, rounded
from s3 import alpaca_trace
from simulate_scale import AZURE

from presize.config import SchedulerOptions
from presize.simulate.cluster import simulate
from presize.simulate.options import SimulateOptions
from presize.simulate.traces import SYNTHETIC, Trace, load_trace, with_rate

# larger is better for the first, smaller for the others
FIGURES = ("tokens_per_second", "latency_mean_s", "latency_p99_s", "itl_p99_s", "preemptions")
BASE = "watermark 5%"
TOLERANCE, FEW = 0.005, 2  # relative; preemptions
LOADS = (None, 0.7, 0.9, 1.1)
MACHINES: dict[str, dict[str, Any]] = {
    "H100": {"device": "H100", "model": "llama-3.1-8b", "max_num_batched_tokens": 2048},
    "CPU": {"device": "cpu-2-cores", "model": "SmolLM2-135M-Instruct", "max_num_batched_tokens": 512},
}
# tokens of the pool, so that memory and not slots bound the batch
POOLS = {("H100", "azure"): 120_000, ("H100", "alpaca"): 16_384, ("H100", "tail"): 60_000,
         ("CPU", "azure"): 32_768, ("CPU", "alpaca"): 4_096, ("CPU", "tail"): 16_384}  # fmt: skip
CELLS: dict[str, dict[str, Any]] = {
    **{f"watermark {w:.0%}": {"policy": "watermark", "watermark": w} for w in (0.0, 0.02, 0.05, 0.10, 0.15)},
    "watermark 5% gittins": {"policy": "watermark", "order": "gittins", "predictor": "noisy"},
    "payback": {"policy": "payback"},
    "payback kappa 1": {"policy": "payback", "payback": 1.0},
    "payback kappa 10": {"policy": "payback", "payback": 10.0},
    "payback risk 1": {"policy": "payback", "risk": 1.0},
    "payback risk 3": {"policy": "payback", "risk": 3.0},
    "payback noisy": {"policy": "payback", "predictor": "noisy"},
    "payback noisy gittins": {"policy": "payback", "order": "gittins", "predictor": "noisy"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--machines", default=",".join(MACHINES))
    parser.add_argument("--save", action="store_true", help="file the result under benchmarks/results/")
    options = parser.parse_args()
    rows = []
    for machine in options.machines.split(","):
        for workload in ("azure", "alpaca", "tail"):
            rows += scenarios(machine, workload, options.count, options.seeds)
    wins = {name: sum(name in row["frontier"] for row in rows) for name in CELLS}
    against = {name: compared(rows, name) for name in CELLS}
    for name, figures in against.items():
        print(f"{name}: on the frontier {wins[name]} of {len(rows)};", rounded(figures), file=sys.stderr)
    settings = {name: value for name, value in vars(options).items() if name != "save"}
    found = {"settings": settings, "scenarios": len(rows), "on_frontier": wins, "against_watermark": against}
    report("frontier", rounded({**found, "rows": rows}), save=options.save)


def compared(rows: list[dict[str, Any]], name: str) -> dict[str, float]:
    """Geometric means over the scenarios of each figure's ratio to the 5 % watermark's; sums of preemptions."""
    found: dict[str, float] = {}
    for figure in FIGURES[:-1]:
        ratios = [row["cells"][name][figure] / row["cells"][BASE][figure] for row in rows]
        found[f"{figure}_ratio"] = statistics.geometric_mean(ratios)
        found[f"{figure}_worst"] = min(ratios) if figure == "tokens_per_second" else max(ratios)
    found["preemptions"] = sum(row["cells"][name]["preemptions"] for row in rows)
    found["preemptions_watermark"] = sum(row["cells"][BASE]["preemptions"] for row in rows)
    return found


def scenarios(machine: str, workload: str, count: int, seeds: int) -> list[dict[str, Any]]:
    base = SimulateOptions(**MACHINES[machine], kv_tokens=POOLS[machine, workload], num_requests=count)
    closed = [trace_of(workload, base, seed) for seed in range(seeds)]
    served = [simulate(trace, base, SchedulerOptions(policy="watermark")).figures for trace in closed]
    capacity = statistics.median(f["requests"] / f["seconds"] for f in served)
    rows = []
    for load in LOADS:
        traces = closed if load is None else [
            with_rate(trace, replace(base, seed=seed), load * capacity) for seed, trace in enumerate(closed)
        ]  # fmt: skip
        cells = {name: measured(traces, base, SchedulerOptions(**cell)) for name, cell in CELLS.items()}
        row = {"machine": machine, "workload": workload, "load": load, "frontier": frontier(cells), "cells": cells}
        rows.append(row)
        print(machine, workload, load, "frontier:", ", ".join(row["frontier"]), file=sys.stderr, flush=True)
    return rows


def trace_of(workload: str, options: SimulateOptions, seed: int) -> Trace:
    """Everything at the start."""
    drawn = replace(options, seed=seed)
    if workload == "alpaca":
        return alpaca_trace(options.num_requests or 1000, seed)
    if workload == "tail":
        tail = replace(drawn, length_distribution="zipf", length_spread=1.0, input_len=256, output_len=256)
        return load_trace(SYNTHETIC, tail, 8192)
    every = load_trace(str(AZURE), replace(drawn, num_requests=None, time_scale=0.0, truncate=True), 8192)
    return every.take(np.sort(np.random.default_rng(seed).choice(len(every), options.num_requests, replace=False)))


def measured(traces: list[Trace], options: SimulateOptions, scheduler: SchedulerOptions) -> dict[str, float]:
    """Medians over the draws."""
    runs = [simulate(trace, replace(options, seed=seed), scheduler).figures for seed, trace in enumerate(traces)]
    return {name: statistics.median(figures[name] for figures in runs) for name in FIGURES}


def frontier(cells: dict[str, dict[str, float]]) -> list[str]:
    """Those that no other one dominates."""
    return [
        name for name, cell in cells.items()
        if not any(dominates(other, cell) for rival, other in cells.items() if rival != name)
    ]  # fmt: skip


def dominates(one: dict[str, float], other: dict[str, float]) -> bool:
    """At least as good in all figures, better in one, beyond the tolerance."""
    better = worse = False
    for name in FIGURES:
        sign = -1 if name == "tokens_per_second" else 1
        lead = sign * (other[name] - one[name])
        slack = FEW if name == "preemptions" else TOLERANCE * abs(other[name])
        better, worse = better or lead > slack, worse or lead < -slack
    return better and not worse


if __name__ == "__main__":
    main()
