"""The attention predictor of answer lengths, learned alone on Vicuna-7B's real lengths: AdamW against BlockLowRank.

Held-out negative log likelihood (nats an answer) of the best epoch, and seconds. The recipe is the one that
`presize learn --predictor attention` has; the optimizer alone differs. Both get the same number of learning rates.

python benchmarks/optim/predictor.py --save
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from compare import report, rounded
from corpus import vicuna_rows
from torch import nn

from presize.config import DEFAULT_MODEL
from presize.engine.hub import resolve
from presize.engine.tokenizer import Tokenizer
from presize.optim import BlockLowRank
from presize.predict.log import Log, read_log
from presize.predict.train import attention
from presize.predict.train.learn import learn
from presize.predict.train.task import Recipe

RATES = (1e-3, 2e-3, 4e-3)  # 2e-3 is the recipe's
LAYERS = ("project", "output", "hidden", "decode")  # (inputs, outputs); the rest are embeddings


def adamw(net: nn.Module, lr: float, decay: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=decay)


def ours(net: nn.Module, lr: float, decay: float) -> torch.optim.Optimizer:
    """Weights are stored with inputs as rows, so the block of an output is a column."""
    groups = [
        {"params": [param for name, param in net.named_parameters() if (name in LAYERS) == inside],
         "precondition": inside}
        for inside in (True, False)
    ]  # fmt: skip
    return BlockLowRank(groups, lr=lr, weight_decay=decay, rank=4, block="column")


OPTIMIZERS = {"adamw": adamw, "blr-4": ours}


def measured(name: str, lr: float, seed: int, log: Log, tokenizer: Tokenizer) -> dict[str, float]:
    """One learning; the optimizer that the recipe made is replaced where it is used."""
    kept: dict[str, float] = {}
    fit = attention.fit

    def with_other(net: nn.Module, *rest: Any) -> float:
        made, found = list(rest), time.perf_counter()
        made[4] = OPTIMIZERS[name](net, lr, made[4].param_groups[0]["weight_decay"])
        kept["nll"] = fit(net, *made)
        kept["seconds"] = time.perf_counter() - found
        return kept["nll"]

    with patch.object(attention, "fit", with_other):
        header, _ = learn(log, tokenizer, DEFAULT_MODEL, Recipe(kind="attention", seed=seed), lambda *_: None)
    return {**kept, "kendall_tau": header.metrics["kendall_tau"], "mae": header.metrics["mae"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="runs at the best rate (default: 3)")
    parser.add_argument("--rows", type=int, default=10_000, help="answers that are learned from (default: all 10,000)")
    parser.add_argument("--work", type=Path, default=Path(__file__).resolve().parents[1] / "work" / "optim")
    parser.add_argument("--save", action="store_true", help="file the result under benchmarks/results/")
    options = parser.parse_args()
    folder = options.work / f"predictor-{options.rows}"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(resolve(DEFAULT_MODEL))
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in list(vicuna_rows())[: options.rows]))
    log = read_log(path, tokenizer)

    def kept(name: str, lr: float, seed: int) -> dict[str, float]:
        file = folder / f"{name}-{lr:g}-{seed}.json"
        if not file.exists():
            file.write_text(json.dumps(measured(name, lr, seed, log, tokenizer)))
            print(file.stem, file.read_text(), file=sys.stderr, flush=True)
        found: dict[str, float] = json.loads(file.read_text())
        return found

    rows = {}
    for name in OPTIMIZERS:
        tuned = {lr: kept(name, lr, 0)["nll"] for lr in RATES}
        best = min(tuned, key=lambda lr: tuned[lr])
        runs = [kept(name, best, seed) for seed in range(options.seeds)]
        rows[name] = {"lr": best, "nll_by_lr": {f"{lr:g}": nll for lr, nll in tuned.items()}} | {
            field: statistics.fmean(run[field] for run in runs) for field in runs[0]
        }
        rows[name]["nll_by_seed"] = [run["nll"] for run in runs]
        print(name, rounded(rows[name]))
    result = {"rows": len(log), "seeds": options.seeds, "rates": RATES, "threads": torch.get_num_threads()}
    report("optim-predictor", {**result, "optimizers": rounded(rows)}, save=options.save)


if __name__ == "__main__":
    main()
