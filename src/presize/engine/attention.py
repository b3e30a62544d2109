"""Paged attention for the decoder: the numba kernel on the CPU, torch operations elsewhere.

Letters as in `kernels.attention`: N rows, H query heads, J key/value heads, D head size, B tokens a block.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from presize.config import BLOCK_SIZE
from presize.engine.elementwise import raw
from presize.engine.kv_cache import KVCache
from presize.engine.model_config import ModelConfig
from presize.engine.plan import StepPlan


class PagedAttention(Protocol):
    """`begin` once a step, then a call a layer (`decoder.Attention`)."""

    def begin(self, plan: StepPlan) -> None:
        """Prepare what all layers of this step share."""

    def __call__(self, layer: int, qkv_NX: torch.Tensor) -> torch.Tensor:
        """qkv (N, (H + 2J) D) -> (N, H D). On the CPU there may be more rows than the plan has; theirs become zero."""
        ...


def make_attention(config: ModelConfig, cache: KVCache, max_positions: int, threads: int) -> PagedAttention:
    """The implementation for the device that the cache is on."""
    if cache.storage.device.type == "cpu":
        return CpuAttention(config, cache, max_positions, threads)
    return TorchAttention(config, cache, max_positions)


def rotary_table(config: ModelConfig, max_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, (max_positions, D / 2) float32."""
    angles = torch.outer(torch.arange(max_positions, dtype=torch.float32), config.inverse_frequencies)
    return angles.cos() * config.rotary_scale, angles.sin() * config.rotary_scale


class CpuAttention:
    """Numba kernels over the cache's own memory."""

    _ITEMS_PER_THREAD = 4  # with fewer tiles than this, their heads are shared out, too

    def __init__(self, config: ModelConfig, cache: KVCache, max_positions: int, threads: int) -> None:
        from presize.engine.kernels import attention

        self._kernels = attention
        self._config, self._threads = config, threads
        self._cache = raw(cache.storage.flatten(1))
        self._cos, self._sin = (t.numpy() for t in rotary_table(config, max_positions))
        self._scale = np.float32(config.head_size**-0.5) * attention.LOG2E

    def begin(self, plan: StepPlan) -> None:
        tile = self._kernels.TILE
        counts = np.diff(plan.row_starts)
        tiles = -(-counts // tile)
        owner = np.repeat(np.arange(len(counts)), tiles)
        offset = (np.arange(tiles.sum()) - np.repeat(np.cumsum(tiles) - tiles, tiles)) * tile
        self._tile_rows = plan.row_starts[owner] + offset
        self._tile_counts = np.minimum(counts[owner] - offset, tile)
        self._tile_tables = plan.table_starts[owner]
        last = self._tile_rows + self._tile_counts - 1
        cost = -(-plan.contexts[last] // BLOCK_SIZE) * self._tile_counts
        self._split = 1 if len(owner) >= self._ITEMS_PER_THREAD * self._threads else self._config.num_kv_heads
        self._bounds = self._kernels.balance(cost, self._split, self._threads)
        self._plan = plan

    def __call__(self, layer: int, qkv_NX: torch.Tensor) -> torch.Tensor:
        plan, heads, kv_heads = self._plan, self._config.num_heads, self._config.num_kv_heads
        size = self._config.head_size
        queries = np.empty(len(qkv_NX) * heads * size, np.float32)
        output_NX = qkv_NX.new_empty(len(qkv_NX), heads * size)
        cache = self._cache[layer]
        self._kernels.rotate_and_store(
            self._threads, raw(qkv_NX.flatten()), plan.positions, plan.slots,
            self._cos, self._sin, self._scale, heads, kv_heads, cache, queries,
        )  # fmt: skip
        self._kernels.paged_attention(
            self._bounds, queries, cache, heads, kv_heads, self._split, size, plan.tables, plan.contexts,
            self._tile_rows, self._tile_counts, self._tile_tables, raw(output_NX.view(-1)),
        )  # fmt: skip
        output_NX[len(plan.positions) :] = 0
        return output_NX


class TorchAttention:
    """Torch operations: a padded gather for all decodes at once, one call for each prefill chunk. Runs anywhere."""

    def __init__(self, config: ModelConfig, cache: KVCache, max_positions: int) -> None:
        self._config, self._cache = config, cache
        self._device = cache.storage.device
        cos, sin = rotary_table(config, max_positions)
        self._cos, self._sin = cos.to(self._device), sin.to(self._device)

    def begin(self, plan: StepPlan) -> None:
        def move(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array).to(self._device)

        positions = move(plan.positions)
        self._cos_N1E, self._sin_N1E = self._cos[positions][:, None], self._sin[positions][:, None]
        self._blocks, self._places = move(plan.slots // BLOCK_SIZE), move(plan.slots % BLOCK_SIZE)
        counts = np.diff(plan.row_starts)
        ends = np.append(plan.table_starts[1:], len(plan.tables))
        tables = [plan.tables[a:b] for a, b in zip(plan.table_starts, ends, strict=True)]
        contexts = plan.contexts[plan.row_starts[1:] - 1]
        single = np.flatnonzero(counts == 1)
        self._single_rows = move(plan.row_starts[single])
        width = max((-(-int(contexts[i]) // BLOCK_SIZE) for i in single), default=0)
        padded = np.zeros((len(single), width), dtype=np.int64)
        for row, i in enumerate(single):
            used = tables[i][:width]
            padded[row, : len(used)] = used
        self._single_tables = move(padded)
        seen = np.arange(width * BLOCK_SIZE)[None] < contexts[single][:, None]
        self._single_mask = move(seen)[:, None, None]
        self._chunks = []
        for i in np.flatnonzero(counts > 1):
            end = int(contexts[i])
            rows = slice(int(plan.row_starts[i]), int(plan.row_starts[i + 1]))
            table = move(tables[i][: -(-end // BLOCK_SIZE)].astype(np.int64))
            mask = torch.ones(int(counts[i]), end, dtype=torch.bool, device=self._device).tril(end - int(counts[i]))
            self._chunks.append((rows, table, end, mask))

    def __call__(self, layer: int, qkv_NX: torch.Tensor) -> torch.Tensor:
        config = self._config
        heads = qkv_NX.view(len(qkv_NX), -1, config.head_size)
        queries, keys, values = heads.split([config.num_heads, config.num_kv_heads, config.num_kv_heads], dim=1)
        queries, keys = self._rotate(queries), self._rotate(keys)
        k_cache, v_cache = self._cache.keys[layer], self._cache.values[layer]
        k_cache[self._blocks, :, :, self._places] = keys.to(k_cache.dtype)
        v_cache[self._blocks, :, self._places] = values.to(v_cache.dtype)
        output = torch.empty_like(queries)
        if len(self._single_rows):
            k, v = self._gather(k_cache, v_cache, self._single_tables, queries.dtype)
            # what lies behind a context may be anything, NaN too, and must not be touched even with weight zero
            unseen = ~self._single_mask.transpose(2, 3)
            k, v = k.masked_fill(unseen, 0.0), v.masked_fill(unseen, 0.0)
            q = queries[self._single_rows][:, :, None]
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=self._single_mask, enable_gqa=True)
            output[self._single_rows] = attended[:, :, 0]
        for rows, table, end, mask in self._chunks:
            k, v = self._gather(k_cache, v_cache, table[None], queries.dtype)
            q = queries[rows].transpose(0, 1)[None]
            attended = F.scaled_dot_product_attention(q, k[:, :, :end], v[:, :, :end], attn_mask=mask, enable_gqa=True)
            output[rows] = attended[0].transpose(0, 1)
        return output.flatten(1)

    def _rotate(self, x_NHD: torch.Tensor) -> torch.Tensor:
        a, b = x_NHD.float().chunk(2, dim=-1)
        cos, sin = self._cos_N1E, self._sin_N1E
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x_NHD.dtype)

    def _gather(
        self, k_cache: torch.Tensor, v_cache: torch.Tensor, tables_SW: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (S, J, W B, D) of the tables (S, W)."""
        keys = k_cache[tables_SW].permute(0, 2, 1, 4, 3).flatten(2, 3)
        values = v_cache[tables_SW].transpose(1, 2).flatten(2, 3)
        return keys.to(dtype), values.to(dtype)
