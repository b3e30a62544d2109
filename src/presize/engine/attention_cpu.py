"""Attention over block tables on the CPU: one numba kernel for decodes and prefill chunks alike.

Letters: N query rows (tokens of this step), H query heads, J key/value heads, D head size, B = 32 tokens a block,
P blocks in the pool.
    k_cache (P, J, D, B): keys transposed, so that the scores of a block are D fused multiply-adds of B lanes
    v_cache (P, J, B, D)
bfloat16 caches are passed as uint16 and widened a block at a time into a scratch that stays in the first-level cache.
Work is cut into tiles (up to TILE consecutive rows of one sequence, one key/value head); threads get contiguous runs
of tiles with equal numbers of (row, block) pairs, because contexts are ragged.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import njit, prange

from presize.config import BLOCK_SIZE as B

TILE = 8
LANES = 4  # queries that go through a block together
_LOG2E = np.float32(1.4426950408889634)
_MIN_EXPONENT = np.float32(-60.0)  # smaller weights are zero in float32, and their products could be denormal
_ZERO_EXPONENT = np.float32(-127.0)  # the bits of 2**-127, built this way, are those of zero
_NONE = np.float32(-1e30)
_ZERO = np.float32(0.0)
_HALF = np.float32(0.5)
_ONE = np.float32(1.0)
# Taylor coefficients of 2**f on [-0.5, 0.5]; relative error below 2e-7
_C1 = np.float32(0.6931471805599453)
_C2 = np.float32(0.24022650695910072)
_C3 = np.float32(0.05550410866482158)
_C4 = np.float32(0.009618129107628477)
_C5 = np.float32(0.0013333558146428443)
_C6 = np.float32(0.00015403530393381608)


@njit(inline="always", fastmath=True)
def _score(queries, keys, scores, size):
    """scores (LANES * B,) <- queries (LANES, D) times keys (D * B,); size = D, best a constant.

    Four queries share each load of keys, four dimensions each load and store of scores; written out because the
    compiler keeps neither in registers by itself (2.6 GFLOP/s a core for the plain loop, 51 for this one). Flat
    arrays, so that rows are constant offsets; indices are loop variables plus constants, so that numba drops its
    test for negative ones, which would stop vectorising.
    """
    scores[:] = _ZERO
    for d in range(0, size, 4):
        k = d * B
        a0, a1, a2, a3 = queries[0, d], queries[0, d + 1], queries[0, d + 2], queries[0, d + 3]
        b0, b1, b2, b3 = queries[1, d], queries[1, d + 1], queries[1, d + 2], queries[1, d + 3]
        c0, c1, c2, c3 = queries[2, d], queries[2, d + 1], queries[2, d + 2], queries[2, d + 3]
        d0, d1, d2, d3 = queries[3, d], queries[3, d + 1], queries[3, d + 2], queries[3, d + 3]
        for t in range(B):
            k0, k1, k2, k3 = keys[k + t], keys[k + B + t], keys[k + 2 * B + t], keys[k + 3 * B + t]
            scores[t] += a0 * k0 + a1 * k1 + a2 * k2 + a3 * k3
            scores[B + t] += b0 * k0 + b1 * k1 + b2 * k2 + b3 * k3
            scores[2 * B + t] += c0 * k0 + c1 * k1 + c2 * k2 + c3 * k3
            scores[3 * B + t] += d0 * k0 + d1 * k1 + d2 * k2 + d3 * k3


@njit(fastmath=True, nogil=True)
def _accumulate(weights, values, acc, used):
    """acc (LANES, D) += weights (LANES, B) times values (B, D), of which only the first ``used`` rows were written:
    what lies behind them may be anything, NaN too, and must not be touched even with weight zero.
    """
    fours = used // 4 * 4
    for t in range(fours, used):
        for lane in range(LANES):
            for i in range(values.shape[1]):
                acc[lane, i] += weights[lane, t] * values[t, i]
    for t in range(0, fours, 4):
        a0, a1, a2, a3 = weights[0, t], weights[0, t + 1], weights[0, t + 2], weights[0, t + 3]
        b0, b1, b2, b3 = weights[1, t], weights[1, t + 1], weights[1, t + 2], weights[1, t + 3]
        c0, c1, c2, c3 = weights[2, t], weights[2, t + 1], weights[2, t + 2], weights[2, t + 3]
        d0, d1, d2, d3 = weights[3, t], weights[3, t + 1], weights[3, t + 2], weights[3, t + 3]
        for i in range(values.shape[1]):
            v0, v1, v2, v3 = values[t, i], values[t + 1, i], values[t + 2, i], values[t + 3, i]
            acc[0, i] += a0 * v0 + a1 * v1 + a2 * v2 + a3 * v3
            acc[1, i] += b0 * v0 + b1 * v1 + b2 * v2 + b3 * v3
            acc[2, i] += c0 * v0 + c1 * v1 + c2 * v2 + c3 * v3
            acc[3, i] += d0 * v0 + d1 * v1 + d2 * v2 + d3 * v3


@njit(fastmath=True, nogil=True)
def _softmax_block(scores, valid, state, acc, bits, power):
    """Running softmax of one query: scores (B,) <- weights against the new maximum; state = [max, sum] and acc follow.

    math.exp would be a scalar call and cost as much as the dot products, so exp is 2**n (built in ``bits``, whose
    memory ``power`` reads as float32) times a polynomial; n <= 0 because scores <= top.
    """
    for t in range(valid, B):
        scores[t] = _NONE
    top = state[0]
    for t in range(B):
        top = max(top, scores[t])
    if top > state[0]:
        shrink = np.float32(np.exp(state[0] - top))
        state[0] = top
        state[1] *= shrink
        for i in range(acc.shape[0]):
            acc[i] *= shrink
    for t in range(B):
        x = (scores[t] - top) * _LOG2E
        x = x if x > _MIN_EXPONENT else _ZERO_EXPONENT
        n = np.floor(x + _HALF)
        f = x - n
        bits[t] = (np.int32(n) + np.int32(127)) << np.int32(23)
        scores[t] = _ONE + f * (_C1 + f * (_C2 + f * (_C3 + f * (_C4 + f * (_C5 + f * _C6)))))
    total = _ZERO
    for t in range(B):
        scores[t] *= power[t]
        total += scores[t]
    state[1] += total


@njit(nogil=True)
def _widen(source, bits):
    for i in range(source.shape[0]):
        bits[i] = np.uint32(source[i]) << np.uint32(16)


@njit(fastmath=True, nogil=True)
def _run_items(start, stop, queries, k_cache, v_cache, tables, contexts, tile_rows, tile_counts, tile_tables, output):
    """Items ``start`` to ``stop``, on one thread; see `paged_attention`."""
    kv_heads = k_cache.shape[1]
    size = v_cache.shape[3]
    group = queries.shape[1] // kv_heads
    lanes = (TILE * group + LANES - 1) // LANES * LANES
    wide = k_cache.itemsize == 4
    k_bits = np.empty(B * size, np.uint32)
    v_bits = np.empty(B * size, np.uint32)
    k_wide = k_bits.view(np.float32)
    v_wide = v_bits.view(np.float32).reshape(B, size)
    flat_scores = np.empty(LANES * B, np.float32)
    scores = flat_scores.reshape(LANES, B)
    bits = np.empty(B, np.int32)
    power = bits.view(np.float32)
    states = np.empty((lanes, 2), np.float32)
    # rows past the tile's last query fill up the last group of LANES; what is computed for them is not used
    tile_queries = np.zeros((lanes, size), np.float32)
    acc = np.empty((lanes, size), np.float32)
    for item in range(start, stop):
        tile = item // kv_heads
        head = item % kv_heads
        first = tile_rows[tile]
        total = tile_counts[tile] * group
        table = tile_tables[tile]
        longest = contexts[first + tile_counts[tile] - 1]
        states[:, 0] = _NONE
        states[:, 1] = _ZERO
        acc[:] = _ZERO
        for i in range(total):
            tile_queries[i] = queries[first + i // group, head * group + i % group]
        for block in range((longest + B - 1) // B):
            place = tables[table + block]
            used = min(longest - block * B, B)
            if wide:
                keys = k_cache[place, head].reshape(size * B).view(np.float32)
                values = v_cache[place, head].view(np.float32)
            else:
                _widen(k_cache[place, head].reshape(size * B), k_bits)
                _widen(v_cache[place, head].reshape(size * B), v_bits)
                keys = k_wide
                values = v_wide
            for i in range(0, total, LANES):
                group_queries = tile_queries[i : i + LANES]
                if size == 64:  # with the size known to the compiler the loop is two to three times as fast
                    _score(group_queries, keys, flat_scores, 64)
                elif size == 128:
                    _score(group_queries, keys, flat_scores, 128)
                else:
                    _score(group_queries, keys, flat_scores, size)
                for lane in range(min(LANES, total - i)):
                    valid = max(min(contexts[first + (i + lane) // group] - block * B, B), 0)
                    _softmax_block(scores[lane], valid, states[i + lane], acc[i + lane], bits, power)
                _accumulate(scores, values, acc[i : i + LANES], used)
        for i in range(total):
            inverse = _ONE / states[i, 1]
            for d in range(size):
                output[first + i // group, head * group + i % group, d] = acc[i, d] * inverse


@njit(parallel=True, nogil=True, cache=True)
def paged_attention(
    queries, k_cache, v_cache, tables, contexts, tile_rows, tile_counts, tile_tables, thread_bounds, output
):
    """output (N, H, D) <- softmax(queries keys^T) values, causal; queries (N, H, D) float32, already scaled.

    tables: all block tables, flat int32; contexts (N,): how many keys each row sees, itself included.
    tile_rows, tile_counts, tile_tables: first row, number of rows, and offset into ``tables`` of each tile.
    thread_bounds: run of (tile, key/value head) items of each thread, item = tile * J + head.
    """
    for thread in prange(thread_bounds.shape[0] - 1):
        _run_items(
            thread_bounds[thread], thread_bounds[thread + 1],
            queries, k_cache, v_cache, tables, contexts, tile_rows, tile_counts, tile_tables, output,
        )  # fmt: skip


@njit(inline="always")
def _narrow(bits):
    """bfloat16, rounded to nearest even, of a float32 given as uint32."""
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@njit(parallel=True, nogil=True, cache=True)
def rotate_and_store(qkv, positions, slots, cos, sin, scale, k_cache, v_cache, queries):
    """Rotary embedding; queries (N, H, D) <- scaled rotated queries; rotated keys and the values go to the cache.

    qkv (N, H + 2J, D) float32; positions, slots (N,): slot = block * B + place in it; cos, sin (T, D / 2) float32.
    """
    kv_heads = k_cache.shape[1]
    heads = qkv.shape[1] - 2 * kv_heads
    half = qkv.shape[2] // 2
    narrow = k_cache.itemsize == 2
    raw = qkv.view(np.uint32)
    for n in prange(qkv.shape[0]):
        c = cos[positions[n]]
        s = sin[positions[n]]
        for h in range(heads + kv_heads):
            factor = scale if h < heads else _ONE
            for d in range(half):
                a = qkv[n, h, d]
                b = qkv[n, h, d + half]
                qkv[n, h, d] = (a * c[d] - b * s[d]) * factor
                qkv[n, h, d + half] = (b * c[d] + a * s[d]) * factor
        queries[n] = qkv[n, :heads]
        block = slots[n] // B
        place = slots[n] % B
        for j in range(kv_heads):
            for d in range(2 * half):
                if narrow:
                    k_cache[block, j, d, place] = _narrow(raw[n, heads + j, d])
                    v_cache[block, j, place, d] = _narrow(raw[n, heads + kv_heads + j, d])
                else:
                    k_cache[block, j, d, place] = raw[n, heads + j, d]
                    v_cache[block, j, place, d] = raw[n, heads + kv_heads + j, d]


def balance(tile_costs: np.ndarray, kv_heads: int, threads: int) -> np.ndarray:
    """(threads + 1,) bounds that give each thread a contiguous run of items of about equal cost."""
    done = np.cumsum(np.repeat(tile_costs, kv_heads))
    targets = done[-1] * np.arange(1, threads) / threads
    return np.concatenate(([0], np.searchsorted(done, targets), [done.size])).astype(np.int64)


def set_threads(count: int) -> None:
    """Threads that the kernel uses; at most those numba was started with."""
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
