"""Matrix products, with weights laid out for the device they run on."""

from __future__ import annotations

import torch
import torch.nn.functional as F

_ROWS_HINT = 64  # batch size that oneDNN lays the weights out for; smaller and larger ones use the same layout


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively; a CPU without it takes 10 times as long as in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class Linear:
    """y = x W^T + b, W (out, in). On the CPU, W is reordered once by oneDNN, which at this project's sizes is up to
    three times as fast as the plain layout (docs/log.md, 2026-11-23); the plain copy is not kept.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.bias = bias
        self.packed = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_HINT) if self.packed else weight

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in) -> (N, out)."""
        if self.packed:
            y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
            return y
        return F.linear(x, self.weight, self.bias)

    def add_to(self, residual: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """residual + y, in one pass where the library can."""
        if self.packed:
            total: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.weight, self.bias, "add")
            return total
        total = torch.addmm(residual, x, self.weight.t())
        return total if self.bias is None else total + self.bias
