"""Numba kernels for the CPU. They take numpy arrays; bfloat16 values are uint16 in them."""
