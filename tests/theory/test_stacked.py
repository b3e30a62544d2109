"""The decoders that `benchmarks/theory/depth_width.py` trains side by side, beside torch's own layers and optimizer."""

from __future__ import annotations

import math

import pytest
import torch
from stacked import BATCH, BETA1, BETA2, CLIP, DECAY, EPSILON, HEAD, VOCABULARY, WINDOW, AdamW, Shape, Stack
from torch import Tensor, nn

SHAPE = Shape(depth=2, width=2 * HEAD, inner=48)


class Alone(nn.Module):
    """One of them, with the weights of row ``s`` of the stack."""

    def __init__(self, stack: Stack, s: int) -> None:
        super().__init__()
        maps = {name: part[s].detach() for name, part in stack.maps.items()}
        self.words, self.places = nn.Parameter(maps["words"].clone()), nn.Parameter(maps["places"].clone())
        self.head = nn.Parameter(maps["head"].clone())
        self.layers = nn.ModuleList()
        for layer in range(SHAPE.depth):
            made = nn.TransformerEncoderLayer(
                SHAPE.width, SHAPE.width // HEAD, SHAPE.inner, dropout=0.0, activation="gelu", batch_first=True,
                norm_first=True, bias=False,
            )  # fmt: skip
            for mine, name in (
                (made.self_attn.in_proj_weight, "qkv"), (made.self_attn.out_proj.weight, "out"),
                (made.linear1.weight, "inner"), (made.linear2.weight, "outer"),
            ):  # fmt: skip
                mine.data = maps[f"{name}{layer}"].T.clone()
            for norm in (made.norm1, made.norm2):
                norm.weight.requires_grad_(False)
            self.layers.append(made)

    def loss(self, ids: Tensor) -> Tensor:
        x = self.words[ids[:, :-1]] + self.places
        mask = nn.Transformer.generate_square_subsequent_mask(WINDOW)
        for layer in self.layers:
            x = layer(x, src_mask=mask, is_causal=True)
        logits = nn.functional.layer_norm(x, x.shape[-1:]) @ self.head
        return nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def test_decoders_side_by_side_learn_as_each_would_alone() -> None:
    rates, steps = [1e-3, 1e-1], 5
    stack = Stack(SHAPE, [3, 4], "cpu")
    rule = AdamW(stack, rates, steps)
    alone = [Alone(stack, s) for s in range(2)]
    rules = [
        torch.optim.AdamW(
            [p for p in one.parameters() if p.requires_grad], lr=1.0, betas=(BETA1, BETA2), eps=EPSILON,
            weight_decay=DECAY,
        )
        for one in alone
    ]  # fmt: skip
    rng = torch.Generator().manual_seed(0)
    for step in range(steps):
        ids = torch.randint(VOCABULARY, (2, BATCH // 8, WINDOW + 1), generator=rng)
        expected = [one.loss(part) for one, part in zip(alone, ids, strict=True)]
        assert stack.losses(ids).detach().tolist() == pytest.approx([loss.item() for loss in expected], rel=1e-4)
        rule.step(stack.gradients(ids))
        for one, adam, loss, rate in zip(alone, rules, expected, rates, strict=True):
            adam.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([p for p in one.parameters() if p.requires_grad], CLIP)
            # warm-up over a tenth of the steps, here one; then down to zero
            adam.param_groups[0]["lr"] = rate * min(step + 1, (steps - step) / (steps - 1))
            adam.step()


def test_a_shape_counts_its_parameters() -> None:
    stack = Stack(SHAPE, [0], "cpu")
    apart = ("words", "places", "head")
    assert SHAPE.parameters == sum(math.prod(m.shape) for name, m in stack.maps.items() if name not in apart)
