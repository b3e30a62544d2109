"""Triton kernels of the attention: rotary embedding with storing, and paged attention.

Letters as in `kernels.attention`: N rows, H query heads, J key/value heads, D head size, B tokens a block; G = H / J.
The cache of a layer is (P, J, 2, D B): for each head its keys, (D, B), then its values, (B, D). ``rows_N4`` holds of
each row its position, its slot, how many keys it may see, and where in ``tables`` its block table begins; a row that
may see none is filling: nothing of it is stored, and its output is zero.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from presize.config import BLOCK_SIZE

_LEAST_DOT = 16  # rows of the smallest product that the matrix units take
_LOG2E = 1.4426950408889634


def rotate_and_store(
    qkv_NX: torch.Tensor, rows_N4: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor,
    heads: int, kv_heads: int, size: int, cache: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """Rotated queries (N, H, D) in the type of qkv; rotated keys, and values, go to their slots of ``cache``."""
    queries = qkv_NX.new_empty(len(qkv_NX), heads, size)
    _rotate_and_store[(len(qkv_NX), heads + 2 * kv_heads)](
        qkv_NX, rows_N4, cos, sin, queries, cache,
        heads, kv_heads, size // 2, triton.next_power_of_2(size // 2), BLOCK_SIZE, num_warps=1,
    )  # fmt: skip
    return queries


def paged_attention(
    queries_NHD: torch.Tensor, cache: torch.Tensor, kv_heads: int, tables: torch.Tensor, rows_N4: torch.Tensor
) -> torch.Tensor:  # fmt: skip
    """(N, H D): each row attends to the first tokens of its block table."""
    rows, heads, size = queries_NHD.shape
    output = torch.empty_like(queries_NHD)
    group = heads // kv_heads
    _paged_attention[(rows, kv_heads)](
        queries_NHD, cache, tables, rows_N4, output, size**-0.5 * _LOG2E, kv_heads, group,
        max(triton.next_power_of_2(group), _LEAST_DOT), size, triton.next_power_of_2(size), BLOCK_SIZE,
        num_warps=2,
    )  # fmt: skip
    return output.flatten(1)


@triton.jit
def _rotate_and_store(
    qkv, rows, cos, sin, queries, cache,
    H: tl.constexpr, J: tl.constexpr, HALF: tl.constexpr, PADDED: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """One program for a head of a row."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    D: tl.constexpr = 2 * HALF
    e = tl.arange(0, PADDED)
    real = e < HALF
    source = qkv + (row * (H + 2 * J) + head) * D + e
    first = tl.load(source, real).to(tl.float32)
    second = tl.load(source + HALF, real).to(tl.float32)
    if head < H + J:
        angle = tl.load(rows + 4 * row) * HALF + e
        c, s = tl.load(cos + angle, real), tl.load(sin + angle, real)
        first, second = first * c - second * s, second * c + first * s
    if head < H:
        target = queries + (row * H + head) * D + e
        tl.store(target, first.to(queries.dtype.element_ty), real)
        tl.store(target + HALF, second.to(queries.dtype.element_ty), real)
    else:
        slot = tl.load(rows + 4 * row + 1)
        real = e < tl.where(tl.load(rows + 4 * row + 2) > 0, HALF, 0)
        block, place = slot // B, slot % B
        if head < H + J:
            keys = cache + ((block * J + head - H) * 2 * D + e) * B + place
            tl.store(keys, first.to(cache.dtype.element_ty), real)
            tl.store(keys + HALF * B, second.to(cache.dtype.element_ty), real)
        else:
            values = cache + ((block * J + head - H - J) * 2 + 1) * D * B + place * D + e
            tl.store(values, first.to(cache.dtype.element_ty), real)
            tl.store(values + HALF, second.to(cache.dtype.element_ty), real)


@triton.jit
def _paged_attention(
    queries, cache, tables, rows, output, scale,
    J: tl.constexpr, G: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, PADDED: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """One program for the queries of a row that share a key/value head; softmax as it goes, to base 2."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    g, d, b = tl.arange(0, ROWS), tl.arange(0, PADDED), tl.arange(0, B)
    real_d = d < D
    inside = (g < G)[:, None] & real_d[None]
    place = ((row * J + head) * G + g)[:, None] * D + d[None]
    q = tl.load(queries + place, inside, 0.0)
    context = tl.load(rows + 4 * row + 2)
    table = tables + tl.load(rows + 4 * row + 3)
    top = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, PADDED], tl.float32)
    for start in range(0, context, B):
        keys = cache + (tl.load(table + start // B).to(tl.int64) * J + head) * 2 * D * B
        # what lies behind a context may be anything, NaN too, and must not be touched even with weight zero
        seen = start + b < context
        k = tl.load(keys + d[:, None] * B + b[None], real_d[:, None] & seen[None], 0.0).to(q.dtype)
        v = tl.load(keys + D * B + b[:, None] * D + d[None], seen[:, None] & real_d[None], 0.0).to(q.dtype)
        scores = tl.where(seen[None], tl.dot(q, k, input_precision="ieee") * scale, -float("inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        weights, kept = tl.exp2(scores - new_top[:, None]), tl.exp2(top - new_top)
        total = total * kept + tl.sum(weights, 1)
        mixed = mixed * kept[:, None] + tl.dot(weights.to(q.dtype), v, input_precision="ieee")
        top = new_top
    # the largest weight is 1, so is the least total
    mixed = mixed / tl.maximum(total, 1.0)[:, None]
    tl.store(output + place, mixed.to(output.dtype.element_ty), inside)
