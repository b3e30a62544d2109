"""Normalisation and activation of the decoder: numba kernels on the CPU, torch operations elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """x / sqrt(mean of x^2 over the last dimension + epsilon) * weight, in the type of x."""
    if x.device.type != "cpu":
        return F.rms_norm(x, weight.shape, weight, epsilon)
    from presize.engine.kernels import elementwise

    output = torch.empty_like(x, memory_format=torch.contiguous_format)
    rows = x.reshape(-1, len(weight))
    elementwise.rms_norm(torch.get_num_threads(), raw(rows), raw(weight), np.float32(epsilon), raw(output.view(rows.shape)))
    return output


def silu_and_multiply(gate_up_NX: torch.Tensor) -> torch.Tensor:
    """(N, 2M): gate, then up -> (N, M): silu(gate) * up."""
    if gate_up_NX.device.type != "cpu":
        gate_NM, up_NM = gate_up_NX.chunk(2, dim=-1)
        return F.silu(gate_NM) * up_NM
    from presize.engine.kernels import elementwise

    output_NM = gate_up_NX.new_empty(len(gate_up_NX), gate_up_NX.shape[1] // 2)
    elementwise.silu_and_multiply(torch.get_num_threads(), raw(gate_up_NX), raw(output_NM))
    return output_NM


def raw(tensor: torch.Tensor) -> NDArray[Any]:
    """The tensor's own memory as a numpy array; bfloat16, which numpy does not have, as uint16."""
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
