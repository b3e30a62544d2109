"""The KV cache, cut into blocks; who owns which block is the ledger's business.

L layers, P blocks, J key/value heads, D head size, B tokens a block. A block of a layer lies in one piece, (J, 2, D B):
for each head its keys, transposed to (D, B), then its values, (B, D).
"""

from __future__ import annotations

import torch

from presize.config import BLOCK_SIZE
from presize.engine.model_config import ModelConfig
from presize.errors import ConfigError


class KVCache:
    """Storage for ``num_blocks`` blocks. Memory is touched, and so counted as resident, when a block is first used."""

    def __init__(self, model: ModelConfig, num_blocks: int, dtype: torch.dtype, device: torch.device) -> None:
        self.num_blocks = num_blocks
        shape = (model.num_layers, num_blocks, model.num_kv_heads, 2, model.head_size * BLOCK_SIZE)
        try:
            self.storage = torch.empty(shape, dtype=dtype, device=device)
        except RuntimeError as error:
            size = 2 * num_blocks * BLOCK_SIZE * kv_bytes_per_token(model, dtype) / 2 / 2**30
            raise ConfigError(f"no room for a KV cache of {num_blocks * BLOCK_SIZE} tokens ({size:.1f} GiB)") from error

    @property
    def keys(self) -> torch.Tensor:
        """View (L, P, J, D, B)."""
        return self.storage[:, :, :, 0].view(*self.storage.shape[:3], -1, BLOCK_SIZE)

    @property
    def values(self) -> torch.Tensor:
        """View (L, P, J, B, D)."""
        return self.storage[:, :, :, 1].view(*self.storage.shape[:3], BLOCK_SIZE, -1)


def kv_bytes_per_token(model: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes that the keys and values of one token take, all layers together."""
    return 2 * model.num_layers * model.num_kv_heads * model.head_size * dtype.itemsize


def blocks_that_fit(model: ModelConfig, dtype: torch.dtype, free_bytes: int, most_tokens: int) -> int:
    """Blocks for half of the free memory, at most ``most_tokens`` tokens."""
    tokens = min(free_bytes // 2 // kv_bytes_per_token(model, dtype), most_tokens)
    if tokens < BLOCK_SIZE:
        raise ConfigError(f"{free_bytes / 2**20:.0f} MiB of free memory hold no KV block; free some, or set kv_tokens")
    return tokens // BLOCK_SIZE
