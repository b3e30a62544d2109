"""Normalisation and activation of the decoder: numba kernels on the CPU, torch operations elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from presize.engine.kernels import elementwise as kernels


class RmsNorm:
    """x / sqrt(mean of x^2 over the last dimension + epsilon) * weight, in the type of x."""

    def __init__(self, weight_C: torch.Tensor, epsilon: float) -> None:
        self.weight_C, self.epsilon = weight_C, epsilon
        self._raw = raw(weight_C) if weight_C.device.type == "cpu" else None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(..., C) -> (..., C)."""
        if self._raw is None:
            return F.rms_norm(x, self.weight_C.shape, self.weight_C, self.epsilon)
        rows = x.reshape(-1, self._raw.size)
        output = torch.empty_like(rows)
        kernels.rms_norm(torch.get_num_threads(), raw(rows), self._raw, np.float32(self.epsilon), raw(output))
        return output.view(x.shape)


def silu_and_multiply(gate_up_NX: torch.Tensor) -> torch.Tensor:
    """(N, 2M): gate, then up -> (N, M): silu(gate) * up."""
    if gate_up_NX.device.type != "cpu":
        gate_NM, up_NM = gate_up_NX.chunk(2, dim=-1)
        return F.silu(gate_NM) * up_NM
    output_NM = gate_up_NX.new_empty(len(gate_up_NX), gate_up_NX.shape[1] // 2)
    kernels.silu_and_multiply(torch.get_num_threads(), raw(gate_up_NX), raw(output_NM))
    return output_NM


def raw(tensor: torch.Tensor) -> NDArray[Any]:
    """The tensor's own memory as a numpy array; bfloat16, which numpy does not have, as uint16."""
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
