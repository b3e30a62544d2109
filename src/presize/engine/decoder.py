"""A decoder of the Llama family (Llama, Mistral, Qwen2, Qwen3, SmolLM).

Letters: N tokens of the step, C hidden size, H query heads, J key/value heads, D head size.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F

from presize.engine.elementwise import RmsNorm, silu_and_multiply
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
        self.attention_norm = RmsNorm(weights["attention_norm"], config.norm_eps)
        self.mlp_norm = RmsNorm(weights["mlp_norm"], config.norm_eps)
        self.head_norms = [RmsNorm(weights[key], config.norm_eps) for key in ("q_norm", "k_norm") if config.qk_norm]
        self.qkv = Linear(weights["qkv"], weights.get("qkv_bias"))
        self.output = Linear(weights["output"], weights.get("output_bias"))
        self.gate_up = Linear(weights["gate_up"], weights.get("gate_up_bias"))
        self.down = Linear(weights["down"], weights.get("down_bias"))

    def __call__(self, hidden_NC: torch.Tensor, attention: Attention) -> torch.Tensor:
        qkv_NX = self.qkv(self.attention_norm(hidden_NC))
        if self.head_norms:
            qkv_NX = self._normalise_heads(qkv_NX)
        hidden_NC = self.output.add_to(hidden_NC, attention(self.index, qkv_NX))
        gate_up_NX = self.gate_up(self.mlp_norm(hidden_NC))
        return self.down.add_to(hidden_NC, silu_and_multiply(gate_up_NX))

    def _normalise_heads(self, qkv_NX: torch.Tensor) -> torch.Tensor:
        config = self.config
        heads = qkv_NX.view(len(qkv_NX), -1, config.head_size)
        q, k, v = heads.split([config.num_heads, config.num_kv_heads, config.num_kv_heads], dim=1)
        q_norm, k_norm = self.head_norms
        return torch.cat([q_norm(q), k_norm(k), v], dim=1).flatten(1)


class Decoder:
    """Token ids in, logits out. Holds the weights and nothing that depends on a request."""

    def __init__(self, config: ModelConfig, layers: list[Layer], top: dict[str, torch.Tensor]) -> None:
        self.config = config
        self.layers = layers
        self.embedding = top["embedding"]
        self.final_norm = RmsNorm(top["final_norm"], config.norm_eps)
        self.head = Linear(top["head"])

    def __call__(self, ids_N: torch.Tensor, attention: Attention, rows_R: torch.Tensor) -> torch.Tensor:
        """Logits (R, V) float32 of the rows that ``rows_R`` names."""
        return self.logits(self.states(self.hidden(ids_N, attention)[rows_R]))

    def hidden(self, ids_N: torch.Tensor, attention: Attention) -> torch.Tensor:
        """(N, C) what the last layer leaves."""
        hidden_NC = F.embedding(ids_N, self.embedding)
        for layer in self.layers:
            hidden_NC = layer(hidden_NC, attention)
        return hidden_NC

    def states(self, hidden_RC: torch.Tensor) -> torch.Tensor:
        """(R, C) what the head sees: after the last norm."""
        return self.final_norm(hidden_RC)

    def logits(self, states_RC: torch.Tensor) -> torch.Tensor:
        """(R, V) float32."""
        return self.head(states_RC).float()
