"""The core of a block, its second moment within the shared basis: kept as a diagonal, or as the whole matrix.

Letters in the shapes: A blocks of all layers, B blocks that share a basis, R rank. `presize.optim.basis` says what of
this is the paper's and what reconstructed.
"""

from __future__ import annotations

import torch
from torch import Tensor


class DiagonalCores:
    """S_i = diag(s_i): the basis is where the blocks' second moments are all nearly diagonal, and each is scaled there.

    Orthogonal iteration aligns the basis with the eigenvectors of the blocks' sum, so that what is dropped is only in
    what way a block differs from the layer's common core. No decomposition, and nothing that is out of date.
    """

    def __init__(self, flat: dict[str, Tensor]) -> None:
        self.core = flat["core"]  # (A, R)

    @staticmethod
    def shapes(groups: int, blocks: int, rank: int) -> dict[str, tuple[int, ...]]:
        """Of a layer's state."""
        return {"core": (groups, blocks, rank)}  # running mean of p^2 with p = U^T g

    @staticmethod
    def numbers(rank: int) -> int:
        """Of a block's state."""
        return rank

    def observe(self, inner: Tensor, beta2: float) -> None:
        """Take in U^T g of every block, (A, R)."""
        self.core.mul_(beta2).addcmul_(inner, inner, value=1.0 - beta2)

    @staticmethod
    def mass(core: Tensor) -> Tensor:
        """(...) of cores (..., R): the trace of the second moment in the basis."""
        return core.sum(-1)

    @staticmethod
    def turned(core: Tensor, turn: Tensor, tail: Tensor | None) -> Tensor:
        """The diagonal of what `FullCores.turned` gives."""
        squares = turn.square()
        new = core @ squares.mT
        if tail is not None:
            new.addcmul_(tail.unsqueeze(-1), (1.0 - squares.sum(-1)).clamp_(min=0.0).unsqueeze(-2))
        return new

    def renew(self, cores: list[Tensor], unseen: float) -> None:
        """Nothing is derived from the cores, so there is nothing to renew."""

    def solve(self, vectors: Tensor, mass: Tensor, correction: Tensor, eps: float) -> Tensor:
        """S_i^(-1/2) v_i, (A, R), with second moments divided by ``correction`` and ``eps`` added to their roots.

        Where all gradients lie in fewer directions, the others have rounding alone, and must not be blown up.
        """
        floor = (mass * torch.finfo(mass.dtype).eps).unsqueeze(-1)
        return vectors / torch.maximum(self.core, floor).div_(correction).sqrt_().add_(eps)


class FullCores:
    """S_i as a matrix: also correlations that a block does not share with the others, for an eigendecomposition each.

    The root is kept relative to the trace, which is always up to date: that of a block that was dead when the root was
    made would meet the block's first gradient with 1 / eps.
    """

    def __init__(self, flat: dict[str, Tensor]) -> None:
        self.core, self.root = flat["core"], flat["root"]  # (A, R, R)

    @staticmethod
    def shapes(groups: int, blocks: int, rank: int) -> dict[str, tuple[int, ...]]:
        """Of a layer's state."""
        return {
            "core": (groups, blocks, rank, rank),  # running mean of p p^T with p = U^T g
            "root": (groups, blocks, rank, rank),  # (S / tr S)^(-1/2), as it was at the last refresh
        }

    @staticmethod
    def numbers(rank: int) -> int:
        """Of a block's state."""
        return 2 * rank**2

    def observe(self, inner: Tensor, beta2: float) -> None:
        """Take in U^T g of every block, (A, R)."""
        self.core.mul_(beta2).addcmul_(inner.unsqueeze(-1), inner.unsqueeze(-2), value=1.0 - beta2)

    @staticmethod
    def mass(core: Tensor) -> Tensor:
        """(...) of cores (..., R, R): the trace of the second moment in the basis."""
        return core.diagonal(dim1=-2, dim2=-1).sum(-1)

    @staticmethod
    def turned(core: Tensor, turn: Tensor, tail: Tensor | None) -> Tensor:
        """Cores (..., B, R, R) of C = U S U^T + rho (I - U U^T) in a basis U' with U'^T U = ``turn`` (..., R, R).

        S' = turn S turn^T + rho (I - turn turn^T): a new direction of the basis has the tail's variance.
        """
        wide = turn.unsqueeze(-3)
        new = wide @ core @ wide.mT
        if tail is not None:
            fresh = torch.eye(turn.shape[-1], dtype=turn.dtype, device=turn.device) - turn @ turn.mT
            new.add_(tail[..., None, None] * fresh.unsqueeze(-3))
        return new

    def renew(self, cores: list[Tensor], unseen: float) -> None:
        """Roots of each layer's new cores (G, B, R, R); torch.linalg.LinAlgError, and no change, if one fails."""
        common = torch.cat([common_core(core).expand_as(core).flatten(0, 1) for core in cores])
        self.root.copy_(inverse_root(torch.cat([core.flatten(0, 1) for core in cores]), common, unseen))

    def solve(self, vectors: Tensor, mass: Tensor, correction: Tensor, eps: float) -> Tensor:
        """S_i^(-1/2) v_i, (A, R), with second moments divided by ``correction`` and ``eps`` added to their roots."""
        scale = mass.div(correction).sqrt_().add_(eps).unsqueeze(-1)
        return (self.root @ vectors.unsqueeze(-1)).squeeze(-1).div_(scale)


CORES: dict[str, type[DiagonalCores] | type[FullCores]] = {"diagonal": DiagonalCores, "full": FullCores}


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
    return FullCores.mass(matrices)[..., None, None]
