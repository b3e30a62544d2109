"""The one-layer model in its token form: embeddings and weight matrices, differentiated by torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from presize.errors import check_range


class OneLayer(nn.Module):
    """One softmax head without positions; the query does not attend to itself (the paper's equations 1 to 3).

    embeddings U: (M, d); query, key, value: (d, d) each. M tokens are asked for and answered.
    """

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        check_range("tokens", tokens, 2, 100_000)
        check_range("width", width, 1, 100_000)
        self.embeddings = nn.Parameter(torch.randn(tokens, width) / math.sqrt(width))
        self.query = nn.Parameter(torch.randn(width, width) / math.sqrt(width))
        self.key = nn.Parameter(torch.randn(width, width) / math.sqrt(width))
        self.value = nn.Parameter(torch.randn(width, width) / math.sqrt(width))

    def forward(self, context: Tensor, query: Tensor) -> Tensor:
        """(B, M) logits of the next token, from (B, T - 1) context and (B,) query token ids.

        b = softmax(u_q^T W_Q W_K^T u_t / sqrt(d)); the output LN(X^T b), LN(x) = x / ||x||_2, is normalised over
        tokens, and u~ = U^T LN(X^T b); logits U W_V u~.
        """
        width = self.embeddings.shape[1]
        seen = self.embeddings[context]  # (B, T - 1, d)
        asked = self.embeddings[query] @ self.query @ self.key.T
        attention = torch.softmax((seen @ asked[..., None])[..., 0] / math.sqrt(width), dim=-1)
        mixed = torch.zeros(len(context), len(self.embeddings), dtype=seen.dtype).scatter_add(1, context, attention)
        mixed = mixed / mixed.norm(dim=-1, keepdim=True)
        logits: Tensor = mixed @ self.embeddings @ self.value.T @ self.embeddings.T
        return logits

    def decoder_logits(self) -> Tensor:
        """Y = U W_V^T U^T, (M, M)."""
        return self.embeddings @ self.value.T @ self.embeddings.T

    def attention_logits(self) -> Tensor:
        """Z = U W_Q W_K^T U^T / sqrt(d), (M, M); row m for query m."""
        width = self.embeddings.shape[1]
        return self.embeddings @ self.query @ self.key.T @ self.embeddings.T / math.sqrt(width)
