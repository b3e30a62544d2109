"""Hazards against likelihoods that are computed one answer and one token at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from presize.core.lengths import GRID, LengthDistribution
from presize.predict.hazard import base_hazards, cells_up_to, hazards_of, observed, sigmoid, survival_of

FINE = int(np.flatnonzero(np.diff(GRID) > 1)[0])  # up to this count the grid has every token
CELLS = 60
HORIZON = int(GRID[CELLS])
PROBABILITY = st.floats(0.0, 1.0)
HAZARDS = st.integers(1, GRID.size - 1).flatmap(lambda cells: arrays(np.float64, (2, cells), elements=PROBABILITY))
LENGTHS = st.lists(st.tuples(st.integers(1, 2 * HORIZON), st.booleans()), min_size=1, max_size=30)


def some_hazards(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.01, 0.4, CELLS)


def log_likelihood(hazards: np.ndarray, lengths: list[int], cut: list[bool]) -> np.ndarray:
    """(N,) as the docstring of ``observed`` says."""
    at_risk, ended = observed(lengths, cut, len(hazards))
    return (ended * np.log(hazards) + (at_risk - ended) * np.log(1.0 - hazards)).sum(axis=1)


@given(st.lists(st.tuples(st.integers(1, FINE), st.booleans()), min_size=1, max_size=20))
def test_where_cells_are_single_tokens_the_likelihood_is_that_of_each_token(seen: list[tuple[int, bool]]) -> None:
    hazards = some_hazards()
    lengths, cut = zip(*seen, strict=True)
    for found, (length, was_cut) in zip(log_likelihood(hazards, lengths, cut), seen, strict=True):
        survived = length if was_cut else length - 1  # token t + 1 follows token t with 1 - hazards[t]
        expected = sum(math.log(1.0 - hazards[t]) for t in range(survived))
        expected += 0.0 if was_cut else math.log(hazards[length - 1])
        assert found == pytest.approx(expected)


@given(st.integers(1, HORIZON))
def test_an_answers_likelihood_is_the_curves_fall_over_its_cell(length: int) -> None:
    hazards = some_hazards()
    (curve,) = survival_of(hazards[None])
    cell = int(np.flatnonzero(length <= GRID)[0]) - 1
    (found,) = np.exp(log_likelihood(hazards, [length], [False]))
    assert found == pytest.approx(curve[cell] - curve[cell + 1])


@given(st.integers(1, HORIZON))
def test_a_cut_off_answers_likelihood_is_the_survival_at_the_cut(length: int) -> None:
    """Within a cell it falls exponentially: the part of the cell that was seen is the exponent."""
    hazards = some_hazards()
    (curve,) = survival_of(hazards[None])
    (found,) = log_likelihood(hazards, [length], [True])
    assert found == pytest.approx(np.interp(length, GRID, np.log(curve)))


@pytest.mark.parametrize("cut", [False, True])
def test_a_length_beyond_the_horizon_survived_every_cell(cut: bool) -> None:
    at_risk, ended = observed([HORIZON + 1, 2**20, 2**40], [cut] * 3, CELLS)
    np.testing.assert_array_equal(at_risk, np.ones((3, CELLS)))
    np.testing.assert_array_equal(ended, np.zeros((3, CELLS)))


def test_a_length_at_the_horizon_ended_within_it() -> None:
    _, ended = observed([HORIZON, HORIZON], [False, True], CELLS)
    np.testing.assert_array_equal(ended.sum(axis=1), [1, 0])
    assert ended[0, -1] == 1


@given(LENGTHS)
def test_nobody_ends_who_was_not_at_risk(seen: list[tuple[int, bool]]) -> None:
    lengths, cut = zip(*seen, strict=True)
    at_risk, ended = observed(lengths, cut, CELLS)
    assert ((ended >= 0) & (ended <= at_risk) & (at_risk <= 1)).all()
    assert (np.diff(at_risk, axis=1) <= 0).all()
    np.testing.assert_array_equal(ended.sum(axis=1), ~np.array(cut) & (np.array(lengths) <= HORIZON))


def test_base_hazards_of_many_answers_are_the_ones_they_were_drawn_with() -> None:
    """A constant hazard a token, a third of the answers cut off at random."""
    rng = np.random.default_rng(0)
    lengths, cuts = rng.geometric(0.01, 40_000), rng.geometric(0.005, 40_000)
    cut = lengths > cuts
    at_risk, ended = observed(np.minimum(lengths, cuts), cut, CELLS)
    truth = 1.0 - 0.99 ** np.diff(GRID[: CELLS + 1])
    found = base_hazards(at_risk, ended)
    reached = at_risk.sum(axis=0)
    assert cut.mean() > 0.3
    assert (np.abs(found - truth) < 4 * np.sqrt(truth * (1 - truth) / (reached + 2)) + 0.05 * truth).all()


def test_where_nothing_was_seen_base_hazards_follow_the_rest() -> None:
    at_risk, ended = observed(np.full(500, 40), np.zeros(500, dtype=bool), CELLS)
    found = base_hazards(at_risk, ended)
    assert ((found > 0) & (found < 1)).all()
    unseen = GRID[:CELLS] > 40
    assert (np.diff(found[unseen]) >= 0).all()
    assert found[-1] > 3 * found[unseen][0], "wider cells, larger hazards"
    assert found[: FINE - 1].max() < found[np.argmax(ended[0])]


@given(LENGTHS, st.floats(0.1, 10.0))
def test_base_hazards_are_probabilities_whatever_was_seen(seen: list[tuple[int, bool]], weight: float) -> None:
    lengths, cut = zip(*seen, strict=True)
    found = base_hazards(*observed(lengths, cut, CELLS), weight)
    assert found.shape == (CELLS,)
    assert ((found > 0) & (found < 1)).all()


@given(HAZARDS)
def test_curves_of_any_hazards_are_valid(hazards: np.ndarray) -> None:
    curves = survival_of(hazards)
    assert curves.shape == (2, GRID.size)
    assert (curves[:, 0] == 1).all()
    assert (np.diff(curves, axis=1) <= 0).all()
    assert ((curves >= 0) & (curves <= 1)).all()
    for curve in curves:  # nothing to repair
        np.testing.assert_array_equal(LengthDistribution.from_survival(curve).survival, curve)


@given(arrays(np.float64, (2, CELLS), elements=st.floats(0.0, 0.5)))
def test_hazards_come_back_from_their_curves(hazards: np.ndarray) -> None:
    curves = survival_of(hazards)
    alive = curves[:, :CELLS] > 1e-9
    np.testing.assert_allclose(hazards_of(curves, CELLS)[alive], hazards[alive], atol=1e-9)


@given(HAZARDS)
def test_curves_come_back_from_their_hazards(hazards: np.ndarray) -> None:
    curves = survival_of(hazards)
    again = hazards_of(curves, hazards.shape[1])
    assert ((again >= 0) & (again <= 1)).all()
    np.testing.assert_allclose(survival_of(again), curves, atol=1e-8)


def test_beyond_the_cells_lindys_law_holds() -> None:
    (curve,) = survival_of(some_hazards()[None] * 0.1)
    for k in (CELLS + 1, CELLS + 7, GRID.size - 1):
        assert curve[k] * GRID[k] == pytest.approx(curve[CELLS] * HORIZON)


@given(st.floats(allow_nan=False))
def test_a_sigmoid_is_a_probability_that_never_is_certain(logit: float) -> None:
    value = float(sigmoid(logit))
    assert 0.0 < value < 1.0
    assert value + float(sigmoid(-logit)) == pytest.approx(1.0)
    if abs(logit) < 30:
        assert value == pytest.approx(1.0 / (1.0 + math.exp(-logit)))


@given(st.integers(-10, 2**21))
def test_the_cells_cover_the_tokens_asked_for_and_no_more(tokens: int) -> None:
    cells = cells_up_to(tokens)
    assert 0 < cells < GRID.size
    if FINE <= tokens <= 2**16:
        assert GRID[cells - 1] < tokens <= GRID[cells]
