"""The attention predictor as a torch module; `presize.predict.attention` computes the same in numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from presize.core.lengths import FloatArray, IntArray
from presize.predict.attention import HEADS, PLACES, SOFT_CAP, Attention
from presize.predict.base import Query
from presize.predict.features import SIDES
from presize.predict.hazard import hazards_of, observed
from presize.predict.learned import Learned
from presize.predict.packing import Packed, pack, pair_rows, vocabulary_rows
from presize.predict.train.augment import variants
from presize.predict.train.loop import Schedule, Targets, bias_of, fit, hazard_loss, loss_of
from presize.predict.train.task import TRAINERS, Task

_WIDTH, _PAIRS, _QUERIES, _HIDDEN = 64, 2**14, 4, 256
_ALONE = Schedule(epochs=12, batch_size=64)
_TAUGHT = Schedule(epochs=3, batch_size=128)
_RATE, _DECAY = 2e-3, 0.05
_LEAST_SEEN = 3  # times that a token must occur to have a row of its own
_MOST_KNOWN = 12_000  # tokens that have one: with the pairs' rows, weights of at most 4 MB
_HIDDEN_SHARE = 0.02  # of the tokens while training, so that the row for unknown ones is learned
_OWN_SHARE = 0.3  # of the target of a prompt whose answer is known: the answer; the rest is the teacher's curve
_ASKED = 1024  # prompts that the teacher is asked about at once


@TRAINERS.register("attention")
def train_attention(task: Task) -> Attention:
    """On the answers alone, or, with a teacher, on its curves for them and for many prompts more."""
    torch.manual_seed(task.recipe.seed)
    prompts, sides = list(task.answers.prompts), task.answers.sides
    targets = Targets.of(*observed(task.answers.lengths, task.answers.censored, task.cells))
    taught = task.recipe.teacher is not None
    if task.recipe.teacher is not None:
        queries = [*task.answers.queries, *_made(task)]
        prompts = [task.features.tokens(query) for query in queries]
        sides = task.features.sides(queries, [len(prompt) for prompt in prompts])
        targets = _blend(targets, Targets.soft(_ask(task, task.recipe.teacher, queries)))
    ids, counts = np.unique(np.concatenate(prompts), return_counts=True)
    ids = ids[counts >= (rarest := min(_LEAST_SEEN, int(counts.max())))]
    commonest = np.argsort(-counts[counts >= rarest], kind="stable")[:_MOST_KNOWN]
    net = AttentionNet(np.sort(ids[commonest]), bias_of(task), dropout=0.0 if taught else 0.3)

    def inputs(rows: IntArray) -> tuple[Any, ...]:
        return *net.inputs([prompts[i] for i in rows]), torch.from_numpy(sides[rows])

    held_out_loss = hazard_loss(task.held_out, task.cells)

    def validate() -> float:
        logits = net.stored().logits(task.held_out.prompts, task.held_out.sides)
        return float(held_out_loss(torch.from_numpy(logits), torch.arange(len(logits))))

    sizes = np.array([len(prompt) for prompt in prompts])
    optimizer = torch.optim.AdamW(net.parameters(), lr=_RATE, weight_decay=_DECAY)
    fit(net, inputs, sizes, lambda logits, rows: loss_of(logits, targets[rows]), validate, optimizer,
        _TAUGHT if taught else _ALONE, task)  # fmt: skip
    return net.stored()


def _made(task: Task) -> list[Query]:
    """Prompts without answers, and ones made of them and of the log's; with settings drawn from the log's."""
    rng = np.random.default_rng(task.recipe.seed)
    others = [task.features.tokens(query) for query in task.recipe.prompts]
    known = [*task.answers.prompts, *others]
    texts = [task.tokenizer.decode(prompt.tolist()) for prompt in known]
    settings = rng.integers(len(task.answers.queries), size=task.recipe.variants)
    made = [
        replace(task.answers.queries[i], prompt_token_ids=ids)
        for ids, i in zip(others, rng.integers(len(task.answers.queries), size=len(others)), strict=True)
    ]
    # there may be fewer variants than asked for: none, if no prompt has a word
    for text, i in zip(variants(texts, task.recipe.variants, rng), settings, strict=False):
        ids = np.asarray(task.tokenizer.encode(text, special=False), dtype=np.int32)
        if ids.size:
            made.append(replace(task.answers.queries[i], prompt_token_ids=ids))
        if len(made) % _ASKED == 0:
            task.report("making prompts", len(made), task.recipe.variants)
    return made


def _ask(task: Task, teacher: Learned, queries: Sequence[Query]) -> FloatArray:
    """(N, K) the teacher's hazards."""
    found = []
    teacher.model.set_threads(torch.get_num_threads())
    for start in range(0, len(queries), _ASKED):
        found.append(hazards_of(teacher.survival(queries[start : start + _ASKED]), task.cells))
        task.report("asking the teacher", min(start + _ASKED, len(queries)), len(queries))
    return np.concatenate(found)


def _blend(own: Targets, taught: Targets) -> Targets:
    """The first rows of ``taught`` are those of ``own``."""
    count = len(own.ended)
    for mine, theirs in ((own.at_risk, taught.at_risk), (own.ended, taught.ended)):
        theirs[:count] += _OWN_SHARE * (mine - theirs[:count])
    return taught


class AttentionNet(nn.Module):
    """Prompt tokens to K hazard logits; d is the width.

    vocabulary: (V,) sorted ids of the tokens that have a row of their own. The names of the parameters are those of
    the stored arrays.
    """

    def __init__(
        self, vocabulary: NDArray[Any], bias: FloatArray, *, dropout: float, width: int = _WIDTH, pairs: int = _PAIRS,
        queries: int = _QUERIES, hidden: int = _HIDDEN,
    ) -> None:  # fmt: skip
        super().__init__()
        self.vocabulary = vocabulary.astype(np.int32)
        self.tokens = nn.Parameter(torch.randn(len(vocabulary) + 1, width) * 0.1)
        self.pairs = nn.Parameter(torch.zeros(pairs, width))
        self.places = nn.Parameter(torch.zeros(2, PLACES, width))
        self.project = nn.Parameter(torch.randn(width, 3 * width) / math.sqrt(width))
        self.output = nn.Parameter(torch.randn(width, width) * 0.5 / math.sqrt(width))
        self.queries = nn.Parameter(torch.randn(queries, width) * 0.1)
        self.hidden = nn.Parameter(torch.randn(queries * width + len(SIDES), hidden) / math.sqrt(queries * width))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.decode = nn.Parameter(torch.zeros(hidden, len(bias)))
        self.decode_bias = nn.Parameter(torch.from_numpy(bias).float())
        self.dropout = nn.Dropout(dropout)
        self.pooling = nn.Identity()  # the pool's weights pass through it, where hooks can see them

    def forward(self, joined: Tensor, pairs: Tensor, packed: Packed, sides: Tensor) -> Tensor:
        """joined, pairs (total,): rows of the tokens and of the pairs; sides (N, 4)."""
        if self.training:
            joined = joined.masked_fill(torch.rand(joined.shape) < _HIDDEN_SHARE, len(self.vocabulary))
        place = torch.from_numpy(np.minimum(packed.place, PLACES - 1))
        x = nn.functional.embedding(joined, self.tokens) + nn.functional.embedding(pairs, self.pairs)
        x = self.dropout(x + self.places[0][place[0]] + self.places[1][place[1]])
        real = torch.from_numpy(packed.real)
        x = x[torch.from_numpy(packed.rows)] * real[..., None]
        x = x + self.dropout(self._attend(x, real, torch.from_numpy(packed.context)))
        pooled = self._pool(x, real, torch.from_numpy(packed.first))
        inner = nn.functional.relu(self.dropout(torch.cat([pooled, sides], dim=1)) @ self.hidden + self.hidden_bias)
        logits: Tensor = self.dropout(inner) @ self.decode + self.decode_bias
        return logits

    def _attend(self, x: Tensor, real: Tensor, context: Tensor) -> Tensor:
        count, width, size = x.shape
        q, k, v = (x @ self.project).view(count, width, 3, HEADS, size // HEADS).permute(2, 0, 3, 1, 4)
        empty = torch.zeros(1, *k.shape[1:])
        seen = torch.cat([real, torch.zeros(1, width, dtype=torch.bool)])[context].reshape(count, -1)
        k, v = (
            torch.cat([part, empty])[context].transpose(1, 2).reshape(count, HEADS, -1, size // HEADS)
            for part in (k, v)
        )
        bias = torch.zeros(seen.shape).masked_fill(~seen, -1e9)[:, None, None, :]
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return mixed.transpose(1, 2).reshape(count, width, size) @ self.output

    def _pool(self, x: Tensor, real: Tensor, first: Tensor) -> Tensor:
        count, size, prompts = len(x), x.shape[-1], len(first)
        scores = SOFT_CAP * torch.tanh(self.queries @ x.transpose(1, 2) / SOFT_CAP)  # (B, M, C)
        weights = self.pooling(torch.exp(scores) * real[:, None, :])
        owner = torch.bucketize(torch.arange(count), first, right=True) - 1
        mass = torch.zeros(prompts, len(self.queries)).index_add(0, owner, weights.sum(dim=2))
        total = torch.zeros(prompts, len(self.queries), size).index_add(0, owner, weights @ x)
        return (total / mass[..., None]).reshape(prompts, -1)

    def stored(self) -> Attention:
        """The same net in numpy."""
        weights = {name: value.detach().numpy().copy() for name, value in self.named_parameters()}
        return Attention({"vocabulary": self.vocabulary, **weights})

    def inputs(self, prompts: Sequence[IntArray]) -> tuple[Tensor, Tensor, Packed]:
        """Rows of tokens and pairs, and the packing, of some prompts."""
        packed = pack([len(prompt) for prompt in prompts])
        joined = np.concatenate(prompts)
        rows = vocabulary_rows(self.vocabulary, joined)
        pairs = pair_rows(joined, packed.place, len(self.pairs))
        return torch.from_numpy(rows), torch.from_numpy(pairs), packed
