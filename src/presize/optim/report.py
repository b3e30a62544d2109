"""What `presize optim report` shows: the second moments of a corner of one layer of each type of a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from presize.errors import ConfigError
from presize.optim.second_moment import errors, exact, heat_map

# type of a layer -> what its name ends in, in the models that people use
KINDS = {
    "query": r"(q_proj|query|to_q|wq)$",
    "key": r"(k_proj|key|to_k|wk)$",
    "value": r"(v_proj|value|to_v|wv)$",
    "output": r"(o_proj|out_proj|out|to_out|wo)$",
    "feed-forward in": r"(up_proj|gate_proj|fc1|fc_in|up|intermediate\.dense|linear1|w1)$",
    "feed-forward out": r"(down_proj|fc2|fc_out|down|linear2|w2)$",
}
CELLS = 96
Batch = Any


@dataclass(slots=True)
class Layer:
    """A layer's corner: of the first ``rows`` outputs and ``columns`` inputs."""

    name: str
    kind: str
    grads: list[Tensor] = field(default_factory=list)  # (m, n) of each batch
    inputs: list[Tensor] = field(default_factory=list)  # (tokens, n)
    deltas: list[Tensor] = field(default_factory=list)  # (tokens, m), of the loss


def chosen(model: nn.Module) -> list[Layer]:
    """The middle layer of each type; of a model whose names say nothing, every linear layer, up to eight."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    found = []
    for kind, pattern in KINDS.items():
        names = [name for name in linear if re.search(pattern, name)]
        if names:
            found.append(Layer(names[len(names) // 2], kind))
    if not found:
        found = [Layer(name, f"layer {name}") for name in linear[:8]]
    if not found:
        raise ConfigError("the model has no torch.nn.Linear; there is nothing to report on")
    return found


def sampled(
    model: nn.Module, batches: Iterable[Batch], loss: Callable[[nn.Module, Batch], Tensor], *,
    samples: int, rows: int, columns: int, progress: Callable[[str, int, int], None] = lambda *_: None,
) -> list[Layer]:  # fmt: skip
    """Gradients of ``samples`` batches, of the corners alone: no weight gets a gradient. The model is left as it was.

    ConfigError if there are too few batches or a loss that is not finite.
    """
    layers = chosen(model)
    modules = dict(model.named_modules())
    wanted = {param: param.requires_grad for param in model.parameters()}
    hooks = [modules[layer.name].register_forward_hook(_watch(layer, rows, columns)) for layer in layers]
    try:
        for param in wanted:
            param.requires_grad_(param.ndim == 1 or param is next(iter(wanted)))  # something must, for deltas to flow
        done = 0
        for batch in batches:
            value = loss(model, batch)
            if not torch.isfinite(value):
                raise ConfigError(f"the loss of batch {done + 1} is {value.item()}; it must be finite")
            value.backward()
            model.zero_grad(set_to_none=True)
            done += 1
            progress("gradients", done, samples)
            if done == samples:
                break
        if done < samples:
            raise ConfigError(f"samples is {samples}; there are only {done} batches")
    finally:
        for hook in hooks:
            hook.remove()
        for param, before in wanted.items():
            param.requires_grad_(before)
    return layers


def _watch(layer: Layer, rows: int, columns: int) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        inputs = args[0].detach().flatten(0, -2)[:, :columns].float()

        def received(grad: Tensor) -> None:
            deltas = grad.detach().flatten(0, -2)[:, :rows].float()
            layer.grads.append(deltas.mT @ inputs)
            layer.inputs.append(inputs)
            layer.deltas.append(deltas)

        output.register_hook(received)

    return hook


def report(layers: Sequence[Layer], ranks: Sequence[int], heads: int) -> list[dict[str, Any]]:
    """Of each layer its name, type, errors of the approximations, and the heat map of its second moments."""
    found = []
    for layer in layers:
        if not layer.grads:
            raise ConfigError(f"the layer {layer.name} had no gradient; is it in use?")
        grads = torch.stack(layer.grads)
        table = errors(grads, torch.cat(layer.inputs), torch.cat(layer.deltas), ranks, heads)
        heat = heat_map(exact(grads), CELLS)
        found.append({"name": layer.name, "type": layer.kind, "rows": grads.shape[1], "columns": grads.shape[2],
                      "errors": table, "heat": heat.tolist()})  # fmt: skip
    return found
