"""What the server costs over the bare engine, and what it does when twice too much is asked of it.

overhead: 64 streaming clients, each with its next request as soon as the last is answered, against `presize bench
offline` on the same rows with as many slots; and the same with an event for every four tokens (--stream-interval).
Rounds alternate; the ratio is that of the medians.
page: the same closed loop while /live is asked 20 times as often as the page asks it; a twentieth of what that costs is
the page's share.
overload: Poisson arrivals at twice the rate that the closed loop reached, for a minute, with a short queue: what the
accepted requests' latency becomes, and how fast the others are refused.

python benchmarks/serving.py --save
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from filing import report, rounded
from served import PRESIZE, Served, presize
from workload import alpaca_rows

CLIENTS, MAX_TOKENS, KV_TOKENS = 64, 128, 32_768
QUEUE = 16  # sequences that may wait in the overload
INTERVAL = 4
LOOKS = 20  # a second; the page looks once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=192, help="requests of the closed loop (default: 192)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the overload (default: 60)")
    parser.add_argument("--save", action="store_true", help="file the result under benchmarks/results/")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.jsonl"
        prompts.write_text("".join(json.dumps(row) + "\n" for row in alpaca_rows(options.rows, seed=0)))
        offline, closed, coarse, watched = [], [], [], []
        for number in range(options.rounds):
            offline.append(bench_offline(prompts))
            with presize(*engine_flags()) as server:
                closed.append(bench_serve(server, prompts, "--max-concurrency", str(CLIENTS)))
                with looking(server.url, times_a_second=LOOKS):
                    watched.append(bench_serve(server, prompts, "--max-concurrency", str(CLIENTS)))
            with presize(*engine_flags(), "--stream-interval", str(INTERVAL)) as server:
                coarse.append(bench_serve(server, prompts, "--max-concurrency", str(CLIENTS)))
            served_now = [runs[-1]["output_throughput"] for runs in (closed, coarse, watched)]
            note(number, offline[-1]["tokens_per_second"], *served_now)
        capacity = median(run["request_throughput"] for run in closed)
        many = Path(folder) / "many.jsonl"
        count = min(int(2 * capacity * options.seconds), 9000)
        many.write_text("".join(json.dumps(row) + "\n" for row in alpaca_rows(count, seed=1)))
        with presize(*engine_flags(), "--max-queued-requests", str(QUEUE)) as server:
            overload = bench_serve(server, many, "--request-rate", str(2 * capacity), detailed=True)
    bare = median(run["tokens_per_second"] for run in offline)
    served, fewer, page = (median(run["output_throughput"] for run in runs) for runs in (closed, coarse, watched))
    result = {
        "rows": options.rows, "clients": CLIENTS, "max_tokens": MAX_TOKENS, "rounds": options.rounds,
        "offline_tokens_per_second": [run["tokens_per_second"] for run in offline],
        "served_tokens_per_second": [run["output_throughput"] for run in closed],
        f"interval_{INTERVAL}_tokens_per_second": [run["output_throughput"] for run in coarse],
        "watched_tokens_per_second": [run["output_throughput"] for run in watched],
        "ratio": served / bare, f"ratio_interval_{INTERVAL}": fewer / bare, "page_share": (1 - page / served) / LOOKS,
        "closed_loop": latencies(closed[-1]),
        "overload": {
            "capacity_requests_per_second": capacity, "offered_requests_per_second": 2 * capacity,
            "queue": QUEUE, "completed": overload["completed"], "rejected": overload["rejected"],
            "failed_otherwise": overload["failed"] - overload["rejected"],
            "requests_per_second": overload["request_throughput"], **latencies(overload),
            "refusal_ms": overload["refusal_ms"],
        },
    }  # fmt: skip
    report("serving", rounded(result), save=options.save)


@contextmanager
def looking(url: str, times_a_second: int) -> Iterator[None]:
    """Ask /live at that pace while the block runs."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(1 / times_a_second):
            with urllib.request.urlopen(f"{url}/live") as response:
                response.read()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def note(*values: Any) -> None:
    print(*values, file=sys.stderr, flush=True)


def latencies(run: dict[str, Any]) -> dict[str, Any]:
    return {
        name: run[name]
        for name in ("median_ttft_ms", "p99_ttft_ms", "median_tpot_ms", "p99_itl_ms", "median_e2el_ms", "p99_e2el_ms")
    }


def bench_offline(prompts: Path) -> dict[str, Any]:
    """The engine alone."""
    command = [*PRESIZE, "bench", "offline", str(prompts), "--max-tokens", str(MAX_TOKENS), *engine_flags()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (figures,) = json.loads(done.stdout.splitlines()[-1]).values()
    return dict(figures)


def engine_flags() -> list[str]:
    return ["--kv-tokens", str(KV_TOKENS), "--max-num-seqs", str(CLIENTS)]


def bench_serve(server: Served, prompts: Path, *flags: str, detailed: bool = False) -> dict[str, Any]:
    """`presize bench serve` on rows; with ``detailed`` also the milliseconds after which a refusal came."""
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "result.json"
        command = [
            *PRESIZE, "bench", "serve", "--base-url", server.url, "--dataset-path", str(prompts),
            "--num-prompts", "1000000", "--no-shuffle", "--output-len", str(MAX_TOKENS), "--temperature", "0",
            "--save-result", str(saved), *(["--save-detailed"] if detailed else []), *flags,
        ]  # fmt: skip
        subprocess.run(command, capture_output=True, text=True, check=True)
        result: dict[str, Any] = json.loads(saved.read_text())
    if detailed:
        refused = [s for s, error in zip(result["latencies"], result["errors"], strict=True) if "429" in error]
        refused.sort()
        places = {"median": 0.5, "p99": 0.99}
        result["refusal_ms"] = {
            name: 1000 * refused[int(share * (len(refused) - 1))] for name, share in places.items() if refused
        }
    return result


if __name__ == "__main__":
    main()
