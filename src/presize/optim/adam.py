"""Adam with decoupled weight decay, for what is not a layer's matrix, and the numbers that change from step to step."""

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


class Schedule:
    """What a step's number and the learning rate come to, for states of one step count: tensors of no dimension.

    They are on the states' device, at the same place in every step, so that a step's launches can be recorded.
    """

    def __init__(self, states: list[dict[str, Any]], group: dict[str, Any]) -> None:
        self.group = group
        self._steps = joined(states, "step")
        self.count = int(self._steps[0])
        momentum = states[0]["exp_avg"]
        self._host = torch.zeros(4, dtype=momentum.dtype, pin_memory=momentum.is_cuda)
        self._numbers = self._host.numpy()
        self._there = self._host.to(momentum.device)
        # what momenta are multiplied with, -lr over their correction; what second moments are divided by; what weights
        # are multiplied with; the share of the newest gradient in a sketch
        self.stride, self.correction2, self.decay, self.newest = self._there.unbind()

    def advance(self) -> None:
        """To the next step. The device has been waited for since the last one, so its numbers have arrived there."""
        self._steps.add_(1.0)
        self.count += 1
        (beta1, beta2), lr = self.group["betas"], float(self.group["lr"])
        self._numbers[:] = (
            -lr / (1.0 - beta1**self.count),
            1.0 - beta2**self.count,
            1.0 - lr * self.group["weight_decay"],
            1.0 - beta2 ** (self.count - self._last_refresh(self.count)),
        )
        self._there.copy_(self._host, non_blocking=True)

    @property
    def due(self) -> bool:
        """It is time to refresh bases."""
        return self._next_refresh(self.count) == self.count

    @property
    def unseen(self) -> float:
        """The share of the second moment that will be of gradients after this step's refresh, before the next one."""
        beta2 = self.group["betas"][1]
        ahead = self._next_refresh(self.count + 1) - 1
        share: float = (1.0 - beta2 ** (ahead - self.count)) / (1.0 - beta2**ahead)
        return share

    def _next_refresh(self, count: int) -> int:
        """The first refresh from this step on: every ``update_interval`` steps, before that, as all is new, at 2^k."""
        interval: int = self.group["update_interval"]
        if count >= interval:
            return -(-count // interval) * interval
        return min(1 << (count - 1).bit_length(), interval)

    def _last_refresh(self, count: int) -> int:
        """The last one before this step; 0 if there was none."""
        interval: int = self.group["update_interval"]
        if count > interval:
            return (count - 1) // interval * interval
        return 1 << (count - 1).bit_length() - 1 if count > 1 else 0


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
