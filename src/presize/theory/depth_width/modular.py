"""Exact linear algebra modulo the prime 2^31 - 1, on floating-point matrix products.

A residue is below 2^31. It is cut into its upper 15 and lower 16 bits, so that 64 products of a part with a residue
add up to less than 2^53, which float64 holds exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Residues = NDArray[np.uint64]

PRIME = 2**31 - 1
_SUMMED = 64  # products that are added up before they are reduced
_PANEL = 64  # columns that are eliminated together
_MASK, _BITS = np.uint64(PRIME), np.uint64(31)


def reduce(values: Any) -> Residues:
    """Residues in [0, PRIME) of values in [0, 2^64), by 2^31 = 1 modulo the prime."""
    folded = (values & _MASK) + (values >> _BITS)
    folded = (folded & _MASK) + (folded >> _BITS)
    return np.asarray(np.where(folded >= _MASK, folded - _MASK, folded), dtype=np.uint64)


def matmul(left: Residues, right: Residues) -> Residues:
    """(m, k) @ (k, n) modulo the prime."""
    total = np.zeros((left.shape[0], right.shape[1]), dtype=np.uint64)
    for start in range(0, left.shape[1], _SUMMED):
        part, other = left[:, start : start + _SUMMED], right[start : start + _SUMMED].astype(np.float64)
        upper = ((part >> np.uint64(16)).astype(np.float64) @ other).astype(np.uint64)
        lower = ((part & np.uint64(0xFFFF)).astype(np.float64) @ other).astype(np.uint64)
        total = reduce(total + (reduce(upper) << np.uint64(16)) + lower)
    return total


def inner(left: Residues, right: Residues) -> Residues:
    """Sum over the first axis of the products, modulo the prime; the other axes broadcast."""
    products = left * right
    return reduce(((products & _MASK) + (products >> _BITS)).sum(axis=0))


def rank(matrix: Residues) -> int:
    """Rank of an (m, n) matrix over the field of PRIME elements, by Gaussian elimination in panels of columns.

    It is never more than the rank over the rationals of integers with these residues.
    """
    work = np.array(matrix, dtype=np.uint64)
    found = 0
    for start in range(0, work.shape[1], _PANEL):
        found += _eliminate(work[found:, start:], min(_PANEL, work.shape[1] - start))
        if found == work.shape[0]:
            break
    return found


def _eliminate(work: Residues, width: int) -> int:
    """Eliminate the first ``width`` columns of ``work``, in place; how many pivots there were, now its first rows."""
    pivots = 0
    lower = np.zeros((work.shape[0], width), dtype=np.uint64)  # multipliers, a column for each pivot
    for column in range(width):
        if pivots == work.shape[0]:
            break
        candidates = np.flatnonzero(work[pivots:, column])
        if not candidates.size:
            continue
        other = pivots + int(candidates[0])
        if other != pivots:
            work[[pivots, other]] = work[[other, pivots]]
            lower[[pivots, other]] = lower[[other, pivots]]
        inverse = np.uint64(pow(int(work[pivots, column]), -1, PRIME))
        factors = reduce(work[pivots + 1 :, column] * inverse)
        lower[pivots + 1 :, pivots] = factors
        row = work[pivots, column:width]
        work[pivots + 1 :, column:width] = _minus(work[pivots + 1 :, column:width], reduce(factors[:, None] * row))
        pivots += 1
    rest = work[:, width:]
    if rest.shape[1] and pivots:
        for row_number in range(1, pivots):
            known = lower[row_number : row_number + 1, :row_number]
            rest[row_number] = _minus(rest[row_number], matmul(known, rest[:row_number])[0])
        rest[pivots:] = _minus(rest[pivots:], matmul(lower[pivots:, :pivots], rest[:pivots]))
    return pivots


def _minus(left: Residues, right: Residues) -> Residues:
    return np.where(left >= right, left - right, left + _MASK - right)
