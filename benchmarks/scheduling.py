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
from presize.core.request import Request, RequestState
from presize.core.scheduler import Scheduler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="file the result under benchmarks/results/")
    options = parser.parse_args()
    table = {
        f"{running} running, {waiting} waiting": decision_ms(running, waiting)
        for running in (16, 64, 256, 1024)
        for waiting in (0, 1_000, 10_000, 100_000)
    }
    for name, milliseconds in table.items():
        print(f"{name:>30}: {milliseconds:.3f} ms")
    report("scheduling", rounded({"order": "gittins", "policy": "payback", "median_ms": table}), save=options.save)


def decision_ms(running: int, waiting: int, repeats: int = 50) -> float:
    """Median milliseconds of `schedule()` in a full pool: every request decodes, and the head of the queue is refused."""
    random = np.random.default_rng(0)
    curves = [LengthDistribution.from_survival(np.exp(-GRID / scale), 1024) for scale in random.uniform(100, 400, 64)]

    def request(index: int) -> Request:
        return Request(str(index), int(random.integers(20, 60)), 1024, curves[index % 64], arrival_s=index * 1e-3)

    live = [request(index) for index in range(running)]
    for index, one in enumerate(live):
        one.output_tokens = int(random.integers(1, 400))
        one.computed_tokens, one.admission, one.state = one.total_tokens - 1, index, RequestState.RUNNING
    blocks = sum(-(-(one.total_tokens + repeats) // 32) for one in live)
    ledger = Ledger(int(blocks * 1.05), 32)
    options = SchedulerOptions(order="gittins")
    scheduler = Scheduler(options, ledger, max_num_seqs=2 * running, max_num_batched_tokens=64 * running)
    for one in live:
        ledger.allocate(one.request_id, one.total_tokens)
    scheduler.running.extend(live)
    for index in range(running, running + waiting):
        scheduler.add(request(index))
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        decision = scheduler.schedule()
        times.append(time.perf_counter() - started)
        scheduler.complete(decision, 0.05)
    return 1e3 * statistics.median(times)


if __name__ == "__main__":
    main()
