"""The probe on hidden states as a torch module; `presize.predict.hidden` computes the same in numpy."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from presize.core.lengths import FloatArray, IntArray
from presize.predict.features import SIDES, Float32
from presize.predict.hidden import LIMIT, Hidden
from presize.predict.learned import states_of
from presize.predict.train.loop import Schedule, bias_of, fit, hazard_loss
from presize.predict.train.task import TRAINERS, Task

_HIDDEN, _DROPOUT = 128, 0.4
_SCHEDULE = Schedule(epochs=30, batch_size=64, patience=4)
_RATE, _DECAY = 1e-3, 0.05


@TRAINERS.register("hidden")
def train_hidden(task: Task) -> Hidden:
    """ConfigError if the states of the log's prompts are not known."""
    torch.manual_seed(task.recipe.seed)
    states, held_out = states_of(task.answers.queries), states_of(task.held_out.queries)
    net = HiddenNet(states, bias_of(task))
    read, sides = torch.from_numpy(states), torch.from_numpy(task.answers.sides)

    def inputs(rows: IntArray) -> tuple[Tensor, ...]:
        return read[rows], sides[rows]

    held_out_loss = hazard_loss(task.held_out, task.cells)

    def validate() -> float:
        logits = net.stored().logits(held_out, task.held_out.sides)
        return float(held_out_loss(torch.from_numpy(logits), torch.arange(len(logits))))

    optimizer = torch.optim.AdamW(net.parameters(), lr=_RATE, weight_decay=_DECAY)
    sizes = np.ones(len(states), dtype=np.int64)
    fit(net, inputs, sizes, hazard_loss(task.answers, task.cells), validate, optimizer, _SCHEDULE, task)
    return net.stored()


class HiddenNet(nn.Module):
    """(N, D) states and (N, 4) side inputs to K hazard logits. The names of the parameters are those of the arrays."""

    mean: Tensor
    scale: Tensor

    def __init__(self, states: Float32, bias: FloatArray, *, hidden: int = _HIDDEN, dropout: float = _DROPOUT) -> None:
        """``states``: those of the training rows, for mean and scale."""
        super().__init__()
        deviation = states.std(axis=0, dtype=np.float64)
        scale = np.where(deviation > 1e-6, 1.0 / np.maximum(deviation, 1e-6), 0.0)
        self.register_buffer("mean", torch.from_numpy(states.mean(axis=0, dtype=np.float64)).float())
        self.register_buffer("scale", torch.from_numpy(scale).float())
        size = states.shape[1] + len(SIDES)
        self.hidden = nn.Parameter(torch.randn(size, hidden) / math.sqrt(size))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.decode = nn.Parameter(torch.zeros(hidden, len(bias)))
        self.decode_bias = nn.Parameter(torch.from_numpy(bias).float())
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, sides: Tensor) -> Tensor:
        """(N, K)."""
        read = ((states - self.mean) * self.scale).clamp(-LIMIT, LIMIT)
        inner = nn.functional.relu(self.dropout(torch.cat([read, sides], dim=1)) @ self.hidden + self.hidden_bias)
        logits: Tensor = self.dropout(inner) @ self.decode + self.decode_bias
        return logits

    def stored(self) -> Hidden:
        """The same net in numpy."""
        return Hidden({name: value.detach().numpy().copy() for name, value in self.state_dict().items()})
