"""Optimizers on one task: every one tuned with the same number of trials, then run with several seeds.

Each run's figures are kept under --work as a file, so that a comparison can be spread over several sittings; the same
command goes on where it was stopped, and reports what is there. Peers: pip install --no-deps pytorch-optimizer==4.1.0
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from presize.optim import BlockLowRank, param_groups

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from filing import report, rounded

_SPACING = 10**0.5  # between two learning rates of a search


@dataclass(frozen=True)
class Task:
    """model(seed); batches(seed, steps); loss(model, batch); final(model) is what is compared, lower is better."""

    name: str
    model: Callable[[int], nn.Module]
    batches: Callable[[int, int], Iterable[Tensor]]
    loss: Callable[[nn.Module, Tensor], Tensor]
    final: Callable[[nn.Module], float]


@dataclass(frozen=True)
class Entry:
    """An optimizer, and the learning rate that its search starts from."""

    centre: float
    build: Callable[[nn.Module, float], torch.optim.Optimizer]


def _ours(**options: Any) -> Callable[[nn.Module, float], torch.optim.Optimizer]:
    return lambda model, lr: BlockLowRank(param_groups(model), lr=lr, **options)


def _peer(name: str, **options: Any) -> Callable[[nn.Module, float], torch.optim.Optimizer]:
    def build(model: nn.Module, lr: float) -> torch.optim.Optimizer:
        import pytorch_optimizer

        optimizer: torch.optim.Optimizer = getattr(pytorch_optimizer, name)(model.parameters(), lr=lr, **options)
        return optimizer

    return build


class _MuonAndAdam(torch.optim.Optimizer):
    """Muon for the matrices of hidden layers, AdamW for the rest at a rate that stands in a fixed ratio to Muon's."""

    def __init__(self, model: nn.Module, lr: float) -> None:
        tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        params = list(model.parameters())
        hidden = [p for p in params if p.ndim == 2 and id(p) not in tables]
        rest = [p for p in params if p.ndim != 2 or id(p) in tables]
        super().__init__(params, {"lr": lr})
        self.parts = [
            (torch.optim.Muon(hidden, lr=lr, weight_decay=0.0), 1.0),
            (torch.optim.AdamW(rest, lr=lr, weight_decay=0.0), 0.1),
        ]

    def step(self, closure: Any = None) -> None:
        for part, ratio in self.parts:
            part.param_groups[0]["lr"] = ratio * self.param_groups[0]["lr"]
            part.step()

    def states(self) -> Iterable[dict[str, Any]]:
        return (state for part, _ in self.parts for state in part.state.values())


ENTRIES = {
    "adamw": Entry(
        9.49e-4, lambda m, lr: torch.optim.AdamW(m.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    ),
    "sgd": Entry(3e-3, lambda m, lr: torch.optim.SGD(m.parameters(), lr=lr, momentum=0.9, nesterov=True)),
    "muon": Entry(1e-2, _MuonAndAdam),
    "shampoo": Entry(3e-3, _peer("ScalableShampoo", weight_decay=0.0, preconditioning_compute_steps=10)),
    "soap": Entry(3e-3, _peer("SOAP", weight_decay=0.0)),
    "blr-4": Entry(3e-3, _ours(rank=4)),
    "blr-16": Entry(3e-3, _ours(rank=16)),
    "blr-64": Entry(3e-3, _ours(rank=64)),
}


def state_numbers(optimizer: torch.optim.Optimizer) -> int:
    """Numbers that the optimizer keeps, wherever it keeps them."""
    states = optimizer.states() if isinstance(optimizer, _MuonAndAdam) else optimizer.state.values()
    return sum(_count(value) for state in states for value in state.values())


def _count(value: Any) -> int:
    if torch.is_tensor(value):
        return value.numel()
    if isinstance(value, dict):
        return sum(_count(item) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(_count(item) for item in value)
    return _count(vars(value)) if hasattr(value, "__dict__") and not isinstance(value, type) else 0


def measured(task: Task, name: str, lr: float, seed: int, steps: int) -> dict[str, Any]:
    """One run: warm-up over a twentieth of the steps, then linear decay."""
    model = task.model(seed)
    optimizer = ENTRIES[name].build(model, lr)
    losses, spent, began = [], [], time.perf_counter()
    for step, batch in enumerate(task.batches(seed, steps)):
        rate = lr * min((step + 1) / (0.05 * steps), 1.0) * (1.0 - step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss = task.loss(model, batch)
        loss.backward()
        started = time.perf_counter()
        optimizer.step()
        spent.append(time.perf_counter() - started)
        losses.append(loss.item())
    seconds = time.perf_counter() - began
    window = max(steps // 20, 1)
    return {
        "final": task.final(model),
        "losses": [statistics.fmean(losses[i : i + window]) for i in range(0, steps, window)],
        "step_ms": 1e3 * statistics.fmean(spent),
        "seconds": seconds,
        "state_numbers": state_numbers(optimizer),
        "parameters": sum(param.numel() for param in model.parameters()),
    }


def kept(work: Path, task: Task, name: str, lr: float, seed: int, steps: int) -> dict[str, Any]:
    """The run's figures, computed if they are not there."""
    path = work / f"{task.name}-{steps}" / f"{name}-{lr:.3g}-{seed}.json"
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    found = measured(task, name, lr, seed, steps)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
    print(f"{task.name} {name} lr {lr:.3g} seed {seed}: {found['final']:.4f}, optimizer {found['step_ms']:.2f} ms, "
          f"{found['seconds']:.0f} s", file=sys.stderr, flush=True)  # fmt: skip
    return found


def compare(task: Task, description: str, options: Any) -> None:
    """Tune, run, print a table and report."""
    names, rows = options.entries.split(","), {}
    shifts = [k - (options.trials - 1) // 2 for k in range(options.trials)]
    for name in names:
        rates = [float(f"{ENTRIES[name].centre * _SPACING**shift:.3g}") for shift in shifts]
        tuned = {lr: kept(options.work, task, name, lr, 0, options.steps)["final"] for lr in rates}
        best = min(tuned, key=lambda lr: tuned[lr] if tuned[lr] == tuned[lr] else float("inf"))
        if options.tune_only:
            continue
        runs = [kept(options.work, task, name, best, seed, options.steps) for seed in range(options.seeds)]
        finals = [run["final"] for run in runs]
        rows[name] = {
            "lr": best,
            "final_by_lr": {f"{lr:g}": loss for lr, loss in tuned.items()},
            "final": statistics.fmean(finals),
            "final_by_seed": finals,
            "step_ms": statistics.median(run["step_ms"] for run in runs),
            "seconds": statistics.median(run["seconds"] for run in runs),
            "state_numbers_per_parameter": runs[0]["state_numbers"] / runs[0]["parameters"],
            "losses": runs[0]["losses"],
        }
    for name, row in sorted(rows.items(), key=lambda item: item[1]["final"]):
        low, high = min(row["final_by_seed"]), max(row["final_by_seed"])
        print(f"{name:10s} final {row['final']:9.4f} ({low:.4f} to {high:.4f})"
              f"  lr {row['lr']:<8g} step {row['step_ms']:7.2f} ms  run {row['seconds']:6.1f} s  state "
              f"{row['state_numbers_per_parameter']:.2f} numbers a parameter")  # fmt: skip
    if not options.tune_only:
        result = {
            "task": description,
            "steps": options.steps,
            "trials": options.trials,
            "seeds": options.seeds,
            "search_space": f"{options.trials} learning rates a factor of sqrt(10) apart, by the final loss of seed 0",
            "schedule": "warm-up over 5 % of the steps, then linear to 0; no weight decay",
            "threads": torch.get_num_threads(),
            "times": "by the clock, on a machine that may have been busy with other work; cost.py has those that count",
            "optimizers": rounded(rows),
        }
        report(f"optim-{task.name}", result, save=options.save)


def parser(description: str | None, steps: int) -> argparse.ArgumentParser:
    """The flags that all comparisons have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--entries", default=",".join(ENTRIES), help="comma-separated (default: all)")
    made.add_argument("--steps", type=int, default=steps, help=f"of one run (default: {steps})")
    made.add_argument("--trials", type=int, default=4, help="learning rates tried for each (default: 4)")
    made.add_argument("--seeds", type=int, default=3, help="runs at the best one (default: 3)")
    made.add_argument("--tune-only", action="store_true", help="make the trials, report nothing")
    made.add_argument("--work", type=Path, default=Path(__file__).resolve().parents[1] / "work" / "optim")
    made.add_argument("--save", action="store_true", help="file the result under benchmarks/results/")
    return made
