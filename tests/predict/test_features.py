"""What a model sees of a request: the shared template is gone, nothing else is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presize.predict.base import Query
from presize.predict.features import Features

BEFORE, AFTER = [1, 9, 9, 4], [7, 1, 5]
BODIES = [[20, 21, 22], [30], [22, 21, 40, 41, 42], [20, 21, 50, 22]]
TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=8)


def queries(prompts: Sequence[Any], **changes: Any) -> list[Query]:
    return [Query(str(i), prompt, **{"max_tokens": 100, **changes}) for i, prompt in enumerate(prompts)]


def seen(features: Features, prompt: Any) -> list[int]:
    return features.tokens(Query("q", prompt, 100)).tolist()


@pytest.fixture
def chat() -> Features:
    """Of prompts in one template."""
    return Features.of(queries([BEFORE + body + AFTER for body in BODIES]))


def test_a_shared_template_is_found_and_left_out(chat: Features) -> None:
    assert (list(chat.prefix), list(chat.suffix)) == (BEFORE, AFTER)
    for body in [*BODIES, [99, 98]]:
        assert seen(chat, BEFORE + body + AFTER) == body


@pytest.mark.parametrize(
    "prompt",
    [[20, 21, 22], [9], [*BEFORE[1:], 20, 7], [0, *BEFORE, 20, *AFTER, 0], [*BEFORE[:-1], 8, 8, *AFTER[1:], 2]],
)
def test_a_prompt_without_it_is_read_whole(chat: Features, prompt: list[int]) -> None:
    assert seen(chat, prompt) == prompt


@pytest.mark.parametrize("prompt", [BEFORE, AFTER, BEFORE + AFTER, BEFORE + AFTER[1:], BEFORE[:2]])
def test_a_template_with_nothing_in_it_still_leaves_something_to_read(chat: Features, prompt: list[int]) -> None:
    found = seen(chat, prompt)
    assert found
    assert found == prompt[len(prompt) - len(found) :]


def shared(prompts: list[list[int]]) -> list[int]:
    """The longest beginning of all that leaves each a token."""
    most = min(map(len, prompts)) - 1
    return next(prompts[0][:n] for n in range(most, -1, -1) if all(p[:n] == prompts[0][:n] for p in prompts))


@given(st.lists(TOKENS, min_size=1, max_size=6), TOKENS, TOKENS)
def test_what_is_left_out_is_the_most_that_leaves_every_prompt_a_token(
    bodies: list[list[int]], before: list[int], after: list[int]
) -> None:
    prompts = [before + body + after for body in bodies]
    features = Features.of(queries(prompts))
    prefix = shared(prompts)
    rest = [prompt[len(prefix) :] for prompt in prompts]
    suffix = shared([part[::-1] for part in rest])[::-1]
    assert (list(features.prefix), list(features.suffix)) == (prefix, suffix)
    for prompt, part in zip(prompts, rest, strict=True):
        assert seen(features, prompt) == part[: len(part) - len(suffix)]
        assert seen(features, prompt)


@given(st.lists(TOKENS, min_size=1, max_size=5), TOKENS)
def test_lists_tuples_and_arrays_are_the_same(prompts: list[list[int]], other: list[int]) -> None:
    made = [
        Features.of(queries([kind(p) for p in prompts]))
        for kind in (list, tuple, np.array, lambda p: np.array(p, dtype=np.int32))
    ]
    assert all(features == made[0] for features in made)
    for prompt in [*prompts, other]:
        ways = [seen(made[0], kind(prompt)) for kind in (list, tuple, np.array)]
        assert ways == [ways[0]] * 3


def test_one_prompt_alone_keeps_a_token() -> None:
    features = Features.of(queries([[5, 6, 7]]))
    assert seen(features, [5, 6, 7]) == [7]
    assert seen(features, [8, 8]) == [8, 8]


def test_prompts_of_one_token_have_no_template() -> None:
    features = Features.of(queries([[5], [5], [5]]))
    assert (features.prefix, features.suffix) == ((), ())
    assert seen(features, [5]) == [5]
    assert np.isfinite(features.sides(queries([[5]]), [1])).all()


def test_of_a_very_long_prompt_both_ends_are_read_and_no_more(chat: Features) -> None:
    body = list(range(100, 100 + 20_000))
    found = seen(chat, BEFORE + body + AFTER)
    assert len(found) == 4096
    assert found[:2048] == body[:2048]
    assert found[2048:] == body[-2048:]
    assert seen(chat, BEFORE + body[:4096] + AFTER) == body[:4096]


def varied(count: int = 40) -> list[Query]:
    """Requests whose settings differ."""
    rng = np.random.default_rng(0)
    return [
        Query(str(i), [3] * int(rng.integers(1, 50)), int(rng.integers(10, 900)), rng.random(), bool(i % 3 == 0))
        for i in range(count)
    ]


def sides_of(features: Features, rows: list[Query]) -> np.ndarray:
    return features.sides(rows, [len(features.tokens(row)) for row in rows])


def test_side_inputs_of_the_log_have_mean_zero_and_spread_one() -> None:
    rows = varied()
    sides = sides_of(Features.of(rows), rows)
    assert sides.dtype == np.float32
    np.testing.assert_allclose(sides.mean(axis=0), 0, atol=0.05)  # but for what is clipped
    np.testing.assert_allclose(sides.std(axis=0), 1, atol=0.1)


def test_side_inputs_tell_requests_apart_in_the_right_direction() -> None:
    rows = varied()
    features = Features.of(rows)
    plain = replace(rows[0], max_tokens=100, temperature=0.4, system=False)
    changed = [
        replace(plain, prompt_token_ids=[*plain.prompt_token_ids, 3, 3, 3]),
        replace(plain, max_tokens=120),
        replace(plain, temperature=0.5),
        replace(plain, system=True),
    ]
    base = sides_of(features, [plain])[0]
    for column, other in enumerate(sides_of(features, changed)):
        assert other[column] > base[column]
        np.testing.assert_array_equal(np.delete(other, column), np.delete(base, column))


def test_an_input_that_was_always_the_same_is_left_out() -> None:
    rows = [replace(row, max_tokens=256, temperature=0.7, system=True) for row in varied()]
    features = Features.of(rows)
    new = replace(rows[0], max_tokens=9, temperature=0.0, system=False)
    found = sides_of(features, [rows[0], new])
    np.testing.assert_array_equal(found[:, 1:], 0)
    assert Features.of(varied()).scale[1] > 0


def test_what_was_never_seen_is_not_extrapolated_to() -> None:
    rows = varied()
    features = Features.of(rows)
    far, farther = (replace(rows[0], max_tokens=n, temperature=float(n)) for n in (10**6, 10**9))
    near = replace(rows[0], max_tokens=1)
    sides = sides_of(features, [*rows, far, farther, near])
    np.testing.assert_array_equal(sides[-3], sides[-2])
    assert sides[-1, 1] == -sides[-2, 1]
    inside = np.abs(sides[:-3]) < np.abs(sides[-2, 1])
    assert inside.mean() > 0.95


def test_no_requests_have_no_side_inputs() -> None:
    assert Features.of(varied()).sides([], []).shape == (0, 4)
