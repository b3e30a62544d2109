"""Ragged prompts as equal blocks of tokens, so that local attention is a few matrix products. N prompts, B blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from presize.core.lengths import IntArray

BLOCK = 64  # tokens; a token attends to its own block and to the two beside it


@dataclass(frozen=True, slots=True)
class Packed:
    """rows (B, C): where in the joined tokens each place's token is, 0 where there is none (see ``real``).
    context (B, 1 or 3): the blocks that a block attends to; B stands for an empty one. first (N,): a prompt's first
    block. place (2, total): a token's distance from its prompt's beginning and end.
    """

    rows: IntArray
    real: NDArray[np.bool_]
    context: IntArray
    first: IntArray
    place: IntArray


def pack(sizes: Sequence[int]) -> Packed:
    """The blocks of prompts of ``sizes`` tokens (each at least 1), joined in this order."""
    lengths = np.asarray(sizes, dtype=np.int64)
    width = int(min(lengths.max(), BLOCK))  # all prompts short: smaller blocks
    blocks = -(-lengths // width)
    first = np.cumsum(blocks) - blocks
    start = np.cumsum(lengths) - lengths
    owner = np.repeat(np.arange(len(lengths)), blocks)
    number = np.arange(len(owner)) - first[owner]
    inside = number[:, None] * width + np.arange(width)
    real = inside < lengths[owner][:, None]
    rows = np.where(real, start[owner][:, None] + inside, 0)
    total = np.arange(int(lengths.sum()))
    prompt = np.repeat(np.arange(len(lengths)), lengths)
    begin = total - start[prompt]
    place = np.stack([begin, lengths[prompt] - 1 - begin])
    return Packed(rows, real, _context(number, blocks[owner]), first, place)


def _context(number: IntArray, blocks: IntArray) -> IntArray:
    here = np.arange(len(number))
    if blocks.max() == 1:
        return here[:, None]
    before = np.where(number > 0, here - 1, len(here))
    after = np.where(number + 1 < blocks, here + 1, len(here))
    return np.stack([before, here, after], axis=1)


def pair_rows(joined: IntArray, place: IntArray, count: int) -> IntArray:
    """(total,) row in a table of ``count`` rows (a power of two) for each token with the one before it."""
    before = np.where(place[0] > 0, np.concatenate([[0], joined[:-1]]), -1)
    mixed = (joined.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) ^ (
        (before + 2).astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
    )
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(64 - int(count).bit_length() + 1)).astype(np.int64)


def vocabulary_rows(vocabulary: NDArray[Any], joined: IntArray) -> IntArray:
    """(total,) place of each token in the sorted ``vocabulary``; its size for one that is not in it."""
    found = np.minimum(np.searchsorted(vocabulary, joined), len(vocabulary) - 1)
    return np.where(vocabulary[found] == joined, found, len(vocabulary))
