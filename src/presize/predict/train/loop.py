"""One training loop for every net with a hazard head: minibatches, a schedule, early stopping."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from presize.core.lengths import FloatArray, IntArray
from presize.predict.hazard import base_hazards, observed
from presize.predict.train.task import Answers, Task

Loss = Callable[[Tensor, Tensor], Tensor]  # of a net's output for some row numbers

_POOL = 32  # batches that are sorted by length together, so that little is padded


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast. patience: epochs without a better held-out loss after which training ends.

    max_padded: tokens of a batch with its padding, which bounds the memory.
    """

    epochs: int
    batch_size: int
    max_padded: int = 65_536
    patience: int = 2
    warmup: float = 0.06
    clip: float = 1.0


@dataclass(frozen=True, slots=True)
class Targets:
    """(N, K) each; from answers (`hazard.observed`) or from another model's curves (`soft`)."""

    at_risk: Tensor
    ended: Tensor

    @classmethod
    def of(cls, at_risk: FloatArray, ended: FloatArray) -> Targets:
        """From numpy."""
        return cls(torch.from_numpy(at_risk.astype(np.float32)), torch.from_numpy(ended.astype(np.float32)))

    @classmethod
    def soft(cls, hazards: FloatArray) -> Targets:
        """What infinitely many answers drawn by (N, K) ``hazards`` would say."""
        reached = np.cumprod(np.concatenate([np.ones((len(hazards), 1)), 1.0 - hazards[:, :-1]], axis=1), axis=1)
        return cls.of(reached, reached * hazards)

    def __getitem__(self, rows: Any) -> Targets:
        return Targets(self.at_risk[rows], self.ended[rows])


def loss_of(logits: Tensor, targets: Targets) -> Tensor:
    """Mean negative log likelihood of (N, K) hazard logits."""
    return (targets.at_risk * functional.softplus(logits) - targets.ended * logits).sum(dim=1).mean()


def hazard_loss(answers: Answers, cells: int) -> Loss:
    """The loss on answers."""
    targets = Targets.of(*observed(answers.lengths, answers.censored, cells))
    return lambda logits, rows: loss_of(logits, targets[rows])


def bias_of(task: Task) -> FloatArray:
    """(K,) logits of the hazards of all answers taken together."""
    hazards = base_hazards(*observed(task.answers.lengths, task.answers.censored, task.cells))
    return np.asarray(np.log(hazards / (1.0 - hazards)))


def batches(sizes: IntArray, schedule: Schedule, rng: np.random.Generator) -> list[IntArray]:
    """Row numbers, every row once; rows of a batch are of similar size, and few if they are long."""
    order = rng.permutation(len(sizes))
    groups: list[IntArray] = []
    for start in range(0, len(order), _POOL * schedule.batch_size):
        pool = order[start : start + _POOL * schedule.batch_size]
        pool = pool[np.argsort(sizes[pool], kind="stable")]
        while len(pool):
            # the longest of the next rows decides how many there may be
            count = min(schedule.batch_size, len(pool))
            while count > 1 and count * sizes[pool[count - 1]] > schedule.max_padded:
                count -= 1
            groups.append(pool[:count])
            pool = pool[count:]
    return [groups[i] for i in rng.permutation(len(groups))]


def fit(
    net: nn.Module,
    inputs: Callable[[IntArray], tuple[Any, ...]],
    sizes: IntArray,
    loss: Loss,
    validate: Callable[[], float],
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    task: Task,
    turn: Callable[[int], IntArray] | None = None,
) -> float:
    """Train ``net``; it ends with the weights of the best epoch. Returns the held-out loss of that epoch.

    inputs: arguments of the net for some row numbers; sizes (N,) of the rows; loss: of the net's output for some row
    numbers; validate: the loss on what is held out; turn: row numbers of an epoch, as many in each (default: all).
    """
    rng = np.random.default_rng(task.recipe.seed)
    rows_of = turn if turn is not None else lambda epoch: np.arange(len(sizes))
    total = schedule.epochs * len(batches(sizes[rows_of(0)], schedule, rng))
    warm = max(round(schedule.warmup * total), 1)
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, max(total - step, 1) / max(total - warm, 1))
    )
    best, best_state, bad = math.inf, _state(net), 0
    step = 0
    for epoch in range(schedule.epochs):
        net.train()
        chosen = rows_of(epoch)
        for places in batches(sizes[chosen], schedule, rng):
            rows = chosen[places]
            optimizer.zero_grad(set_to_none=True)
            loss(net(*inputs(rows)), torch.from_numpy(rows)).backward()
            nn.utils.clip_grad_norm_(net.parameters(), schedule.clip)
            optimizer.step()
            rates.step()
            step += 1
            task.report("learning", step, total)
        value = validate()
        if value < best:
            best, best_state, bad = value, _state(net), 0
        else:
            bad += 1
            if bad >= schedule.patience:
                break
    net.load_state_dict(best_state)
    net.eval()
    return best


def _state(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def padded(prompts: Sequence[IntArray]) -> tuple[Tensor, Tensor]:
    """(N, T) token ids, 0 where there is none, and (N, T) bool."""
    longest = max(len(prompt) for prompt in prompts)
    ids = np.zeros((len(prompts), longest), dtype=np.int64)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = prompt
    lengths = np.array([len(prompt) for prompt in prompts])
    return torch.from_numpy(ids), torch.from_numpy(np.arange(longest) < lengths[:, None])
