"""Decoders of one shape that differ in rate and seed, trained side by side: every matrix product is a batched one.

A decoder of 1e5 parameters leaves a GPU idle, and its step waits for some hundred launches. Several at once, with the
whole step as one CUDA graph, do not. All their weights are the rows of one matrix, so AdamW is a few lines.

Pre-norm, learned positions, no biases and no gains of norms (the maps after them can do as much), word vectors and
head apart. Weights start at GPT-2's 0.02, scaled to the width. On a GPU products are in bfloat16, all else in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

HEAD, VOCABULARY, WINDOW, BATCH = 16, 2000, 64, 64
DECAY, BETA1, BETA2, EPSILON, CLIP, WARM_UP = 0.1, 0.9, 0.95, 1e-8, 1.0, 0.1


@dataclass(frozen=True, slots=True)
class Shape:
    """Layers, width d, and inner width f of the feed-forward part: L (4 d^2 + 2 d f) parameters without embeddings."""

    depth: int
    width: int
    inner: int

    @property
    def parameters(self) -> int:
        return self.depth * (4 * self.width**2 + 2 * self.width * self.inner)


class Stack:
    """S decoders; ``weights`` is (S, P), and the maps are views of it."""

    def __init__(self, shape: Shape, seeds: Sequence[int], device: str) -> None:
        self.shape, self.device = shape, device
        width, scale = shape.width, 0.02 * math.sqrt(768 / shape.width)
        residual = scale / math.sqrt(2 * shape.depth)
        kinds = [("words", (VOCABULARY, width), scale), ("places", (WINDOW, width), scale)]
        for layer in range(shape.depth):
            kinds += [
                (f"qkv{layer}", (width, 3 * width), scale), (f"out{layer}", (width, width), residual),
                (f"inner{layer}", (width, shape.inner), scale), (f"outer{layer}", (shape.inner, width), residual),
            ]  # fmt: skip
        kinds.append(("head", (width, VOCABULARY), scale))
        rows = {seed: torch.Generator().manual_seed(seed) for seed in seeds}
        drawn = {
            seed: torch.cat([torch.randn(math.prod(size), generator=rng) * std for _, size, std in kinds])
            for seed, rng in rows.items()
        }
        self.weights = torch.stack([drawn[seed] for seed in seeds]).to(device)
        self.maps: dict[str, Tensor] = {}
        start = 0
        for name, size, _ in kinds:
            part = slice(start, start := start + math.prod(size))
            self.maps[name] = self.weights[:, part].unflatten(1, size).detach().requires_grad_()

    def gradients(self, ids: Tensor) -> Tensor:
        """(S, P), each decoder's of its own loss."""
        found = torch.autograd.grad(self.losses(ids).sum(), list(self.maps.values()))
        return torch.cat([part.flatten(1) for part in found], dim=1)

    def losses(self, ids: Tensor) -> Tensor:
        """(S,) nats a word, from word ids (S, B, WINDOW + 1)."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda", cache_enabled=False):
            return self._losses(ids)

    def _losses(self, ids: Tensor) -> Tensor:
        maps, width = self.maps, self.shape.width
        seen, following = ids[..., :-1], ids[..., 1:]
        count, batch, window = seen.shape
        x = maps["words"].gather(1, seen.flatten(1)[..., None].expand(-1, -1, width))
        x = (x.unflatten(1, (batch, window)) + maps["places"][:, None]).flatten(1, 2)  # (S, B T, d)
        for layer in range(self.shape.depth):
            qkv = (_norm(x) @ maps[f"qkv{layer}"]).view(count * batch, window, 3, width // HEAD, HEAD)
            query, key, value = qkv.permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            x = x + mixed.transpose(1, 2).reshape(count, batch * window, width) @ maps[f"out{layer}"]
            x = x + functional.gelu(_norm(x) @ maps[f"inner{layer}"]) @ maps[f"outer{layer}"]
        logits = _norm(x) @ maps["head"]
        each = functional.cross_entropy(logits.flatten(0, 1), following.flatten(), reduction="none")
        return each.view(count, -1).mean(dim=1)


def _norm(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:])


class AdamW:
    """Decoupled decay of all weights, gradients clipped at a norm of CLIP a decoder; a rate for each of the S."""

    def __init__(self, stack: Stack, rates: Sequence[float], steps: int) -> None:
        self.weights = stack.weights
        warm = max(round(WARM_UP * steps), 1)
        schedule = [min((s + 1) / warm, (steps - s) / max(steps - warm, 1)) for s in range(steps)]
        device = stack.weights.device
        self.rates = torch.tensor(rates, device=device)[:, None] * torch.tensor(schedule, device=device)  # (S, steps)
        self.mean, self.square = torch.zeros_like(stack.weights), torch.zeros_like(stack.weights)
        self.at = torch.zeros(1, dtype=torch.int64, device=device)  # steps done, where a graph can count them

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        """Move all weights by ``gradient`` (S, P), which is clipped in place."""
        gradient.mul_(CLIP / gradient.norm(dim=1, keepdim=True).clamp_min(CLIP))
        self.mean.lerp_(gradient, 1 - BETA1)
        self.square.lerp_(gradient.square(), 1 - BETA2)
        rate = self.rates.index_select(1, self.at)
        self.at += 1
        size = (self.square / (1 - BETA2**self.at)).sqrt_().add_(EPSILON)
        self.weights.mul_(1 - rate * DECAY).sub_(self.mean / size * (rate / (1 - BETA1**self.at)))


def train(
    shape: Shape, members: Sequence[tuple[float, int]], steps: int, text: Any, held_out: Any, device: str
) -> list[float]:
    """Held-out loss of a decoder for each (rate, seed), in nats a word; a seed decides both the start and the data."""
    seeds = sorted({seed for _, seed in members})
    words = torch.from_numpy(text).to(device)
    drawn = np.stack(
        [np.random.default_rng(seed).integers(len(text) - WINDOW, size=(steps, BATCH)) for seed in seeds], axis=1
    )
    starts = torch.from_numpy(drawn).to(device)  # (steps, seeds, B)
    row = torch.tensor([seeds.index(seed) for _, seed in members], device=device)
    window = torch.arange(WINDOW + 1, device=device)
    stack = Stack(shape, [seed for _, seed in members], device)
    rule = AdamW(stack, [rate for rate, _ in members], steps)

    def step() -> None:
        ids = words[starts.index_select(0, rule.at)[0][:, :, None] + window]
        rule.step(stack.gradients(ids[row]))

    replay = step if device == "cpu" else _graph(step, [stack.weights, rule.mean, rule.square, rule.at])
    for _ in range(steps):
        replay()
    with torch.no_grad():
        cut = len(held_out) - (len(held_out) - 1) % WINDOW
        whole = torch.from_numpy(held_out[:cut]).to(device).unfold(0, WINDOW + 1, WINDOW)  # (n, T + 1)
        total = sum(stack.losses(part.expand(len(members), -1, -1)) * len(part) for part in whole.split(BATCH))
    return [float(loss) for loss in total / len(whole)]


def _graph(step: Callable[[], None], state: list[Tensor]) -> Callable[[], None]:
    """The step recorded once, to be launched as a whole; ``state`` is as before the trials that recording needs."""
    before = [tensor.clone() for tensor in state]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for tensor, old in zip(state, before, strict=True):
        tensor.copy_(old)
    replay: Callable[[], None] = graph.replay
    return replay
