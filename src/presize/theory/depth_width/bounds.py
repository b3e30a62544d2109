"""Both theorems on the separation rank, with every constant. Logarithms are to the base 3."""

from __future__ import annotations

import math
from dataclasses import dataclass

from presize.errors import ConfigError
from presize.theory.depth_width.network import check_shape


@dataclass(frozen=True, slots=True)
class Bounds:
    """lower <= log_3 sep <= upper for almost all weights; ``lower`` may be negative, where it says nothing."""

    lower: float
    upper: float
    depth_efficient: bool


def threshold(width: float) -> float:
    """L_th = log_3(d_x): up to here depth adds doubly exponentially, beyond it as little as width."""
    check_shape(1, width)
    return math.log(width, 3)


def bounds(depth: int, width: int, heads: int) -> Bounds:
    """Those of the theorem that holds at this depth. ConfigError unless heads divide the width and are fewer."""
    efficient = depth <= threshold(width) + 1e-12  # a width of 3^L is on the edge, whatever its logarithm rounds to
    found = depth_efficient(depth, width, heads) if efficient else depth_inefficient(depth, width, heads)
    return Bounds(*found, efficient)


def depth_efficient(depth: int, width: int, heads: int) -> tuple[float, float]:
    """Theorem 1, for L <= log_3 d_x: log_3 sep grows like 3^L log d_x."""
    spare = _spare(depth, width, heads)
    lower = 3.0 ** (depth - 2) * (math.log(spare, 3) - depth + 2 - math.log(2, 3))
    return lower, (3.0**depth - 1) / 2 * math.log(width + heads, 3)


def depth_inefficient(depth: int, width: int, heads: int) -> tuple[float, float]:
    """Theorem 2, for L > log_3 d_x: log_3 sep grows like d_x L, so depth and width are worth the same."""
    spare = _spare(depth, width, heads)
    lower = width * depth / 2 - depth * (heads / 2 + 1) - width * (1 + math.log(spare / 2, 3) / 2)
    ratio = width / (2 * math.sqrt(2 * math.e))
    return lower, 2 * width * depth + depth - 2 * width * math.log(ratio, 3) + math.log(width, 3)


def _spare(depth: int, width: int, heads: int) -> int:
    check_shape(depth, width, heads)
    if heads >= width:
        raise ConfigError(f"heads is {heads}; the theorems need fewer heads than the width {width}: [1, {width - 1}]")
    return width - heads
