"""From logits to the next tokens. Letters: R rows, V vocabulary.

A random token is drawn by inverting the cumulative distribution at one uniform number, which depends on the
request's seed and the token's place alone: what else is in the batch does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from presize.engine.outputs import TokenLogprobs
from presize.engine.sequence import Sequence

_SMALLEST = 1e-6  # divisors below it count as this: more would overflow
_SHORTLIST = 512  # tokens looked at first for top_p, and eight times as many where they do not suffice


@dataclass(frozen=True, slots=True)
class Sampled:
    """Token ids (R), and for each row that asked for them the log-probabilities before any processing.

    first_states (n, C): the model's states of those rows whose token is their answer's first, if they were asked for.
    """

    token_ids: list[int]
    logprobs: list[TokenLogprobs | None]
    first_states: NDArray[np.float32] | None = None


def sample(logits_RV: torch.Tensor, sequences: SequenceOf[Sequence]) -> Sampled:
    """The next token of each sequence; row r of the logits (float32, changed in place) belongs to sequence r."""
    wanted = [row for row, s in enumerate(sequences) if s.params.logprobs is not None]
    raw = logits_RV[wanted].log_softmax(dim=-1) if wanted else None
    for row, sequence in enumerate(sequences):
        _process(logits_RV, row, sequence)
    # numpy's argmax takes a sixth of torch's time on the CPU
    best = logits_RV.numpy().argmax(axis=-1) if logits_RV.device.type == "cpu" else logits_RV.argmax(dim=-1)
    token_ids: list[int] = best.tolist()
    random = [row for row, s in enumerate(sequences) if not s.params.greedy]
    if random:
        for row, token in zip(random, _draw(logits_RV[random], [sequences[r] for r in random]), strict=True):
            token_ids[row] = token
    logprobs: list[TokenLogprobs | None] = [None] * len(sequences)
    if raw is not None:
        for place, row in enumerate(wanted):
            logprobs[row] = _top_logprobs(raw[place], token_ids[row], sequences[row].params.logprobs or 0)
    return Sampled(token_ids, logprobs)


def _process(logits_RV: torch.Tensor, row: int, sequence: Sequence) -> None:
    """Penalties and the ban on ending before min_tokens, in place."""
    params = sequence.params
    if sequence.request.output_tokens < params.min_tokens and sequence.stop_ids:
        logits_RV[row, list(sequence.stop_ids)] = -torch.inf
    if params.repetition_penalty != 1.0:
        seen = torch.tensor(sequence.token_ids, device=logits_RV.device).unique()
        values, penalty = logits_RV[row, seen], max(params.repetition_penalty, _SMALLEST)
        logits_RV[row, seen] = torch.where(values > 0, values / penalty, values * penalty)
    if params.presence_penalty or params.frequency_penalty:
        ids, counts = torch.tensor(sequence.output_ids, dtype=torch.int64, device=logits_RV.device).unique(
            return_counts=True
        )
        logits_RV[row, ids] -= params.presence_penalty + params.frequency_penalty * counts


def _draw(logits_RV: torch.Tensor, sequences: list[Sequence]) -> list[int]:
    device = logits_RV.device

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)[:, None]

    # the largest logit at zero, and no division by next to nothing: a vanishing temperature is greedy, not NaN
    logits_RV = logits_RV - logits_RV.amax(dim=-1, keepdim=True)
    logits_RV = logits_RV / column([max(s.params.temperature, _SMALLEST) for s in sequences])
    probs_RV = logits_RV.softmax(dim=-1)
    vocabulary = probs_RV.shape[1]
    ks = [s.params.top_k if s.params.top_k > 0 else vocabulary for s in sequences]
    top_ps = column([s.params.top_p for s in sequences])
    floor = column([s.params.min_p for s in sequences]) * probs_RV.amax(dim=-1, keepdim=True)
    if min(ks) < vocabulary or (top_ps < 1).any():
        floor = torch.maximum(floor, _smallest_kept(probs_RV, ks, top_ps))
    probs_RV = torch.where(probs_RV >= floor, probs_RV, 0.0)
    cumulative_RV = probs_RV.double().cumsum(dim=-1)
    uniform = [_uniform(s.seed, s.request.output_tokens) for s in sequences]
    points = torch.tensor(uniform, dtype=torch.float64, device=device)[:, None] * cumulative_RV[:, -1:]
    # right=True: a token with probability 0 is never drawn, also not at u = 0
    drawn = torch.searchsorted(cumulative_RV, points, right=True)[:, 0]
    last = (probs_RV > 0).to(torch.int8).cumsum(dim=-1, dtype=torch.int32).argmax(dim=-1)
    return torch.minimum(drawn, last).tolist()


def _smallest_kept(
    probs_RV: torch.Tensor, ks: list[int], top_ps: torch.Tensor, shortlist: int = _SHORTLIST
) -> torch.Tensor:
    """(R, 1) probability of the last token that top_k, then top_p keep; tokens that tie with it stay too."""
    vocabulary = probs_RV.shape[1]
    size = min(shortlist, vocabulary)
    if any(size < k < vocabulary and float(p) < 1 for k, p in zip(ks, top_ps, strict=True)):
        size = vocabulary  # top_p is a share of what top_k leaves, and the shortlist does not hold all of that
    sorted_RS = probs_RV.topk(size, dim=-1).values
    kept = torch.tensor(ks, device=probs_RV.device)[:, None]
    inside_k = torch.arange(size, device=probs_RV.device)[None] < kept
    mass = torch.where(inside_k, sorted_RS, 0.0).double().cumsum(dim=-1)
    # mass of all that top_k keeps; where the shortlist does not reach that far, of the whole vocabulary
    total = torch.where(kept <= size, mass[:, -1:], 1.0)
    before = mass - torch.where(inside_k, sorted_RS, 0.0)
    keep = inside_k & ((before < top_ps * total) | (top_ps >= 1))
    # without top_p, and with a top_k beyond the shortlist, all k are kept: look at the k-th directly
    index = keep.sum(dim=-1, keepdim=True).clamp(min=1) - 1
    floor = sorted_RS.gather(1, index)
    beyond = [row for row, k in enumerate(ks) if k > size and float(top_ps[row]) >= 1]
    for row in beyond:
        floor[row] = 0.0 if ks[row] >= vocabulary else probs_RV[row].topk(ks[row]).values[-1]
    if size < vocabulary:  # flat rows, whose nucleus goes on beyond the shortlist: with a longer one
        flat = (keep[:, -1:] & (kept > size) & (top_ps < 1))[:, 0].nonzero()[:, 0]
        if len(flat):
            floor[flat] = _smallest_kept(probs_RV[flat], [ks[r] for r in flat.tolist()], top_ps[flat], 8 * shortlist)
    return floor


def _uniform(seed: int, place: int) -> float:
    """Uniform in [0, 1) from a counter-based generator: the same for a seed and a place in the answer, always."""
    return float(np.random.Generator(np.random.Philox(key=seed, counter=place)).random())


def _top_logprobs(logprobs_V: torch.Tensor, chosen: int, count: int) -> TokenLogprobs:
    result = {chosen: float(logprobs_V[chosen])}
    if count:
        values, ids = logprobs_V.topk(min(count, len(logprobs_V)))
        result |= dict(zip(ids.tolist(), values.tolist(), strict=True))
    return result
