"""How long a simulation takes, and how that grows: requests shaped as Azure's conversations, on H100s with an 8B model.

python benchmarks/simulate_scale.py --save --save-plot docs/simulate-scale.png
python benchmarks/simulate_scale.py --million --save      a million requests over 64 engines, as simulate_scale-million
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from filing import report, rounded

from presize.config import SchedulerOptions
from presize.simulate.cluster import simulate, step_costs
from presize.simulate.options import SimulateOptions
from presize.simulate.traces import load_trace

AZURE = Path(__file__).resolve().parents[2] / "shared/data/traces/azure2023_conv.csv.gz"
RATE = 16.0  # requests/s for an engine: busy, and its queue stays short
SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--million", action="store_true", help="a million requests over 64 engines instead")
    parser.add_argument("--save", action="store_true", help="file the result under benchmarks/results/")
    parser.add_argument("--save-plot", type=Path, help="write a picture of how the time grows")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a cell, in a process of its own: for its memory
    options = parser.parse_args()
    if options.one:
        print(json.dumps(cell(*json.loads(options.one))))
        return
    if options.million:
        cells = [[1_000_000, 64, "payback", "fcfs", True]]
    else:
        cells = [[count, 1, policy, "fcfs", True] for policy in ("payback", "watermark") for count in SIZES]
        cells += [[30_000, 4, "payback", "fcfs", True]]
        cells += [[30_000, 16, "payback", "fcfs", True]]
    rows = [run(one) for one in cells]
    if options.save_plot:
        plot(options.save_plot, rows)
    name = "simulate_scale-million" if options.million else "simulate_scale"
    report(name, rounded({"rate_per_engine": RATE, "rows": rows}), save=options.save)


def run(arguments: list[Any]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", json.dumps(arguments)]
    row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    text = "{requests:9,} requests, {replicas:2} engines, {policy}: {core_seconds:6.1f} s of a core, {megabytes:.0f} MB"
    print(text.format(**row), file=sys.stderr, flush=True)
    return row


def cell(count: int, replicas: int, policy: str, order: str, opened: bool) -> dict[str, Any]:
    """One simulation; ``opened``: requests arrive over time, else all are there at the start."""
    options = SimulateOptions(
        num_requests=count, request_rate=RATE * replicas if opened else 1e9, replicas=replicas,
        router="least-requests",
    )  # fmt: skip
    if not AZURE.exists():
        raise SystemExit(f"{AZURE} is not there; this needs the shared data")
    costs = step_costs(options)
    trace = load_trace(str(AZURE), options, costs.model.max_positions)
    started, used = time.perf_counter(), time.process_time()
    figures = simulate(trace, options, SchedulerOptions(policy=policy, order=order), costs=costs).figures
    seconds, core_seconds = time.perf_counter() - started, time.process_time() - used
    return {
        "requests": count, "replicas": replicas, "policy": policy, "order": order, "open": opened, "seconds": seconds,
        "core_seconds": core_seconds,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "us_per_token": 1e6 * core_seconds / figures["output_tokens"],
        **{name: figures[name] for name in ("tokens_per_second", "batch_mean", "preemptions", "kv_utilization_mean")},
    }  # fmt: skip


def plot(path: Path, rows: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    panel = figure.subplots()
    for policy in ("payback", "watermark"):
        points = [
            (r["requests"], r["core_seconds"])
            for r in rows
            if r["policy"] == policy and r["open"] and r["replicas"] == 1
        ]
        panel.plot(*zip(*points, strict=True), marker="o", label=policy)
    panel.axhline(60, color="#6b7280", linestyle="--", linewidth=1, label="a minute")
    panel.set(xscale="log", yscale="log", xlabel="requests", ylabel="seconds on one core")
    panel.set_title(f"Simulating one H100 at {RATE:g} requests/s", fontsize=11)
    panel.grid(color="#e5e7eb", linewidth=0.7)
    panel.legend(edgecolor="none")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
