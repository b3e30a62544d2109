"""The optimizers that are compared. Peers: pip install --no-deps pytorch-optimizer==4.1.0"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from presize.optim import BlockLowRank, param_groups


@dataclass(frozen=True)
class Entry:
    """An optimizer, and the learning rate that its search starts from."""

    centre: float
    build: Callable[[nn.Module, float], torch.optim.Optimizer]


def ours(*, launched: bool = False, **options: Any) -> Callable[[nn.Module, float], torch.optim.Optimizer]:
    """With its launches recorded on a GPU, unless ``launched``."""

    def build(model: nn.Module, lr: float) -> torch.optim.Optimizer:
        graph = next(model.parameters()).is_cuda and not launched
        return BlockLowRank(param_groups(model), lr=lr, graph=graph, **options)

    return build


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
            (torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.95), weight_decay=0.0), 0.1),
        ]

    def step(self, closure: Any = None) -> None:
        for part, ratio in self.parts:
            part.param_groups[0]["lr"] = ratio * self.param_groups[0]["lr"]
            part.step()

    def states(self) -> Iterable[dict[str, Any]]:
        return (state for part, _ in self.parts for state in part.state.values())


# grafted to RMSProp and with an average for a momentum, so that its learning rates are of Adam's size
SHAMPOO = {
    "weight_decay": 0.0, "betas": (0.9, 0.95), "preconditioning_compute_steps": 20, "graft_type": 3,
    "moving_average_for_momentum": True,
}  # fmt: skip

ENTRIES = {
    "adamw": Entry(
        9.49e-4, lambda m, lr: torch.optim.AdamW(m.parameters(), lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    ),
    "sgd": Entry(3e-3, lambda m, lr: torch.optim.SGD(m.parameters(), lr, momentum=0.9, nesterov=True, fused=True)),
    "muon": Entry(1e-2, _MuonAndAdam),
    "shampoo": Entry(3e-3, _peer("ScalableShampoo", **SHAMPOO)),
    "soap": Entry(3e-3, _peer("SOAP", weight_decay=0.0)),
    "blr-4": Entry(3e-3, ours(rank=4)),
    "blr-16": Entry(3e-3, ours(rank=16)),
    "blr-64": Entry(3e-3, ours(rank=64)),
    "blr-64-each-step": Entry(3e-3, ours(rank=64, update_interval=1)),
    "blr-4-full": Entry(3e-3, ours(rank=4, core="full")),
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
