"""One step of layers of one shape together: P = G U for all, then cores, tails, roots, and the update of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from presize.errors import NumericalError
from presize.optim.adam import state_dtype
from presize.optim.basis import FIELDS, first_basis, inverse_root, new_fields, rotated, times, trace
from presize.optim.blocks import Layout


def new_state(param: Tensor, layout: Layout, group: Mapping[str, Any]) -> dict[str, Any]:
    """Before the first step; contiguous, so that `Layout.view` of it is its memory."""
    dtype = state_dtype(param)
    state: dict[str, Any] = {
        "step": torch.zeros((), dtype=torch.float32),
        "exp_avg": torch.zeros(param.shape, dtype=dtype, device=param.device),
        "eigh_failures": 0,
        **new_fields(layout, param.device, dtype),
    }
    if group["tail"] == "diagonal" and not layout.full:
        state["tail_sq"] = torch.zeros(param.shape, dtype=dtype, device=param.device)
    if group["grafting"] == "adam":
        state["exp_avg_sq"] = torch.zeros(param.shape, dtype=dtype, device=param.device)
    return state


class Layers:
    """Layers of one shape, group and step count. Their small tensors are stacked, and each state views its part."""

    def __init__(self, params: list[Tensor], states: list[dict[str, Any]], layout: Layout, group: dict[str, Any]):
        self.params, self.states, self.layout, self.group = params, states, layout, group
        self.stacked: dict[str, Tensor] = {}
        for name in FIELDS:
            if name in states[0]:
                stack = torch.stack([state[name] for state in states])
                self.stacked[name] = stack
                for state, part in zip(states, stack, strict=True):
                    state[name] = part

    def step(self, grads: list[Tensor], squares: Tensor) -> None:
        """``grads`` as the parameters but of the state's type; ``squares`` (L, G, B): their blocks' squared norms."""
        for state in self.states:
            state["step"] += 1
        count = int(self.states[0]["step"])
        beta1, beta2 = self.group["betas"]
        views = [self.layout.view(grad) for grad in grads]
        torch._foreach_lerp_([state["exp_avg"] for state in self.states], grads, 1.0 - beta1)
        if self.layout.rank:
            self._observe(views, count, beta1, beta2)
        if not self.layout.full:
            self._observe_tail(views, squares, beta2)
        if self.group["grafting"] == "adam":
            adams = [state["exp_avg_sq"] for state in self.states]
            torch._foreach_mul_(adams, beta2)
            torch._foreach_addcmul_(adams, grads, grads, 1.0 - beta2)
        if self.layout.rank and self._next_refresh(count) == count:
            if not self.layout.full:
                self._sketch(views, beta2 ** (count - self._last_refresh(count)))
            ahead = self._next_refresh(count + 1) - 1
            self._refresh((1.0 - beta2 ** (ahead - count)) / (1.0 - beta2**ahead))
        self._apply(1.0 - beta1**count, 1.0 - beta2**count)

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

    def _sketch(self, views: list[Tensor], keep: float) -> None:
        """Y: of the gradients between two refreshes the last stands for all; every one of them would cost a product."""
        for view, now, sketch in zip(views, self.now, self.stacked["sketch"], strict=True):
            sketch.lerp_(times(view.mT, now), 1.0 - keep)

    def _observe(self, views: list[Tensor], count: int, beta1: float, beta2: float) -> None:
        """P = G U and with it the cores and the momentum within the basis."""
        fields = self.stacked
        if self.layout.full:
            self.now = torch.stack(views)
        else:
            if count == 1:
                for k, view in enumerate(views):
                    fields["basis"][k] = first_basis(view, self.layout.rank)
            self.now = torch.stack([times(view, basis) for view, basis in zip(views, fields["basis"], strict=True)])
        fields["projected"].lerp_(self.now, 1.0 - beta1)
        fields["core"].mul_(beta2).addcmul_(self.now.unsqueeze(-1), self.now.unsqueeze(-2), value=1.0 - beta2)

    def _observe_tail(self, views: list[Tensor], squares: Tensor, beta2: float) -> None:
        """What of the gradient lies outside of the basis, as mean squares: of a block, or of each of its numbers."""
        rank, size = self.layout.rank, self.layout.size
        if rank:
            squares = (squares - self.now.square().sum(-1)).clamp_(min=0.0)
        self.stacked["tail"].lerp_(squares / (size - rank), 1.0 - beta2)
        if self.group["tail"] != "diagonal":
            return
        for k, (view, state) in enumerate(zip(views, self.states, strict=True)):
            rest = view
            if rank:
                rest = torch.baddbmm(view, self.now[k], self.stacked["basis"][k].mT, alpha=-1.0)
            self.layout.view(state["tail_sq"]).mul_(beta2).addcmul_(rest, rest, value=1.0 - beta2)

    def _refresh(self, unseen: float) -> None:
        """A new basis, and new roots in it; if the decomposition fails all stays as it was."""
        fields = self.stacked
        core = fields["core"]
        if not self.layout.full:
            basis, sketch, core, tail = rotated(fields["basis"], fields["sketch"], core, fields["tail"])
        try:
            root = inverse_root(core, unseen)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            self._count_failure(error)
            return
        for state in self.states:
            state["eigh_failures"] = 0
        fields["root"].copy_(root)
        if self.layout.full:
            return
        fields["core"].copy_(core)
        fields["basis"].copy_(basis)
        fields["sketch"].copy_(sketch)
        fields["tail"].copy_(tail)
        for k, state in enumerate(self.states):
            fields["projected"][k] = times(self.layout.view(state["exp_avg"]), basis[k])

    def _count_failure(self, error: Exception) -> None:
        tolerated = self.group["tolerated_failures"]
        for state in self.states:
            state["eigh_failures"] += 1
        failures = max(state["eigh_failures"] for state in self.states)
        if failures > tolerated:
            raise NumericalError(
                f"the eigendecomposition of the second moments of a parameter of shape {tuple(self.params[0].shape)} "
                f"failed {failures} times in a row, {tolerated} are tolerated: {error}"
            ) from error

    def _apply(self, correction1: float, correction2: float) -> None:
        """W <- (1 - lr decay) W - lr (U root U^T m + tail^(-1/2) (m - U U^T m)), if it can in few passes over W."""
        group, fields = self.group, self.stacked
        lr, decay = float(group["lr"]), group["weight_decay"]
        inside = None  # (L, G, B, R): what is added to the momentum's own part, in the basis
        outside = None  # (L, G, B, 1): the scale of the momentum outside of the basis
        mass = trace(fields["core"])
        if self.layout.rank:
            inside = (fields["root"] @ fields["projected"].unsqueeze(-1)).squeeze(-1)
            inside.div_((mass / correction2).sqrt_().add_(group["eps"]).mul_(correction1).unsqueeze(-1))
        if group["tail"] == "scalar" and not self.layout.full:
            # where all gradients lie in the basis, what is outside is rounding, and must not be blown up
            rounding = mass * (torch.finfo(mass.dtype).eps / self.layout.size)
            tail = torch.maximum(fields["tail"], rounding)
            outside = tail.div_(correction2).sqrt_().add_(group["eps"]).mul_(correction1).reciprocal_().unsqueeze(-1)
            if inside is not None:
                inside.addcmul_(outside, fields["projected"], value=-1.0)
        for k, (param, state) in enumerate(zip(self.params, self.states, strict=True)):
            weights = self.layout.view(param)
            if not self._in_place(param, weights):
                update = self._update(k, inside, outside, correction1, correction2)
                if decay:
                    param.mul_(1.0 - lr * decay)
                param.add_(self.layout.restore(update, param.shape), alpha=-lr)
                continue
            scale = 1.0 - lr * decay
            if inside is not None:
                thin = self.stacked["basis"][k].mT if not self.layout.full else None
                if thin is None:
                    weights.mul_(scale).add_(inside[k], alpha=-lr)
                else:
                    weights.baddbmm_(inside[k], thin, beta=scale, alpha=-lr)
            elif decay:
                weights.mul_(scale)
            if outside is not None:
                weights.addcmul_(self.layout.view(state["exp_avg"]), outside[k], value=-lr)

    def _in_place(self, param: Tensor, weights: Tensor) -> bool:
        """The update needs no tensor of its own, and can go to the parameter's memory as it is computed."""
        plain = self.group["tail"] != "diagonal" and self.group["grafting"] == "none"
        return plain and param.dtype == state_dtype(param) and weights.data_ptr() == param.data_ptr()

    def _update(
        self, k: int, inside: Tensor | None, outside: Tensor | None, correction1: float, correction2: float
    ) -> Tensor:
        """(G, B, N) of layer ``k``: the direction, grafted if asked for."""
        state, eps, view = self.states[k], self.group["eps"], self.layout.view
        momentum = view(state["exp_avg"])
        if outside is not None:
            update = momentum * outside[k]
        elif self.group["tail"] == "diagonal" and not self.layout.full:
            rest = momentum
            if self.layout.rank:
                rest = torch.baddbmm(momentum, self.stacked["projected"][k], self.stacked["basis"][k].mT, alpha=-1.0)
            update = rest.div(correction1) / view(state["tail_sq"]).div(correction2).sqrt_().add_(eps)
        else:
            update = torch.zeros_like(momentum)
        if inside is not None:
            update += inside[k] if self.layout.full else inside[k] @ self.stacked["basis"][k].mT
        if self.group["grafting"] == "adam":
            adam = momentum.div(correction1) / view(state["exp_avg_sq"]).div(correction2).sqrt_().add_(eps)
            update *= adam.norm() / update.norm().clamp_(min=torch.finfo(update.dtype).tiny)
        return update
