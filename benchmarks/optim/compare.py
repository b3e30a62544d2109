"""Optimizers on one task: every one tuned with the same number of trials, then run with several seeds, then timed.

Each run's figures are kept under --work as a file, so that a comparison can be spread over several sittings; the same
command goes on where it was stopped, and reports what is there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from entries import ENTRIES, state_numbers
from torch import Tensor, nn

from presize.errors import NumericalError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from filing import report, rounded

_SPACING = 10**0.5  # between two learning rates of a search
Run = tuple[str, float, int]  # entry, learning rate, seed


@dataclass(frozen=True)
class Task:
    """model(seed); batches(seed, steps); loss(model, batch); final(model) is what is compared, lower is better."""

    name: str
    device: torch.device
    model: Callable[[int], nn.Module]
    batches: Callable[[int, int], Iterable[Tensor]]
    loss: Callable[[nn.Module, Tensor], Tensor]
    final: Callable[[nn.Module], float]


def training(task: Task, name: str, lr: float, seed: int, steps: int) -> Iterator[tuple[nn.Module, Any, Tensor]]:
    """(model, optimizer, loss) after each step: warm-up over a twentieth of the steps, then linear decay."""
    model = task.model(seed)
    optimizer = ENTRIES[name].build(model, lr)
    for step, batch in enumerate(task.batches(seed, steps)):
        rate = lr * min((step + 1) / (0.05 * steps), 1.0) * (1.0 - step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss = task.loss(model, batch)
        loss.backward()
        optimizer.step()
        yield model, optimizer, loss.detach()


def measured(task: Task, name: str, lr: float, seed: int, steps: int) -> dict[str, Any]:
    """One run; a rate at which it breaks down has an infinite loss."""
    try:
        trained = list(training(task, name, lr, seed, steps))  # losses are read later, so that no step waits for them
    except (NumericalError, torch.linalg.LinAlgError) as error:
        return {"final": math.inf, "error": str(error)}
    model, optimizer, _ = trained[-1]
    return {
        "final": task.final(model),
        "losses": torch.stack([loss for *_, loss in trained]).tolist(),
        "state_numbers": state_numbers(optimizer),
        "parameters": sum(param.numel() for param in model.parameters()),
    }


def timed(task: Task, rates: dict[str, float], rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a whole step and of the optimizer alone: medians of rounds of 20, in which entries take turns.

    The device is waited for before and after 20 steps only. Alone, an optimizer is given the last gradients again.
    """
    runs = {name: training(task, name, lr, 0, 21 * (rounds + 1)) for name, lr in rates.items()}
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in rates}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            _, optimizer, _ = next(run)
            whole, alone = (seconds_of(step, task.device)[0] for step in (partial(next, run), optimizer.step))
            spent[name].append((1e3 * whole, 1e3 * alone))
    medians = {name: [statistics.median(ms) for ms in zip(*pairs[1:], strict=True)] for name, pairs in spent.items()}
    return {name: {"whole_step_ms": whole, "step_ms": alone} for name, (whole, alone) in medians.items()}


def seconds_of(step: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Mean of 20 steps: by the clock, and of the processor."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    began, busy = time.perf_counter(), time.process_time()
    for _ in range(20):
        step()
    wait()
    return (time.perf_counter() - began) / 20, (time.process_time() - busy) / 20


class Runs:
    """The figures of runs, each kept in a file, computed where it is not there."""

    def __init__(self, task: Task, options: Any) -> None:
        self.task, self.options = task, options
        self.folder = options.work / f"{task.name}-{options.steps}-{task.device.type}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def _path(self, run: Run) -> Path:
        name, lr, seed = run
        return self.folder / f"{name}-{lr:.3g}-{seed}.json"

    def compute(self, runs: Iterable[Run]) -> None:
        """Those that are missing; with several jobs, each in a process of its own, on one thread."""
        missing = [run for run in dict.fromkeys(runs) if not self._path(run).exists()]
        if self.options.jobs == 1:
            for run in missing:
                self.one(run)
            return
        with ThreadPoolExecutor(self.options.jobs) as pool:
            list(pool.map(self._elsewhere, missing))

    def one(self, run: Run) -> None:
        """Compute and keep it."""
        began = time.perf_counter()
        found = measured(self.task, *run, self.options.steps)
        self._path(run).write_text(json.dumps(found))
        print(
            f"{self._path(run).stem}: {found['final']:.4f}, {time.perf_counter() - began:.0f} s",
            file=sys.stderr,
            flush=True,
        )

    def _elsewhere(self, run: Run) -> None:
        name, lr, seed = run
        command = [sys.executable, *sys.argv, "--one", f"{name}:{lr}:{seed}"]
        subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)

    def of(self, *run: Any) -> dict[str, Any] | None:
        """None if it failed."""
        path = self._path(run)
        return json.loads(path.read_text()) if path.exists() else None


def compare(task: Task, description: str, options: Any) -> None:
    """Tune, run, time, print a table and report."""
    runs = Runs(task, options)
    if options.one:
        name, lr, seed = options.one.split(":")
        runs.one((name, float(lr), int(seed)))
        return
    names = options.entries.split(",")
    shifts = [k - (options.trials - 1) // 2 for k in range(options.trials)]
    rates = {name: [float(f"{ENTRIES[name].centre * _SPACING**shift:.3g}") for shift in shifts] for name in names}
    runs.compute((name, lr, 0) for name in names for lr in rates[name])
    tuned: dict[str, dict[float, float]] = {}
    for name in names:
        found = {lr: runs.of(name, lr, 0) for lr in rates[name]}
        if all(found.values()):
            tuned[name] = {
                lr: run["final"] if math.isfinite(run["final"]) else math.inf for lr, run in found.items() if run
            }
    best = {name: min(losses, key=lambda lr: losses[lr]) for name, losses in tuned.items()}
    runs.compute((name, best[name], seed) for seed in range(options.seeds) for name in best)
    times = timed(task, best, options.timing_rounds) if options.timing_rounds else {}
    rows: dict[str, dict[str, Any]] = {}
    for name, lr in best.items():
        seeds = [
            run for seed in range(options.seeds) if (run := runs.of(name, lr, seed)) and math.isfinite(run["final"])
        ]
        if not seeds:
            continue
        finals = [run["final"] for run in seeds]
        rows[name] = {
            "lr": lr,
            "final_by_lr": {f"{lr:g}": loss for lr, loss in tuned[name].items()},
            "final": statistics.fmean(finals),
            "final_by_seed": finals,
            "state_numbers_per_parameter": seeds[0]["state_numbers"] / seeds[0]["parameters"],
            **times.get(name, {}),
            "losses": means(seeds[0]["losses"], max(options.steps // 20, 1)),
        }
        if peer := runs.of("adamw", best.get("adamw"), 0) if "adamw" in best else None:
            needed = steps_until(seeds[0]["losses"], peer["losses"])
            rows[name]["steps_to_adamws_loss"] = needed
            if needed and name in times:
                rows[name]["seconds_to_adamws_loss"] = needed * times[name]["whole_step_ms"] / 1e3
    for name, row in sorted(rows.items(), key=lambda item: item[1]["final"]):
        low, high = min(row["final_by_seed"]), max(row["final_by_seed"])
        print(
            f"{name:12s} final {row['final']:9.4f} ({low:.4f} to {high:.4f})  lr {row['lr']:<8g} state "
            f"{row['state_numbers_per_parameter']:.2f} numbers a parameter; {row.get('step_ms', math.nan):.2f} of "
            f"{row.get('whole_step_ms', math.nan):.2f} ms; AdamW's loss after "
            f"{row.get('steps_to_adamws_loss')} steps, {row.get('seconds_to_adamws_loss', math.nan):.2f} s"
        )
    result = {
        "task": description,
        "device": torch.cuda.get_device_name() if task.device.type == "cuda" else "cpu",
        "steps": options.steps,
        "trials": options.trials,
        "seeds": options.seeds,
        "search_space": f"{options.trials} learning rates a factor of sqrt(10) apart, by the final loss of seed 0",
        "schedule": "warm-up over 5 % of the steps, then linear to 0; no weight decay",
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "without_figures": [name for name in names if name not in rows],
        "optimizers": rounded(rows),
    }
    suffix = "-cuda" if task.device.type == "cuda" else ""
    report(f"optim-{task.name}-{options.steps}{suffix}", result, save=options.save)


def means(losses: list[float], window: int) -> list[float]:
    """Of runs of ``window`` losses."""
    return [statistics.fmean(losses[i : i + window]) for i in range(0, len(losses), window)]


def steps_until(losses: list[float], peer: list[float]) -> int | None:
    """Steps until the mean of the last twentieth of a run's steps is at most the peer's in the end."""
    window = max(len(peer) // 20, 1)
    target = statistics.fmean(peer[-window:])
    return next(
        (end for end in range(window, len(losses) + 1) if statistics.fmean(losses[end - window : end]) <= target), None
    )


def parser(description: str | None, steps: int) -> argparse.ArgumentParser:
    """The flags that all comparisons have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--entries", default=",".join(ENTRIES), help="comma-separated (default: all)")
    made.add_argument("--steps", type=int, default=steps, help=f"of one run (default: {steps})")
    made.add_argument("--trials", type=int, default=4, help="learning rates tried for each (default: 4)")
    made.add_argument("--seeds", type=int, default=3, help="runs at the best one (default: 3)")
    made.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda (default: cpu)")
    made.add_argument("--jobs", type=int, default=1, help="runs at the same time, in processes (default: 1)")
    made.add_argument("--one", metavar="ENTRY:LR:SEED", help="make this run, report nothing")
    made.add_argument(
        "--timing-rounds", type=int, default=5, help="of 20 steps, after the runs; 0 for none (default: 5)"
    )
    made.add_argument("--work", type=Path, default=Path(__file__).resolve().parents[1] / "work" / "optim")
    made.add_argument("--save", action="store_true", help="file the result under benchmarks/results/")
    return made
