"""Where the tests of the engine run: everything on the CPU, and on a GPU too where there is one.

Without a GPU, Triton's interpreter runs the kernels if Triton is installed; it cuts bfloat16 off instead of rounding.
"""

from __future__ import annotations

import importlib.util

import pytest
import torch

from presize.engine.attention import CpuAttention, CudaAttention

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
TRITON_DEVICE = DEVICES[-1]
TRITON_TYPES = (torch.float32, torch.bfloat16) if TRITON_DEVICE == "cuda" else (torch.float32,)
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed: it comes with CUDA builds of torch"
)
ATTENTIONS = (CpuAttention, pytest.param(CudaAttention, marks=needs_triton))
