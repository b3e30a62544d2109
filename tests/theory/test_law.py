"""The empirical law against the paper's table."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presize.errors import ConfigError
from presize.theory.depth_width.law import (
    judge,
    optimal_shape,
    optimum,
    shape_of,
    transition_parameters,
    transition_width,
)
from presize.theory.depth_width.shapes import Shape

# trained depth, width; projected depth, width: the paper's table, five rows
TABLE = [
    (12, 768, 23, 555, "too shallow"),
    (24, 2048, 42, 1550, "too shallow"),
    (40, 5140, 60, 4200, "too shallow"),
    (96, 12288, 80, 13500, "too deep"),
]


@pytest.mark.parametrize(("depth", "width", "best_depth", "best_width", "verdict"), TABLE)
def test_the_papers_table(depth: int, width: int, best_depth: int, best_width: int, verdict: str) -> None:
    found = judge(depth, width)
    assert abs(found.best.depth - best_depth) <= found.best.depth_error
    low, high = found.best.width_range
    assert 0.99 * low <= best_width <= 1.01 * high
    assert found.verdict == verdict


def test_a_trillion_parameters() -> None:
    best = optimum(12 * 95 * 30_100**2)
    assert abs(best.depth - 95) <= best.depth_error
    assert best.width == pytest.approx(30_100, rel=0.01)


@pytest.mark.parametrize(
    ("depth", "width", "parameters"),
    [(4, 193, 1.8e6), (6, 215, 3.3e6), (12, 300, 1.30e7), (24, 585, 9.8e7), (36, 1138, 5.6e8), (48, 2215, 2.8e9),
     (80, 13082, 1.6e11), (95, 30077, 1.03e12)],
)  # fmt: skip
def test_values_of_the_law(depth: int, width: int, parameters: float) -> None:
    assert transition_width(depth) == pytest.approx(width, rel=5e-3)
    assert transition_parameters(depth) == pytest.approx(parameters, rel=0.03)


@given(st.floats(1e5, 1e14))
def test_the_optimum_solves_the_law(parameters: float) -> None:
    best = optimum(parameters)
    assert 12 * best.depth * best.width**2 == pytest.approx(parameters, rel=1e-9)
    assert math.log(best.width) == pytest.approx(5.039 + 0.0555 * best.depth, abs=1e-6)


def test_errors_of_depth_are_those_of_drawing_the_constants() -> None:
    """0.6, 0.9, 1.3, 1.8 and 2.1 layers at the sizes of the table."""
    errors = [optimum(12 * depth * width**2).depth_error for depth, width, *_ in TABLE]
    assert errors == pytest.approx([0.6, 0.9, 1.3, 1.8], abs=0.06)


def test_what_is_extrapolated_says_so() -> None:
    assert optimum(1e8).notes == ()
    assert [note.split(":")[0] for note in optimum(1e12).notes] == ["extrapolated", "extrapolated"]
    assert "6e+08" in optimum(1.3e9).notes[0]


def test_a_small_embedding_caps_the_width() -> None:
    free, capped = optimum(1e8), optimum(1e8, embedding_rank=200)
    assert (free.width > 200, capped.width) == (True, 200)
    assert 12 * capped.depth * 200**2 == pytest.approx(1e8)
    assert "caps the width" in capped.notes[0]
    assert optimum(1e8, embedding_rank=50_000) == free


@given(st.floats(1e6, 1e12))
def test_the_rounded_shape_is_whole_heads_near_the_size(parameters: float) -> None:
    shape = optimal_shape(parameters)
    assert shape.heads * shape.head_size == shape.width
    assert shape.depth == round(optimum(parameters).depth) or shape.depth == 1
    assert shape.law_parameters == pytest.approx(parameters, rel=0.35)


def test_near_the_law_is_balanced() -> None:
    assert judge(76, 13824).verdict == "balanced"  # Jurassic-1
    assert judge(80, 13056).verdict == "balanced"
    assert judge(32, 4096).verdict == "too shallow"  # Llama-2 7B
    assert judge(24, 600).kv_ratio == pytest.approx(math.sqrt(24 / judge(24, 600).best.depth))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: judge(0, 4), "depth is 0"),
        (lambda: judge(1, 2), "48 parameters; the law can be asked about 1e"),
        (lambda: optimum(0), r"parameters is 0; it must be in \[100000, 1e\+14\]"),
        (lambda: optimum(math.nan), "parameters is nan"),
        (lambda: optimum(1e8, 0), "embedding_rank is 0"),
        (lambda: shape_of(1e8, 0), "depth is 0"),
        (lambda: shape_of(1e8, 5, 0), "head_size is 0"),
        (lambda: transition_width(0), "depth is 0"),
        (lambda: Shape(2, 5, 2), "does not divide"),
    ],
)
def test_bad_arguments_are_one_sentence(call: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        call()
