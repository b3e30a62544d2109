"""Random survival curves, and what is true of them, computed one token at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from presize.core.lengths import GRID, FloatArray, LengthDistribution


@st.composite
def curves(draw: st.DrawFn, max_limit: int = 2000) -> LengthDistribution:
    """Stretches of constant hazard, with flat stretches, sudden ends and a cut-off at any token among them."""
    stretches = draw(
        st.lists(
            st.tuples(st.integers(1, 60), st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]) | st.floats(0.0, 1.0)),
            max_size=6,
        )
    )
    hazard = np.zeros(GRID.size - 1)
    start = 0
    for cells, value in stretches:
        hazard[start : start + cells] = value
        start += cells
    survival = np.concatenate(([1.0], np.cumprod(1.0 - hazard)))
    return LengthDistribution.from_survival(survival, draw(st.integers(1, max_limit)))


def survival_by_token(curve: LengthDistribution, count: int) -> FloatArray:
    """P(length > t) for t = 0 .. count - 1 by numpy's own interpolation."""
    tokens = np.arange(count)
    return np.where(tokens < curve.limit, np.interp(tokens, GRID, curve.survival), 0.0)


@st.composite
def aged_curves(draw: st.DrawFn, max_limit: int = 2000) -> tuple[LengthDistribution, int]:
    """A curve, and how many tokens are out, so few that more are still to be hoped for."""
    curve = draw(curves(max_limit))
    alive = int((survival_by_token(curve, curve.limit) > 1e-6).sum())
    return curve, draw(st.integers(0, alive - 1))


def rest_by_token(curve: LengthDistribution, generated: int) -> FloatArray:
    """P(more than t tokens still come | ``generated`` are out) for t = 0, 1, ... up to where the curve is cut off.

    Only for a curve that still has hope at ``generated``.
    """
    survival = survival_by_token(curve, curve.limit)
    return survival[generated:] / survival[generated]


def drawn_lengths(curve: LengthDistribution, generated: int, count: int, rng: np.random.Generator) -> FloatArray:
    """``count`` lengths from the curve, each known to be longer than ``generated``."""
    survival = survival_by_token(curve, curve.limit + 1)
    level = rng.random(count) * survival[generated]
    # the length is the first n with S(n) <= level
    return survival.size - np.searchsorted(survival[::-1], level, side="right")
