"""The attention predictor: numpy against the torch module, and both against a loop over single tokens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from presize.core.lengths import GRID
from presize.errors import ModelError
from presize.predict.attention import Attention
from presize.predict.packing import pack, pair_rows
from presize.predict.train.attention import AttentionNet

CELLS, BLOCK = 40, 64
VOCABULARY = np.array([2, 3, 5, 8, 13, 900, 70_000])
RAGGED = [1, 63, 64, 65, 200, 4096]


def make_net(seed: int = 0, **sizes: int) -> AttentionNet:
    """Every weight random: a fresh net has zeros where a mistake would not show."""
    net = AttentionNet(VOCABULARY, np.full(CELLS, -2.0), dropout=0.3, **{"width": 16, "pairs": 64, **sizes})
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.named_parameters():
            if name != "decode_bias":
                value.copy_(torch.randn(value.shape, generator=random) * (0.5 if value.dim() < 2 else 0.3))
    return net.eval()


def make_prompts(sizes: list[int], seed: int = 0) -> list[np.ndarray]:
    """Tokens in and out of the vocabulary."""
    rng = np.random.default_rng(seed)
    return [rng.choice([*VOCABULARY, 0, 4, 99_999], size=size) for size in sizes]


def make_sides(count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, 4)).astype(np.float32)


def by_torch(net: AttentionNet, prompts: list[np.ndarray], sides: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return net(*net.inputs(prompts), torch.from_numpy(sides)).numpy()


@pytest.mark.parametrize("sizes", [RAGGED, [1], [2, 1, 7], [63, 1], [64, 64], [65, 3], [128, 129, 1]], ids=str)
def test_numpy_computes_what_torch_does(sizes: list[int]) -> None:
    net, prompts, sides = make_net(), make_prompts(sizes), make_sides(len(sizes))
    expected = by_torch(net, prompts, sides)
    assert np.ptp(expected, axis=0).max() > 0.1 or len(sizes) == 1, "else the prompts have no say"
    np.testing.assert_allclose(net.stored().logits(prompts, sides), expected, atol=2e-4)


def test_the_nets_own_sizes_agree_too() -> None:
    net = AttentionNet(VOCABULARY, np.linspace(-3, 0, CELLS), dropout=0.1)
    with torch.no_grad():
        for name in ("pairs", "places", "decode"):
            getattr(net, name).normal_(0, 0.1)
    prompts, sides = make_prompts([5, 70, 300]), make_sides(3)
    np.testing.assert_allclose(net.stored().logits(prompts, sides), by_torch(net.eval(), prompts, sides), atol=2e-4)


def by_loop(net: AttentionNet, prompt: np.ndarray, sides: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(logits, share of each token) of one prompt in float64, a token, a head and a query at a time."""
    w = {name: value.detach().numpy().astype(np.float64) for name, value in net.named_parameters()}
    count, width = len(prompt), w["tokens"].shape[1]
    place = {token: row for row, token in enumerate(VOCABULARY.tolist())}
    pairs = pair_rows(prompt, pack([count]).place, len(w["pairs"]))
    last = len(w["places"][0]) - 1
    x = np.stack([
        w["tokens"][place.get(int(token), len(VOCABULARY))] + w["pairs"][pairs[i]]
        + w["places"][0][min(i, last)] + w["places"][1][min(count - 1 - i, last)]
        for i, token in enumerate(prompt)
    ])  # fmt: skip
    q, k, v = np.split(x @ w["project"], 3, axis=1)
    mixed = np.zeros_like(x)
    for i in range(count):
        near = [j for j in range(count) if abs(i // BLOCK - j // BLOCK) <= 1]
        for head in (slice(0, width // 2), slice(width // 2, width)):
            scores = np.exp(k[near, head] @ q[i, head] / math.sqrt(width / 2))
            mixed[i, head] = scores @ v[near, head] / scores.sum()
    x = x + mixed @ w["output"]
    weights = np.exp(10.0 * np.tanh(x @ w["queries"].T / 10.0))
    weights /= weights.sum(axis=0)
    pooled = (weights.T @ x).reshape(-1)
    inner = np.maximum(np.concatenate([pooled, sides]) @ w["hidden"] + w["hidden_bias"], 0.0)
    return inner @ w["decode"] + w["decode_bias"], weights.mean(axis=1)


@pytest.mark.parametrize("size", [1, 40, 64, 65, 150, 250])
def test_a_token_attends_to_its_block_and_to_those_beside_it(size: int) -> None:
    net, (prompt,), sides = make_net(2), make_prompts([size], size), make_sides(1)
    logits, shares = by_loop(net, prompt, sides[0])
    stored = net.stored()
    np.testing.assert_allclose(stored.logits([prompt], sides)[0], logits, atol=2e-4)
    np.testing.assert_allclose(stored.attention(prompt), shares, atol=1e-5)


@given(st.lists(st.sampled_from([1, 2, 63, 64, 65, 130]), min_size=1, max_size=6), st.randoms())
def test_a_prompts_curve_does_not_depend_on_what_is_asked_beside_it(sizes: list[int], random: Any) -> None:
    model, prompts, sides = make_net().stored(), make_prompts(sizes), make_sides(len(sizes))
    together = model.curves(prompts, sides)
    order = random.sample(range(len(sizes)), len(sizes))
    shuffled = model.curves([prompts[i] for i in order], sides[order])
    np.testing.assert_allclose(shuffled, together[order], atol=1e-5)
    for i, prompt in enumerate(prompts):
        np.testing.assert_allclose(model.curves([prompt], sides[i : i + 1])[0], together[i], atol=1e-5)


def test_curves_are_valid() -> None:
    curves = make_net().stored().curves(make_prompts(RAGGED), make_sides(len(RAGGED)))
    assert curves.shape == (len(RAGGED), GRID.size)
    assert (curves[:, 0] == 1).all()
    assert (np.diff(curves, axis=1) <= 0).all()
    assert (curves >= 0).all()


@pytest.mark.parametrize("size", RAGGED)
def test_the_shares_of_a_prompts_tokens_sum_to_one(size: int) -> None:
    (prompt,) = make_prompts([size])
    shares = make_net().stored().attention(prompt)
    assert shares.shape == (size,)
    assert shares.sum() == pytest.approx(1.0, abs=1e-5)
    assert (shares >= 0).all()


def test_what_is_stored_comes_back_the_same_but_for_half_precision_of_the_tables() -> None:
    net = make_net()
    stored = net.stored()
    arrays = stored.arrays()
    assert {name for name, array in arrays.items() if array.dtype == np.float16} == {
        "tokens", "pairs", "hidden", "decode",
    }  # fmt: skip
    again = Attention.restored(arrays, Path())
    prompts, sides = make_prompts([1, 65, 200]), make_sides(3)
    np.testing.assert_allclose(again.curves(prompts, sides), stored.curves(prompts, sides), atol=5e-3)
    for name, array in again.arrays().items():
        np.testing.assert_array_equal(array, arrays[name])


def test_the_stored_net_does_not_change_with_further_training() -> None:
    net, prompts, sides = make_net(), make_prompts([9]), make_sides(1)
    stored = net.stored()
    before = stored.logits(prompts, sides)
    with torch.no_grad():
        for value in net.parameters():
            value.add_(1.0)
    np.testing.assert_array_equal(stored.logits(prompts, sides), before)


GOOD = make_net().stored().arrays()
FLOATS = sorted(set(GOOD) - {"vocabulary"})


def refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ModelError, match=match):
        Attention({name: array for name, array in {**GOOD, **changes}.items() if array is not None})


@pytest.mark.parametrize("name", sorted(GOOD))
def test_weights_that_lack_an_array_are_refused(name: str) -> None:
    refused({name: None}, name)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(name: str, bad: float) -> None:
    array = GOOD[name].copy()
    array.reshape(-1)[-1] = bad
    refused({name: array}, f"{name} .*finite")


@pytest.mark.parametrize("name", FLOATS)
def test_arrays_of_other_shapes_are_refused(name: str) -> None:
    array = GOOD[name]
    refused({name: array[None]}, f"{name} has {array.ndim + 1} dimensions")
    refused({name: array[..., :-1]}, "must be|fit together")
    refused({name: array[:-1]}, "must be|fit together|rise")
    refused({name: array[:0]}, "must be|fit together|rise")


@pytest.mark.parametrize(
    "vocabulary",
    [VOCABULARY[::-1], VOCABULARY[:-1], [*VOCABULARY[:-1], VOCABULARY[-2]], VOCABULARY * 1.5, VOCABULARY[None], []],
    ids=["falls", "too short", "the same twice", "fractions", "two dimensions", "empty"],
)
def test_a_vocabulary_that_does_not_rise_or_fit_is_refused(vocabulary: Any) -> None:
    refused({"vocabulary": np.array(vocabulary)}, "vocabulary")


def test_sizes_that_would_only_fail_when_it_is_asked_are_refused() -> None:
    wide = GRID.size
    refused({"pairs": GOOD["pairs"][:0]}, "fit together")
    refused({"pairs": GOOD["pairs"][:33]}, "fit together")
    refused({"vocabulary": np.zeros(0, dtype=np.int32), "tokens": GOOD["tokens"][:1]}, "fit together")
    decode = np.zeros((len(GOOD["hidden_bias"]), wide), dtype=np.float32)
    refused({"decode": decode, "decode_bias": np.zeros(wide, dtype=np.float32)}, "fit together")
    assert Attention({**GOOD, "decode": decode[:, 1:], "decode_bias": np.zeros(wide - 1)})
