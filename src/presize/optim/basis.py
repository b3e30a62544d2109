"""The basis that a layer's blocks share: how it is found, how it follows the gradients, products with it.

Letters in the shapes: G bases in a layer, B blocks that share a basis, N numbers in a block, R rank.

Only the abstract of "Block Low-Rank Preconditioner with Shared Basis for Stochastic Optimization" (Yen, Duvvuri,
Dhillon, Hsieh, NeurIPS 2023) was available. From it: each diagonal block of a layer's second-moment matrix is
approximated by a low-rank matrix, all blocks of a layer share one basis, and the approximation is kept up to date
cheaply. The rest is a reconstruction: orthogonal iteration on a sketch, diagonal cores, the tail and how a rotation
feeds it; with whole cores, roots relative to their trace and what stands in for gradients that a root has not seen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from presize.optim.blocks import Layout
from presize.optim.cores import CORES

_SEED = 0  # of the first basis: the same in every process, whatever the global generator does


def block_fields(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Shapes of what the state has for each block."""
    groups, blocks, rank = layout.groups, layout.blocks, layout.rank
    shapes = {
        **CORES[layout.core].shapes(groups, blocks, rank),
        "projected": (groups, blocks, rank),  # of the momentum
    }
    return shapes if layout.full else shapes | {"tail": (groups, blocks)}  # rho, mean square outside of the basis


def new_fields(layout: Layout, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """One layer's state before its first step."""
    shapes = block_fields(layout)
    if not layout.identity:
        for name in ("basis", "sketch"):  # U, rows orthonormal; Y, mean of the sum over blocks of U g g^T at refreshes
            shapes[name] = (layout.groups, layout.rank, layout.size)
    return {name: torch.zeros(shape, dtype=dtype, device=device) for name, shape in shapes.items()}


def first_basis(grads: Tensor, rank: int) -> Tensor:
    """(..., R, N), rows orthonormal: a randomised range finder on the first gradients (..., B, N), and within the range
    that it finds, the directions in which their sum of squares is diagonal.
    """
    generator = torch.Generator().manual_seed(_SEED)
    omega = torch.randn(grads.shape[-1], rank, generator=generator, dtype=grads.dtype).to(grads.device)
    basis = torch.linalg.qr(grads.mT @ (grads @ omega)).Q
    inner = grads @ basis
    found: Tensor = (basis @ torch.linalg.eigh(inner.mT @ inner).eigenvectors.flip(-1)).mT.contiguous()
    return found


def followed(basis: Tensor, sketch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One orthogonal iteration: the new basis V (..., R, N), spanning the sketch; V U^T; the sketch in it, V U^T Y."""
    new = torch.linalg.qr(sketch.mT).Q.mT
    turn = new @ basis.mT
    return new, turn, turn @ sketch


def projected(view: Tensor, basis: Tensor) -> Tensor:
    """(..., B, R) of blocks (..., B, N) and a basis (..., R, N).

    With few rows on the left, BLAS is up to six times faster than with few columns on the right.
    """
    return (basis @ view.mT).mT


def squared_norms(view: Tensor) -> Tensor:
    """(..., B) of (..., B, N); torch reduces over strided numbers slowly, so there the squares are made first."""
    if view.stride(-1) == 1:
        norms: Tensor = torch.linalg.vector_norm(view, dim=-1)
        return norms.square_()
    return view.square().sum(-1)
