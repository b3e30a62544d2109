"""Sampling parameters: whatever JSON may hold makes valid parameters or an InvalidRequestError, nothing else."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presize.engine.sampling_params import SamplingParams
from presize.errors import InvalidRequestError

NAMES = [f.name for f in fields(SamplingParams)]
numbers = st.one_of(
    st.integers(), st.floats(), st.integers(-3, 130), st.floats(-3, 3),
    st.sampled_from([2**20, 2**20 + 1, 2**31, 2**31 + 1, 2**63 - 1, 2**63, 10**400, -0.0, 1e308, 5e-324]),
)  # fmt: skip
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=5), st.text(max_size=3).map(lambda s: s * 400))
json_values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=70), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=70,
)


def inside(value: object, low: float, high: float, *, whole: bool = False, above: bool = False) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        return False
    return (low < value if above else low <= value) and value <= high


def strings(value: object) -> bool:
    many = [value] if isinstance(value, str) else value
    return (
        isinstance(many, list | tuple)
        and len(many) <= 64
        and all(isinstance(s, str) and 0 < len(s) <= 1024 for s in many)
    )


def ids(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) <= 64 and all(inside(v, 0, 2**31, whole=True) for v in value)


# what the documentation of each field allows, alone
ALLOWED = {
    "n": lambda v: inside(v, 1, 128, whole=True),
    "temperature": lambda v: inside(v, 0, 100),
    "top_p": lambda v: inside(v, 0, 1, above=True),
    "top_k": lambda v: inside(v, -1, 2**31, whole=True),
    "min_p": lambda v: inside(v, 0, 1),
    "presence_penalty": lambda v: inside(v, -2, 2),
    "frequency_penalty": lambda v: inside(v, -2, 2),
    "repetition_penalty": lambda v: inside(v, 0, 100, above=True),
    "seed": lambda v: v is None or inside(v, 0, 2**63 - 1, whole=True),
    "stop": strings,
    "stop_token_ids": ids,
    "max_tokens": lambda v: v is None or inside(v, 1, 2**20, whole=True),
    "min_tokens": lambda v: inside(v, 0, 16, whole=True),  # beside the default of max_tokens
    "ignore_eos": lambda v: isinstance(v, bool),
    "logprobs": lambda v: v is None or inside(v, 0, 100, whole=True),
}


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=100)
@given(value=st.one_of(json_values, numbers))
def test_one_field_is_taken_exactly_if_it_is_allowed(name, value):
    try:
        params = SamplingParams(**{name: value})
    except InvalidRequestError as error:
        assert not ALLOWED[name](value)
        assert name in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert ALLOWED[name](value)
        held = getattr(params, name)
        assert held == (
            (value,)
            if name == "stop" and isinstance(value, str)
            else tuple(value)
            if name.startswith("stop")
            else value
        )


@given(values=st.dictionaries(st.sampled_from(NAMES), json_values))
def test_any_combination_makes_parameters_or_one_error(values):
    try:
        params = SamplingParams(**values)
    except InvalidRequestError:
        return
    assert params.max_tokens is None or params.min_tokens <= params.max_tokens
    assert params.greedy == (params.temperature == 0)
    assert hash(params) == hash(SamplingParams(**values))


@pytest.mark.parametrize(
    ("field", "bad", "match"),
    [
        ("temperature", math.nan, r"temperature is nan; it must be in \[0, 100\]"),
        ("top_p", 0, r"top_p is 0; it must be in \(0, 1\]"),
        ("n", 1.0, r"n is 1\.0; it must be a whole number from 1 to 128"),
        ("max_tokens", 0, r"max_tokens is 0; it must be in \[1, "),
        ("min_tokens", 17, r"min_tokens is 17; it must be at most max_tokens \(16\)"),
        ("stop", [""], "1 to 1024 characters"),
        ("stop_token_ids", "12", "list of up to 64"),
        ("stop_token_ids", [-1], r"stop_token_ids is -1; it must be in \[0, "),
        ("seed", -1, r"seed is -1"),
    ],
)
def test_the_error_names_field_value_and_range(field, bad, match):
    with pytest.raises(InvalidRequestError, match=match):
        SamplingParams(**{field: bad})
