"""A small decoder transformer on the bytes of tinyshakespeare: validation loss (nats a byte) of every optimizer.

python benchmarks/optim/transformer.py --save
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from compare import Task, compare, parser
from data import text
from entries import ENTRIES, Entry
from torch import Tensor, nn

from presize.optim import BlockLowRank, param_groups


class Block(nn.Module):
    """Pre-norm attention and feed-forward; query, key and value are matrices of their own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[0](x)
        q, k, v = (
            layer(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))


class Decoder(nn.Module):
    """Bytes to logits of the next byte."""

    def __init__(self, layers: int, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(256, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits


def by_head(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """A basis for each head in query, key and value, where the paper's appendix is said to find weights most alike."""
    assert isinstance(model, Decoder)
    projections = {id(m.weight) for block in model.blocks for m in (block.query, block.key, block.value)}
    everything, *tables = param_groups(model)
    inside = [param for param in everything["params"] if id(param) in projections]
    outside = [param for param in everything["params"] if id(param) not in projections]
    groups = [{"params": inside, "block": "head", "heads": model.blocks[0].heads}, {"params": outside}, *tables]
    return BlockLowRank(groups, lr=lr, rank=4)


ENTRIES["blr-4-heads"] = Entry(3e-3, by_head)


def main() -> None:
    flags = parser(__doc__, steps=400)
    flags.add_argument("--layers", type=int, default=2, help="(default: 2)")
    flags.add_argument("--width", type=int, default=128, help="(default: 128)")
    flags.add_argument("--context", type=int, default=64, help="bytes (default: 64)")
    flags.add_argument("--batch", type=int, default=16, help="sequences (default: 16)")
    options = flags.parse_args()
    data = text(options.work).to(options.device)
    train, held_out = data[: len(data) * 9 // 10], data[len(data) * 9 // 10 :]

    def model(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return Decoder(options.layers, options.width, max(options.width // 32, 1), options.context).to(options.device)

    def cut(source: Tensor, starts: Tensor) -> Tensor:
        return source[starts[:, None] + torch.arange(options.context + 1, device=source.device)]

    def batches(seed: int, steps: int) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        last = len(train) - options.context - 1
        starts = [torch.randint(last, (options.batch,), generator=generator) for _ in range(steps)]
        for part in torch.stack(starts).to(options.device):
            yield cut(train, part)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    @torch.no_grad()
    def final(model: nn.Module) -> float:
        starts = torch.arange(0, len(held_out) - options.context - 1, options.context, device=data.device)[:1024]
        parts = starts.split(64)
        return sum(float(loss(model, cut(held_out, part))) for part in parts) / len(parts)

    name = f"transformer-{options.layers}-{options.width}"
    description = (
        f"tinyshakespeare, bytes, {options.layers} layers of width {options.width}, context {options.context}, "
        f"batch {options.batch}; loss on 65,536 bytes of the last tenth"
    )
    compare(Task(name, options.device, model, batches, loss, final), description, options)


if __name__ == "__main__":
    main()
