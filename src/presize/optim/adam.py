"""Adam with decoupled weight decay, for what is not a layer's matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def state_dtype(param: Tensor) -> torch.dtype:
    """float32 also for parameters of half precision, whose second moments would underflow; float64 for float64."""
    return torch.float64 if param.dtype == torch.float64 else torch.float32


def new_state(param: Tensor) -> dict[str, Any]:
    """Before the first step."""
    return {
        "step": torch.zeros((), dtype=torch.float32),
        "exp_avg": torch.zeros(param.shape, dtype=state_dtype(param), device=param.device),
        "exp_avg_sq": torch.zeros(param.shape, dtype=state_dtype(param), device=param.device),
    }


def joined(states: list[dict[str, Any]], name: str) -> Tensor:
    """A field of several states as one tensor (numbers,), of which each state from now on has its part."""
    flat = torch.cat([state[name].flatten() for state in states])
    for state, part in zip(states, flat.split([state[name].numel() for state in states]), strict=True):
        state[name] = part.view(state[name].shape)
    return flat


class Elements:
    """Parameters of one group, device, type and step count, for which Adam is few calls, however many they are."""

    def __init__(self, params: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]) -> None:
        self.params, self.group = params, group
        self.steps = [state["step"] for state in states]
        self.average, self.square = joined(states, "exp_avg"), joined(states, "exp_avg_sq")

    def step(self, grads: Tensor) -> None:
        """Move by the gradients of all parameters, one after the other, of the state's type."""
        (beta1, beta2), lr = self.group["betas"], float(self.group["lr"])
        torch._foreach_add_(self.steps, 1.0)
        count = float(self.steps[0])
        self.average.lerp_(grads, 1.0 - beta1)
        self.square.mul_(beta2).addcmul_(grads, grads, value=1.0 - beta2)
        update = self.average / self.square.div(1.0 - beta2**count).sqrt_().add_(self.group["eps"])
        if self.group["weight_decay"]:
            torch._foreach_mul_(self.params, 1.0 - lr * self.group["weight_decay"])
        parts = update.split([param.numel() for param in self.params])
        moves = [part.view(param.shape) for part, param in zip(parts, self.params, strict=True)]
        torch._foreach_add_(self.params, moves, alpha=-lr / (1.0 - beta1**count))
