"""One step of layers whose bases have one rank: what is small is one tensor for all, what is large is theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from presize.errors import NumericalError
from presize.optim.adam import state_dtype
from presize.optim.basis import block_fields, first_basis, new_fields, orthonormal, projected, sketched, squared_norms
from presize.optim.blocks import Layout
from presize.optim.cores import CORES
from presize.optim.schedule import Schedule, joined


def new_state(param: Tensor, layout: Layout, group: Mapping[str, Any]) -> dict[str, Any]:
    """Before the first step; contiguous, so that `Layout.view` of it is its memory."""
    dtype = state_dtype(param)
    state: dict[str, Any] = {
        "step": torch.zeros((), dtype=torch.float32, device="cpu"),
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
    """Layers of one group, type, rank and step count; A is the number of all their blocks.

    What is of blocks, cores (A, R, R) and the like, lies in one tensor, and each layer's state views its part; momenta
    and bases are the layers' own. So a step is few calls, however many shapes there are. What `measure`, `observe` and
    `move` do, and `refresh` with diagonal cores, is the same in every step, on the same memory.
    """

    def __init__(
        self,
        params: list[Tensor],
        states: list[dict[str, Any]],
        layouts: list[Layout],
        group: dict[str, Any],
        schedule: Schedule,
    ) -> None:
        self.params, self.states, self.layouts, self.group, self.schedule = params, states, layouts, group, schedule
        self.rank, self.full, self.identity = layouts[0].rank, layouts[0].full, layouts[0].identity
        self.momenta = [state["exp_avg"] for state in states]
        self.wide_momenta = [layout.view(momentum) for layout, momentum in zip(layouts, self.momenta, strict=True)]
        self.bases = [] if self.identity else [state["basis"] for state in states]
        self.counts = [layout.groups * layout.blocks for layout in layouts]
        self.flat = {
            name: joined(states, name).view(sum(self.counts), *shape[2:])
            for name, shape in block_fields(layouts[0]).items()
        }
        self.cores = CORES[layouts[0].core](self.flat)
        sizes, counts = (torch.tensor(n, device="cpu") for n in ([layout.size for layout in layouts], self.counts))
        self.sizes = sizes.repeat_interleave(counts).to(self.momenta[0])  # (A,)
        self._grads: list[Tensor] = []
        self._views: list[Tensor] = []  # of the gradients, as blocks
        self._squares = self._inner = self.sizes  # (A,) and (A, R), of this step's gradients

    def measure(self, grads: list[Tensor]) -> Tensor:
        """Take this step's gradients, of the state's type; the square of their norm, which is finite if they are."""
        self._grads = grads
        self._views = [layout.view(grad) for layout, grad in zip(self.layouts, grads, strict=True)]
        self._squares = torch.cat([squared_norms(view).flatten() for view in self._views])
        return self._squares.sum()

    def release(self) -> None:
        """Let go of the gradients."""
        self._grads, self._views = [], []

    def begin(self) -> None:
        """Before the first step, bases."""
        if self.schedule.count == 1 and self.rank and not self.identity:
            for view, basis in zip(self._views, self.bases, strict=True):
                basis.copy_(first_basis(view, self.rank))

    def observe(self) -> None:
        """Momenta, and second moments in the bases that there are."""
        beta1, beta2 = self.group["betas"]
        torch._foreach_lerp_(self.momenta, self._grads, 1.0 - beta1)
        self._inner = self._projected()
        if self.rank:
            self.flat["projected"].lerp_(self._inner, 1.0 - beta1)
            self.cores.observe(self._inner, beta2)
        if not self.full:
            self._observe_tail(beta2)
        if self.group["grafting"] == "adam":
            adams = [state["exp_avg_sq"] for state in self.states]
            torch._foreach_mul_(adams, beta2)
            torch._foreach_addcmul_(adams, self._grads, self._grads, 1.0 - beta2)

    def refresh(self) -> None:
        """One orthogonal iteration: to the basis V that spans the sketch, with what is kept in terms of U turned.

        If a decomposition fails all but the sketch stays as it was.
        """
        if not self.identity:
            self._sketch()
        cores, tails = [state["core"] for state in self.states], [state.get("tail") for state in self.states]
        bases = [] if self.identity else orthonormal([state["sketch"] for state in self.states], self.bases)
        turns = [new @ old.mT for new, old in zip(bases, self.bases, strict=True)]  # V U^T
        new = [self.cores.turned(core, turn, tail) for core, tail, turn in zip(cores, tails, turns, strict=False)]
        try:
            self.cores.renew(new or cores, self.schedule.unseen)
        except torch.linalg.LinAlgError as error:
            self._count_failure(error)
            return
        for state in self.states:
            state["eigh_failures"] = 0
        for k, (basis, turn) in enumerate(zip(bases, turns, strict=True)):
            state, layout = self.states[k], self.layouts[k]
            self.bases[k].copy_(basis)
            state["sketch"].copy_(turn @ state["sketch"])
            if not self.full:  # the trace that the core lost is the tail's
                lost = (self.cores.mass(cores[k]) - self.cores.mass(new[k])) / (layout.size - layout.rank)
                state["tail"].add_(lost).clamp_(min=0.0)
            state["core"].copy_(new[k])
            state["projected"].copy_(projected(self.wide_momenta[k], basis))

    def _projected(self) -> Tensor:
        """P = G U of all layers, (A, R); where the basis is the identity, the gradients."""
        if self.identity:
            return torch.cat([view.flatten(0, 1) for view in self._views])
        parts = [projected(view, basis) for view, basis in zip(self._views, self.bases, strict=True)]
        return torch.cat([part.flatten(0, 1) for part in parts])

    def _parts(self, flat: Tensor) -> list[Tensor]:
        """(A, ...) as the layers' (G, B, ...)."""
        parts = zip(flat.split(self.counts), self.layouts, strict=True)
        return [part.view(layout.groups, layout.blocks, *flat.shape[1:]) for part, layout in parts]

    def _observe_tail(self, beta2: float) -> None:
        """What of the gradient lies outside of the basis, as mean squares: of a block, or of each of its numbers."""
        outside = (self._squares - self._inner.square().sum(-1)).clamp_(min=0.0).div_(self.sizes - self.rank)
        self.flat["tail"].lerp_(outside, 1.0 - beta2)
        if self.group["tail"] != "diagonal":
            return
        parts = self._parts(self._inner)
        for view, state, layout, part in zip(self._views, self.states, self.layouts, parts, strict=True):
            rest = torch.baddbmm(view, part, state["basis"], alpha=-1.0) if self.rank else view
            layout.view(state["tail_sq"]).mul_(beta2).addcmul_(rest, rest, value=1.0 - beta2)

    def _sketch(self) -> None:
        """Y: of the gradients between two refreshes the last stands for all; every one of them would cost a product."""
        for view, part, state in zip(self._views, self._parts(self._inner), self.states, strict=True):
            state["sketch"].lerp_(sketched(view, part), self.schedule.newest)

    def _count_failure(self, error: Exception) -> None:
        tolerated = self.group["tolerated_failures"]
        for state in self.states:
            state["eigh_failures"] += 1
        failures = max(state["eigh_failures"] for state in self.states)
        if failures > tolerated:
            shapes = ", ".join(sorted({str(tuple(param.shape)) for param in self.params}))
            raise NumericalError(
                f"the eigendecomposition of the second moments of parameters of shape {shapes} failed {failures} times "
                f"in a row, {tolerated} are tolerated: {error}"
            ) from error

    def move(self) -> None:
        """W <- (1 - lr decay) W - lr (U S^(-1/2) U^T m + tail^(-1/2) (m - U U^T m)), if it can in few passes over W."""
        schedule, eps = self.schedule, self.group["eps"]
        mass = self.cores.mass(self.flat["core"])
        # (A, R): the step in the basis; (A, 1): the scale of the momentum outside of it
        inside = self.cores.solve(self.flat["projected"], mass, schedule.correction2, eps).mul_(schedule.stride)
        outside: list[Tensor] | None = None
        if self.group["tail"] == "scalar" and not self.full:
            # where all gradients lie in the basis, what is outside is rounding, and must not be blown up
            tail = torch.maximum(self.flat["tail"], mass * torch.finfo(mass.dtype).eps / self.sizes)
            outer = tail.div_(schedule.correction2).sqrt_().add_(eps).reciprocal_().mul_(schedule.stride).unsqueeze(-1)
            inside.addcmul_(outer, self.flat["projected"], value=-1.0)
            outside = self._parts(outer)
        if self.group["weight_decay"]:
            torch._foreach_mul_(self.params, schedule.decay)
        for k, part in enumerate(self._parts(inside)):
            param, layout = self.params[k], self.layouts[k]
            weights, outer_part = layout.view(param), outside[k] if outside else None
            if not self._in_place(param, weights):
                param.add_(layout.restore(self._update(k, part, outer_part), param.shape))
                continue
            if self.identity:
                weights.add_(part)
            elif self.rank:
                weights.baddbmm_(part, self.bases[k])
            if outer_part is not None:
                weights.addcmul_(self.wide_momenta[k], outer_part)

    def _in_place(self, param: Tensor, weights: Tensor) -> bool:
        """The update needs no tensor of its own, and can go to the parameter's memory as it is computed."""
        plain = self.group["tail"] != "diagonal" and self.group["grafting"] == "none"
        return plain and param.dtype == state_dtype(param) and weights.data_ptr() == param.data_ptr()

    def _update(self, k: int, inside: Tensor, outside: Tensor | None) -> Tensor:
        """(G, B, N) of layer ``k``: the step, grafted if asked for."""
        state, schedule, eps, view = self.states[k], self.schedule, self.group["eps"], self.layouts[k].view
        momentum = self.wide_momenta[k]

        def adam(moved: Tensor, squares: Tensor) -> Tensor:
            return moved * schedule.stride / view(squares).div(schedule.correction2).sqrt_().add_(eps)

        if outside is not None:
            update = momentum * outside
        elif self.group["tail"] == "diagonal" and not self.full:
            rest = torch.baddbmm(momentum, state["projected"], state["basis"], alpha=-1.0) if self.rank else momentum
            update = adam(rest, state["tail_sq"])
        else:
            update = torch.zeros_like(momentum)
        if self.rank:
            update += inside if self.identity else inside @ state["basis"]
        if self.group["grafting"] == "adam":
            length = adam(momentum, state["exp_avg_sq"]).norm()
            update *= length / update.norm().clamp_(min=torch.finfo(update.dtype).tiny)
        return update
