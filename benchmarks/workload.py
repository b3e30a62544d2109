"""The prompts that the benchmarks use: drawn from the Alpaca file of the shared data, or given as a file.

python benchmarks/workload.py --count 256 --seed 0 > prompts.jsonl
"""

from __future__ import annotations

import argparse
import csv
import gzip
import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np

ALPACA = Path(__file__).resolve().parents[2] / "shared/data/prompts/vicuna7b_alpaca_train.jsonl.gz"
AZURE = ALPACA.parents[1] / "traces/azure2023_conv.csv.gz"


def alpaca_rows(count: int, seed: int, path: Path = ALPACA) -> list[dict[str, Any]]:
    """``count`` rows in the form of `presize generate`: instruction and input as one user message."""
    if not path.exists():
        raise SystemExit(f"{path} is not there; the Alpaca workload needs the shared data")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    drawn = random.Random(seed).sample(rows, count)
    return [
        {
            "id": str(row["alpaca_index"]),
            "messages": [{"role": "user", "content": "\n\n".join(filter(None, (row["instruction"], row["input"])))}],
        }
        for row in drawn
    ]


def azure_arrivals(count: int, rate: float, path: Path = AZURE) -> list[float]:
    """``count`` arrivals, the first at 0, with the gaps of Azure's conversation trace scaled to ``rate`` a second."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = list(itertools.islice(csv.DictReader(file), count))
    stamps = np.array([row["TIMESTAMP"] for row in rows], dtype="datetime64[ns]").astype(np.int64)
    since = (stamps - stamps[0]).astype(np.float64)
    return (since * ((count - 1) / rate / since[-1])).tolist()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for row in alpaca_rows(arguments.count, arguments.seed):
        print(json.dumps(row, ensure_ascii=False))
