"""Entropy of attention against the learning rate, on real text (the paper's figure 10, and three layers beside one).

python benchmarks/theory/wikitext.py --text ../shared/data/text/wikitext2_*.txt.gz [--device cuda] [--workers 8]
    [--steps 1500] [--save] [--save-plot FILE.png]

SGD at rates 1 to 5 and 10, five seeds, in several processes. It is meant for a GPU (minutes); a run of one layer takes
minutes on a core.
"""

from __future__ import annotations

import argparse
import functools
import math
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))
from filing import report, rounded

from presize.cli.picture_file import check_picture, new_figure, save_figure
from presize.theory.scan_snap.wikitext import read_words, train

LAYERS, RATES = (1, 3), (1.0, 2.0, 3.0, 4.0, 5.0, 10.0)


def one(job: tuple[int, float, int], texts: list[str], steps: int, device: str) -> dict[str, Any]:
    layers, rate, seed = job
    words = [word for path in texts for word in read_words(Path(path))]
    found = train(words, layers=layers, rate=rate, steps=steps, seed=seed, looks=5, device=device)
    return {"layers": layers, "rate": rate, "seed": seed, "steps": list(found.steps), "loss": found.loss.tolist(),
            "entropy": found.entropy.tolist()}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True, nargs="+", help="texts, or gzips of texts")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--save-plot")
    parser.add_argument("--save", action="store_true", help="file the result")
    args = parser.parse_args()
    if args.save_plot:
        check_picture(Path(args.save_plot))
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes
    jobs = [(layers, rate, seed) for layers in sorted(LAYERS, reverse=True) for rate in RATES
            for seed in range(args.seeds)]  # fmt: skip
    work = functools.partial(one, texts=args.text, steps=args.steps, device=args.device)
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        runs = pool.map(work, jobs, chunksize=1)
    cells = []
    print("layers  rate  held-out loss      entropy of each layer, start and end (nats)")
    for layers in LAYERS:
        for rate in RATES:
            own = [run for run in runs if (run["layers"], run["rate"]) == (layers, rate)]
            loss = np.array([run["loss"][-1] for run in own])
            entropy = np.array([run["entropy"] for run in own])  # (seeds, looks, layers)
            error = entropy[:, -1].std(axis=0, ddof=1) / math.sqrt(len(own)) if len(own) > 1 else np.zeros(layers)
            cells.append({
                "layers": layers, "rate": rate, "loss": float(loss.mean()), "steps": own[0]["steps"],
                "entropy": entropy.mean(axis=0).tolist(), "entropy_error": error.tolist(),
            })  # fmt: skip
            ends = [f"{a:.2f} {b:.2f} +- {e:.2f}" for a, b, e in
                    zip(entropy[:, 0].mean(0), entropy[:, -1].mean(0), error, strict=True)]  # fmt: skip
            print(f"{layers:6} {rate:5g}  {loss.mean():8.3f} +- {loss.std():.3f}  {', '.join(ends)}")
    if args.save_plot:
        draw(Path(args.save_plot), cells)
    report("wikitext-entropy", rounded({"steps": args.steps, "seeds": args.seeds, "cells": cells}), save=args.save)


def draw(path: Path, cells: list[dict[str, Any]]) -> None:
    figure = new_figure((7.2, 3.0))
    for panel, layers in zip(figure.subplots(1, 2, sharey=True), LAYERS, strict=True):
        own = [cell for cell in cells if cell["layers"] == layers]
        for layer in range(layers):
            panel.errorbar(RATES, [c["entropy"][-1][layer] for c in own], [c["entropy_error"][layer] for c in own],
                           marker="o", markersize=3, capsize=2, label=f"layer {layer + 1}")  # fmt: skip
        panel.set(xlabel="learning rate", title=f"{layers} layer{'s' if layers > 1 else ''}")
        panel.legend(fontsize=8, frameon=False)
        panel.spines[["top", "right"]].set_visible(False)
    figure.supylabel("entropy of attention (nats)", fontsize=10)
    save_figure(path, figure, 90)


if __name__ == "__main__":
    main()
