"""Second moments of a layer's blocks in one shared basis of low rank: how they are kept, rotated, and inverted.

Letters in the shapes: G bases in a layer, B blocks that share a basis, N numbers in a block, R rank.

Only the abstract of "Block Low-Rank Preconditioner with Shared Basis for Stochastic Optimization" (Yen, Duvvuri,
Dhillon, Hsieh, NeurIPS 2023) was available. From it: each diagonal block of a layer's second-moment matrix is
approximated by a low-rank matrix, all blocks of a layer share one basis, and the approximation is kept up to date
cheaply. The rest is a reconstruction: subspace iteration on a sketch, the tail and how the rotation feeds it, roots of
the cores relative to their trace, and what stands in for gradients that a root has not seen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from presize.optim.blocks import Layout

BLOCK_FIELDS = ("core", "root", "projected", "tail")  # of the state, what is there for each block
_SEED = 0  # of the first basis: the same in every process, whatever the global generator does


def new_fields(layout: Layout, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """One layer's state before its first step."""
    groups, blocks, size, rank = layout.groups, layout.blocks, layout.size, layout.rank
    shapes = {
        "basis": (groups, size, rank),  # U, orthonormal columns
        "sketch": (groups, size, rank),  # Y, mean of sum over blocks of g g^T U at refreshes
        "core": (groups, blocks, rank, rank),  # S, running mean of p p^T with p = U^T g
        "root": (groups, blocks, rank, rank),  # (S / tr S)^(-1/2), as it was at the last refresh
        "projected": (groups, blocks, rank),  # U^T of the momentum
        "tail": (groups, blocks),  # rho, mean square of a coordinate outside of the basis
    }
    if layout.full:  # the basis is the identity and never turns
        del shapes["basis"], shapes["sketch"], shapes["tail"]
    return {name: torch.zeros(shape, dtype=dtype, device=device) for name, shape in shapes.items()}


def first_basis(grads: Tensor, rank: int) -> Tensor:
    """(..., N, R) orthonormal: a randomised range finder on the first gradients (..., B, N)."""
    generator = torch.Generator().manual_seed(_SEED)
    omega = torch.randn(grads.shape[-1], rank, generator=generator, dtype=grads.dtype).to(grads.device)
    basis: Tensor = torch.linalg.qr(grads.mT @ (grads @ omega)).Q
    return basis


def rotated(basis: Tensor, sketch: Tensor, core: Tensor, tail: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One subspace iteration: basis (..., N, R), sketch, core (..., B, R, R) and tail (..., B) after it.

    The new basis U' spans the sketch. What is known is moved into it by R = U'^T U: of C = U S U^T + rho (I - U U^T)
    the core is S' = R S R^T + rho (I - R R^T), and the trace that it does not have is the new tail's. Y' = Y R^T.
    """
    new_basis = torch.linalg.qr(sketch).Q
    turn = new_basis.mT @ basis
    fresh = torch.eye(turn.shape[-1], dtype=turn.dtype, device=turn.device) - turn @ turn.mT
    wide = turn.unsqueeze(-3)
    new_core = wide @ core @ wide.mT + tail[..., None, None] * fresh.unsqueeze(-3)
    size, rank = basis.shape[-2:]
    new_tail = tail + (trace(core) - trace(new_core)) / (size - rank)
    return new_basis, sketch @ turn.mT, new_core, new_tail.clamp_(min=0.0)


def times(wide: Tensor, thin: Tensor) -> Tensor:
    """wide (..., B, N) @ thin (..., N, R), in the order that reads ``wide`` along its rows in memory.

    For few columns BLAS is up to six times slower the other way.
    """
    return wide @ thin if wide.stride(-1) == 1 else (thin.mT @ wide.mT).mT


def squared_norms(view: Tensor) -> Tensor:
    """(..., B) of (..., B, N); torch reduces over strided numbers slowly, so there the squares are made first."""
    if view.stride(-1) == 1:
        norms: Tensor = torch.linalg.vector_norm(view, dim=-1)
        return norms.square_()
    return view.square().sum(-1)


def trace(matrices: Tensor) -> Tensor:
    """(...) of (..., R, R)."""
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)


def common_core(core: Tensor) -> Tensor:
    """(..., 1, R, R) with trace 1: what the blocks of (..., B, R, R) that share a basis have in common."""
    mean = core.mean(-3, keepdim=True)
    eye = torch.eye(core.shape[-1], dtype=core.dtype, device=core.device) / core.shape[-1]
    return torch.where(_scale(mean) > 0, mean / _scale(mean), eye)


def inverse_root(core: Tensor, common: Tensor, unseen: float) -> Tensor:
    """N_i^(-1/2), (..., R, R): N_i = (1 - unseen) S_i / tr S_i + unseen * common_i.

    A root is in use until the next refresh, while the gradients that it has not seen come to make up the share
    ``unseen`` of the second moment. A block's own core may be singular, or nothing at all, so for those gradients it is
    drawn to what the blocks have in common: by the assumption behind a shared basis, blocks differ in scale alone. With
    a refresh at every step nothing is unseen. Eigenvalues below what the type can tell from zero count as that much.
    torch.linalg.LinAlgError if the decomposition fails.
    """
    own = torch.where(_scale(core) > 0, core / _scale(core), common)
    values, vectors = torch.linalg.eigh(torch.lerp(own, common, unseen))
    scale = values.clamp(min=core.shape[-1] * torch.finfo(values.dtype).eps).rsqrt()
    result: Tensor = (vectors * scale.unsqueeze(-2)) @ vectors.mT
    return result


def _scale(matrices: Tensor) -> Tensor:
    return trace(matrices)[..., None, None]
