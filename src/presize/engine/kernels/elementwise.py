"""Normalisation and activation on the CPU, each in one pass; torch's take five to ten passes in bfloat16."""

from __future__ import annotations

import numpy as np
from numba import njit

from presize.engine.kernels.parallel import even_bounds, parallel_for
from presize.engine.kernels.simd import LOG2E, exp2, narrow, widen

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


@njit(nogil=True, cache=True)
def rms_norm(threads, x, weight, epsilon, output):
    """output (N, C) <- x / sqrt(mean of x^2 over C + epsilon) * weight (C,)."""
    parallel_for(_norm_rows, even_bounds(len(x), threads), (x, weight, epsilon, output))


@njit(fastmath=True, nogil=True, error_model="numpy")
def _norm_rows(start, stop, x_all, weight, epsilon, output_all):
    for n in range(start, stop):
        x, output = x_all[n], output_all[n]
        total = _ZERO
        for i in range(len(x)):
            value = widen(x[i])
            total += value * value
        factor = _ONE / np.sqrt(total / np.float32(len(x)) + epsilon)
        like = output[0]
        for i in range(len(x)):
            output[i] = narrow(widen(x[i]) * factor * widen(weight[i]), like)


@njit(nogil=True, cache=True)
def silu_and_multiply(threads, gate_up, output):
    """output (N, M) <- silu(gate) * up; gate_up (N, 2M): gate, then up."""
    parallel_for(_activate_rows, even_bounds(len(output), threads), (gate_up, output))


@njit(fastmath=True, nogil=True, error_model="numpy")
def _activate_rows(start, stop, gate_up, output_all):
    size = output_all.shape[1]
    for n in range(start, stop):
        gate, up, output = gate_up[n, :size], gate_up[n, size:], output_all[n]
        like = output[0]
        for i in range(size):
            value = widen(gate[i])
            output[i] = narrow(value * widen(up[i]) / (_ONE + exp2(-value * LOG2E)), like)
