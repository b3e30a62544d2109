"""Online learning when lengths change: Vicuna-7B's real lengths, which from some answer on are half as long again.

A predictor is learned from half of the log; the other half is served to it, RUNNING answers at a time. Every figure is
of forecasts made before their answer was known, by part of the stream, beside those of the predictor left as it was. A
retraining is waited for before the stream goes on, so that the figures do not depend on this machine's speed; what
it costs the engine's thread is measured apart, while one runs.

python benchmarks/corpus.py vicuna > vicuna.jsonl
python benchmarks/online.py --log vicuna.jsonl --save
"""

from __future__ import annotations

import argparse
import heapq
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from filing import report, rounded

from presize.config import DEFAULT_MODEL, SchedulerOptions
from presize.core.lengths import LengthDistribution
from presize.engine.hub import resolve
from presize.engine.tokenizer import Tokenizer
from presize.predict.base import Query
from presize.predict.learned import Learned
from presize.predict.log import Log, Observation, read_log
from presize.predict.metrics import evaluate
from presize.predict.online import Online
from presize.predict.store import HEADER, save
from presize.predict.train.learn import learn
from presize.predict.train.task import Recipe

SHOWN = ("n", "coverage_50", "coverage_90", "crps", "mae", "kendall_tau")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, required=True, help="answers, such as Vicuna's")
    parser.add_argument("--kind", default="attention", choices=("attention", "linear"))
    parser.add_argument("--shift", type=float, default=1.5, help="factor on the lengths after --unshifted answers")
    parser.add_argument("--unshifted", type=int, default=1500)
    parser.add_argument("--running", type=int, default=32, help="answers in work at once")
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / "work" / "online")
    parser.add_argument("--save", action="store_true", help="file the result under benchmarks/results/")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(resolve(DEFAULT_MODEL))
    known, stream = read_log(options.log, tokenizer).split(0.5, seed=1)
    base = options.work / f"base-{options.kind}"
    if not (base / HEADER).exists():
        header, predictor = learn(known, tokenizer, DEFAULT_MODEL, Recipe(kind=options.kind), lambda *_: None)
        save(base, header, predictor.model)
    rows = shifted(stream, options.unshifted, options.shift)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        result = served(rows, base, Path(folder) / "online", options)
        result["cost"] = cost(rows, base, Path(folder) / "fresh", Path(folder) / "online")
    about = {"log": options.log.name, "kind": options.kind, "shift": options.shift, "running": options.running}
    report(f"online-{options.kind}", {**about, **rounded(result)}, save=options.save)


def shifted(log: Log, unshifted: int, shift: float) -> list[Observation]:
    """The stream, with ids that differ; what was cut off stays so, at a length that grew with the rest."""
    rows = []
    for number, row in enumerate(log.rows):
        factor = 1.0 if number < unshifted else shift
        query = replace(row.query, request_id=str(number), max_tokens=round(row.query.max_tokens * shift))
        rows.append(Observation(query, round(row.output_tokens * factor), row.censored))
    return rows


def served(rows: list[Observation], base: Path, directory: Path, options: Any) -> dict[str, Any]:
    """Figures by part of the stream: before the change, until it is noticed, until a version is taken over, ..."""
    online = Online(directory, base, SchedulerOptions(), background=False)
    fixed = Learned.load(base)
    marks: list[tuple[str, int]] = [("before the change", 0), ("changed, not noticed", options.unshifted)]
    curves: list[LengthDistribution] = []
    heap: list[tuple[int, int]] = []
    clock = started = ended = 0
    timings: list[float] = []
    while ended < len(rows):
        while started < len(rows) and len(heap) < options.running:
            row = rows[started]
            curves += online.predict([row.query])
            heapq.heappush(heap, (clock + row.output_tokens, started))
            started += 1
        clock, number = heapq.heappop(heap)
        row, before = rows[number], (online.drift.drifting, online.counts.taken_over, online.counts.dropped)
        online.observe(row.query, row.output_tokens, censored=row.censored)
        online.refresh(np.array([clock - end + rows[i].output_tokens for end, i in heap], dtype=np.int64))
        ended += 1
        began = time.monotonic()
        online.learner.turn()
        while online.learner.retraining is not None:
            time.sleep(0.05)
            online.learner.turn()
        if (online.counts.taken_over, online.counts.dropped) != before[1:]:
            timings.append(time.monotonic() - began)
        after = (online.drift.drifting, online.counts.taken_over, online.counts.dropped)
        if after != before:
            event = (
                f"version {after[1]} taken over" if after[1] != before[1]
                else "a version dropped" if after[2] != before[2]
                else "drift noticed, widened" if after[0] else "drift over"
            )  # fmt: skip
            print(f"{ended} answers: {event}; coverage {online.drift.coverage:.3f}", file=sys.stderr, flush=True)
            if after[2] == before[2] and (started >= options.unshifted or after[1] != before[1]):
                marks.append((event, started))
    marks.sort(key=lambda mark: mark[1])
    plain = fixed_curves(fixed, [row.query for row in rows])
    parts = [(name, start, end) for (name, start), (_, end) in zip(marks, [*marks[1:], ("", len(rows))], strict=True)]
    parts += [("whole changed part", options.unshifted, len(rows)), ("last 1000", len(rows) - 1000, len(rows))]
    online.close()
    return {
        "parts": [
            {"from": name, "first": start, "online": figures(curves[start:end], rows[start:end]),
             "left as it was": figures(plain[start:end], rows[start:end])}
            for name, start, end in parts if end - start >= 30
        ],
        "taken_over": online.counts.taken_over, "dropped": online.counts.dropped, "failed": online.counts.failed,
        "drifts": online.counts.drifts, "retrain_seconds": float(np.mean(timings or [0.0])),
    }  # fmt: skip


def fixed_curves(learned: Learned, queries: list[Query]) -> list[LengthDistribution]:
    return [curve for query in queries for curve in learned.predict([query])]


def figures(curves: list[LengthDistribution], rows: list[Observation]) -> dict[str, float]:
    part = Log(rows)
    found = evaluate(curves, part.lengths, part.censored)
    return {name: float(found[name]) for name in SHOWN}


def cost(rows: list[Observation], base: Path, directory: Path, learned: Path) -> dict[str, Any]:
    """Microseconds of the calls that the engine waits for: nothing learned yet, a retraining beside them, and in
    ``learned``, where the base and a version are asked.
    """
    online, fixed = Online(directory, base, SchedulerOptions()), Learned.load(base)
    quiet = measured(online, fixed, rows[:400], lambda: True)
    for row in rows[400:520]:
        online.observe(row.query, row.output_tokens, censored=row.censored)
    while online.learner.retraining is None:
        time.sleep(0.01)
    beside = measured(online, fixed, rows[520:], lambda: online.learner.retraining is not None)
    online.close()
    later = Online(learned, base, SchedulerOptions())
    afterwards = measured(later, fixed, rows[:400], lambda: True)
    later.close()
    version = f"version {later.learner.version.number} forecasts"
    return {"quiet": quiet, "beside a retraining": beside, version: afterwards}


def measured(
    online: Online, fixed: Learned, rows: list[Observation], going_on: Callable[[], bool]
) -> dict[str, Any]:  # fmt: skip
    """Of each call; `fixed` does not learn, and is asked in turn: what others on the machine do shows there too.

    cpu: of the calling thread, which leaves out when another thread or process had the processor.
    """
    calls: dict[str, Callable[[Observation], Any]] = {
        "predict, not learning": lambda row: fixed.predict([row.query]),
        "predict": lambda row: online.predict([row.query]),
        "observe": lambda row: online.observe(row.query, row.output_tokens, censored=row.censored),
    }
    wall: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for row in rows:
        if not going_on():
            break
        for name, call in calls.items():
            started, thread = time.perf_counter(), time.thread_time()
            call(row)
            cpu[name].append(time.thread_time() - thread)
            wall[name].append(time.perf_counter() - started)
    return {
        name: {
            "calls": len(times), "median_us": 1e6 * float(np.median(times)),
            "p99_us": 1e6 * float(np.quantile(times, 0.99)), "max_us": 1e6 * max(times),
            "cpu_p99_us": 1e6 * float(np.quantile(cpu[name], 0.99)), "cpu_max_us": 1e6 * max(cpu[name]),
        }
        for name, times in wall.items()
    }  # fmt: skip


if __name__ == "__main__":
    main()
