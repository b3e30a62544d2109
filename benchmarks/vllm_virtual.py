"""vLLM's scheduler, stock and with Presize, in virtual time: a real scheduler, answers of known length, and a step that
costs seconds by a formula. A cell takes seconds instead of minutes, so that settings can be explored.

Prompts and answers come as {"prompts": [[ids]], "answers": [[ids]]}. What a step costs was fitted to eleven real cells
of vLLM's CPU build, which it gives to 6 %. Forecasts are there at once. It runs with a vLLM environment's interpreter.

PYTHONPATH=src .venv-vllm/bin/python benchmarks/vllm_virtual.py RUN.json --kv-tokens 4096,8192,16384
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filing import report, rounded
from peers.vllm_cell import figures
from workload import azure_arrivals

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/integrations"))
from driving import BLOCK, World, make_request, make_scheduler
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput

from presize.config import DEFAULT_MODEL
from presize.core.lengths import GRID, LengthDistribution
from presize.integrations.vllm.forecasts import Forecasts
from presize.predict.base import Predictor, Query
from presize.predict.choose import SHIPPED
from presize.predict.learned import Learned

FIXED_S, DECODE_S, PREFILL_S, CONTEXT_S = 14e-3, 5e-4, 5.4e-4, 3.8e-6
SEQS, BUDGET, MODEL_LEN = 256, 4096, 2048
SETTINGS: dict[str, dict[str, Any]] = {
    "stock": {},
    "stock 0.02": {"watermark": 0.02},
    "stock 0.05": {"watermark": 0.05},
    "kaplan-meier": {"presize": {}},
    "trained": {"presize": {}, "forecasts": "trained"},
    "true": {"presize": {}, "forecasts": "true"},
    "noisy": {"presize": {}, "forecasts": "noisy"},
    "kaplan-meier gittins": {"presize": {"order": "gittins"}},
    "trained gittins": {"presize": {"order": "gittins"}, "forecasts": "trained"},
    "true gittins": {"presize": {"order": "gittins"}, "forecasts": "true"},
    "noisy gittins": {"presize": {"order": "gittins"}, "forecasts": "noisy"},
    **{
        f"{name} preemptive": {"presize": {"order": "gittins-preemptive", "aging": 0.1}, "forecasts": name}
        for name in ("kaplan-meier", "trained", "true", "noisy")
    },
}


class Known(Predictor):
    """Gives each request its curve."""

    def __init__(self, curves: dict[str, LengthDistribution]) -> None:
        self.curves = curves

    def predict(self, queries: Sequence[Query]) -> list[LengthDistribution]:
        return [self.curves[query.request_id] for query in queries]


class Virtual(World):
    """Steps take time, one after another; a token is there when its step ends."""

    def __init__(self, scheduler: AsyncScheduler, lengths: dict[str, int]) -> None:
        super().__init__(scheduler, lengths, depth=1)  # async scheduling is off in the CPU build
        self.now = self.busy_until = 0.0
        self.times: dict[str, list[float]] = {}
        self.ends: deque[float] = deque()
        self.batches: list[int] = []
        if getattr(scheduler, "advisor", None) is not None:
            scheduler.advisor.clock = lambda: self.now

    def begun(self, output: SchedulerOutput) -> None:
        counts = output.num_scheduled_tokens
        decodes = sum(n == 1 for n in counts.values())
        context = sum(self.scheduler.requests[name].num_computed_tokens for name in counts)
        seconds = FIXED_S + DECODE_S * decodes + CONTEXT_S * context
        seconds += PREFILL_S * (output.total_num_scheduled_tokens - decodes)
        self.busy_until = max(self.busy_until, self.now) + (seconds if counts else 0.0)
        self.batches.append(len(counts))
        self.ends.append(self.busy_until)

    def _update(self, output: SchedulerOutput, draws: dict[str, int]) -> None:
        self.now = max(self.now, self.ends.popleft())
        super()._update(output, draws)
        for name in draws:
            times = self.times.setdefault(name, [])
            times += [self.now] * (len(self.made[name]) - len(times))

    def serve(self, requests: list[Any]) -> None:
        """Each at its arrival, in order."""
        coming = deque(requests)
        while coming or self.scheduler.has_unfinished_requests() or self.flight:
            if not self.scheduler.has_unfinished_requests() and not self.flight:
                self.now = max(self.now, coming[0].arrival_time)
            while coming and coming[0].arrival_time <= self.now:
                self.add([coming.popleft()])
            self.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--settings", default=",".join(SETTINGS), help="names, with commas")
    parser.add_argument("--kv-tokens", default="4096,8192,16384,65536", help="pool sizes, with commas")
    parser.add_argument("--max-tokens", type=int, default=1024)
    parser.add_argument("--count", type=int, help="only so many of the prompts")
    parser.add_argument("--rate", type=float, help="requests/s, with the gaps of Azure's trace (default: all at once)")
    parser.add_argument("--save", action="store_true", help="file the result under benchmarks/results/")
    options = parser.parse_args()
    work = json.loads(options.run.read_text())
    prompts, answers = work["prompts"][: options.count], [len(a) for a in work["answers"][: options.count]]
    arrivals = azure_arrivals(len(prompts), options.rate) if options.rate else [0.0] * len(prompts)
    pools: dict[str, dict[str, Any]] = {}
    for tokens in options.kv_tokens.split(","):
        found: dict[str, Any] = pools.setdefault(tokens, {})
        for name in options.settings.split(","):
            found[name] = cell(prompts, answers, options.max_tokens, int(tokens), arrivals, **SETTINGS[name])
            stock = found.get("stock")
            if stock:
                found[name]["ratio"] = {
                    k: found[name][k] / max(stock[k], 1e-9)
                    for k in ("tokens_per_second", "preemptions", "itl_p99_s", "latency_mean_s", "latency_p99_s")
                }
            print(tokens, name, json.dumps(rounded(found[name], 3)), file=sys.stderr, flush=True)
    report("vllm-virtual", rounded(pools), save=options.save)


def cell(
    prompts: list[list[int]],
    lengths: list[int],
    max_tokens: int,
    kv_tokens: int,
    arrivals: list[float],
    presize: dict[str, Any] | None = None,
    forecasts: str = "kaplan-meier",
    watermark: float = 0.0,
) -> dict[str, Any]:
    scheduler = make_scheduler(
        Path(tempfile.mkdtemp()), presize, blocks=kv_tokens // BLOCK, seqs=SEQS, budget=BUDGET,
        max_model_len=MODEL_LEN, watermark=watermark,
    )  # fmt: skip
    if forecasts != "kaplan-meier":
        scheduler.advisor.forecasts = Forecasts(Known(curves(forecasts, prompts, lengths, max_tokens)), None)
    # an answer of max_tokens was cut off
    world = Virtual(scheduler, {str(i): n for i, n in enumerate(lengths) if n < max_tokens})
    world.serve([make_request(str(i), ids, max_tokens, arrival=arrivals[i]) for i, ids in enumerate(prompts)])
    assert presize is None or scheduler.advisor is not None
    made = [len(world.made[str(i)]) for i in range(len(prompts))]
    assert made == lengths, "every answer has its length"
    return {
        **figures([world.times[str(i)] for i in range(len(prompts))], arrivals),
        "preemptions": len(world.preempted),
        "steps": world.steps,
        "batch_mean": float(np.mean(world.batches)),
    }


def curves(kind: str, prompts: list[list[int]], lengths: list[int], max_tokens: int) -> dict[str, LengthDistribution]:
    """By request id. noisy: a lognormal around a guess that is off by a log error of 0.5."""
    if kind == "true":
        return {str(i): LengthDistribution.exactly(n) for i, n in enumerate(lengths)}
    if kind == "trained":
        queries = [Query(str(i), ids, max_tokens) for i, ids in enumerate(prompts)]
        found = Learned.load(Path(SHIPPED[DEFAULT_MODEL])).predict(queries)
        return {query.request_id: curve for query, curve in zip(queries, found, strict=True)}
    guesses = np.array(lengths) * np.exp(0.5 * np.random.default_rng(0).standard_normal(len(lengths)))
    with np.errstate(divide="ignore"):
        logs = np.log(GRID)
    return {
        str(i): LengthDistribution.from_survival(
            [0.5 * math.erfc((log - math.log(guess)) / 0.5 / math.sqrt(2)) for log in logs], max_tokens
        )
        for i, guess in enumerate(guesses)
    }


if __name__ == "__main__":
    main()
