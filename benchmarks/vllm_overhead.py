"""What Presize adds to vLLM's `schedule()`: a real scheduler, a stand-in for the model, a request comes as one ends.

Runs with the interpreter of a vLLM environment; scripts/test_vllm makes one.

PYTHONPATH=src .venv-vllm/bin/python benchmarks/vllm_overhead.py --save
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from filing import report, rounded

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/integrations"))
from driving import World, make_request, make_scheduler

RUNNING, STEPS, WARM_UP = 256, 400, 200
BLOCKS_EACH = 6  # of the pool for each running request
SETTINGS: dict[str, dict[str, Any] | None] = {
    "stock": None,
    "payback, fcfs": {},
    "payback, gittins": {"order": "gittins"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waiting", type=int, default=1000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="file the result under benchmarks/results/")
    options = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in SETTINGS}
    for repetition in range(options.repetitions):  # interleaved
        for name, presize in SETTINGS.items():
            rows[name].append(measured(presize, options.waiting, repetition))
            print(name, rounded(rows[name][-1]), file=sys.stderr, flush=True)
    median = {
        name: {key: statistics.median(row[key] for row in found) for key in found[0]} for name, found in rows.items()
    }
    for name in SETTINGS:
        median[name]["added_ms"] = median[name]["schedule_mean_ms"] - median["stock"]["schedule_mean_ms"]
    report("vllm-overhead", rounded({"waiting": options.waiting, "settings": median}), save=options.save)


def measured(presize: dict[str, Any] | None, waiting: int, seed: int) -> dict[str, float]:
    """Milliseconds of processor time of `schedule()`, and of ours by the clock, while about RUNNING run."""
    draw = random.Random(seed)
    # memory, not the number of sequences, is what ends admission
    blocks = RUNNING * BLOCKS_EACH
    scheduler = make_scheduler(Path(tempfile.mkdtemp()), presize, blocks=blocks, seqs=2 * RUNNING, budget=2048)
    world = World(scheduler, {})

    def arrive(count: int) -> None:
        requests = [make_request(str(len(world.lengths) + i), draw.randrange(20, 60), 400) for i in range(count)]
        world.lengths.update((r.request_id, int(min(1 + draw.expovariate(1 / 150), 400))) for r in requests)
        world.add(requests)

    arrive(RUNNING + waiting)
    times, running = [], []
    schedule = scheduler.schedule

    def timed(*args: Any) -> Any:
        started = time.thread_time()
        made = schedule(*args)
        times.append(time.thread_time() - started)
        running.append(len(scheduler.running))
        return made

    scheduler.schedule = timed
    ours = 0.0
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP and presize is not None:
            ours = scheduler._metrics.decision_s
        ended = len(world.ended)
        world.step()
        arrive(len(world.ended) - ended)
    kept = sorted(times[-STEPS:])
    return {
        "running": statistics.mean(running[-STEPS:]),
        "schedule_mean_ms": 1e3 * statistics.mean(kept),
        "schedule_median_ms": 1e3 * statistics.median(kept),
        "schedule_p99_ms": 1e3 * kept[int(0.99 * STEPS)],
        "ours_ms": 0.0 if presize is None else 1e3 * (scheduler._metrics.decision_s - ours) / STEPS,
    }


if __name__ == "__main__":
    main()
