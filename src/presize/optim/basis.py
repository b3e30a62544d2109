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
_SHIFT = 1e-15  # times the rank, added to squared lengths of 1: rows that are others' sums leave no pivot below zero
_FAINT = (
    1e-10  # of the old basis, after a first round: nothing beside rows of length 1, a direction where little is left
)
_SMALLEST = 1e-150  # length of a row; shorter ones are taken for zeros


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
    generator = torch.Generator("cpu").manual_seed(_SEED)
    omega = torch.randn(grads.shape[-1], rank, generator=generator, dtype=grads.dtype, device="cpu").to(grads.device)
    basis = torch.linalg.qr(grads.mT @ (grads @ omega)).Q
    inner = grads @ basis
    found: Tensor = (basis @ torch.linalg.eigh(inner.mT @ inner).eigenvectors.flip(-1)).mT.contiguous()
    return found


def orthonormal(rows: list[Tensor], bases: list[Tensor]) -> list[Tensor]:
    """Each (..., R, N) with its rows made orthonormal in their order, as Gram and Schmidt do, up to signs.

    Where rows span less than R directions, rows of ``bases``, of the same shapes, or others make up for them, so that a
    layer whose gradients come later has a basis.
    """
    if rows[0].is_cuda:
        return cholesky_qr(rows, bases)
    return [torch.linalg.qr(part.mT).Q.mT for part in rows]


def cholesky_qr(rows: list[Tensor], bases: list[Tensor]) -> list[Tensor]:
    """What `orthonormal` gives, in a few calls for all layers, where a decomposition on a GPU is a launch a column.

    With L L^T the rows' products with each other, L^-1 times the rows is orthonormal. Products are taken in float64,
    and all of it twice (Yamamoto et al., "Roundoff error analysis of the CholeskyQR2 algorithm", ETNA 2015), so that
    rows as parallel as float32 can tell are told apart. R is the same for all.
    """
    found = [part.double().reshape(-1, *part.shape[-2:]) for part in rows]
    wide_bases = [basis.double().reshape(part.shape) for basis, part in zip(bases, found, strict=True)]
    counts, rank = [len(part) for part in found], rows[0].shape[-2]
    eye = torch.eye(rank, dtype=torch.float64, device=rows[0].device)
    for faint in (0.0, _FAINT):
        found = [
            torch.nn.functional.normalize(torch.add(part, basis, alpha=faint), dim=-1, eps=_SMALLEST)
            for part, basis in zip(found, wide_bases, strict=True)
        ]
        grams = torch.cat([part @ part.mT for part in found])
        factors = torch.linalg.cholesky_ex(grams.add_(eye, alpha=_SHIFT * rank)).L
        turns = torch.linalg.solve_triangular(factors, eye.expand_as(factors), upper=False)
        found = [turn @ part for turn, part in zip(turns.split(counts), found, strict=True)]
    return [part.view(old.shape).to(old.dtype) for part, old in zip(found, rows, strict=True)]


def projected(view: Tensor, basis: Tensor) -> Tensor:
    """P, (..., B, R), of blocks (..., B, N) and a basis (..., R, N)."""
    # With few rows on the left, BLAS on a CPU is up to six times faster than with few columns on the right; on a GPU,
    # cuBLAS has kernels for products of 8 or 16 rows by a few hundred columns that are 4 to 8 times slower.
    return view @ basis.mT if view.is_cuda else (basis @ view.mT).mT


def sketched(view: Tensor, inner: Tensor) -> Tensor:
    """P^T G, (..., R, N), of blocks (..., B, N) and what they are in a basis (..., B, R)."""
    return (view.mT @ inner).mT if view.is_cuda else inner.mT @ view  # as above


def squared_norms(view: Tensor) -> Tensor:
    """(..., B) of (..., B, N); torch reduces over strided numbers slowly, so there the squares are made first."""
    if view.stride(-1) == 1:
        norms: Tensor = torch.linalg.vector_norm(view, dim=-1)
        return norms.square_()
    return view.square().sum(-1)
