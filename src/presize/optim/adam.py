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
        "exp_avg": torch.zeros_like(param, dtype=state_dtype(param)),
        "exp_avg_sq": torch.zeros_like(param, dtype=state_dtype(param)),
    }


def step(params: list[Tensor], grads: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]) -> None:
    """One step of parameters of one device and type; ``grads`` of the state's type."""
    (beta1, beta2), lr, decay = group["betas"], float(group["lr"]), group["weight_decay"]
    averages, squares = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
    torch._foreach_lerp_(averages, grads, 1.0 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, grads, grads, 1.0 - beta2)
    if decay:
        torch._foreach_mul_(params, 1.0 - lr * decay)
    roots = torch._foreach_sqrt(squares)
    counts = []
    for state in states:
        state["step"] += 1
        counts.append(float(state["step"]))
    torch._foreach_div_(roots, [(1.0 - beta2**count) ** 0.5 for count in counts])
    torch._foreach_add_(roots, group["eps"])
    if params[0].dtype == averages[0].dtype:
        torch._foreach_addcdiv_(params, averages, roots, [-lr / (1.0 - beta1**count) for count in counts])
        return
    for param, average, root, count in zip(params, averages, roots, counts, strict=True):
        param.add_(average / root, alpha=-lr / (1.0 - beta1**count))
