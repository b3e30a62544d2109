"""What is drawn, against softmax and against transformers' own warpers and processors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from devices import DEVICES
from drawing import STRATA, distribution, sequence, spread_seeds
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from presize.engine.sampler import sample
from presize.engine.sampling_params import SamplingParams

FEW = settings(max_examples=25)


def random_logits(size: int, scale: float, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=size) * scale).float()


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """P(a worse fit by chance)."""
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((counts.size - 1) / 2), torch.tensor(statistic / 2)))


def warped(logits: torch.Tensor, params: SamplingParams) -> np.ndarray:
    """Probabilities by transformers, in its order: temperature, top_k, top_p, min_p."""
    scores = TemperatureLogitsWarper(float(params.temperature))(None, logits[None].double())
    if params.top_k > 0:
        scores = TopKLogitsWarper(params.top_k)(None, scores)
    if params.top_p < 1:
        scores = TopPLogitsWarper(params.top_p)(None, scores)
    if params.min_p > 0:
        scores = MinPLogitsWarper(params.min_p)(None, scores)
    return scores.softmax(dim=-1)[0].numpy()


def check_distribution(logits: torch.Tensor, params: SamplingParams) -> None:
    expected, found = warped(logits, params), distribution(logits, params)
    assert not found[expected == 0].any(), "a token was drawn that transformers leaves out"
    # one seed in each stratum: counts can be off by what a token's interval cuts at its two ends
    np.testing.assert_allclose(found, expected, rtol=0, atol=2.01 / STRATA)


def clear_cut(logits: torch.Tensor, params: SamplingParams) -> bool:
    """No border of top_p or min_p passes so close to a token that rounding decides."""
    probs = np.sort(warped(logits, SamplingParams(temperature=params.temperature, top_k=params.top_k)))[::-1]
    before = np.cumsum(probs) - probs
    near_p = np.abs(before - params.top_p).min() < 1e-5
    return not near_p and np.abs(probs / probs[0] - params.min_p).min() > 1e-5


def test_seeds_are_found_for_every_stratum():
    assert len(set(spread_seeds())) == STRATA


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_draws_follow_the_softmax_over_seeds_over_places_and_over_pairs_of_them(temperature, device):
    params = SamplingParams(temperature=temperature)
    logits = random_logits(6, 1.0, 3)
    probs = (logits.double() / temperature).softmax(dim=-1).numpy()
    rows = logits.to(device).expand(6000, -1)
    over_seeds = sample(rows.clone(), [sequence(params, seed) for seed in range(6000)]).token_ids
    answers = [sequence(params, 11, answer=[0] * place) for place in range(6000)]
    over_places = sample(rows.clone(), answers).token_ids
    for drawn in (over_seeds, over_places):
        assert chi_square(np.bincount(drawn, minlength=6), probs * 6000) > 1e-3
        pairs = np.bincount(np.array(drawn[:-1]) * 6 + drawn[1:], minlength=36)  # neighbours are independent
        assert chi_square(pairs, np.outer(probs, probs).ravel() * 5999) > 1e-3


@FEW
@given(
    size=st.sampled_from([5, 300, 512, 513, 1500]),
    scale=st.sampled_from([0.01, 0.3, 2.0, 8.0]),
    seed=st.integers(0, 10**6),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
    top_k=st.sampled_from([0, -1, 1, 3, 40, 511, 512, 513, 10**6]),
    top_p=st.sampled_from([1e-9, 0.1, 0.5, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.0, 0.05, 0.7, 1.0]),
)
def test_support_and_probabilities_are_those_of_transformers(size, scale, seed, temperature, top_k, top_p, min_p):
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    logits = random_logits(size, scale, seed)
    assume(top_k <= 512 or top_k >= size or top_p == 1)  # see the next test
    assume(clear_cut(logits, params))
    check_distribution(logits, params)


@pytest.mark.parametrize(("top_k", "top_p"), [(600, 0.5), (520, 0.9), (1499, 0.3)])
@pytest.mark.parametrize("scale", [0.01, 1.0])
def test_top_p_counts_what_top_k_left_also_beyond_the_shortlist(top_k, top_p, scale):
    check_distribution(random_logits(1500, scale, 0), SamplingParams(top_k=top_k, top_p=top_p))


def test_rows_of_a_batch_do_not_share_their_settings():
    logits = random_logits(700, 1.0, 0)
    kinds = [
        SamplingParams(temperature=0), SamplingParams(top_k=2), SamplingParams(top_p=0.3), SamplingParams(min_p=0.5),
        SamplingParams(temperature=5.0), SamplingParams(top_k=600), SamplingParams(repetition_penalty=9.0),
    ]  # fmt: skip
    rows = [(kind, seed) for seed in range(40) for kind in kinds]
    together = sample(logits.expand(len(rows), -1).clone(), [sequence(kind, seed) for kind, seed in rows]).token_ids
    alone = [sample(logits[None].clone(), [sequence(kind, seed)]).token_ids[0] for kind, seed in rows]
    assert together == alone


@pytest.mark.parametrize("temperature", [0.0, 1e-3, 1e-20, 1e-38, 1e-45, 1e-60, 5e-324])
def test_a_vanishing_temperature_takes_the_most_likely_token(temperature):
    logits = random_logits(50, 3.0, 1)
    params = SamplingParams(temperature=temperature)
    drawn = sample(logits.expand(200, -1).clone(), [sequence(params, seed) for seed in range(200)]).token_ids
    assert set(drawn) == {int(logits.argmax())}


def test_a_temperature_of_100_is_all_but_uniform():
    found = distribution(random_logits(16, 1.0, 1), SamplingParams(temperature=100))
    np.testing.assert_allclose(found, 1 / 16, atol=0.005)


@pytest.mark.parametrize("dull", [-math.inf, -1e30])
def test_tokens_without_probability_are_never_drawn(dull):
    logits = torch.full((9,), dull)
    logits[[2, 5]] = 0.0
    np.testing.assert_allclose(distribution(logits, SamplingParams())[[2, 5]], 0.5, atol=1 / STRATA)
    for edge in ({"top_k": 1}, {"top_p": 1e-12}, {"min_p": 1.0}):
        assert distribution(logits, SamplingParams(**edge))[[2, 5]].sum() == 1


tokens = st.lists(st.integers(0, 29), max_size=12)


@given(
    prompt=tokens.filter(bool), answer=tokens, penalty=st.sampled_from([0.1, 0.8, 1.5, 100.0]), seed=st.integers(0, 99)
)
def test_repetition_penalty_is_that_of_transformers(prompt, answer, penalty, seed):
    logits = random_logits(30, 4.0, seed)
    scores = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([[*prompt, *answer]]), logits[None].clone())
    params = SamplingParams(temperature=0, repetition_penalty=penalty)
    rows = logits[None].clone()
    assert sample(rows, [sequence(params, 0, prompt, answer)]).token_ids == scores.argmax(dim=-1).tolist()
    torch.testing.assert_close(rows, scores)


@given(prompt=tokens.filter(bool), answer=tokens, presence=st.floats(-2, 2), frequency=st.floats(-2, 2))
def test_presence_and_frequency_penalties_count_the_answer_alone(prompt, answer, presence, frequency):
    """logit - count * frequency - (count > 0) * presence, as OpenAI's API documents it."""
    logits = random_logits(30, 2.0, 0)
    counts = np.bincount(np.array(answer, dtype=np.int64), minlength=30)
    expected = logits.double().numpy() - counts * frequency - (counts > 0) * presence
    params = SamplingParams(presence_penalty=presence, frequency_penalty=frequency, temperature=0)
    rows = logits[None].clone()
    sample(rows, [sequence(params, 0, prompt, answer)])
    np.testing.assert_allclose(rows[0].numpy(), expected, atol=1e-5)


def test_penalties_change_what_is_drawn():
    logits = random_logits(40, 3.0, 0)
    expected = logits.double()
    expected[[1, 2, 3]] = torch.where(expected > 0, expected / 0.5, expected * 0.5)[[1, 2, 3]]
    found = distribution(logits, SamplingParams(repetition_penalty=0.5), prompt=[1, 2, 3])
    np.testing.assert_allclose(found, expected.softmax(-1), atol=2.01 / STRATA)


@pytest.mark.parametrize("penalty", [1e-3, 1e-30, 1e-44, 1e-320])
def test_a_vanishing_repetition_penalty_repeats_what_was_likely(penalty):
    logits = random_logits(40, 3.0, 0)
    likely = [token for token in (1, 2, 3, 4) if logits[token] > 0]
    assert 0 < len(likely) < 4
    for temperature in (0.0, 1.0):
        params = SamplingParams(repetition_penalty=penalty, temperature=temperature)
        assert distribution(logits, params, prompt=[1, 2], answer=[3, 4])[likely].sum() == 1


@pytest.mark.parametrize("said", range(4))
def test_until_min_tokens_are_there_nothing_that_ends_the_answer_is_drawn(said):
    params = SamplingParams(min_tokens=2)
    logits = torch.tensor([9.0, 8.0, 0.0, 0.0])
    found = distribution(logits, params, answer=[2] * said, stop_ids=[0, 1])
    assert (found[[0, 1]] > 0.2).all() if said >= 2 else found[[2, 3]].sum() == 1


@pytest.mark.parametrize("count", [0, 1, 5, 100])
@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_logprobs_are_those_before_temperature_penalties_and_cuts(count, temperature):
    logits = random_logits(60, 3.0, 2)
    params = SamplingParams(
        temperature=temperature, logprobs=count, top_k=2, presence_penalty=2.0, repetition_penalty=3.0, min_tokens=5
    )
    result = sample(logits.expand(8, -1).clone(), [sequence(params, s, [1], [4, 5], [6]) for s in range(8)])
    exact = logits.double().log_softmax(dim=-1)
    best = exact.topk(min(count, 60)).indices.tolist()
    for token, reported in zip(result.token_ids, result.logprobs, strict=True):
        assert set(reported) == {token, *best}
        for key, value in reported.items():
            assert value == pytest.approx(float(exact[key]), abs=1e-5)
    assert sample(logits[None].clone(), [sequence(SamplingParams())]).logprobs == [None]
