"""From `presize generate` to the first token with cached weights, what that is spent on, and the memory it takes.

python benchmarks/startup.py --save
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from filing import report, rounded

from presize.config import DEFAULT_MODEL
from presize.engine.hub import resolve

KV_TOKENS = 8192
# the same work as the command line does, in the same order, with a look at the clock between; then the pool is filled
STAGES = f"""
import json, sys, time
times = [("interpreter", float(sys.argv[1]), time.time())]
def stage(name):
    times.append((name, times[-1][2], time.time()))
import torch
stage("import torch")
from presize.config import EngineOptions
from presize.engine.engine import Engine
from presize.engine.hub import resolve
from presize.engine.runner import Runner
from presize.engine.sampling_params import SamplingParams
from presize.engine.tokenizer import Tokenizer
stage("import presize")
options = EngineOptions(kv_tokens={KV_TOKENS})
directory = resolve(options.model)
runner = Runner(options, directory)
stage("configuration and weights")
engine = Engine(options, runner, Tokenizer(directory))
stage("tokenizer")
engine.add_request("first", "Hello", SamplingParams(max_tokens=1))
engine.step()
stage("first step")
for i in range(8):
    engine.add_request(str(i), [7] * {KV_TOKENS // 8 - 64}, SamplingParams(max_tokens=64, ignore_eos=True))
while engine.has_unfinished_requests():
    engine.step()
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
cache = engine.runner.config
print(json.dumps({{
    "seconds": {{name: end - start for name, start, end in times}},
    "resident_bytes": 1024 * int(status["VmRSS"].split()[0]),
    "resident_peak_bytes": 1024 * int(status["VmHWM"].split()[0]),
    "weight_bytes": cache.num_parameters * runner.dtype.itemsize,
    "pool_bytes": {KV_TOKENS} * 2 * cache.num_layers * cache.num_kv_heads * cache.head_size * runner.dtype.itemsize,
}}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="file the result under benchmarks/results/")
    options = parser.parse_args()
    resolve(DEFAULT_MODEL)  # fetched before anything is timed
    commands, stages = [], []
    for _ in range(options.rounds):
        commands.append(first_answer())
        stages.append(json.loads(run([sys.executable, "-c", STAGES, str(time.time())])))
        print(f"{commands[-1]:.2f} s", file=sys.stderr)
    middle = sorted(stages, key=lambda s: sum(s["seconds"].values()))[len(stages) // 2]
    result: dict[str, Any] = {"generate_one_token_s": statistics.median(commands), "stages": middle}
    result["resident_beyond_weights_and_pool_bytes"] = (
        middle["resident_peak_bytes"] - middle["weight_bytes"] - middle["pool_bytes"]
    )
    report("startup", rounded(result), save=options.save)


def first_answer() -> float:
    """Seconds of the whole command for an answer of one token."""
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "in.jsonl"
        prompts.write_text('{"prompt": "Hello", "max_tokens": 1}\n')
        command = [sys.executable, "-m", "presize.cli.main", "generate", str(prompts)]
        started = time.perf_counter()
        run([*command, "--output", str(Path(folder) / "out.jsonl"), "--kv-tokens", str(KV_TOKENS)])
        return time.perf_counter() - started


def run(command: list[str]) -> str:
    """Standard output of a command that must succeed."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
