"""Separation ranks against the closed form, all that fit: python benchmarks/theory/ranks.py [--largest 2500] [--save]

Two positions, one on either side; random weights and inputs, exactly, modulo 2^31 - 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))
from filing import report

from presize.theory.depth_width.network import Network
from presize.theory.depth_width.separation import measured_rank, two_position_rank


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=2500, help="largest rank that is computed (default: 2500)")
    parser.add_argument("--save", action="store_true", help="file the result")
    args = parser.parse_args()
    cases = sorted(
        (rank, depth, width)
        for depth in range(1, 8)
        for width in range(1, 65)
        if (rank := two_position_rank(depth, width)) <= args.largest
    )
    began = time.perf_counter()
    wrong = []
    for rank, depth, width in cases:
        rng = np.random.default_rng([depth, width])
        heads = int(rng.choice([h for h in range(1, width + 1) if width % h == 0]))
        found = measured_rank(Network.random(depth, width, heads, rng), rank + 8, rng)
        print(f"depth {depth}, width {width:2}, heads {heads:2}: {found:5} {rank:5}", flush=True)
        if found != rank:
            wrong.append([depth, width, heads, found, rank])
    seconds = time.perf_counter() - began
    largest = {str(depth): max(w for _, d, w in cases if d == depth) for depth in {d for _, d, _ in cases}}
    report("separation-ranks", {"cases": len(cases), "wrong": wrong, "widest_by_depth": largest,
                                "seconds": round(seconds, 1)}, save=args.save)  # fmt: skip


if __name__ == "__main__":
    main()
