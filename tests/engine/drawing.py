"""Sequences made by hand for the sampler, and seeds whose uniform numbers are known."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from functools import cache
from typing import Any

import numpy as np
import torch

from presize.core.lengths import LengthDistribution
from presize.core.request import Request
from presize.engine.sampler import sample
from presize.engine.sampling_params import SamplingParams
from presize.engine.sequence import Sequence
from presize.predict import Query

STRATA = 2048


def sequence(
    params: SamplingParams, seed: int = 0, prompt: SequenceOf[int] = (0,), answer: SequenceOf[int] = (),
    stop_ids: SequenceOf[int] = (),
) -> Sequence:  # fmt: skip
    """A sequence that has said ``answer`` so far."""
    request = Request("x", len(prompt), 1000, LengthDistribution.exactly(1000), output_tokens=len(answer))
    query = Query("x", list(prompt), 1000)
    return Sequence(request, query, params, 0, seed, [*prompt, *answer], frozenset(stop_ids), None)


@cache
def spread_seeds() -> tuple[int, ...]:
    """STRATA seeds, the uniform numbers of which lie one in each interval [i, i + 1) / STRATA.

    Found through the sampler itself: over equal logits the drawn token is the number of the interval.
    """
    params, found = SamplingParams(), {}
    flat = torch.zeros(1024, STRATA)
    for start in range(0, 64 * 1024, 1024):
        seeds = range(start, start + 1024)
        drawn = sample(flat.clone(), [sequence(params, seed) for seed in seeds]).token_ids
        found.update(zip(drawn, seeds, strict=True))
        if len(found) == STRATA:
            break
    return tuple(found[i] for i in range(STRATA))


def distribution(logits: torch.Tensor, params: SamplingParams, **history: Any) -> np.ndarray:
    """Probability of each token, to within 1 / STRATA for the first of an answer: the seeds cover [0, 1) evenly."""
    rows = logits.expand(STRATA, -1).clone()
    drawn = sample(rows, [sequence(params, seed, **history) for seed in spread_seeds()]).token_ids
    return np.bincount(drawn, minlength=len(logits)) / STRATA
