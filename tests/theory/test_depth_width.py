"""The analysed network and its separation rank: against integers, against the closed form, within both theorems."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presize.errors import ConfigError
from presize.theory.depth_width import modular
from presize.theory.depth_width.bounds import bounds, depth_efficient, depth_inefficient, threshold
from presize.theory.depth_width.modular import PRIME
from presize.theory.depth_width.network import Network, forward, summands
from presize.theory.depth_width.separation import assignments, grid, measured_rank, two_position_rank

residues = st.integers(0, PRIME - 1)


def by_definition(network: Network, inputs: np.ndarray) -> np.ndarray:
    """(N, d_x) Python integers, with no reduction at all before the end: the paper's formula, term by term."""
    states = inputs.astype(object)
    weights = (part.astype(object) for part in (network.query, network.key, network.value, network.output))
    for q, k, v, o in zip(*weights, strict=True):
        states = np.array(
            [
                sum(((q[h] @ a) @ (k[h] @ b)) * (o[h] @ (v[h] @ b)) for h in range(len(q)) for b in states)
                for a in states
            ]
        )
    return states


@given(st.integers(0, 2**32), st.sampled_from([(1, 4, 2, 3), (2, 3, 3, 2), (2, 6, 2, 4), (3, 2, 1, 2)]))
def test_the_exact_network_is_the_formula_in_integers(seed: int, shape: tuple[int, int, int, int]) -> None:
    depth, width, heads, positions = shape
    rng = np.random.default_rng(seed)
    network = Network.random(depth, width, heads, rng)
    inputs = rng.integers(0, PRIME, (positions, width), dtype=np.uint64)
    wanted = by_definition(network, inputs)
    for position in range(positions):
        for entry in range(width):
            found = network.entry(inputs[None], position, entry)
            assert found.tolist() == [wanted[position, entry] % PRIME]


def test_float64_computes_the_same_network() -> None:
    rng = np.random.default_rng(1)
    network = Network.random(2, 4, 2, rng)
    inputs = rng.integers(0, 4, (3, 5, 4), dtype=np.uint64)
    found = forward(network, inputs.astype(np.float64), scale=float(PRIME))
    for sample in range(3):
        exact = by_definition(network, inputs[sample])
        wanted = [[float(Fraction(int(value), PRIME**16)) for value in row] for row in exact]  # degree 4 in each layer
        assert found[sample] == pytest.approx(np.array(wanted), rel=1e-9)


def test_the_output_is_homogeneous_of_degree_three_to_the_depth() -> None:
    rng = np.random.default_rng(2)
    network = Network.random(3, 4, 1, rng)
    inputs = rng.integers(0, PRIME, (1, 2, 4), dtype=np.uint64)
    once = int(network.entry(inputs, 0, 0)[0])
    twice = int(network.entry(modular.reduce(inputs * np.uint64(2)), 0, 0)[0])
    assert twice == once * pow(2, 27, PRIME) % PRIME


@given(st.integers(0, 2**32), st.integers(1, 150), st.integers(1, 150), st.integers(0, 150))
def test_the_rank_of_a_product_is_its_inner_size(seed: int, rows: int, columns: int, inner: int) -> None:
    rng = np.random.default_rng(seed)
    left, right = (rng.integers(0, PRIME, s, dtype=np.uint64) for s in ((rows, inner), (inner, columns)))
    product = modular.matmul(left, right)
    assert modular.rank(product) == min(rows, columns, inner)
    wanted = (left.astype(object) @ right.astype(object)) % PRIME if inner else np.zeros((rows, columns))
    assert (product == wanted).all()


@given(st.lists(st.lists(st.integers(-2, 2), min_size=5, max_size=5), min_size=1, max_size=7))
def test_the_rank_of_small_integers_is_the_rational_one(rows: list[list[int]]) -> None:
    matrix = np.array(rows)
    assert modular.rank((matrix % PRIME).astype(np.uint64)) == np.linalg.matrix_rank(matrix)


@given(st.integers(0, 2**64 - 1))
def test_reduction(value: int) -> None:
    assert int(modular.reduce(np.array([value], dtype=np.uint64))[0]) == value % PRIME


# the published check's cases first; the larger ones are in benchmarks/theory/ranks.py
@pytest.mark.parametrize(
    ("depth", "width", "heads", "rank"),
    [(1, 2, 1, 3), (1, 4, 2, 5), (2, 2, 1, 15), (2, 3, 1, 35), (1, 9, 3, 10), (2, 4, 2, 70), (2, 6, 3, 210),
     (2, 7, 1, 330), (3, 1, 1, 14), (3, 2, 2, 105), (3, 3, 1, 560), (4, 1, 1, 41), (4, 2, 1, 861), (5, 1, 1, 122),
     # many small heads: fewer by binom(heads, 4) if a head has one element
     (2, 4, 4, 69), (2, 5, 5, 121), (2, 7, 7, 295)],
)  # fmt: skip
def test_the_rank_of_two_positions_is_the_closed_form(depth: int, width: int, heads: int, rank: int) -> None:
    network = Network.random(depth, width, heads, np.random.default_rng(depth * 100 + width))
    assert two_position_rank(depth, width, heads) == rank
    assert measured_rank(network, rank + 5, np.random.default_rng(0)) == rank


def test_the_grid_of_templates_has_the_rank_too_and_more_positions_have_more() -> None:
    rng = np.random.default_rng(3)
    network = Network.random(1, 2, 1, rng)
    templates = rng.integers(0, PRIME, (4, 2), dtype=np.uint64)
    single, pairs = assignments(templates, 1), assignments(templates, 2)
    assert single.shape == (4, 1, 2)
    assert len(np.unique(pairs.reshape(16, -1), axis=0)) == 16
    assert modular.rank(grid(network, single, single, [0])) == 3
    assert 3 <= modular.rank(grid(network, pairs, pairs, [0, 1])) <= 3.0 ** bounds(1, 2, 1).upper


def test_the_side_of_the_partition_and_the_order_of_its_members_do_not_matter() -> None:
    rng = np.random.default_rng(4)
    network = Network.random(2, 2, 1, rng)
    left, right = (rng.integers(0, PRIME, (20, 2, 2), dtype=np.uint64) for _ in range(2))
    straight = grid(network, left, right, [0, 2], position=0)
    assert (grid(network, left[:, ::-1], right, [2, 0], position=0) == straight).all()
    assert (grid(network, right, left, [1, 3], position=0) == straight.T).all()


SMALL = [
    (depth, width, heads)
    for depth in (1, 2, 3)
    for width in range(2, 10)
    for heads in range(1, width)
    if width % heads == 0 and two_position_rank(depth, width, heads) < 250
]


@given(st.sampled_from(SMALL), st.sampled_from([2, 3, 4]), st.integers(0, 2**32))
def test_measured_ranks_lie_within_the_theorems(shape: tuple[int, int, int], positions: int, seed: int) -> None:
    depth, width, heads = shape
    network = Network.random(depth, width, heads, np.random.default_rng(seed))
    found = bounds(depth, width, heads)
    rank = measured_rank(
        network, two_position_rank(depth, width, heads) + 3, np.random.default_rng(seed + 1), positions
    )
    assert found.lower <= math.log(rank, 3) + 1e-9
    assert math.log(rank, 3) <= found.upper + 1e-9


@given(st.integers(1, 12), st.integers(2, 100), st.integers(1, 64))
def test_the_closed_form_lies_within_the_theorems(depth: int, size: int, heads: int) -> None:
    width = size * heads
    found = bounds(depth, width, heads)
    exact = math.log(two_position_rank(depth, width, heads), 3)
    assert found.lower <= exact <= found.upper
    assert found.depth_efficient == (3**depth <= width)


@given(st.integers(2, 10), st.integers(2, 200), st.sampled_from([1, 2, 4]))
def test_the_lower_bounds_are_those_of_the_multiset_coefficient(depth: int, size: int, heads: int) -> None:
    """((n over k)) >= (n/k)^k and (k/n)^n, with n = (d_x - H)/2 and k = 3^(L-2): the proof's last step."""
    size *= heads
    width = 2 * size + heads
    count = 3 ** (depth - 2)
    assert depth_efficient(depth, width, heads)[0] == pytest.approx(count * math.log(size / count, 3))
    multiset = math.comb(size + count - 1, count)
    assert depth_efficient(depth, width, heads)[0] <= math.log(multiset, 3) + 1e-9
    # Theorem 2's lower bound is n log3(k/n), less L and d_x/2 more
    wanted = size * (math.log(count, 3) - math.log(size, 3))
    assert depth_inefficient(depth, width, heads)[0] <= wanted + 1e-6


def test_both_regimes_show_in_the_closed_form() -> None:
    """Below the threshold a layer multiplies log sep by about 3; above it a layer adds about d_x."""
    wide = [math.log(two_position_rank(depth, 3**7), 3) for depth in (2, 3, 4)]
    assert wide[1] / wide[0] == pytest.approx(3, rel=0.1)
    assert wide[2] / wide[1] == pytest.approx(3, rel=0.15)
    narrow = [math.log(two_position_rank(depth, 9), 3) for depth in (8, 9, 10)]
    assert np.diff(narrow) == pytest.approx(9, rel=0.01)
    assert threshold(3**7) == pytest.approx(7)
    assert summands(3) == 13


@pytest.mark.parametrize(
    ("depth", "width", "heads", "words"),
    [
        (0, 4, 1, r"depth is 0; it must be in \[1, "),
        (2, 0, 1, r"width is 0; it must be in \[1, "),
        (2, 4, 0, r"heads is 0; it must be in \[1, "),
        (2, 4, 3, "heads is 3, which does not divide the width 4"),
        (2, 4, 4, r"heads is 4; the theorems need fewer heads than the width 4: \[1, 3\]"),
    ],
)
def test_shapes_that_can_not_be(depth: int, width: int, heads: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        bounds(depth, width, heads)


def test_grids_that_can_not_be() -> None:
    rng = np.random.default_rng(0)
    network = Network.random(1, 2, 1, rng)
    side = rng.integers(0, PRIME, (3, 1, 2), dtype=np.uint64)
    for members, position, words in (
        ([0, 0], 0, "must be different positions"), ([2], 0, "must be different"), ([0, 1], 0, "as many"),
        ([0], 2, "position is 2"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            grid(network, side, side, members, position)
