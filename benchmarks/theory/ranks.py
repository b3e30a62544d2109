"""Separation ranks against the closed form, all that fit: python benchmarks/theory/ranks.py [--largest 2500] [--save]

Two positions, one on either side; all numbers of heads; random weights and inputs, exactly, modulo 2^31 - 1.
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
        (rank, depth, width, heads)
        for depth in range(1, 8)
        for width in range(1, 65)
        for heads in range(1, width + 1)
        if width % heads == 0 and (rank := two_position_rank(depth, width, heads)) <= args.largest
    )
    began = time.process_time()
    wrong, many = [], 0
    for rank, depth, width, heads in cases:
        rng = np.random.default_rng([depth, width, heads])
        found = measured_rank(Network.random(depth, width, heads, rng), rank + 8, rng)
        print(f"depth {depth}, width {width:2}, heads {heads:2}: {found:5} {rank:5}", flush=True)
        many += rank < two_position_rank(depth, width)
        if found != rank:
            wrong.append([depth, width, heads, found, rank])
    report(
        "separation-ranks",
        {
            "cases": len(cases),
            "wrong": wrong,
            "of_them_lowered_by_many_heads": many,
            "widest_by_depth": {str(depth): max(w for _, d, w, _ in cases if d == depth) for depth in range(1, 8)},
            "cpu_seconds": round(time.process_time() - began, 1),
        },
        save=args.save,
    )


if __name__ == "__main__":
    main()
