"""One step's work as arrays: which tokens, at which positions, into which slots, over which block tables."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from presize.config import BLOCK_SIZE
from presize.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class SequenceWork:
    """``num_tokens`` tokens of the sequence from its first uncomputed one; ``blocks`` is its block table."""

    sequence: Sequence
    num_tokens: int
    draws: bool
    blocks: SequenceOf[int]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """N tokens of S sequences, in the order of the work.

    token_ids, positions, slots, contexts (N,): slot = block * B + place; contexts counts the keys a token may see.
    row_starts (S + 1,): rows of each sequence. tables: block tables, one after another; table_starts (S,) into it.
    draw_rows: the last row of each sequence that draws a token.
    """

    token_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    slots: NDArray[np.int64]
    contexts: NDArray[np.int64]
    row_starts: NDArray[np.int64]
    tables: NDArray[np.int32]
    table_starts: NDArray[np.int64]
    draw_rows: NDArray[np.int64]


def make_plan(work: SequenceOf[SequenceWork]) -> StepPlan:
    """Arrays for one step; ``work`` is not empty."""
    counts = np.array([w.num_tokens for w in work])
    starts = np.array([w.sequence.request.computed_tokens for w in work])
    row_starts = np.concatenate(([0], np.cumsum(counts)))
    table_starts = np.concatenate(([0], np.cumsum([len(w.blocks) for w in work])))[:-1]
    tables = np.concatenate([np.asarray(w.blocks, dtype=np.int32) for w in work])
    ids = [
        token
        for w, start in zip(work, starts.tolist(), strict=True)
        for token in w.sequence.token_ids[start : start + w.num_tokens]
    ]
    positions = np.arange(row_starts[-1]) - np.repeat(row_starts[:-1] - starts, counts)
    blocks = tables[np.repeat(table_starts, counts) + positions // BLOCK_SIZE].astype(np.int64)
    return StepPlan(
        token_ids=np.array(ids, dtype=np.int64),
        positions=positions,
        slots=blocks * BLOCK_SIZE + positions % BLOCK_SIZE,
        contexts=positions + 1,
        row_starts=row_starts,
        tables=tables,
        table_starts=table_starts,
        draw_rows=row_starts[1:][np.array([w.draws for w in work])] - 1,
    )
