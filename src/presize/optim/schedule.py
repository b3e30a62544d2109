"""When bases are refreshed, and the numbers that change from step to step, where a recorded step finds them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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
        self._host = torch.zeros(4, dtype=momentum.dtype, device="cpu", pin_memory=momentum.is_cuda)
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
