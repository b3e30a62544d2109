"""Adam with decoupled weight decay, for what is not a layer's matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from presize.optim.schedule import Schedule, joined


def state_dtype(param: Tensor) -> torch.dtype:
    """float32 also for parameters of half precision, whose second moments would underflow; float64 for float64."""
    return torch.float64 if param.dtype == torch.float64 else torch.float32


def new_state(param: Tensor) -> dict[str, Any]:
    """Before the first step."""
    return {
        "step": torch.zeros((), dtype=torch.float32, device="cpu"),
        "exp_avg": torch.zeros(param.shape, dtype=state_dtype(param), device=param.device),
        "exp_avg_sq": torch.zeros(param.shape, dtype=state_dtype(param), device=param.device),
    }


class Elements:
    """Parameters of one group, device, type and step count, for which Adam is few calls, however many they are."""

    def __init__(
        self, params: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any], schedule: Schedule
    ) -> None:
        self.params, self.group, self.schedule = params, group, schedule
        self.average, self.square = joined(states, "exp_avg"), joined(states, "exp_avg_sq")
        self._grads = self.average  # of all parameters, one after the other

    def measure(self, grads: list[Tensor]) -> Tensor:
        """Take this step's gradients, of the state's type; their norm, which is finite if they are."""
        self._grads = torch.cat([grad.flatten() for grad in grads])
        norm: Tensor = torch.linalg.vector_norm(self._grads)
        return norm

    def release(self) -> None:
        """Let go of the gradients."""
        self._grads = self.average

    def move(self) -> None:
        """The step."""
        beta1, beta2 = self.group["betas"]
        self.average.lerp_(self._grads, 1.0 - beta1)
        self.square.mul_(beta2).addcmul_(self._grads, self._grads, value=1.0 - beta2)
        scale = self.square.div(self.schedule.correction2).sqrt_().add_(self.group["eps"])
        if self.group["weight_decay"]:
            torch._foreach_mul_(self.params, self.schedule.decay)
        parts = (self.average * self.schedule.stride).div_(scale).split([param.numel() for param in self.params])
        torch._foreach_add_(
            self.params, [part.view(param.shape) for part, param in zip(parts, self.params, strict=True)]
        )
