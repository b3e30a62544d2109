"""Does the simulator predict the real engine? The 256-prompt workload under four policies, run and simulated.

First `presize calibrate`, then each policy in the real engine, then the same prompts and answers' lengths on the
calibrated device: no step of the workload is used to fit it. What `payback` decides depends on how long steps were, so
that two runs of the engine differ, by a fifth of its preemptions: medians of rounds.

python benchmarks/simulate_engine.py --save
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from decode import native_dtype
from filing import report, rounded
from workload import alpaca_rows

from presize.config import EngineOptions, SchedulerOptions
from presize.engine.engine import Engine
from presize.engine.sampling_params import SamplingParams
from presize.simulate.cluster import simulate
from presize.simulate.options import SimulateOptions
from presize.simulate.traces import Trace

POLICIES = ("worst-case", "on-demand", "watermark", "payback")
COMPARED = ("tokens_per_second", "preemptions", "latency_mean_s", "latency_p99_s", "itl_p99_s", "batch_mean")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--kv-tokens", type=int, default=8192)
    parser.add_argument("--max-tokens", type=int, default=1024)
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--rounds", type=int, default=3, help="of all policies in the engine")
    parser.add_argument("--device", help="a file of `presize calibrate` (default: calibrate now)")
    parser.add_argument("--save", action="store_true", help="file the result under benchmarks/results/")
    options = parser.parse_args()
    dtype = native_dtype()
    with tempfile.TemporaryDirectory() as folder:
        device = options.device or calibrated(Path(folder) / "device.json", dtype)
        quality = {k: v for k, v in json.loads(Path(device).read_text()).items() if k.startswith("error")}
        engine = Engine.load(EngineOptions(kv_tokens=options.kv_tokens, dtype=dtype))
        engine.warm_up()
        prompts = [engine.tokenizer.encode_chat(row["messages"]) for row in alpaca_rows(options.count, seed=0)]
        settings = {k: v for k, v in vars(options).items() if k not in ("device", "save")}
        policies = options.policies.split(",")
        real: dict[str, list[dict[str, float]]] = {policy: [] for policy in policies}
        for number in range(options.rounds):
            for policy in policies:
                engine.restart(policy=policy, predictor="kaplan-meier")
                lengths = serve(engine, prompts, options.max_tokens)
                summary = engine.stats.summary()
                real[policy].append({name: summary[name] for name in COMPARED})
                print(number, policy, json.dumps(rounded(real[policy][-1])), file=sys.stderr, flush=True)
        trace = trace_of(prompts, lengths, options.max_tokens)  # greedy answers are the same under every policy
        simulation = SimulateOptions(
            device=device, model="SmolLM2-135M-Instruct", kv_tokens=options.kv_tokens,
            max_num_seqs=engine.options.max_num_seqs, max_num_batched_tokens=engine.options.max_num_batched_tokens,
        )  # fmt: skip
        cells = {
            policy: compare(
                real[policy],
                simulate(trace, simulation, SchedulerOptions(policy=policy, predictor="kaplan-meier")).figures,
            )
            for policy in policies
        }
    report("simulate_engine", rounded({"calibration": quality, "settings": settings, "cells": cells}),
           save=options.save)  # fmt: skip


def calibrated(path: Path, dtype: str) -> str:
    """The file of `presize calibrate`, made now."""
    command = [sys.executable, "-m", "presize.cli.main", "calibrate", "--output", str(path), "--dtype", dtype]
    subprocess.run([*command, "--kv-tokens", "20480"], check=True, stdout=subprocess.DEVNULL)
    return str(path)


def serve(engine: Engine, prompts: list[list[int]], max_tokens: int) -> dict[int, tuple[int, bool]]:
    """All prompts at once; of each answer its length, and whether it came to its end."""
    for index, ids in enumerate(prompts):
        engine.add_request(str(index), ids, SamplingParams(temperature=0, max_tokens=max_tokens))
    found = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            answer = output.outputs[0]
            found[int(output.request_id)] = (len(answer.token_ids), answer.finish_reason == "stop")
    return found


def trace_of(prompts: list[list[int]], lengths: dict[int, tuple[int, bool]], max_tokens: int) -> Trace:
    """The run as a trace; an answer that was cut off would have been longer."""
    ends = [lengths[i][0] + (not lengths[i][1]) for i in range(len(prompts))]
    count = len(prompts)
    return Trace(np.zeros(count), np.array([len(p) for p in prompts]), np.array(ends), np.full(count, max_tokens))


def compare(rounds: list[dict[str, float]], simulated: dict[str, Any]) -> dict[str, Any]:
    """The real engine's median, and each round's, what was simulated, and its ratio to the median."""
    found: dict[str, Any] = {}
    for name in COMPARED:
        real = statistics.median(figures[name] for figures in rounds)
        found[name] = {
            "real": real, "rounds": [figures[name] for figures in rounds], "simulated": simulated[name],
            "ratio": simulated[name] / real if real else None,
        }  # fmt: skip
    return found


if __name__ == "__main__":
    main()
