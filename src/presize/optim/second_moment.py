"""The second moments of a small layer's gradients, exactly, and how far each approximation is from them.

Of K gradients (m, n) of a layer with m outputs and n inputs, C = mean of vec(G) vec(G)^T, (m n, m n) in row-major
order, so that the block of output i, row i, is C[i n : (i + 1) n, i n : (i + 1) n]. Which matrix an approximation is
measured against matters: against all of C the Kronecker products win, against C's diagonal blocks low-rank blocks do.

The methods: diagonal (Adam); Kronecker products L (x) R / tr L of Shampoo and D (x) A of K-FAC; the diagonal blocks
themselves; blocks at rank r, each in its own best basis, or all (of a group, such as a head) in one that they share.
The appendix of the paper (Yen et al., NeurIPS 2023) is believed to make this comparison; its text was not available.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from presize.errors import ConfigError

MAX_NUMBERS = 4096  # weights of a layer whose matrix is made: 4096^2 numbers in float64 are 134 MB


def exact(grads: Tensor) -> Tensor:
    """C (m n, m n), float64, of gradients (K, m, n); ConfigError if it would be too large."""
    samples, rows, columns = grads.shape
    if rows * columns > MAX_NUMBERS:
        raise ConfigError(f"rows x columns is {rows} x {columns}; at most {MAX_NUMBERS} weights are looked at")
    flat = grads.reshape(samples, -1).double()
    return flat.mT @ flat / samples


def blocks_of(grads: Tensor) -> Tensor:
    """The diagonal blocks (m, n, n) of `exact`: for each output, of its incoming weights."""
    wide = grads.double().transpose(0, 1)
    return wide.mT @ wide / grads.shape[0]


def block_diagonal(blocks: Tensor) -> Tensor:
    """(m n, m n) of (m, n, n)."""
    matrix: Tensor = torch.block_diag(*blocks)
    return matrix


def shampoo(grads: Tensor) -> Tensor:
    """L (x) R / tr L with L = E[G G^T], R = E[G^T G]: of the trace of C."""
    wide = grads.double()
    left, right = (wide @ wide.mT).mean(0), (wide.mT @ wide).mean(0)
    return torch.kron(left, right) / left.trace().clamp(min=torch.finfo(left.dtype).tiny)


def kfac(inputs: Tensor, deltas: Tensor, samples: int) -> Tensor:
    """E[d d^T] (x) E[a a^T] of a layer's inputs a (T, n) and the gradients d (T, m) at its outputs.

    For ``samples`` gradients that are sums over T / samples tokens each, taken as independent.
    """
    factors = [wide.double().mT @ wide.double() for wide in (deltas, inputs)]
    return torch.kron(factors[0], factors[1]) / (len(inputs) * samples)


def own_basis(blocks: Tensor, rank: int) -> Tensor:
    """Each block (m, n, n) at its best approximation of this rank."""
    values, vectors = torch.linalg.eigh(blocks)
    values, vectors = values[:, -rank:], vectors[..., -rank:]
    return (vectors * values.unsqueeze(-2)) @ vectors.mT if rank else torch.zeros_like(blocks)


def shared_basis(blocks: Tensor, rank: int, groups: int = 1) -> Tensor:
    """Blocks (m, n, n) as U S_i U^T, one U for each of ``groups`` runs of blocks: top eigenvectors of their sum.

    S_i = U^T C_i U, the best core for that U. The best U maximises sum_i ||U^T C_i U||^2; the sum's eigenvectors are
    what the optimizer follows. ConfigError if the groups do not divide the blocks.
    """
    if len(blocks) % groups:
        raise ConfigError(f"heads is {groups}; it must divide the {len(blocks)} rows")
    parts = []
    for part in blocks.chunk(groups):
        basis = torch.linalg.eigh(part.sum(0)).eigenvectors[:, part.shape[-1] - rank :]
        parts.append(basis @ (basis.mT @ part @ basis) @ basis.mT)
    return torch.cat(parts)


def error(approximation: Tensor, reference: Tensor) -> float:
    """Relative error in Frobenius norm."""
    scale = reference.norm()
    return float((approximation - reference).norm() / scale) if scale > 0 else 0.0


def errors(
    grads: Tensor, inputs: Tensor, deltas: Tensor, ranks: Sequence[int], heads: int = 1
) -> dict[str, dict[str, float]]:
    """Method -> {"full": error against C, "blocks": error against C's diagonal blocks}, by row, by column, by head."""
    samples = len(grads)
    full, rows = exact(grads), blocks_of(grads)
    reference = block_diagonal(rows)
    found = {
        name: {"full": error(matrix, full)}
        for name, matrix in (
            ("diagonal", torch.diag(full.diagonal())),
            ("shampoo", shampoo(grads)),
            ("kfac", kfac(inputs, deltas, samples)),
        )
    }
    found["diagonal"]["blocks"] = error(torch.diag(full.diagonal()), reference)
    by_direction = {"row": (rows, 1), "column": (blocks_of(grads.mT), 1)}
    if heads > 1:
        by_direction["head"] = (rows, heads)
    norm, mass = full.norm() ** 2, {}
    for direction, (blocks, groups) in by_direction.items():
        mass[direction] = norm - blocks.norm() ** 2  # of C outside of the blocks
        found[f"blocks by {direction}"] = {"full": float((mass[direction] / norm).clamp(min=0).sqrt()), "blocks": 0.0}
        for rank in ranks:
            rank_here = min(rank, blocks.shape[-1])
            kinds = {"own": own_basis(blocks, rank_here), "shared": shared_basis(blocks, rank_here, groups)}
            if groups > 1:
                del kinds["own"]  # a basis of one's own knows no groups
            for kind, approximation in kinds.items():
                missing = (approximation - blocks).norm() ** 2
                found[f"{kind} basis by {direction}, rank {rank}"] = {
                    "full": float(((mass[direction] + missing) / norm).clamp(min=0).sqrt()),
                    "blocks": error(approximation, blocks),
                }
    return found


def heat_map(matrix: Tensor, cells: int) -> Tensor:
    """(cells, cells): mean of the squared entries over equal areas, the largest 1; at most one cell an entry."""
    squared = matrix.double().square()
    pooled = torch.nn.functional.adaptive_avg_pool2d(squared[None, None], min(cells, len(matrix)))[0, 0]
    return pooled / pooled.max().clamp(min=torch.finfo(pooled.dtype).tiny)
