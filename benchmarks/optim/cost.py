"""Milliseconds of one optimizer step and numbers of state, against width, beside the formulas.

For each width: four square layers with biases, random gradients. The means are over whole intervals between refreshes,
so that their cost is in. Optimizers take turns. `cpu` is the processor's time, of all threads: on a machine that others
use it says more than the clock. Floor of memory traffic: `fused` AdamW, which reads and writes everything once.

python benchmarks/optim/cost.py --save
python benchmarks/optim/cost.py --shapes autoencoder --save
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
from typing import Any

import torch
from compare import report, rounded, seconds_of
from entries import ENTRIES, Entry, ours, state_numbers
from torch import nn

from presize.optim.blocks import layout_of

LAYERS = 4
FUSED = Entry(1e-3, lambda m, lr: torch.optim.AdamW(m.parameters(), lr=lr, fused=True, weight_decay=0.0))
FOREACH = Entry(1e-3, lambda m, lr: torch.optim.AdamW(m.parameters(), lr=lr, foreach=True, weight_decay=0.0))
LAUNCHED = Entry(1e-3, ours(rank=16, launched=True))  # on a GPU, beside those whose launches are recorded
MATRICES = ("shampoo", "soap")  # cubic in the width


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--shapes", choices=("square", "autoencoder"), default="square")
    flags.add_argument("--widths", default="256,512,1024,2048", help="of square layers (default: %(default)s)")
    flags.add_argument("--entries", default="muon,shampoo,soap,blr-4,blr-16,blr-64,blr-4-full", help="beside AdamW")
    flags.add_argument("--rounds", type=int, default=5, help="of 20 steps (default: 5); the median counts")
    flags.add_argument("--largest-cubic", type=int, default=1024, help="width up to which Shampoo and SOAP are run")
    flags.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda (default: cpu)")
    flags.add_argument("--save", action="store_true", help="file the result under benchmarks/results/")
    options = flags.parse_args()
    entries = {"adamw": FOREACH, "adamw-fused": FUSED, **{name: ENTRIES[name] for name in options.entries.split(",")}}
    if options.device.type == "cuda":
        entries["blr-16-launched"] = LAUNCHED
    found: dict[str, dict[str, Any]] = {}
    widths = [784, 1000, 500, 250, 30, 250, 500, 1000, 784]
    cases = (
        {"autoencoder": list(itertools.pairwise(widths))}
        if options.shapes == "autoencoder"
        else {width: [(int(width), int(width))] * LAYERS for width in options.widths.split(",")}
    )
    for case, shapes in cases.items():
        skip = MATRICES if max(map(max, shapes)) > options.largest_cubic else ()
        models = {
            name: nn.Sequential(*(nn.Linear(*shape) for shape in shapes)).to(options.device)
            for name in entries
            if name not in skip
        }
        optimizers = {name: entries[name].build(model, 1e-6) for name, model in models.items()}
        times = measure(optimizers, options.rounds, options.device)
        found[case] = {}
        for name, (seconds, cpu, state) in times.items():
            ratio, cpu_ratio = seconds / times["adamw"][0], cpu / times["adamw"][1]
            memory = state / times["adamw"][2]
            row = {
                "step_ms": 1e3 * seconds, "time_to_adamw": ratio, "cpu_ms": 1e3 * cpu, "cpu_to_adamw": cpu_ratio,
                "memory_to_adamw": memory, "state_numbers": state,
            }  # fmt: skip
            if name.startswith("blr"):
                group = optimizers[name].param_groups[0]
                row["state_by_formula"] = formula(shapes, group["rank"], group["core"])
            found[case][name] = row
            print(f"{case:>12} {name:12s} {1e3 * seconds:8.2f} ms, {ratio:6.2f} of AdamW's; cpu {1e3 * cpu:8.2f} ms, "
                  f"{cpu_ratio:6.2f}; memory {memory:.3f}", flush=True)  # fmt: skip
    result = {
        "shapes": options.shapes,
        "device": torch.cuda.get_device_name() if options.device.type == "cuda" else "cpu",
        "load_average": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        "rounds": options.rounds,
    }
    name = "optim-cost" if options.shapes == "square" else "optim-cost-autoencoder"
    name += "-cuda" if options.device.type == "cuda" else ""
    report(name, {**result, "found": rounded(found)}, save=options.save)


def measure(
    optimizers: dict[str, torch.optim.Optimizer], rounds: int, device: torch.device
) -> dict[str, tuple[float, float, int]]:
    """(median seconds of a step, by the clock and of the processor, numbers of state) of each; they take turns."""
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            for param in group["params"]:
                param.grad = 1e-3 * torch.randn_like(param)
        seconds_of(optimizer.step, device)
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in optimizers}
    for _ in range(rounds):
        for name, optimizer in optimizers.items():
            spent[name].append(seconds_of(optimizer.step, device))
    medians = {name: [statistics.median(times) for times in zip(*spent[name], strict=True)] for name in optimizers}
    return {name: (*medians[name], state_numbers(optimizer)) for name, optimizer in optimizers.items()}


def formula(shapes: list[tuple[int, int]], rank: int, core: str) -> int:
    """Momenta m n, then 2 n r + m (2 r + 1) of a layer, or m (2 r^2 + r + 1); Adam's two numbers for each bias."""
    total = 0
    for size, blocks in shapes:
        layout = layout_of((blocks, size), rank=rank, core=core, block="row", heads=1, max_dim=8192)
        assert layout is not None
        total += blocks * size + layout.state_numbers() + 2 * blocks
    return total


if __name__ == "__main__":
    main()
