"""The empirical law of where depth stops being worth more than width, and what it says of a shape.

    ln d_x(L) = a + b L,    a = 5.039 +- 0.030,    b = 0.0555 +- 0.0013    (R^2 = 0.998)

A network of L layers that is narrower than d_x(L) is so deep that a shallower one of the same size is as good or
better. A size N = 12 L d_x^2 (parameters without embeddings) is spent best at the L that solves
12 L exp(2a + 2bL) = N. The form is what the theory says, the slope is measured: by log_3 alone it would be 1.0986.
Levine et al., NeurIPS 2020; fitted to decoders of 6 to 48 layers and 1e6 to 6e8 parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from presize.errors import ConfigError, check_range
from presize.theory.depth_width.network import check_shape
from presize.theory.depth_width.shapes import Shape, default_head_size, law_parameters

INTERCEPT, INTERCEPT_ERROR = 5.039, 0.030
SLOPE, SLOPE_ERROR = 5.55e-2, 1.3e-3
FITTED_DEPTHS, FITTED_PARAMETERS = (6, 48), (1e6, 6e8)
LEAST_PARAMETERS, MOST_PARAMETERS = 1e5, 1e14
# Our convention, not the paper's: shapes this near the optimum count as on it, since loss is flat there. It takes in
# the 76 layers that Jurassic-1 chose where the law says 80.5.
BALANCED = 0.1

_MANY, _EVEN = 64, 8  # networks of so many heads are split over devices, so their number is a multiple

TOO_DEEP, ON_IT, TOO_SHALLOW = "too deep", "balanced", "too shallow"


def transition_width(depth: float) -> float:
    """d_x(L) of the law."""
    check_range("depth", depth, 1, 500)
    return math.exp(INTERCEPT + SLOPE * depth)


def transition_parameters(depth: float) -> float:
    """12 L d_x(L)^2: the size at which this depth is the best one."""
    return 12 * depth * transition_width(depth) ** 2


@dataclass(frozen=True, slots=True)
class Optimum:
    """Best shape of a size, as the law says it: not rounded. ``depth_error``: one standard deviation of the law's."""

    parameters: float
    depth: float
    width: float
    depth_error: float
    notes: tuple[str, ...]  # what to doubt

    @property
    def width_range(self) -> tuple[float, float]:
        """The widths that go with a depth one standard deviation more, and less."""
        low, high = self.depth + self.depth_error, max(self.depth - self.depth_error, 1e-3)
        return math.sqrt(self.parameters / 12 / low), math.sqrt(self.parameters / 12 / high)


def optimum(parameters: float, embedding_rank: int | None = None) -> Optimum:
    """Depth and width for a size N = 12 L d_x^2, without embeddings.

    embedding_rank: rank of the input embedding, at most the vocabulary. More width than this is of no use (Wies et al.,
    ICML 2021: above the threshold log sep ~ L min(rank, d_x)), so the width is capped by it and the rest goes to depth.
    """
    check_range("parameters", parameters, LEAST_PARAMETERS, MOST_PARAMETERS)
    depth = _solve(parameters)
    slope = 1.0 / depth + 2 * SLOPE
    error = math.hypot(2 * INTERCEPT_ERROR / slope, 2 * depth * SLOPE_ERROR / slope)  # a and b as independent
    width = math.sqrt(parameters / (12 * depth))
    notes = []
    if embedding_rank is not None:
        check_range("embedding_rank", embedding_rank, 1, 2**31)
        if embedding_rank < width:
            notes.append(
                f"the embedding's rank {embedding_rank:,} caps the width, else {width:,.0f}; the rest is depth"
            )
            width, depth = float(embedding_rank), parameters / (12 * embedding_rank**2)
    if note := _outside("depth", depth, *FITTED_DEPTHS):
        notes.append(note)
    if note := _outside("size", parameters, *FITTED_PARAMETERS):
        notes.append(note)
    return Optimum(parameters, depth, width, error, tuple(notes))


def _solve(parameters: float) -> float:
    """L with ln L + 2bL = ln(N / 12) - 2a, by Newton's method on a concave function from the left."""
    goal = math.log(parameters / 12) - 2 * INTERCEPT
    depth = 1e-3
    for _ in range(100):
        step = (goal - math.log(depth) - 2 * SLOPE * depth) / (1 / depth + 2 * SLOPE)
        depth += step
        if abs(step) < 1e-12 * depth:
            break
    return depth


def _outside(name: str, value: float, low: float, high: float) -> str:
    if low <= value <= high:
        return ""
    return f"extrapolated: the law was fitted to a {name} of {low:.4g} to {high:.4g}, and this is {value:.3g}"


def optimal_shape(parameters: float, head_size: int | None = None, embedding_rank: int | None = None) -> Shape:
    """The optimum in whole layers and whole heads; its size differs from the asked one by as much as that takes."""
    best = optimum(parameters, embedding_rank)
    return shape_of(parameters, max(round(best.depth), 1), head_size)


def shape_of(parameters: float, depth: int, head_size: int | None = None) -> Shape:
    """The shape of this depth whose 12 L d_x^2 is nearest to ``parameters``, in whole heads."""
    check_shape(depth, 1)
    width = math.sqrt(parameters / (12 * depth))
    size = default_head_size(width) if head_size is None else head_size
    check_range("head_size", size, 1, 1024)
    even = _EVEN if width / size >= _MANY else 1
    heads = max(round(width / size / even), 1) * even
    return Shape(depth, heads * size, heads)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the law says of a shape.

    best: the optimum of the same 12 L d_x^2. log_ratio: ln(depth / best depth), so > 0 is deeper. kv_ratio: KV
    elements a token, if all heads have keys, relative to the best shape's; sqrt(L / L*), since L d_x = sqrt(L N / 12).
    """

    verdict: str
    best: Optimum
    log_ratio: float
    kv_ratio: float


def judge(depth: int, width: int, embedding_rank: int | None = None) -> Judgement:
    """Too deep, balanced or too shallow, for its size; balanced is within two errors of the law or `BALANCED`."""
    check_shape(depth, width)
    parameters = law_parameters(depth, width)
    if not LEAST_PARAMETERS <= parameters <= MOST_PARAMETERS:
        raise ConfigError(
            f"depth {depth} and width {width} make {parameters:.3g} parameters; the law can be asked about "
            f"{LEAST_PARAMETERS:.0e} to {MOST_PARAMETERS:.0e}"
        )
    best = optimum(parameters, embedding_rank)
    ratio = math.log(depth / best.depth)
    near = abs(depth - best.depth) <= max(2 * best.depth_error, BALANCED * best.depth)
    verdict = ON_IT if near else TOO_DEEP if ratio > 0 else TOO_SHALLOW
    return Judgement(verdict, best, ratio, depth * width / (best.depth * best.width))
