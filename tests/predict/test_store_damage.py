"""Predictors that are damaged, foreign or hostile: one clear error, and never code."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from small import header, linear

from presize.errors import ModelError
from presize.predict.linear import Linear
from presize.predict.model import MODELS
from presize.predict.store import HEADER, WEIGHTS, load, read_header, save

HERE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A linear predictor."""
    save(tmp_path / "predictor", header(), linear())
    return tmp_path / "predictor"


def test_what_is_missing_is_named(stored: Path) -> None:
    with pytest.raises(ModelError, match=f"holds no predictor.*{HEADER}"):
        load(stored.parent)
    (stored / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=WEIGHTS):
        load(stored)
    (stored / WEIGHTS).mkdir()
    with pytest.raises(ModelError, match=WEIGHTS):
        load(stored)


@HERE
@given(share=st.floats(0.0, 0.999), junk=st.binary(max_size=20))
def test_truncated_or_garbled_weights_are_refused(stored: Path, share: float, junk: bytes) -> None:
    whole = (stored / WEIGHTS).read_bytes()
    try:
        for content in (whole[: int(share * len(whole))], junk + whole[len(junk) + 1 :], junk):
            (stored / WEIGHTS).write_bytes(content)
            with pytest.raises(ModelError):
                load(stored)
    finally:
        (stored / WEIGHTS).write_bytes(whole)


def test_weights_that_are_not_numbers_are_refused(stored: Path) -> None:
    arrays = load_file(stored / WEIGHTS)
    arrays["weights"][2] = math.nan
    save_file(arrays, stored / WEIGHTS)
    with pytest.raises(ModelError, match=r"weights .*finite"):
        load(stored)


@pytest.mark.parametrize("kind", ["BF16", "F8_E4M3", "F8_E5M2", "BOOL", "U64", "I8"])
def test_number_types_that_are_not_ours_raise_nothing_else(kind: str, stored: Path) -> None:
    size = {"BF16": 2, "U64": 8}.get(kind, 1)
    head = json.dumps({"keys": {"dtype": kind, "shape": [1], "data_offsets": [0, size]}}).encode()
    (stored / WEIGHTS).write_bytes(len(head).to_bytes(8, "little") + head + bytes(size))
    with pytest.raises(ModelError):
        load(stored)


@pytest.mark.parametrize("kind", ["nobody", "os.system", "presize.predict.linear.Linear", "__init__", ""])
def test_a_kind_is_a_name_in_a_table_and_never_code(kind: str, stored: Path) -> None:
    save(stored, header(kind), linear())
    with pytest.raises(ModelError, match=r"known: .*attention.*linear"):
        load(stored)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.integers(10**300, 10**310),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
PLACES_IN_HEADER = [
    (name,) for name in ("format", "grid", "kind", "model", "tokenizer", "features", "calibration", "training",
                         "metrics", "licence")
] + [("features", name) for name in ("prefix", "suffix", "mean", "scale")] + [("calibration", "values")]  # fmt: skip


def rewrite(stored: Path, place: tuple[str, ...], change: Callable[[dict[str, Any], str], None]) -> None:
    content = json.loads((stored / HEADER).read_bytes())
    inner = content
    for name in place[:-1]:
        inner = inner[name]
    change(inner, place[-1])
    (stored / HEADER).write_text(json.dumps(content))


@pytest.mark.parametrize("place", PLACES_IN_HEADER, ids=".".join)
@HERE
@given(value=JSON | st.lists(st.floats(), min_size=4, max_size=4) | st.lists(st.floats(0, 1), min_size=41, max_size=41))
@example(value=[[]] * 41)
@example(value=["x", [], {}, None])
def test_whatever_stands_in_the_header_it_loads_or_is_a_model_error(
    stored: Path, place: tuple[str, ...], value: Any
) -> None:
    whole = (stored / HEADER).read_bytes()
    try:
        rewrite(stored, place, lambda inner, name: inner.update({name: value}))
        with suppress(ModelError):
            found, model = load(stored)
            assert found.kind in MODELS
            assert isinstance(model, Linear)
    finally:
        (stored / HEADER).write_bytes(whole)


@pytest.mark.parametrize("place", PLACES_IN_HEADER, ids=".".join)
def test_a_header_that_lacks_a_field_is_refused(stored: Path, place: tuple[str, ...]) -> None:
    rewrite(stored, place, lambda inner, name: inner.pop(name))
    with pytest.raises(ModelError, match=place[-1]):
        load(stored)


@HERE
@given(raw=JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=30))
@example(b"[" * 100_000)
@example(b'{"format": 1, "grid": ' + b"[" * 700 + b"]" * 700 + b"}")
@example(b"")
@example(b"\xff\xfe{}")
def test_a_foreign_header_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / HEADER).write_bytes(raw)
    with pytest.raises(ModelError, match=HEADER):
        read_header(tmp_path)


def test_a_header_that_is_nested_deep_or_huge_or_cut_is_refused(stored: Path) -> None:
    whole = (stored / HEADER).read_text()
    for depth in range(500, 1000, 20):
        (stored / HEADER).write_text(whole.replace('"linear"', "[" * depth + "]" * depth))
        with pytest.raises(ModelError):
            load(stored)
    for content in (whole + " " * 2**23, whole[: len(whole) // 2], whole.replace('"format": 1', '"format": 2')):
        (stored / HEADER).write_text(content)
        with pytest.raises(ModelError, match=r"larger|read|version"):
            load(stored)
