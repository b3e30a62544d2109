"""Blocks of ragged prompts, against loops over prompts and tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presize.predict.packing import BLOCK, Packed, pack, pair_rows, vocabulary_rows

SIZES = st.lists(st.sampled_from([1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK]) | st.integers(1, 300), min_size=1)
COUNT = 2**14


def blocks_of(packed: Packed) -> list[list[int]]:
    """What stands in each block."""
    return [row[real].tolist() for row, real in zip(packed.rows, packed.real, strict=True)]


def by_loop(sizes: list[int]) -> tuple[list[list[int]], list[int], list[int]]:
    """(tokens of each block, the prompt it belongs to, the first block of each prompt)."""
    width = min(max(sizes), BLOCK)
    blocks, owners, first, start = [], [], [], 0
    for prompt, size in enumerate(sizes):
        first.append(len(blocks))
        for inside in range(0, size, width):
            blocks.append(list(range(start + inside, start + min(inside + width, size))))
            owners.append(prompt)
        start += size
    return blocks, owners, first


@given(SIZES)
def test_every_token_stands_in_its_block_once(sizes: list[int]) -> None:
    packed = pack(sizes)
    blocks, _, first = by_loop(sizes)
    assert blocks_of(packed) == blocks
    assert packed.first.tolist() == first
    assert packed.rows.shape == packed.real.shape
    assert packed.rows.shape[1] <= BLOCK
    assert (packed.rows[~packed.real] == 0).all(), "a place without a token must still be a valid row"


@given(SIZES)
def test_a_block_sees_itself_and_its_neighbours_of_the_same_prompt_alone(sizes: list[int]) -> None:
    packed = pack(sizes)
    _, owners, _ = by_loop(sizes)
    count = len(owners)
    for block, context in enumerate(packed.context.tolist()):
        beside = {b for b in (block - 1, block, block + 1) if 0 <= b < count and owners[b] == owners[block]}
        assert {b for b in context if b != count} == beside
        assert len([b for b in context if b != count]) == len(beside)


@given(SIZES)
def test_places_count_from_both_ends_of_the_prompt(sizes: list[int]) -> None:
    place = pack(sizes).place
    expected = [(i, size - 1 - i) for size in sizes for i in range(size)]
    assert list(zip(*place.tolist(), strict=True)) == expected


def test_short_prompts_alone_take_small_blocks() -> None:
    assert pack([3, 7, 1]).rows.shape == (3, 7)
    assert pack([3, 7, 1]).context.tolist() == [[0], [1], [2]]


PROMPTS = st.lists(st.lists(st.integers(0, 5) | st.integers(0, 2**31 - 1), min_size=1, max_size=9), min_size=1)


def rows_of(prompts: list[list[int]], count: int = COUNT) -> list[list[int]]:
    """The rows of each prompt's pairs."""
    sizes = [len(prompt) for prompt in prompts]
    rows = pair_rows(np.concatenate(prompts).astype(np.int64), pack(sizes).place, count)
    return [part.tolist() for part in np.split(rows, np.cumsum(sizes)[:-1])]


@given(PROMPTS, st.sampled_from([1, 2, 64, COUNT]))
def test_a_prompts_pairs_are_its_own_whatever_stands_beside_it(prompts: list[list[int]], count: int) -> None:
    together = rows_of(prompts, count)
    assert together == [rows_of([prompt], count)[0] for prompt in prompts]
    assert all(0 <= row < count for rows in together for row in rows)


@given(PROMPTS)
def test_a_row_is_decided_by_a_token_and_the_one_before_it(prompts: list[list[int]]) -> None:
    row_of: dict[tuple[int, int], int] = {}
    for prompt, rows in zip(prompts, rows_of(prompts), strict=True):
        for pair, row in zip(zip([-1, *prompt[:-1]], prompt, strict=True), rows, strict=True):
            assert row_of.setdefault(pair, row) == row


def test_pairs_that_differ_in_either_token_rarely_share_a_row() -> None:
    pairs = [[a, b] for a in range(40) for b in range(40)]
    rows = [row[1] for row in rows_of(pairs)] + [row[0] for row in rows_of([[a] for a in range(40)])]
    # as many as draws of 1,640 from 16,384 leave distinct: n - n^2 / 2m
    assert len(set(rows)) == pytest.approx(1640 - 1640**2 / (2 * COUNT), abs=30)
    assert np.bincount(rows, minlength=COUNT).reshape(16, -1).sum(axis=1).min() > 60, "spread over the whole table"


@given(
    st.sets(st.integers(0, 30) | st.integers(0, 2**31 - 1), min_size=1), st.lists(st.integers(0, 2**31 - 1), min_size=1)
)
def test_a_token_that_is_not_in_the_vocabulary_has_the_last_row(known: set[int], tokens: list[int]) -> None:
    vocabulary = sorted(known)
    asked = [*tokens, *vocabulary, *(token + 1 for token in vocabulary), 0]
    place = {token: i for i, token in enumerate(vocabulary)}
    found = vocabulary_rows(np.array(vocabulary, dtype=np.int32), np.array(asked, dtype=np.int64))
    assert found.tolist() == [place.get(token, len(vocabulary)) for token in asked]
