"""How a parameter becomes blocks that share a basis: rows, columns, rows by head; kernels of convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from presize.errors import ConfigError
from presize.optim.cores import CORES

BLOCKS = ("auto", "row", "column", "head")


@dataclass(frozen=True, slots=True)
class Layout:
    """A parameter as (groups, blocks, size): every group has one basis (size, rank), which its blocks share."""

    groups: int
    blocks: int  # in a group
    size: int  # numbers in a block
    rank: int
    core: str  # "diagonal" or "full"
    transposed: bool  # blocks are columns of the parameter's matrix

    @property
    def full(self) -> bool:
        """The basis spans the whole block, so that there is no tail."""
        return self.rank == self.size

    @property
    def identity(self) -> bool:
        """Any basis would do, so that there is none: gradients are taken as they are."""
        return self.full and self.core == "full"

    def state_numbers(self) -> int:
        """Numbers of bases, sketches, cores, projected momenta and a scalar tail; not the momentum."""
        of_block = CORES[self.core].numbers(self.rank) + self.rank + 1
        return 2 * self.groups * self.size * self.rank + self.groups * self.blocks * of_block

    def view(self, tensor: Tensor) -> Tensor:
        """(groups, blocks, size) of a tensor of the parameter's shape; of the same memory where strides allow."""
        matrix = tensor.flatten(1)
        if self.transposed:
            matrix = matrix.t()
        return matrix.view(self.groups, self.blocks, self.size) if self.groups > 1 else matrix.unsqueeze(0)

    def restore(self, blocks: Tensor, shape: Sequence[int]) -> Tensor:
        """The inverse of `view`: (groups, blocks, size) as a tensor of the parameter's shape."""
        matrix = blocks.flatten(0, 1)
        return (matrix.t() if self.transposed else matrix).reshape(shape)


def layout_of(shape: Sequence[int], *, rank: int, core: str, block: str, heads: int, max_dim: int) -> Layout | None:
    """The blocks of a parameter of this shape; None where Adam takes it: vectors, scalars, what is empty or too large.

    A kernel of a convolution, (out, in, height, width), is the matrix (out, in * height * width): its rows are output
    channels. ``auto`` takes rows or columns, whichever needs less memory at this rank. ConfigError if the rows can not
    be dealt to the heads.
    """
    if len(shape) < 2 or min(shape) == 0:
        return None
    rows, columns = shape[0], math.prod(shape[1:])
    if min(rows, columns) < 2 or max(rows, columns) > max_dim:
        return None
    if block == "head":
        if rows % heads:
            raise ConfigError(
                f"heads is {heads}; it must divide the {rows} rows of a parameter of shape {tuple(shape)}"
            )
        return Layout(heads, rows // heads, columns, min(rank, columns), core, transposed=False)
    by_row = Layout(1, rows, columns, min(rank, columns), core, transposed=False)
    by_column = Layout(1, columns, rows, min(rank, rows), core, transposed=True)
    if block == "auto":
        return min(by_row, by_column, key=Layout.state_numbers)
    return by_row if block == "row" else by_column
