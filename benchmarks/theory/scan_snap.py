"""Scan and snap against the paper's figures, and how fast: python benchmarks/theory/scan_snap.py [--save]

The whole Syn-Medium grid (64 cells, 10 seeds), Syn-Small over 20 seeds, one large simulation (M = 10,000 tokens,
K = 1,000 classes) with its peak memory, and growth against Theorem 4, with and without its decoupled decoder.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))
from filing import report, rounded

from presize.theory.scan_snap import formulas
from presize.theory.scan_snap.data import make_classes
from presize.theory.scan_snap.dynamics import Settings, State, descend
from presize.theory.scan_snap.experiments import PANELS, syn_medium, syn_small

LOSSES = (3.526, 2.368, 0.733, 0.161, 0.0444, 0.01295)  # published, Syn-Small, ratio 1, iterations 0 to 10 by 2
# published means of Syn-Medium: classes, eta_Z, ratio
ENTROPIES = {(2, 1.0, 1.0): 1.871, (10, 1.0, 2.0): 1.931, (10, 3.0, 2.0): 1.718, (20, 1.0, 2.0): 1.975}


def panel(number: int) -> list[dict[str, Any]]:
    """The 16 cells of one panel of figure 6."""
    return [
        {"classes": c.classes, "eta_z": c.eta_z, "ratio": c.ratio, "entropy": c.entropy, "error": c.error}
        for c in syn_medium([PANELS[number]])
    ]


def large(_: int) -> dict[str, Any]:
    """Three expected steps at M = 10,000 and K = 1,000, in a process of its own for its peak of memory."""
    classes = make_classes(1000, 1000, common=100, common_mass=0.3, distinct=(0.2, 0.4, 0.6, 0.8, 1.0), tokens=10_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    losses = [float(loss[0]) for _, _, loss in descend(classes, Settings(eta_y=(1.0,), eta_z=(0.1,)),
                                                       State.zero(classes), 3)]  # fmt: skip
    seconds = (time.perf_counter() - began) / 4
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds_per_step": seconds, "peak_gb": peak / 2**20, "before_gb": before / 2**20, "losses": losses}


def growth() -> dict[str, float]:
    """The common token's score at t0 / (-B_n(t0)): 1 if Theorem 4 were exact."""
    count, tokens, rate = 5, 10_000, 1e-3
    classes = make_classes(count, 1, common=1, common_mass=0.068, tokens=tokens)
    end = round(formulas.snapping_time(tokens, count, 1.0))
    pressure = float(formulas.pressure(classes)[0])
    predicted = float(formulas.growth(end, tokens, count, 1.0, rate, pressure))
    found = {}
    for name, decoupled in (("decoupled", True), ("plain", False)):
        state = State.zero(classes)
        for _ in descend(classes, Settings(eta_y=(1.0,), eta_z=(rate,), decoupled=decoupled), state, end):
            pass
        found[name] = -float(state.scores[0, 0, 0]) / predicted
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="file the result")
    save = parser.parse_args().save
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # of the processes: one a core
    context = multiprocessing.get_context("spawn")
    began = time.perf_counter()
    with context.Pool(2) as pool:
        cells = [cell for part in pool.imap_unordered(panel, (3, 2, 1, 0)) for cell in part]
    seconds = time.perf_counter() - began
    by_place = {(c["classes"], c["eta_z"], c["ratio"]): c for c in cells}
    print("classes eta_Z ratio  published    found        error")
    differences = []
    for place, published in ENTROPIES.items():
        cell = by_place[place]
        differences.append(abs(cell["entropy"] - published))
        print(
            f"{place[0]:7} {place[1]:5g} {place[2]:5g}  {published:9.3f} {cell['entropy']:8.3f}  +- {cell['error']:.3f}"
        )
    losses = np.array([syn_small(seed=seed, steps=10).loss[::2] for seed in range(20)])
    print("Syn-Small, iteration: published, mean of 20 seeds, standard deviation")
    for step, (published, mean, spread) in enumerate(zip(LOSSES, losses.mean(axis=0), losses.std(axis=0), strict=True)):
        print(f"{2 * step:5}: {published:8.4g} {mean:8.4g} {spread:8.2g}")
    with context.Pool(1) as pool:
        (big,) = pool.map(large, [0])
    print(f"M = 10,000, K = 1,000: {big['seconds_per_step']:.1f} s a step, peak {big['peak_gb']:.2f} GB")
    found = growth()
    print(f"growth at t0 over Theorem 4's: decoupled {found['decoupled']:.3f}, plain gradients {found['plain']:.4f}")
    result = {
        "grid_seconds": seconds,
        "grid_largest_difference": max(differences),
        "grid": sorted(cells, key=lambda c: (c["classes"], c["eta_z"], c["ratio"])),
        "syn_small": {"mean": losses.mean(axis=0).tolist(), "sd": losses.std(axis=0).tolist()},
        "large": big,
        "growth_over_theorem_4": found,
    }
    report("scan-snap", rounded(result), save=save)


if __name__ == "__main__":
    main()
