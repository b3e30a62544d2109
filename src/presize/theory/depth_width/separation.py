"""The separation rank of a network for a partition of its input, bounded from below by the rank of a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from presize.errors import ConfigError, check_range
from presize.theory.depth_width.modular import PRIME, Residues, rank
from presize.theory.depth_width.network import Network, check_shape, summands

_AT_ONCE = 2**15  # inputs of one call of the network


def two_position_rank(depth: int, width: int, heads: int = 1) -> int:
    """Rank of the grid of two positions, one on either side. More positions can give more.

    binom(d_x + C(L), d_x), C(L) = (3^L - 1) / 2: all polynomials of degree C(L) in d_x variables. For two layers of
    many small heads some are missing: as many as the coefficient of t^4 in (2 - (1 - t)^d_a)^H, if it and those before
    it are positive. What the second position contributes in degree 4 lies in the ideal of the products of a head's key
    with its value, and that is the dimension of what is outside (Froberg's count, for heads in general position).

    Neither is in the paper: both are inferred, and equal to the computed rank wherever that was tried. For three layers
    and more that was no wider than 4; there the heads do not count in this function.
    """
    check_shape(depth, width, heads)
    full = math.comb(width + summands(depth), width)
    return full - _outside(heads, width // heads) if depth == 2 else full


def _outside(heads: int, size: int) -> int:
    """Coefficient of t^4 in (2 - (1 - t)^d_a)^H, and 0 after the first that is not positive."""
    terms = [1] + [-((-1) ** k) * math.comb(size, k) for k in range(1, 5)]
    power = [1, 0, 0, 0, 0]
    for _ in range(heads):
        power = [sum(power[i] * terms[k - i] for i in range(k + 1)) for k in range(5)]
    return power[4] if min(power) > 0 else 0


def grid(
    network: Network, left: Residues, right: Residues, members: Sequence[int], position: int = 0, entry: int = 0
) -> Residues:
    """(R, S) outputs modulo PRIME: row r has ``left[r]`` on the positions ``members``, column s ``right[s]`` elsewhere.

    left: (R, |A|, d_x), right: (S, |B|, d_x); A = members, B = the other positions of [0, |A| + |B|). Its rank is at
    most sep(y; A, B), whatever is put in. `assignments` makes the paper's grid of template vectors.
    """
    count = left.shape[1] + right.shape[1]
    if sorted(set(members)) != sorted(members) or not all(0 <= m < count for m in members):
        raise ConfigError(f"members is {list(members)}; it must be different positions in [0, {count - 1}]")
    if len(members) != left.shape[1]:
        raise ConfigError(f"members has {len(members)} positions, and left {left.shape[1]}; they must be as many")
    check_range("position", position, 0, count - 1)
    check_range("entry", entry, 0, network.width - 1)
    others = [place for place in range(count) if place not in members]
    rows = []
    step = max(_AT_ONCE // len(right), 1)
    for start in range(0, len(left), step):
        part = left[start : start + step]
        inputs = np.empty((len(part), len(right), count, network.width), dtype=np.uint64)
        inputs[:, :, list(members)] = part[:, None]
        inputs[:, :, others] = right[None]
        flat = inputs.reshape(-1, count, network.width)
        rows.append(network.entry(flat, position, entry).reshape(len(part), len(right)))
    return np.concatenate(rows)


def assignments(templates: Residues, positions: int) -> Residues:
    """(M^positions, positions, d_x): every way to put one of (M, d_x) templates on each position."""
    picks = np.indices((len(templates),) * positions).reshape(positions, -1).T
    return np.asarray(templates[picks])


def measured_rank(network: Network, at_most: int, rng: np.random.Generator, positions: int = 2) -> int:
    """Rank of a grid of ``at_most`` random inputs on either half of the positions, which is a lower bound of sep.

    With ``at_most`` above the separation rank it is that rank, except with probability of about degree / PRIME.
    """
    check_range("positions", positions, 2, 64)
    half = positions // 2
    left = rng.integers(0, PRIME, (at_most, half, network.width), dtype=np.uint64)
    right = rng.integers(0, PRIME, (at_most, positions - half, network.width), dtype=np.uint64)
    return rank(grid(network, left, right, range(half)))
