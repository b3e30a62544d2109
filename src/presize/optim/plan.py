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
from presize.optim.schedule import Schedule

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
        self._schedules: list[Schedule] = []
        self._grads: dict[Tensor, Tensor] = {}
        self._replays: defaultdict[str, Replay] = defaultdict(Replay)
        self._copies: list[Tensor] = []  # of gradients, which may lie elsewhere in every step, for recorded launches
        self._given: list[Any] | None = None  # what recorded launches depend on besides: parameters' places, constants

    def prepare(self, state: dict[Tensor, Any]) -> list[Tensor]:
        """Take this step's gradients; numbers that are finite if all of them are. ConfigError for sparse ones."""
        structure = tuple(self.group[name] for name in STRUCTURE)
        if self._structure not in (None, structure):
            raise ConfigError(f"{', '.join(STRUCTURE)} of a parameter group can not change once it has been trained")
        self._structure = structure
        members = [param for param in self.group["params"] if param.grad is not None and param.numel()]
        grads = [_dense(param) for param in members]
        if len(members) != len(self._members) or any(a is not b for a, b in zip(members, self._members, strict=True)):
            self._arrange(members, state)
        given = self._dependencies() if self.group["graph"] else []
        if given != self._given:
            self._replays.clear()
            self._copies = []  # before there are others, so that there is never memory for both
            self._copies = [torch.empty_like(p, dtype=adam.state_dtype(p)) for p in members if given]
            self._given = given
        if self._copies:
            torch._foreach_copy_(self._copies, grads)
            grads = self._copies
        self._grads = dict(zip(members, grads, strict=True))
        found: list[Tensor] = self._run("measure", self._measure) if members else []
        return found

    def step(self) -> None:
        """Move the parameters by the gradients that `prepare` took."""
        for schedule in self._schedules:
            schedule.advance()
        for stack in self._stacks:
            stack.begin()
        if self._stacks:
            self._run("observe", self._observe)
        for k, stack in enumerate(self._stacks):
            if not (stack.rank and stack.schedule.due):
                continue
            if self.group["core"] == "full":  # decompositions look at the device, and may fail
                stack.refresh()
            else:
                self._run(f"refresh {k}", stack.refresh)
        if self._parts:
            self._run("move", self._move)
        self._grads = {}
        if not self._replays["measure"].recorded:
            for part in self._parts:
                part.release()

    @property
    def _parts(self) -> list[layers.Layers | adam.Elements]:
        return [*self._stacks, *self._plain]

    def _run(self, what: str, function: Callable[[], Any]) -> Any:
        """Recorded, where that was asked for."""
        if not self.group["graph"]:
            return function()
        return self._replays[what](function, self._members[0].device)

    def _dependencies(self) -> list[Any]:
        devices = {param.device for param in self._members}
        if len(devices) > 1 or any(device.type != "cuda" for device in devices):
            names = " and ".join(sorted(str(device) for device in devices))
            raise ConfigError(f"graph is True, but parameters are on {names}; a CUDA graph needs all on one GPU")
        places = [param.data_ptr() for param in self._members]
        constants = [self.group[name] for name in ("eps", "maximize")] + [self.group["weight_decay"] == 0.0]
        return [*places, *self.group["betas"], *constants]

    def _measure(self) -> list[Tensor]:
        return [part.measure([self._own(param) for param in part.params]) for part in self._parts]

    def _observe(self) -> None:
        for stack in self._stacks:
            stack.observe()

    def _move(self) -> None:
        for part in self._parts:
            part.move()

    def _own(self, param: Tensor) -> Tensor:
        """The gradient in the state's type; of what is maximized, negated."""
        grad = self._grads[param].to(adam.state_dtype(param))
        return -grad if self.group["maximize"] else grad

    def _arrange(self, members: list[Tensor], state: dict[Tensor, Any]) -> None:
        stacks: dict[Any, list[tuple[Tensor, Layout]]] = defaultdict(list)
        plain: dict[Any, list[Tensor]] = defaultdict(list)
        together: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for param in members:
            if not state[param]:
                state[param].update(new_state(param, self.group))
            layout, kind = layout_in(self.group, param), (param.device, param.dtype, float(state[param]["step"]))
            together[kind].append(state[param])
            if layout is None:
                plain[kind].append(param)
            else:
                stacks[kind, layout.rank, layout.full].append((param, layout))
        schedules = {kind: Schedule(states, self.group) for kind, states in together.items()}
        self._members, self._given, self._schedules = members, None, list(schedules.values())
        self._plain = [
            adam.Elements(part, [state[param] for param in part], self.group, schedules[kind])
            for kind, part in plain.items()
        ]
        self._stacks = []
        for (kind, *_), stack in stacks.items():
            params, layouts = [param for param, _ in stack], [layout for _, layout in stack]
            states = [state[param] for param in params]
            self._stacks.append(layers.Layers(params, states, layouts, self.group, schedules[kind]))


def _dense(param: Tensor) -> Tensor:
    """Its gradient; ConfigError if that is sparse."""
    grad = param.grad
    assert grad is not None
    if grad.layout != torch.strided:
        raise ConfigError(
            f"the gradient of a parameter of shape {tuple(param.shape)} is sparse; BlockLowRank takes dense ones: "
            "build the embedding with sparse=False"
        )
    return grad
