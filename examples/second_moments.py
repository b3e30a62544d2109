"""For `presize optim report examples/second_moments.py`: a small attention model that learns to reverse sequences.

It leaves the three names that the report asks for: model, batches, loss.
"""

import torch
from torch import Tensor, nn

from presize.optim import BlockLowRank, param_groups

WIDTH, HEADS, SYMBOLS, LENGTH = 48, 2, 12, 10


class Reverser(nn.Module):
    """One layer of attention and one of feed-forward over learned places."""

    def __init__(self) -> None:
        super().__init__()
        self.symbols, self.places = nn.Embedding(SYMBOLS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up_proj, self.down_proj = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, SYMBOLS)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.symbols(tokens) + self.places.weight
        q, k, v = (
            layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.o_proj(mixed)
        return self.head(x + self.down_proj(nn.functional.gelu(self.up_proj(x))))


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(batch).flatten(0, 1), batch.flip(1).flatten())


torch.manual_seed(0)
model = Reverser()
optimizer = BlockLowRank(param_groups(model), lr=3e-3)
for _ in range(100):  # second moments of a model that has begun to learn say more than those of random weights
    optimizer.zero_grad()
    loss(model, torch.randint(SYMBOLS, (64, LENGTH))).backward()
    optimizer.step()

batches = (torch.randint(SYMBOLS, (1, LENGTH)) for _ in range(1000))
