"""One scheduling decision of `payback` with many running and waiting requests, on one core, and how it grows.

python benchmarks/scheduling.py --save
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from filing import report, rounded

from presize.config import SchedulerOptions
from presize.core.ledger import Ledger
from presize.core.lengths import GRID, LengthDistribution
from presize.core.request import Request
from presize.core.scheduler import Scheduler

TOKENS_EACH = 255  # KV tokens of the pool for each running request: what it holds, and what the forecast keeps free


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="file the result under benchmarks/results/")
    options = parser.parse_args()
    rows = []
    for target in (16, 64, 256, 1024):
        for waiting in (0, 1_000, 10_000, 100_000) if target == 256 else (10_000,):
            rows.append(decision(target, waiting))
            print(
                "{running:8.0f} running, {waiting:6} waiting: median {median_ms:.3f} ms, p99 {p99_ms:.3f} ms".format(
                    **rows[-1]
                )
            )
    report("scheduling", rounded({"order": "gittins", "policy": "payback", "rows": rows}), save=options.save)


def decision(target: int, waiting: int, steps: int = 300) -> dict[str, float]:
    """Milliseconds of `schedule()` at steady state: a pool for about ``target`` requests, a queue kept long."""
    random = np.random.default_rng(0)
    scales = random.uniform(100, 400, 64)
    curves = [LengthDistribution.from_survival(np.exp(-GRID / scale), 1024) for scale in scales]
    ledger = Ledger(target * TOKENS_EACH // 32, 32)
    options = SchedulerOptions(order="gittins")
    scheduler = Scheduler(options, ledger, max_num_seqs=2 * target, max_num_batched_tokens=64 * target)
    ends: dict[Request, int] = {}

    def arrive() -> None:
        kind = int(random.integers(64))
        name = str(len(ends))
        request = Request(name, int(random.integers(20, 60)), 1024, curves[kind], arrival_s=1e-3 * len(ends))
        ends[request] = int(min(1 + random.exponential(scales[kind]), 1024))
        scheduler.add(request)

    for _ in range(target):
        arrive()
    times, running = [], []
    for step in range(2 * steps):
        if step == steps:
            for _ in range(waiting):
                arrive()
        started = time.perf_counter()
        made = scheduler.schedule()
        seconds = time.perf_counter() - started
        if step > steps:
            times.append(seconds)
            running.append(len(scheduler.running))
        scheduler.complete(made, 0.03 + 0.0005 * made.num_decodes + 0.001 * made.prefill_tokens)
        for request in [r for r in scheduler.running if r.output_tokens >= ends[r]]:
            scheduler.finish(request)
            arrive()
    return {
        "running": statistics.mean(running),
        "waiting": waiting,
        "median_ms": 1e3 * statistics.median(times),
        "p99_ms": 1e3 * sorted(times)[int(0.99 * len(times))],
    }


if __name__ == "__main__":
    main()
