"""Attention over block tables on the CPU: one kernel for decodes and prefill chunks alike.

Letters: N query rows (tokens of this step), H query heads, J key/value heads, D head size, B = 32 tokens a block,
P blocks in the pool.
    cache (P, J, 2, D * B), flat: for each block and head the keys as (D, B), so that the scores of a block are D fused
    multiply-adds of B lanes, then the values as (B, D). A sequence's block lies in one piece, and is read in order.
Work is cut into tiles of up to TILE consecutive rows of one sequence; an item is a tile and a run of key/value heads.
Threads get contiguous runs of items of equal cost, because contexts are ragged.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from presize.config import BLOCK_SIZE as B
from presize.engine.kernels.parallel import even_bounds, parallel_for
from presize.engine.kernels.simd import LOG2E, add_weighted, dot_block, exp2, narrow, widen

__all__ = ["LOG2E", "TILE", "paged_attention", "rotate_and_store"]

TILE = 8
LANES = 4  # most queries that go through a block together
_NONE = np.float32(-1e30)
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)


@njit(nogil=True, cache=True)
def rotate_and_store(threads, qkv, positions, slots, cos, sin, scale, heads, kv_heads, cache, queries):
    """Rotary embedding; queries (N * H * D,) float32 <- scaled rotated queries; rotated keys and values to the cache.

    qkv (N * (H + 2J) * D,); positions, slots (N,): slot = block * B + place in it; cos, sin (T, D / 2) float32.
    """
    arguments = (qkv, positions, slots, cos, sin, scale, heads, kv_heads, cache, queries)
    parallel_for(_rotate_rows, even_bounds(len(positions), threads), arguments)


@njit(nogil=True)
def _rotate_rows(start, stop, qkv, positions, slots, cos, sin, scale, heads, kv_heads, cache, queries):
    for n in range(start, stop):
        _rotate_row(n, qkv, cos[positions[n]], sin[positions[n]], scale, heads, kv_heads, slots[n], cache, queries)


@njit(fastmath=True, nogil=True)
def _rotate_row(n, qkv, c, s, scale, heads, kv_heads, slot, cache, queries):
    half = c.shape[0]
    size = 2 * half
    row = qkv[n * (heads + 2 * kv_heads) * size : (n + 1) * (heads + 2 * kv_heads) * size]
    block = cache[slot // B * kv_heads * 2 * B * size : (slot // B + 1) * kv_heads * 2 * B * size]
    place = slot % B
    like = cache[0]
    # slices, so that indices are loop variables and the compiler need not think of negative ones
    for head in range(heads):
        low, high = row[head * size : head * size + half], row[head * size + half : (head + 1) * size]
        target = queries[(n * heads + head) * size : (n * heads + head + 1) * size]
        target_high = target[half:]
        for d in range(half):
            a, b = widen(low[d]), widen(high[d])
            target[d] = (a * c[d] - b * s[d]) * scale
            target_high[d] = (b * c[d] + a * s[d]) * scale
    for head in range(kv_heads):
        source = row[(heads + head) * size : (heads + head + 1) * size]
        low, high = source[:half], source[half:]
        keys = block[head * 2 * B * size + place : (head * 2 + 1) * B * size : B]
        keys_high = keys[half:]
        for d in range(half):
            a, b = widen(low[d]), widen(high[d])
            keys[d] = narrow(a * c[d] - b * s[d], like)
            keys_high[d] = narrow(b * c[d] + a * s[d], like)
        source = row[(heads + kv_heads + head) * size : (heads + kv_heads + head + 1) * size]
        values = block[(head * 2 + 1) * B * size + place * size :]
        for d in range(size):
            values[d] = narrow(widen(source[d]), like)


@njit(nogil=True, cache=True)
def paged_attention(
    bounds, queries, cache, heads, kv_heads, split, size, tables, contexts, tile_rows, tile_counts, tile_tables, output
):
    """output (N * H * D,) <- softmax(queries keys^T) values, causal; queries times LOG2E, flat like the output.

    tables: all block tables, flat int32; contexts (N,): how many keys each row sees, itself included.
    tile_rows, tile_counts, tile_tables: first row, number of rows, and offset into ``tables`` of each tile.
    split: items of a tile, J / split heads each; bounds: run of items of each thread, item = tile * split + part.
    """
    arguments = (
        queries, cache, heads, kv_heads, split, size, tables, contexts, tile_rows, tile_counts, tile_tables, output
    )  # fmt: skip
    parallel_for(_run_items, bounds, arguments)


@njit(fastmath=True, nogil=True, error_model="numpy")
def _run_items(
    start,
    stop,
    queries,
    cache,
    heads,
    kv_heads,
    split,
    size,
    tables,
    contexts,
    tile_rows,
    tile_counts,
    tile_tables,
    output,
):
    """Items ``start`` to ``stop``, on one thread; see `paged_attention`."""
    group = heads // kv_heads
    own_heads = kv_heads // split
    most = TILE * group * own_heads
    flat_scores = np.empty(LANES * B, np.float32)
    scores = flat_scores.reshape(LANES, B)
    states = np.empty((most, 2), np.float32)  # running maximum and sum of each query
    tile_queries = np.empty(most * size, np.float32)
    flat_acc = np.empty(most * size, np.float32)
    acc = flat_acc.reshape(most, size)
    like = output[0]
    for item in range(start, stop):
        tile, part = item // split, item % split
        first, rows, table = tile_rows[tile], tile_counts[tile], tile_tables[tile]
        total = rows * group  # queries that share a key/value head; in the scratch they lie together
        states[:, 0] = _NONE
        states[:, 1] = _ZERO
        flat_acc[:] = _ZERO
        for i in range(total * own_heads):
            source = _place(i, total, group, first, heads, part * own_heads) * size
            for d in range(size):
                tile_queries[i * size + d] = queries[source + d]
        longest = contexts[first + rows - 1]
        for block in range((longest + B - 1) // B):
            seen = block * B
            used = min(longest - seen, B)
            for own in range(own_heads):
                keys = (np.int64(tables[table + block]) * kv_heads + part * own_heads + own) * (2 * B * size)
                end = (own + 1) * total
                # the next head of this block, else the first of the next block, of this item or the next
                if own + 1 < own_heads:
                    ahead = keys + 2 * B * size
                elif seen + B < longest:
                    ahead = (np.int64(tables[table + block + 1]) * kv_heads + part * own_heads) * (2 * B * size)
                elif item + 1 < stop:
                    after, part_after = (item + 1) // split, (item + 1) % split
                    ahead = np.int64(tables[tile_tables[after]]) * kv_heads + part_after * own_heads
                    ahead *= 2 * B * size
                else:
                    ahead = keys
                for i in range(own * total, end, LANES):
                    lanes = min(LANES, end - i)
                    _scores(lanes, tile_queries, i * size, cache, keys, size, flat_scores, ahead)
                    for lane in range(lanes):
                        valid = contexts[first + (i + lane - own * total) // group] - seen
                        _softmax_block(scores[lane], max(min(valid, B), 0), states[i + lane], acc[i + lane])
                    _add_values(
                        lanes, flat_scores, cache, keys + B * size, used, size, flat_acc, i * size, ahead + B * size
                    )
        for i in range(total * own_heads):
            target = _place(i, total, group, first, heads, part * own_heads) * size
            inverse = _ONE / states[i, 1]
            for d in range(size):
                output[target + d] = narrow(acc[i, d] * inverse, like)


@njit(inline="always")
def _place(i, total, group, first, heads, first_head):
    """Row * H + head of query ``i`` of a tile."""
    row = first + i % total // group
    return row * heads + (first_head + i // total) * group + i % group


@njit(fastmath=True, nogil=True)
def _softmax_block(scores, valid, state, acc):
    """Running softmax of one query, to base 2: scores (B,) <- weights against the new maximum; state and acc follow."""
    for t in range(valid, B):
        scores[t] = _NONE
    top = state[0]
    for t in range(B):
        top = max(top, scores[t])
    if top > state[0]:
        shrink = exp2(state[0] - top)
        state[0] = top
        state[1] *= shrink
        for i in range(acc.shape[0]):
            acc[i] *= shrink
    total = _ZERO
    for t in range(B):
        scores[t] = exp2(scores[t] - top)
        total += scores[t]
    state[1] += total


@njit(inline="always")
def _scores(lanes, queries, query_at, cache, keys, size, scores, ahead):
    if lanes == 4:
        dot_block(4, queries, query_at, cache, keys, size, scores, ahead)
    elif lanes == 3:
        dot_block(3, queries, query_at, cache, keys, size, scores, ahead)
    elif lanes == 2:
        dot_block(2, queries, query_at, cache, keys, size, scores, ahead)
    else:
        dot_block(1, queries, query_at, cache, keys, size, scores, ahead)


@njit(inline="always")
def _add_values(lanes, weights, cache, values, used, size, acc, acc_at, ahead):
    if size % 32:  # no common head size; any multiple of 4 works
        for lane in range(lanes):
            add_weighted(1, 2, weights[lane * B :], cache, values, used, size, acc, acc_at + lane * size, ahead)
    elif lanes == 4:
        add_weighted(4, 16, weights, cache, values, used, size, acc, acc_at, ahead)
    elif lanes == 3:
        add_weighted(3, 16, weights, cache, values, used, size, acc, acc_at, ahead)
    elif lanes == 2:
        add_weighted(2, 16, weights, cache, values, used, size, acc, acc_at, ahead)
    else:
        add_weighted(1, 16, weights, cache, values, used, size, acc, acc_at, ahead)


def balance(tile_costs: np.ndarray, split: int, threads: int) -> np.ndarray:
    """(threads + 1,) bounds that give each thread a contiguous run of items of about equal cost."""
    done = np.cumsum(np.repeat(tile_costs, split))
    targets = done[-1] * np.arange(1, threads) / threads
    return np.concatenate(([0], np.searchsorted(done, targets), [done.size])).astype(np.int64)
