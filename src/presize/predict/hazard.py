"""Discrete-time hazards: what a learned model gives, and what it is learned from.

A model knows the first K cells of `core.lengths.GRID`; hazard k is P(the answer ends in cell k | it gets there).
Beyond them a curve falls as Lindy's law says, S(t) = S(h) h / t. Shapes: N requests, K cells, G grid points.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from presize.core.lengths import GRID, WIDTHS, FloatArray, cell_of

MIN_HORIZON, MAX_HORIZON = 32, 65_536  # tokens


def cells_up_to(tokens: int) -> int:
    """K, so that the first K cells cover ``tokens``; clipped to [MIN_HORIZON, MAX_HORIZON]."""
    return int(np.searchsorted(GRID, min(max(tokens, MIN_HORIZON), MAX_HORIZON)))


def survival_of(hazards: FloatArray) -> FloatArray:
    """(N, G) curves from (N, K) hazards."""
    known = hazards.shape[1]
    curves = np.ones((len(hazards), GRID.size))
    np.cumprod(1.0 - hazards, axis=1, out=curves[:, 1 : known + 1])
    curves[:, known + 1 :] = curves[:, known, None] * (GRID[known] / GRID[known + 1 :])
    return curves


def hazards_of(curves: FloatArray, cells: int) -> FloatArray:
    """(N, K) hazards of (N, G) curves; 1/2 where a curve is 0 already."""
    before, after = curves[:, :cells], curves[:, 1 : cells + 1]
    return np.asarray(np.where(before > 1e-9, 1.0 - after / np.maximum(before, 1e-9), 0.5))


def sigmoid(logits: ArrayLike) -> FloatArray:
    """Hazards of logits; a logit beyond +-30 counts as that."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(np.asarray(logits, dtype=np.float64), -30.0, 30.0))))


def observed(output_tokens: ArrayLike, censored: ArrayLike, cells: int) -> tuple[FloatArray, FloatArray]:
    """(at_risk, ended), both (N, K): what N answers say about the hazards.

    The log likelihood is the sum of ended log h + (at_risk - ended) log(1 - h). An answer that was cut off in a cell
    was at risk for the part of it that was seen; one that ended beyond the K cells was at risk in all of them.
    """
    lengths = np.maximum(np.asarray(output_tokens, dtype=np.int64), 0)
    cut = np.asarray(censored, dtype=bool)
    starts, columns = GRID[:cells], np.arange(cells)
    at_risk = np.clip((lengths[:, None] - starts) / WIDTHS[:cells], 0.0, 1.0)
    last = cell_of(np.maximum(lengths - 1, 0)).astype(np.int64)  # a length L lies in (GRID[k], GRID[k + 1]]
    ended = ((columns == last[:, None]) & ~cut[:, None]).astype(np.float64)
    return np.maximum(at_risk, ended), ended


def base_hazards(at_risk: FloatArray, ended: FloatArray, weight: float = 2.0) -> FloatArray:
    """(K,): one hazard a cell for all answers, drawn towards the neighbours' by ``weight`` answers."""
    ends, risks = ended.sum(axis=0), at_risk.sum(axis=0)
    widths = WIDTHS[: len(ends)].astype(np.float64)
    rate = (ends.sum() + 1.0) / ((risks * widths).sum() + widths[0])  # a token's hazard, taken as constant
    prior = 1.0 - np.exp(-rate * widths)
    return np.asarray(np.clip((ends + weight * prior) / (risks + weight), 1e-6, 1.0 - 1e-6))
