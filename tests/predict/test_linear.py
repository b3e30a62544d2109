"""The linear predictor: against dense normal equations, tf-idf by hand, and truths that are known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presize.core.lengths import GRID, LengthDistribution
from presize.errors import ModelError
from presize.predict.base import Query
from presize.predict.features import Features
from presize.predict.linear import RESIDUALS, Linear, grams, lookup, weighted
from presize.predict.log import Log, Observation
from presize.predict.train.linear import train_linear
from presize.predict.train.task import Answers, Recipe, Task

TOKENS = st.lists(st.integers(0, 6), min_size=1, max_size=12).map(lambda ids: np.array(ids, dtype=np.int64))
Gram = tuple[int, ...]


def trained(log: Log, held_out: Log) -> tuple[Linear, Answers]:
    features = Features.of([*log.queries, *held_out.queries])
    answers, tried = Answers.of(log, features), Answers.of(held_out, features)
    return train_linear(
        Task(
            answers=answers, held_out=tried, cells=60, features=features, tokenizer=None, recipe=Recipe(kind="linear"),
            report=lambda stage, done, total: None,
        )
    ), answers  # fmt: skip


def log_of(prompts: Sequence[Any], lengths: Sequence[int], cut: Sequence[bool] | None = None) -> Log:
    rows = zip(prompts, lengths, cut if cut is not None else [False] * len(prompts), strict=True)
    return Log([Observation(Query(str(i), p, 4096, i % 3 / 2), int(n), bool(c)) for i, (p, n, c) in enumerate(rows)])


def random_prompts(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 30, rng.integers(1, 20)) for _ in range(count)]


def grams_by_hand(prompt: Sequence[int]) -> Counter[Gram]:
    ids = [int(token) for token in prompt]
    return Counter([(a,) for a in ids] + list(pairwise(ids)))


def tfidf_by_hand(prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """(N, F) of the grams that two prompts have, sorted; rows of length 1."""
    counted = [grams_by_hand(prompt) for prompt in prompts]
    holders = Counter(gram for counts in counted for gram in counts)
    kept = sorted((gram for gram, n in holders.items() if n >= 2), key=lambda gram: (len(gram), gram))
    rows = np.zeros((len(prompts), len(kept)))
    for row, counts in zip(rows, counted, strict=True):
        for place, gram in enumerate(kept):
            if gram in counts:
                idf = math.log((1 + len(prompts)) / (1 + holders[gram])) + 1
                row[place] = (1 + math.log(counts[gram])) * idf
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def test_the_fit_is_that_of_dense_normal_equations() -> None:
    """Minimal |X w - (y - mean y)|^2 + |w|^2 over tf-idf and side inputs."""
    prompts = random_prompts(150)
    lengths = np.random.default_rng(1).integers(1, 900, 150)
    model, answers = trained(log_of(prompts, lengths), log_of(random_prompts(40, 2), [50] * 40))
    design = np.concatenate([tfidf_by_hand(answers.prompts), answers.sides.astype(np.float64)], axis=1)
    target = np.log(lengths)
    normal = design.T @ design + np.eye(design.shape[1])
    weights = np.linalg.solve(normal, design.T @ (target - target.mean()))
    expected = design @ weights + target.mean()
    assert expected.std() > 0.3, "else the mean alone would do"
    np.testing.assert_allclose(model.expected(answers.prompts, answers.sides), expected, atol=2e-3)


@given(st.lists(TOKENS, min_size=2, max_size=6))
def test_vectors_are_tfidf_of_tokens_and_pairs(prompts: list[np.ndarray]) -> None:
    expected = tfidf_by_hand(prompts)
    every = np.concatenate([grams(prompt)[0] for prompt in prompts])
    keys, holders = np.unique(every, return_counts=True)
    keys, holders = keys[holders >= 2], holders[holders >= 2]
    rarity = np.log((1 + len(prompts)) / (1 + holders)) + 1
    for prompt, row in zip(prompts, expected, strict=True):
        places, values = weighted(prompt, keys, rarity)
        found = np.zeros(len(keys))
        found[places] = values
        np.testing.assert_allclose(found, row, atol=1e-12)


@given(TOKENS, st.integers(0, 2**31 - 7))
def test_grams_are_told_apart_and_counted(tokens: np.ndarray, offset: int) -> None:
    keys, counts = grams(tokens + offset)
    expected = grams_by_hand(tokens)
    assert (np.diff(keys) > 0).all()
    assert sorted(counts.tolist()) == pytest.approx(sorted(1 + math.log(n) for n in expected.values()))


@given(st.sets(st.integers(0, 20)), st.sets(st.integers(0, 20)))
def test_lookup_finds_what_is_in_both(asked: set[int], known: set[int]) -> None:
    keys, table = (np.array(sorted(s), dtype=np.int64) for s in (asked, known))
    positions, places = lookup(keys, table)
    assert keys[positions].tolist() == table[places].tolist() == sorted(asked & known)


def censored_world(count: int, seed: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Prompts, (N,) lengths seen, true where cut off, true medians: token 1 makes an answer four times as long."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 2, count)
    prompts = [np.array([k, *rng.integers(5, 9, 3)]) for k in kind]
    median = np.where(kind == 1, 400.0, 100.0)
    lengths = np.ceil(rng.lognormal(np.log(median), 0.5)).astype(np.int64)
    cuts = rng.integers(40, 700, count)
    return prompts, np.minimum(lengths, cuts), lengths > cuts, median


def test_cut_off_answers_are_expected_to_be_as_long_as_they_would_have_been() -> None:
    prompts, lengths, cut, median = censored_world(1200, 0)
    tried = censored_world(400, 1)
    fair, answers = trained(log_of(prompts, lengths, cut), log_of(*tried[:3]))
    blind, _ = trained(log_of(prompts, lengths), log_of(*tried[:3]))
    assert cut[median == 400].mean() > 0.5
    error = [model.expected(answers.prompts, answers.sides) - np.log(median) for model in (fair, blind)]
    for m in (100, 400):
        assert error[0][median == m].mean() == pytest.approx(0.0, abs=0.12)
    assert error[1][median == 400].mean() < -0.3, "taking cut-offs for ends is much too short"
    assert (error[0] > error[1])[median == 400].all()


def test_the_spread_of_the_curves_is_that_of_the_answers() -> None:
    prompts, lengths, cut, median = censored_world(1200, 2)
    model, answers = trained(log_of(prompts, lengths, cut), log_of(*censored_world(600, 3)[:3]))
    curves = [LengthDistribution.from_survival(c) for c in model.curves(answers.prompts[:200], answers.sides[:200])]
    for m in (100, 400):
        mine = [curve for curve, own in zip(curves, median, strict=False) if own == m]
        for level, z in ((0.25, -0.674), (0.5, 0.0), (0.75, 0.674)):
            found = np.mean([math.log(curve.quantile(level)) for curve in mine])
            assert found == pytest.approx(math.log(m) + 0.5 * z, abs=0.2)


def test_prompts_that_share_nothing_are_told_apart_by_side_inputs_alone() -> None:
    log = log_of([np.array([100 + i]) for i in range(60)], [10 + i for i in range(60)])
    model, answers = trained(log, log_of([np.array([500 + i]) for i in range(20)], [30] * 20))
    curves = model.curves(answers.prompts, answers.sides)
    medians = np.array([LengthDistribution.from_survival(curve).quantile(0.5) for curve in curves])
    assert np.isfinite(curves).all()
    assert 5 < medians.mean() < 80


def made(seed: int = 0, centres: int = 3) -> Linear:
    """Random weights; valid spreads."""
    rng = np.random.default_rng(seed)
    keys = np.unique(np.concatenate([grams(rng.integers(0, 7, 12))[0] for _ in range(5)]))
    survival = np.cumprod(1 - rng.random((centres, RESIDUALS.size)) ** 6, axis=1)
    return Linear({
        "keys": keys, "rarity": 1 + rng.random(len(keys)), "weights": rng.normal(0, 2, len(keys)),
        "side": rng.normal(0, 1, 4), "intercept": np.array([4.0]), "centres": np.sort(rng.uniform(0, 9, centres)),
        "residuals": survival,
    })  # fmt: skip


@given(st.lists(TOKENS, min_size=1, max_size=5), st.integers(0, 9))
def test_curves_are_valid_and_the_same_alone_and_in_a_batch(prompts: list[np.ndarray], seed: int) -> None:
    model, sides = made(seed), np.random.default_rng(seed).normal(0, 3, (len(prompts), 4)).astype(np.float32)
    curves = model.curves(prompts, sides)
    assert curves.shape == (len(prompts), GRID.size)
    assert (curves[:, 0] == 1).all()
    assert (np.diff(curves, axis=1) <= 1e-12).all()
    assert ((curves >= 0) & (curves <= 1)).all()
    for i, prompt in enumerate(prompts):
        np.testing.assert_allclose(model.curves([prompt], sides[i : i + 1])[0], curves[i], atol=1e-12)


GOOD = made().arrays()


@pytest.mark.parametrize("name", sorted(GOOD))
def test_arrays_that_are_missing_or_of_another_shape_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match=name):
        Linear({other: array for other, array in GOOD.items() if other != name})
    with pytest.raises(ModelError, match=r"must|dimensions"):
        Linear({**GOOD, name: GOOD[name][:-1]})
    with pytest.raises(ModelError, match=r"must|dimensions"):
        Linear({**GOOD, name: GOOD[name][None]})


@pytest.mark.parametrize(
    ("name", "array"),
    [(name, GOOD[name] * math.nan) for name in sorted(set(GOOD) - {"keys"})]
    + [("keys", GOOD["keys"][::-1]), ("keys", GOOD["keys"].astype(np.float64)), ("centres", GOOD["centres"][::-1])],
)
def test_numbers_that_make_no_sense_are_refused(name: str, array: np.ndarray) -> None:
    with pytest.raises(ModelError, match=name):
        Linear({**GOOD, name: array})


def test_one_centre_is_too_few() -> None:
    with pytest.raises(ModelError, match="centres"):
        Linear({**GOOD, "centres": GOOD["centres"][:1], "residuals": GOOD["residuals"][:1]})


def test_what_is_stored_comes_back_the_same() -> None:
    model, prompts = made(), [np.array([1, 2, 3])]
    sides = np.ones((1, 4), dtype=np.float32)
    again = Linear.restored(model.arrays(), Path())
    np.testing.assert_array_equal(again.curves(prompts, sides), model.curves(prompts, sides))
