"""A decoder of the Llama family (Llama, Mistral, Qwen2, Qwen3, SmolLM).

Letters: N tokens of the step, C hidden size, H query heads, J key/value heads, D head size.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F

from presize.engine.elementwise import rms_norm, silu_and_multiply
from presize.engine.linear import Linear
from presize.engine.model_config import ModelConfig


class Attention(Protocol):
    """Rotary embedding, storing of keys and values, and attention over the block tables of the present step."""

    def __call__(self, layer: int, qkv_NX: torch.Tensor) -> torch.Tensor:
        """qkv (N, (H + 2J) D) -> (N, H D)."""
        ...


class Layer:
    """One decoder layer; the projections of queries, keys and values are one matrix, gate and up another."""

    def __init__(self, index: int, weights: dict[str, torch.Tensor], config: ModelConfig) -> None:
        self.index = index
        self.config = config
        self.attention_norm = weights["attention_norm"]
        self.mlp_norm = weights["mlp_norm"]
        self.q_norm = weights.get("q_norm")
        self.k_norm = weights.get("k_norm")
        self.qkv = Linear(weights["qkv"], weights.get("qkv_bias"))
        self.output = Linear(weights["output"], weights.get("output_bias"))
        self.gate_up = Linear(weights["gate_up"], weights.get("gate_up_bias"))
        self.down = Linear(weights["down"], weights.get("down_bias"))

    def __call__(self, hidden_NC: torch.Tensor, attention: Attention) -> torch.Tensor:
        config = self.config
        qkv_NX = self.qkv(rms_norm(hidden_NC, self.attention_norm, config.norm_eps))
        if self.q_norm is not None and self.k_norm is not None:
            qkv_NX = self._normalise_heads(qkv_NX, self.q_norm, self.k_norm)
        hidden_NC = self.output.add_to(hidden_NC, attention(self.index, qkv_NX))
        gate_up_NX = self.gate_up(rms_norm(hidden_NC, self.mlp_norm, config.norm_eps))
        return self.down.add_to(hidden_NC, silu_and_multiply(gate_up_NX))

    def _normalise_heads(self, qkv_NX: torch.Tensor, q_norm: torch.Tensor, k_norm: torch.Tensor) -> torch.Tensor:
        config = self.config
        heads = qkv_NX.view(len(qkv_NX), -1, config.head_size)
        q, k, v = heads.split([config.num_heads, config.num_kv_heads, config.num_kv_heads], dim=1)
        q, k = rms_norm(q, q_norm, config.norm_eps), rms_norm(k, k_norm, config.norm_eps)
        return torch.cat([q, k, v], dim=1).flatten(1)


class Decoder:
    """Token ids in, logits out. Holds the weights and nothing that depends on a request."""

    def __init__(self, config: ModelConfig, layers: list[Layer], top: dict[str, torch.Tensor]) -> None:
        self.config = config
        self.layers = layers
        self.embedding = top["embedding"]
        self.final_norm = top["final_norm"]
        self.head = Linear(top["head"])

    def __call__(self, ids_N: torch.Tensor, attention: Attention, rows_R: torch.Tensor) -> torch.Tensor:
        """Logits (R, V) float32 of the rows that ``rows_R`` names."""
        hidden_NC = F.embedding(ids_N, self.embedding)
        for layer in self.layers:
            hidden_NC = layer(hidden_NC, attention)
        return self.head(rms_norm(hidden_NC[rows_R], self.final_norm, self.config.norm_eps)).float()
