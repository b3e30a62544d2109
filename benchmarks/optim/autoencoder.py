"""The deep autoencoder on MNIST: train loss of every optimizer at equal steps, step times, memory.

784-1000-500-250-30 and mirrored, tanh, a linear code layer; sigmoid cross-entropy summed over pixels, averaged over
the batch, as in the public protocol of the paper's group (devvrit/SONew), which has 100 epochs of batches of 1,000 and
up to 600 trials. The defaults here are for a small machine, half the widths and batches of 250, the same for all.

python benchmarks/optim/autoencoder.py --save
python benchmarks/optim/autoencoder.py --divide 1 --batch 1000 --steps 5000 --device cuda --jobs 8 --save
                                                                                         the protocol's own size
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from compare import Task, compare, parser
from data import mnist
from torch import Tensor, nn

WIDTHS = (1000, 500, 250)
CODE = 30


def main() -> None:
    flags = parser(__doc__, steps=600)
    flags.add_argument("--divide", type=int, default=2, help="hidden widths are divided by this (default: 2)")
    flags.add_argument("--batch", type=int, default=250, help="images in a batch (default: 250)")
    options = flags.parse_args()
    train = mnist(options.work)[0].to(options.device)
    widths = [784, *(width // options.divide for width in WIDTHS), CODE]
    widths += widths[-2::-1]

    def model(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for wide, narrow in itertools.pairwise(widths):
            layer = nn.Linear(wide, narrow)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
            layers += [layer, nn.Tanh()] if narrow != CODE else [layer]
        return nn.Sequential(*layers[:-1]).to(options.device)

    def batches(seed: int, steps: int) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            for rows in torch.randperm(len(train), generator=generator).to(options.device).split(options.batch):
                if steps == 0:
                    return
                steps -= 1
                yield train[rows]

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(model(batch), batch, reduction="sum") / len(batch)

    @torch.no_grad()
    def final(model: nn.Module) -> float:
        return sum(float(loss(model, part)) for part in train.split(1000)) / (len(train) // 1000)

    name = f"autoencoder-{options.divide}-{options.batch}"
    description = f"MNIST, widths {widths}, tanh, batch {options.batch}; loss over the 50,000 training images"
    compare(Task(name, options.device, model, batches, loss, final), description, options)


if __name__ == "__main__":
    main()
