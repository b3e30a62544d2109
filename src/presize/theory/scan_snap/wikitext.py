"""The paper's experiment on real text: a small transformer language model, its attention maps and entropy.

The settings are those of the paper's notebook, which are those of PyTorch's tutorial: width 200, one head, feed-forward
200, windows of 35 words, 20 at once, SGD without momentum, gradients clipped at 0.5. It has sinusoidal positions, so
the theory's first assumption does not hold.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from presize.errors import ConfigError, check_range
from presize.theory.scan_snap.data import FloatArray

WIDTH, INNER, DROPOUT = 200, 200, 0.2
BATCH, WINDOW, CLIP = 20, 35, 0.5
_MAX_BYTES = 2**30  # of the text
_CHECKED = 20  # batches that the held-out loss and entropy are taken from
_WORD = re.compile(r"[\w@<>]+|[^\w\s]")

Report = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class WikiTrace:
    """Held-out figures at R steps: loss (R,) nats a word, entropy (R, L) nats, maps (R, L, 35, 35) of one window."""

    steps: tuple[int, ...]
    loss: FloatArray
    entropy: FloatArray
    maps: FloatArray
    words: tuple[str, ...]


def read_words(path: Path) -> list[str]:
    """Lower-case words and punctuation marks of a text, or of a gzip of one; ConfigError if it can not be read."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        text = content.decode()
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path} can not be read: {getattr(error, 'strerror', None) or error}") from error
    except UnicodeError as error:
        raise ConfigError(f"{path} is not text in UTF-8") from error
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"{path} has more than {_MAX_BYTES:,} bytes, the most that are read")
    return _WORD.findall(text.lower())


def _batched(ids: NDArray[np.int64]) -> Tensor:
    """(n, BATCH): the text in as many columns."""
    length = len(ids) // BATCH
    return torch.from_numpy(ids[: length * BATCH].reshape(BATCH, length).T.copy())


class Block(nn.Module):
    """Attention and feed-forward, each followed by its residual and norm."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 1, dropout=DROPOUT, batch_first=True)
        self.inner, self.outer = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """The states (B, T, d), and while it is not trained the weights (B, T, T)."""
        mixed, weights = self.attention(x, x, x, attn_mask=mask, need_weights=not self.training)
        x = self.norms[0](x + self.dropout(mixed))
        return self.norms[1](x + self.dropout(self.outer(self.dropout(torch.relu(self.inner(x)))))), weights


class LanguageModel(nn.Module):
    """Words to logits of the next word."""

    def __init__(self, vocabulary: int, layers: int) -> None:
        super().__init__()
        self.embedding, self.decoder = nn.Embedding(vocabulary, WIDTH), nn.Linear(WIDTH, vocabulary)
        for weight in (self.embedding.weight, self.decoder.weight):
            nn.init.uniform_(weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)
        self.blocks = nn.ModuleList(Block() for _ in range(layers))
        self.dropout = nn.Dropout(DROPOUT)
        angles = torch.arange(WINDOW)[:, None] * torch.exp(-torch.arange(0, WIDTH, 2) * math.log(10_000) / WIDTH)
        self.register_buffer("places", torch.stack([angles.sin(), angles.cos()], dim=-1).reshape(WINDOW, WIDTH))
        self.register_buffer("mask", torch.ones(WINDOW, WINDOW).triu(1).bool())

    def forward(self, words: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, T) to logits (B, T, V) and, while it is not trained, each layer's weights (B, T, T)."""
        length = words.shape[1]
        x = self.dropout(self.embedding(words) * math.sqrt(WIDTH) + self.get_buffer("places")[:length])
        maps = []
        for block in self.blocks:
            x, weights = block(x, self.get_buffer("mask")[:length, :length])
            if weights is not None:
                maps.append(weights)
        return self.decoder(x), maps


def train(
    words: list[str], *, layers: int = 1, rate: float = 5.0, steps: int = 500, vocabulary: int = 5000, seed: int = 0,
    looks: int = 20, device: str = "cpu", report: Report = lambda stage, done, total: None,
) -> WikiTrace:  # fmt: skip
    """Learn the first nine tenths, and look at the rest ``looks`` times on the way and at the end."""
    check_range("layers", layers, 1, 12)
    check_range("rate", rate, 0, 1e3, above=True)
    check_range("steps", steps, 1, 1_000_000)
    least = 20 * BATCH * WINDOW
    if len(words) < least:
        raise ConfigError(f"the text has {len(words):,} words; at least {least:,} are needed")
    known = ["<unk>"] + [word for word, _ in Counter(words).most_common(vocabulary - 1) if word != "<unk>"]
    number = {word: i for i, word in enumerate(known)}
    ids = np.array([number.get(word, 0) for word in words], dtype=np.int64)
    cut = len(ids) * 9 // 10
    data, held_out = _batched(ids[:cut]).to(device), _batched(ids[cut:]).to(device)
    torch.manual_seed(seed)
    net = LanguageModel(len(known), layers).to(device)
    rule = torch.optim.SGD(net.parameters(), lr=rate)
    every = max(steps // looks, 1)
    found = []
    for step in range(steps + 1):
        if step % every == 0 or step == steps:
            found.append((step, *_look(net, held_out)))
        if step == steps:
            break
        start = step * WINDOW % (len(data) - WINDOW - 1)
        net.train()
        logits, _ = net(data[start : start + WINDOW].T)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), data[start + 1 : start + 1 + WINDOW].T.flatten())
        rule.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        rule.step()
        report("training", step + 1, steps)
    taken, losses, entropies, maps = zip(*found, strict=True)
    shown = tuple(known[i] for i in held_out[:WINDOW, 0].tolist())
    return WikiTrace(taken, np.array(losses), np.array(entropies), np.array(maps), shown)


@torch.no_grad()
def _look(net: LanguageModel, data: Tensor) -> tuple[float, FloatArray, FloatArray]:
    """Loss, entropy a layer, and the first window's maps: the entropy is -sum a ln(a + 1e-8), mean over positions."""
    net.eval()
    losses, entropies, first = [], [], None
    for start in range(0, len(data) - WINDOW - 1, WINDOW):
        logits, maps = net(data[start : start + WINDOW].T)
        target = data[start + 1 : start + 1 + WINDOW].T.flatten()
        losses.append(float(nn.functional.cross_entropy(logits.flatten(0, 1), target)))
        entropies.append([float(-(m * (m + 1e-8).log()).sum(-1).mean()) for m in maps])
        first = first if first is not None else np.array([m[0].cpu().numpy() for m in maps])
        if len(losses) == _CHECKED:
            break
    assert first is not None  # the held-out part has a window: the text is long enough
    return float(np.mean(losses)), np.mean(entropies, axis=0), first
