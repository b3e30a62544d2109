"""The network whose separation rank is analysed: self-attention without softmax and without ReLU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from presize.errors import ConfigError, check_range
from presize.theory.depth_width.modular import PRIME, Residues, inner, matmul

MAX_DEPTH, MAX_WIDTH, MAX_HEADS = 4096, 2**24, 2**16


def check_shape(depth: float, width: float, heads: int = 1) -> None:
    """ConfigError unless depth >= 1, width >= 1 and the heads divide the width."""
    check_range("depth", depth, 1, MAX_DEPTH)
    check_range("width", width, 1, MAX_WIDTH)
    check_range("heads", heads, 1, MAX_HEADS)
    if width % heads:
        raise ConfigError(f"heads is {heads}, which does not divide the width {width:g}; take a divisor of it")


def summands(depth: int) -> int:
    """C(L) = (3^L - 1) / 2: positions that are mixed into one output, beside its own (the lemma to Theorem 1)."""
    return int((3**depth - 1) // 2)


@dataclass(frozen=True, slots=True)
class Network:
    """L layers of H heads of size d_a = d_x / H, as residues modulo PRIME.

    query, key, value: (L, H, d_a, d_x); output: (L, H, d_x, d_a). Layer (the paper's section 2, after both of its
    relaxations; the feed-forward part is merged into ``output``; no residual, no normalisation):

        y^{l+1,i} = sum_j sum_h <W^{Q,l,h} y^{l,i}, W^{K,l,h} y^{l,j}> W^{O,l,h} W^{V,l,h} y^{l,j}
    """

    query: Residues
    key: Residues
    value: Residues
    output: Residues

    @classmethod
    def random(cls, depth: int, width: int, heads: int, rng: np.random.Generator) -> Network:
        """Weights drawn evenly from all residues; ConfigError for a shape that can not be."""
        check_shape(depth, width, heads)
        inward = (depth, heads, width // heads, width)
        query, key, value = (rng.integers(0, PRIME, inward, dtype=np.uint64) for _ in range(3))
        return cls(query, key, value, rng.integers(0, PRIME, (depth, heads, width, width // heads), dtype=np.uint64))

    @property
    def depth(self) -> int:
        """L."""
        return len(self.query)

    @property
    def width(self) -> int:
        """d_x."""
        return int(self.query.shape[3])

    def entry(self, inputs: Residues, position: int, entry: int) -> Residues:
        """(S,) exact outputs modulo PRIME, of S inputs (S, N, d_x), at one position and entry."""
        states = np.ascontiguousarray(inputs.transpose(2, 1, 0))  # (d_x, N, S)
        for layer in range(self.depth - 1):
            states = self._layer(states, layer, slice(None), slice(None))
        last = self._layer(states, self.depth - 1, slice(position, position + 1), slice(entry, entry + 1))
        return np.asarray(last[0, 0])

    def _layer(self, states: Residues, layer: int, positions: slice, entries: slice) -> Residues:
        """(d_x, N, S) to (entries, positions, S)."""
        width, _, samples = states.shape
        flat = states.reshape(width, -1)
        total = np.zeros((1, 1, 1), dtype=np.uint64)
        for head in range(self.query.shape[1]):
            asked = states[:, positions].reshape(width, -1)
            query = matmul(self.query[layer, head], asked)
            size = len(query)
            query = query.reshape(size, -1, 1, samples)
            key, value = (
                matmul(weights[layer, head], flat).reshape(size, 1, -1, samples) for weights in (self.key, self.value)
            )
            scores = inner(query, key)  # (positions, N, S)
            mixed = inner(scores.swapaxes(0, 1)[:, None], value[:, 0].swapaxes(0, 1)[:, :, None])
            out = matmul(self.output[layer, head, entries], mixed.reshape(size, -1))
            total = (total + out.reshape(len(out), -1, samples)) % np.uint64(PRIME)
        return total


def forward(network: Network, inputs: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """(S, N, d_x) to the same in float64, the weights divided by ``scale``."""
    query, key, value, output = (
        part.astype(np.float64) / scale for part in (network.query, network.key, network.value, network.output)
    )
    states = inputs
    for layer in range(network.depth):
        asked, seen, given = (
            np.einsum("had,snd->shna", part[layer], states) for part in (query, key, value)
        )  # (S, H, N, d_a)
        mixed = np.einsum("shna,shma->shnm", asked, seen) @ given
        states = np.einsum("hda,shna->snd", output[layer], mixed)
    return states
