"""Which parameters of a group step together: layers of one rank together, the rest by Adam."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from presize.errors import ConfigError
from presize.optim import adam, layers
from presize.optim.blocks import Layout, layout_of
from presize.optim.replay import Replay

# what the shape of a state depends on, so that it can not change while training
STRUCTURE = ("rank", "core", "block", "heads", "tail", "grafting", "max_dim", "precondition")


def layout_in(group: Mapping[str, Any], param: Tensor) -> Layout | None:
    """The parameter's blocks; None where Adam takes it."""
    if not group["precondition"]:
        return None
    return layout_of(param.shape, **{name: group[name] for name in ("rank", "core", "block", "heads", "max_dim")})


def new_state(param: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter's state before its first step."""
    layout = layout_in(group, param)
    return adam.new_state(param) if layout is None else layers.new_state(param, layout, group)


class Plan:
    """One parameter group's work. It is made anew when other parameters have gradients than in the step before."""

    def __init__(self, group: dict[str, Any]) -> None:
        self.group = group
        self._structure: tuple[Any, ...] | None = None
        self._members: list[Tensor] = []
        self._stacks: list[layers.Layers] = []
        self._plain: list[adam.Elements] = []
        self._grads: dict[Tensor, Tensor] = {}
        self._recorded: list[Any] = []  # what recorded launches have in them, where in memory they read and write first
        self._record()

    def prepare(self, state: dict[Tensor, Any]) -> list[Tensor]:
        """Take this step's gradients; tensors that are finite if all of them are. ConfigError for sparse ones."""
        structure = tuple(self.group[name] for name in STRUCTURE)
        if self._structure not in (None, structure):
            raise ConfigError(f"{', '.join(STRUCTURE)} of a parameter group can not change once it has been trained")
        self._structure = structure
        members = [param for param in self.group["params"] if param.grad is not None and param.numel()]
        self._grads = {param: self._gradient(param) for param in members}
        if len(members) != len(self._members) or any(a is not b for a, b in zip(members, self._members, strict=True)):
            self._arrange(members, state)
        if self.group["graph"]:
            places = [tensor.data_ptr() for param, grad in self._grads.items() for tensor in (param, grad)]
            given = [*places, self.group["betas"], self.group["eps"], self.group["weight_decay"] == 0.0]
            if given != self._recorded:
                self._record()
            self._recorded = given
        found: list[Tensor] = self._measure()
        return found

    def step(self) -> None:
        """Move the parameters by the gradients that `prepare` took."""
        for part in self._parts:
            part.begin()
        self._observe()
        for stack, refresh in zip(self._stacks, self._refresh, strict=True):
            if stack.due:
                refresh()
        self._move()
        self._grads = {}
        if not self.group["graph"]:
            for part in self._parts:
                part.release()

    def _record(self) -> None:
        """Forget launches that were recorded; what there will be to record."""
        replay: Callable[[Callable[[], Any]], Callable[[], Any]] = Replay if self.group["graph"] else _as_it_is
        self._measure, self._move = replay(self._measure_all), replay(self._move_all)
        self._observe = replay(self._observe_all) if self._stacks else self._observe_all
        whole = self.group["core"] == "full"  # decompositions look at the device, and may fail
        self._refresh = [stack.refresh if whole else replay(stack.refresh) for stack in self._stacks]

    def _measure_all(self) -> list[Tensor]:
        return [part.measure([self._grads[param] for param in part.params]) for part in self._parts]

    @property
    def _parts(self) -> list[layers.Layers | adam.Elements]:
        return [*self._stacks, *self._plain]

    def _observe_all(self) -> None:
        for stack in self._stacks:
            stack.observe()

    def _move_all(self) -> None:
        for part in self._parts:
            part.move()

    def _gradient(self, param: Tensor) -> Tensor:
        grad = param.grad
        assert grad is not None
        if grad.layout != torch.strided:
            raise ConfigError(
                f"the gradient of a parameter of shape {tuple(param.shape)} is sparse; BlockLowRank takes dense ones: "
                "build the embedding with sparse=False"
            )
        if self.group["graph"] and not param.is_cuda:
            raise ConfigError(f"graph is True, but a parameter is on {param.device}; CUDA graphs need it on cuda")
        grad = grad.to(adam.state_dtype(param))
        return -grad if self.group["maximize"] else grad

    def _arrange(self, members: list[Tensor], state: dict[Tensor, Any]) -> None:
        stacks: dict[Any, list[tuple[Tensor, Layout]]] = defaultdict(list)
        plain: dict[Any, list[Tensor]] = defaultdict(list)
        for param in members:
            if not state[param]:
                state[param].update(new_state(param, self.group))
            layout, kind = layout_in(self.group, param), (param.device, param.dtype, float(state[param]["step"]))
            if layout is None:
                plain[kind].append(param)
            else:
                stacks[kind, layout.rank, layout.full].append((param, layout))
        self._members = members
        self._plain = [adam.Elements(part, [state[param] for param in part], self.group) for part in plain.values()]
        self._stacks = []
        for stack in stacks.values():
            params, layouts = [param for param, _ in stack], [layout for _, layout in stack]
            self._stacks.append(layers.Layers(params, [state[param] for param in params], layouts, self.group))
        self._record()


def _as_it_is(function: Callable[[], Any]) -> Callable[[], Any]:
    return function
