"""`BlockLowRank`: second-moment blocks of low rank that share a basis, as a torch optimizer.

After "Block Low-Rank Preconditioner with Shared Basis for Stochastic Optimization" (Yen, Duvvuri, Dhillon, Hsieh,
NeurIPS 2023). Only its abstract was available: `presize.optim.basis` says what is the paper's, what reconstructed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from presize.errors import ConfigError, NumericalError, check_range
from presize.optim.blocks import BLOCKS
from presize.optim.cores import CORES
from presize.optim.plan import Plan, layout_in, new_state

TAILS = ("scalar", "diagonal", "none")
GRAFTINGS = ("none", "adam")
# whole numbers: name, lowest, highest
_WHOLE = (("rank", 0, 1024), ("update_interval", 1, 10**6), ("heads", 1, 1024), ("max_dim", 2, 2**20),
          ("tolerated_failures", 0, 10**6))  # fmt: skip


class BlockLowRank(Optimizer):
    """Preconditions each block of a layer's weights, as a rule a row, by a low-rank second moment.

    For block i of a matrix of weights, with momentum m_i, second moment C_i ~ U S_i U^T + tail, all blocks of one layer
    sharing U, the step is ``-lr C_i^(-1/2) m_i``: within the basis correlations between its weights count, outside of
    it their common scale. Biases, norms, scalars, what is larger than ``max_dim``, and parameter groups with
    ``precondition=False`` (embeddings: see `param_groups`) take Adam.

    Args:
        params: parameters, named parameters or groups; each group may set any of the following for itself.
        lr: learning rate; of the size that suits AdamW.
        betas: decay of the momentum and of the second moments.
        eps: added to the square roots of second moments.
        rank: directions in a basis; 0 leaves the tail alone. At most a block's size.
        update_interval: steps between two refreshes of the basis (before the first, also at powers of two).
        weight_decay: decoupled, as in AdamW.
        core: what is kept of S_i: ``diagonal`` (Adam in the basis), or ``full``, for an eigendecomposition a block and
            refresh; at full rank that is the exact method of block-diagonal second moments.
        block: what a block is: ``row`` (what goes into an output; of a convolution, an output channel), ``column``,
            ``auto`` (the cheaper), ``head`` (rows, with a basis for each of ``heads`` runs of rows).
        heads: bases in a layer, for ``block="head"``.
        tail: outside of the basis, ``scalar`` (one number a block), ``diagonal`` (one a weight, for the memory of
            another momentum) or ``none`` (nothing moves there).
        grafting: ``adam`` gives each layer's step the length of Adam's, for the memory of Adam's second moment.
        max_dim: matrices with a longer side take Adam.
        tolerated_failures: eigendecompositions of full cores that may fail in a row, the old ones staying in force.
        maximize: go up instead of down.
        graph: on a GPU, record the step's launches, a few steps after the start, and replay them as CUDA graphs, for
            the memory of another gradient in the state's type. Where betas, eps or the parameters with gradients
            change, recording starts anew; a scheduler that turns betas in every step (``cycle_momentum``) leaves none.
        differentiable: only False is known.

    State of an (m, n) matrix with rows as blocks, in numbers: m n + 2 n r + 2 m r + m; Adam's is 2 m n. They are
    float32, also for parameters of half precision, and float64 for float64.

    Raises:
        ConfigError: a value out of range, complex parameters, sparse gradients.
        NumericalError: in `step`, before anything has changed, a gradient that is not finite; or decompositions that
            failed more than ``tolerated_failures`` times in a row.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        rank: int = 16,
        update_interval: int = 5,
        weight_decay: float = 0.0,
        *,
        core: str = "diagonal",
        block: str = "row",
        heads: int = 1,
        tail: str = "scalar",
        grafting: str = "none",
        max_dim: int = 8192,
        tolerated_failures: int = 3,
        maximize: bool = False,
        graph: bool = False,
        differentiable: bool = False,
    ) -> None:
        if differentiable:
            raise ConfigError("differentiable is True; BlockLowRank can not be differentiated through, leave it False")
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "rank": rank, "update_interval": update_interval,
            "weight_decay": weight_decay, "core": core, "block": block, "heads": heads, "tail": tail,
            "grafting": grafting, "max_dim": max_dim, "tolerated_failures": tolerated_failures, "maximize": maximize,
            "graph": graph, "precondition": True,
        }  # fmt: skip
        check_group(defaults)
        self._plans: list[Plan] = []
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # of a state that was saved before there was one
            group.setdefault("graph", False)
        self._plans = [Plan(group) for group in self.param_groups]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its parameters and options are checked as those of the constructor."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            check_group(group)
            for param in group["params"]:
                if param.is_complex():
                    raise ConfigError(f"a parameter of shape {tuple(param.shape)} is complex; only real ones are known")
                layout_in(group, param)
        except ConfigError:
            self.param_groups.pop()
            raise
        self._plans.append(Plan(group))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore bit for bit. ConfigError, and nothing is changed, if the state is not that of these parameters."""
        self._check(state_dict)
        super().load_state_dict(state_dict)
        # torch gives a state the type of its parameter; here it is float32 whatever that is
        ours = chain.from_iterable(group["params"] for group in self.param_groups)
        theirs = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        for param, index in zip(ours, theirs, strict=True):
            for name, value in state_dict["state"].get(index, {}).items():
                if torch.is_tensor(value):
                    device = "cpu" if name == "step" else param.device
                    self.state[param][name] = value.to(device=device, copy=True)
        self._plans = [Plan(group) for group in self.param_groups]

    def _check(self, state_dict: dict[str, Any]) -> None:
        for ours, theirs in zip(self.param_groups, state_dict["param_groups"], strict=False):
            check_group({"graph": False, **theirs})
            for param, index in zip(ours["params"], theirs["params"], strict=False):
                saved = state_dict["state"].get(index)
                if saved is None:
                    continue
                shapes = {name: tuple(value.shape) for name, value in saved.items() if torch.is_tensor(value)}
                wanted = {
                    name: tuple(value.shape)
                    for name, value in new_state(param.detach().to("meta"), theirs).items()
                    if torch.is_tensor(value)
                }
                if shapes != wanted:
                    raise ConfigError(
                        f"the state of a parameter of shape {tuple(param.shape)} has {shapes}; it must have {wanted}: "
                        "it is of another model or another optimizer"
                    )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; ``closure`` computes the loss anew, and its value is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        _refuse_nonfinite([part for plan in self._plans for part in plan.prepare(self.state)])
        for plan in self._plans:
            plan.step()
        return loss


def param_groups(model: nn.Module) -> list[dict[str, Any]]:
    """The model's parameters as two groups: those of embeddings, which take Adam, and all others.

    A matrix that is an embedding and an output layer at once counts as an embedding.
    """
    tables = {
        id(param)
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
        for param in module.parameters(recurse=False)
    }
    params = [param for param in model.parameters() if param.requires_grad]
    groups = [
        {"params": [param for param in params if id(param) not in tables], "precondition": True},
        {"params": [param for param in params if id(param) in tables], "precondition": False},
    ]
    return [group for group in groups if group["params"]]


def check_group(group: Mapping[str, Any]) -> None:
    """ConfigError that names field, value and range if an option of a group is not what it may be."""
    check_range("lr", float(group["lr"]), 0.0, 1e6)
    betas = group["betas"]
    if len(betas) != 2 or not all(0.0 <= float(beta) < 1.0 for beta in betas):
        raise ConfigError(f"betas is {betas}; it must be two numbers in [0, 1)")
    check_range("eps", group["eps"], 0.0, 1.0)
    check_range("weight_decay", group["weight_decay"], 0.0, 1e6)
    for name, low, high in _WHOLE:
        value = group[name]
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{name} is {value!r}; it must be a whole number in [{low}, {high}]")
        check_range(name, value, low, high)
    for name, known in (("core", CORES), ("block", BLOCKS), ("tail", TAILS), ("grafting", GRAFTINGS)):
        if group[name] not in known:
            raise ConfigError(f"{name} is {group[name]!r}; known: {', '.join(known)}")
    for name in ("maximize", "graph", "precondition"):
        if not isinstance(group[name], bool):
            raise ConfigError(f"{name} is {group[name]!r}; it must be True or False")
    if (group["heads"] > 1) != (group["block"] == "head"):
        raise ConfigError(
            f"heads is {group['heads']} with block {group['block']!r}; more than one goes with 'head' only"
        )
    if group["rank"] == 0 and group["tail"] == "none":
        raise ConfigError("rank is 0 and tail is 'none'; nothing would move")


def _refuse_nonfinite(magnitudes: list[Tensor]) -> None:
    """NumericalError if one of these numbers is not finite; one look at each device for all of them."""
    found: dict[torch.device, list[Tensor]] = defaultdict(list)
    for number in magnitudes:
        found[number.device].append(number)
    if all(math.isfinite(torch.stack(numbers).sum().item()) for numbers in found.values()):
        return
    raise NumericalError(
        "a gradient is not finite; nothing was changed: lower the learning rate, clip gradients, or, with float16, "
        "use torch.amp.GradScaler"
    )
