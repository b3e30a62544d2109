"""Which policy stands where: tokens/s, latencies, gaps and preemptions together, for watermarks, orders and `payback`.

Azure's conversations, Alpaca's lengths and a heavy tail, on the H100 and the CPU model, and Alpaca's lengths where the
pool is small, LLaMA 33B on one A100; a closed batch, and arrivals at 0.7, 0.9 and 1.1 of what the 5 % watermark can do;
medians over draws. A cell is on the frontier if no other one of its workload and load is at least as good in all five
figures and better in one, with a tolerance of half a per cent. `payback` at 2.5 and 0.5 was found by a search on draws
0 to 2 of 500 requests; those here are others.

python benchmarks/frontier.py --save --save-plot docs/policies.png
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace
from pathlib import Path
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
    "A100": {"device": "A100-80G", "model": "llama-33b", "max_num_batched_tokens": 2048},
    "CPU": {"device": "cpu-2-cores", "model": "SmolLM2-135M-Instruct", "max_num_batched_tokens": 512},
}
# tokens of the pool, so that memory and not slots bound the batch; on the A100 it is what is left beside the weights
POOLS = {("H100", "azure"): 120_000, ("H100", "alpaca"): 16_384, ("H100", "tail"): 60_000, ("A100", "alpaca"): 4_320,
         ("CPU", "azure"): 32_768, ("CPU", "alpaca"): 4_096, ("CPU", "tail"): 16_384}  # fmt: skip
STATIC = tuple(f"watermark {w:.0%}" for w in (0.0, 0.02, 0.05, 0.10, 0.15))
NOISY = {"predictor": "noisy"}
SEARCHED = {"policy": "payback", "risk": 2.5, "payback": 0.5}
CELLS: dict[str, dict[str, Any]] = {
    **{name: {"policy": "watermark", "watermark": float(name[10:-1]) / 100} for name in STATIC},
    "watermark 5% gittins": {"policy": "watermark", "order": "gittins", **NOISY},
    "watermark 5% longest-first": {"policy": "watermark", "order": "longest-first", **NOISY},
    "payback": {"policy": "payback"},
    "payback 2.5 0.5": SEARCHED,
    "payback 2 1": {"policy": "payback", "risk": 2.0, "payback": 1.0},
    "payback noisy": {"policy": "payback", **NOISY},
    "payback noisy gittins": {"policy": "payback", "order": "gittins", **NOISY},
    "payback noisy gittins-preemptive": {"policy": "payback", "order": "gittins-preemptive", **NOISY},
    "payback 2.5 0.5 noisy": {**SEARCHED, **NOISY},
    "payback 2.5 0.5 noisy gittins": {**SEARCHED, "order": "gittins", **NOISY},
    "payback 2.5 0.5 noisy longest-first": {**SEARCHED, "order": "longest-first", **NOISY},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3, help="draws")
    parser.add_argument("--first-seed", type=int, default=10)
    parser.add_argument("--machines", default=",".join(MACHINES))
    parser.add_argument("--save", action="store_true", help="file the result under benchmarks/results/")
    parser.add_argument("--save-plot", type=Path, help="write a picture")
    options = parser.parse_args()
    rows = []
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    for machine, workload in POOLS:
        if machine in options.machines.split(","):
            rows += scenarios(machine, workload, options.count, seeds)
    wins = {name: sum(name in row["frontier"] for row in rows) for name in CELLS}
    beaten = {
        name: sum(any(dominates(row["cells"][w], row["cells"][name]) for w in STATIC) for row in rows) for name in CELLS
    }
    against = {name: compared(rows, name) for name in CELLS}
    for name, figures in against.items():
        print(
            f"{name}: on the frontier {wins[name]}, behind a watermark {beaten[name]} of {len(rows)};",
            rounded(figures),
            file=sys.stderr,
        )
    if options.save_plot:
        plot(options.save_plot, rows)
    settings = {name: value for name, value in vars(options).items() if not name.startswith("save")}
    found = {
        "settings": settings, "scenarios": len(rows), "on_frontier": wins, "behind_a_static_watermark": beaten,
        "against_watermark": against,
    }  # fmt: skip
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


def scenarios(machine: str, workload: str, count: int, seeds: range) -> list[dict[str, Any]]:
    base = SimulateOptions(**MACHINES[machine], kv_tokens=POOLS[machine, workload], num_requests=count)
    closed = [(seed, trace_of(workload, base, seed)) for seed in seeds]
    served = [simulate(trace, base, SchedulerOptions(policy="watermark")).figures for _, trace in closed]
    capacity = statistics.median(f["requests"] / f["seconds"] for f in served)
    rows = []
    for load in LOADS:
        traces = closed if load is None else [
            (seed, with_rate(trace, replace(base, seed=seed), load * capacity)) for seed, trace in closed
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


def measured(
    traces: list[tuple[int, Trace]], options: SimulateOptions, scheduler: SchedulerOptions
) -> dict[str, float]:
    """Medians over the draws."""
    runs = [simulate(trace, replace(options, seed=seed), scheduler).figures for seed, trace in traces]
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


def plot(path: Path, rows: list[dict[str, Any]]) -> None:
    """All relative to the 5 % watermark: above, closed batches; below, 1.1 of what it can serve."""
    from matplotlib.figure import Figure

    workloads = ("azure", "alpaca", "tail")
    figure = Figure(figsize=(11.0, 6.6), layout="constrained")
    panels = figure.subplots(2, 3)
    shapes = {
        "payback": "D", "payback noisy": "s", "payback noisy gittins": "*", "payback noisy gittins-preemptive": "X",
        "watermark 5% gittins": "P",
    }  # fmt: skip
    for (load, x, y), line in zip(
        ((None, "tokens_per_second", "itl_p99_s"), (1.1, "latency_mean_s", "latency_p99_s")), panels, strict=True
    ):
        for workload, panel in zip(workloads, line, strict=True):
            for number, machine in enumerate(MACHINES):
                for row in (r for r in rows if (r["machine"], r["workload"], r["load"]) == (machine, workload, load)):
                    base, color = row["cells"][BASE], f"C{number}"
                    points = {name: (cell[x] / base[x], cell[y] / base[y]) for name, cell in row["cells"].items()}
                    joined = [points[name] for name in STATIC]
                    panel.plot(*zip(*joined, strict=True), "o-", color=color, markersize=4, linewidth=1, alpha=0.6)
                    for name, shape in shapes.items():
                        panel.plot(*points[name], shape, color=color, markersize=8, markeredgecolor="black")
            panel.axhline(1, color="#9ca3af", linewidth=0.7)
            panel.axvline(1, color="#9ca3af", linewidth=0.7)
            panel.grid(color="#e5e7eb", linewidth=0.7)
            panel.set_title(f"{workload}, {'closed batch' if load is None else f'load {load}'}", fontsize=11)
            x_label, y_label = (name.removesuffix("_s").replace("_", " ").replace("itl", "gap") for name in (x, y))
            panel.set(xlabel=f"{x_label}, relative", ylabel=f"{y_label}, relative")
    for number, machine in enumerate(MACHINES):
        panels[0][0].plot([], [], "o-", color=f"C{number}", markersize=4, label=f"{machine}: watermark 0 to 15 %")
    for name, shape in shapes.items():
        panels[0][0].plot([], [], shape, color="white", markeredgecolor="black", markersize=8, label=name)
    figure.legend(
        *panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9, edgecolor="none"
    )
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
