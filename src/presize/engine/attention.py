"""Paged attention for the decoder: numba kernels on the CPU, Triton kernels on CUDA.

Letters as in `kernels.attention`: N rows, H query heads, J key/value heads, D head size, B tokens a block.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from presize.config import BLOCK_SIZE
from presize.engine.elementwise import raw
from presize.engine.graphs import MOST_GRAPHED
from presize.engine.kv_cache import KVCache
from presize.engine.model_config import ModelConfig
from presize.engine.plan import StepPlan


class PagedAttention(Protocol):
    """`begin` once a step, then a call a layer (`decoder.Attention`)."""

    def begin(self, plan: StepPlan, rows: int) -> None:
        """Prepare what all layers of this step share. ``rows``, N, may be more than the plan has."""

    def __call__(self, layer: int, qkv_NX: torch.Tensor) -> torch.Tensor:
        """qkv (N, (H + 2J) D) -> (N, H D); zero in rows that the plan does not have."""
        ...


def make_attention(config: ModelConfig, cache: KVCache, max_positions: int, threads: int) -> PagedAttention:
    """The implementation for the device that the cache is on."""
    if cache.storage.device.type == "cpu":
        return CpuAttention(config, cache, max_positions, threads)
    return CudaAttention(config, cache, max_positions, MOST_GRAPHED)


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

    def begin(self, plan: StepPlan, rows: int) -> None:
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


class CudaAttention:
    """Triton kernels; what a step needs of the plan is moved to the device once, for up to `most_rows` rows always to
    the same place, as a CUDA graph wants it.
    """

    def __init__(self, config: ModelConfig, cache: KVCache, max_positions: int, most_rows: int = 0) -> None:
        from presize.engine.kernels import cuda

        self._kernels, self._config = cuda, config
        self._cache = cache.storage
        device = self._cache.device
        self._cos, self._sin = (t.to(device) for t in rotary_table(config, max_positions))
        self._tables = torch.zeros(cache.num_blocks, dtype=torch.int32, device=device)
        self._place_N4 = torch.zeros((most_rows, 4), dtype=torch.int64, device=device)

    def begin(self, plan: StepPlan, rows: int) -> None:
        self._tables[: len(plan.tables)].copy_(torch.from_numpy(plan.tables))
        rows_N4 = np.zeros((rows, 4), dtype=np.int64)
        known = rows_N4[: len(plan.positions)]
        known[:, 0], known[:, 1], known[:, 2] = plan.positions, plan.slots, plan.contexts
        known[:, 3] = np.repeat(plan.table_starts, np.diff(plan.row_starts))
        self._rows_N4 = self._place_N4[:rows] if rows <= len(self._place_N4) else self._place_N4.new_empty(rows, 4)
        self._rows_N4.copy_(torch.from_numpy(rows_N4))

    def __call__(self, layer: int, qkv_NX: torch.Tensor) -> torch.Tensor:
        config, cache = self._config, self._cache[layer]
        queries_NHD = self._kernels.rotate_and_store(
            qkv_NX, self._rows_N4, self._cos, self._sin, config.num_heads, config.num_kv_heads, config.head_size, cache
        )
        return self._kernels.paged_attention(queries_NHD, cache, config.num_kv_heads, self._tables, self._rows_N4)
