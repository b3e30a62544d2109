"""Traces: what is read and drawn, and what is refused, with file and row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presize.errors import ConfigError
from presize.simulate.options import TraceOptions
from presize.simulate.traces import LENGTHS, SYNTHETIC, lengths_of, load_trace, with_rate

AZURE = ["TIMESTAMP,ContextTokens,GeneratedTokens", "2023-11-16 18:15:46.5,374,44", "2023-11-16 18:15:50.75,396,109"]
MOONCAKE = [{"timestamp": 1000, "input_length": 30, "output_length": 4, "hash_ids": [1]},
            {"timestamp": 2500, "input_length": 50, "output_length": 6}]  # fmt: skip
OURS = [{"id": "a", "prompt_tokens": 9, "output_tokens": 5}, {"id": "b", "line": 2, "error": "too long"},
        {"id": "c", "prompt_tokens": 8, "output_tokens": 7, "max_tokens": 7}]  # fmt: skip
BENCH = {"input_lens": [5, 6, 7], "output_lens": [2, 0, 3], "start_times": [0.5, 0.7, 2.0]}


def write(folder: Path, name: str, rows: Any) -> str:
    path = folder / name
    if name.endswith(".json"):
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("name", "rows", "expected"),
    [
        ("t.csv", AZURE, ([0.0, 4.25], [374, 396], [44, 109], [2048, 2048])),
        ("t.jsonl", MOONCAKE, ([0.0, 1.5], [30, 50], [4, 6], [2048, 2048])),
        ("t.jsonl", OURS, ([0.0, 0.0], [9, 8], [5, 7], [2048, 7])),
        ("t.json", BENCH, ([0.0, 1.5], [5, 7], [2, 3], [2048, 2048])),
        (
            "t.json",
            [{"conversations": [{"from": "human", "value": "x" * 9}, {"from": "gpt", "value": "y" * 40}]}],
            ([0.0], [3], [10], [2048]),
        ),
    ],
)
def test_every_format_is_read(name: str, rows: Any, expected: Any, tmp_path: Path) -> None:
    trace = load_trace(write(tmp_path, name, rows), TraceOptions(), 4096)
    found = (trace.arrival_s, trace.prompt_tokens, trace.output_tokens, trace.max_tokens)
    assert tuple(column.tolist() for column in found) == expected


@pytest.mark.parametrize(
    ("name", "rows", "words"),
    [
        ("t.csv", ["TIMESTAMP,ContextTokens", "1,2"], "no column for the generated tokens"),
        ("t.csv", [AZURE[0], "1,5,5", "0.5,5,5"], r"t\.csv, line 3: it arrives 0.5 s before"),
        ("t.csv", [AZURE[0], "-1,5,5"], r"t\.csv, line 2: the arrival is -1"),
        ("t.csv", [AZURE[0], "1,0,5"], r"t\.csv, line 2: the context tokens are '0'"),
        ("t.csv", [AZURE[0], "1,5,5", "2,5,-5"], r"t\.csv, line 3: the generated tokens"),
        ("t.csv", [AZURE[0], "1,4000,100"], r"line 2: prompt 4000 \+ answer 100 = 4100 tokens.*4096.*--truncate"),
        ("t.csv", [AZURE[0]], "has no rows"),
        ("t.jsonl", [{"timestamp": "x", "input_length": 1, "output_length": 1}], "line 1: timestamp is 'x'"),
        ("t.jsonl", [MOONCAKE[1], MOONCAKE[0]], "line 2: it arrives 1.5 s before"),
        ("t.jsonl", [{"output_tokens": 1}], "line 1: it has no input_length or prompt_tokens"),
        ("t.jsonl", [{"prompt_tokens": 1, "output_tokens": 0}], "line 1: output_tokens is 0"),
        ("t.jsonl", ["{"], "line 1: it is not JSON"),
        ("t.json", {"x": 1}, "neither a list of conversations"),
        ("t.json", {**BENCH, "start_times": [1]}, "lists of one length"),
        ("t.json", [{"conversations": []}], "conversation 1: it has no two turns"),
        ("t.txt", AZURE, "ends in none of .csv, .jsonl, .json"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_row(name: str, rows: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        load_trace(write(tmp_path, name, rows), TraceOptions(), 4096)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"trace no\.csv can not be read"):
        load_trace("no.csv", TraceOptions(), 4096)


def test_truncation_leaves_what_fits(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", [AZURE[0], "1,90,30", "2,5,5", "3,10,500"])
    trace = load_trace(path, TraceOptions(truncate=True), 100)
    assert trace.cut == 2
    assert (trace.prompt_tokens + np.array(lengths_of(trace)) <= 100).all()
    assert trace.prompt_tokens.tolist() == [70, 5, 10]
    assert lengths_of(trace) == [30, 5, 50]


def test_times_can_be_scaled_and_replaced(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", AZURE)
    assert load_trace(path, TraceOptions(time_scale=0.5), 4096).arrival_s.tolist() == [0, 2.125]
    drawn = load_trace(path, TraceOptions(request_rate=2, num_requests=4000), 4096)
    assert len(drawn) == 4000
    assert set(drawn.prompt_tokens.tolist()) == {374, 396}
    assert drawn.arrival_s[-1] == pytest.approx(2000, rel=0.1)
    with pytest.raises(ConfigError, match="--request-rate"):
        load_trace(path, TraceOptions(num_requests=4000), 4096)
    with pytest.raises(ConfigError, match="either --request-rate"):
        load_trace(path, TraceOptions(request_rate=2, time_scale=2), 4096)
    with pytest.raises(ConfigError, match="this one has none"):
        load_trace(write(tmp_path, "t.jsonl", OURS), TraceOptions(time_scale=2), 4096)


@pytest.mark.parametrize("shape", [0.25, 1.0, 4.0])
def test_gaps_have_the_burstiness_asked_for(shape: float) -> None:
    options = TraceOptions(num_requests=20_000, burstiness=shape)
    gaps = np.diff(with_rate(load_trace(SYNTHETIC, options, 4096), options, 5.0).arrival_s)
    assert gaps.mean() == pytest.approx(0.2, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(shape**-0.5, rel=0.05)


@pytest.mark.parametrize("name", list(LENGTHS))
@pytest.mark.parametrize("spread", [0.3, 0.6])
def test_lengths_have_the_mean_asked_for(name: str, spread: float) -> None:
    drawn = LENGTHS.get(name)(200_000, 300.0, spread, np.random.default_rng(1))
    assert drawn.mean() == pytest.approx(300, rel=0.05)
    if name == "lognormal":
        assert np.log(drawn).std() == pytest.approx(spread, rel=0.02)


@given(st.integers(0, 100), st.sampled_from(list(LENGTHS)), st.floats(0, 4), st.integers(2, 3000))
def test_synthetic_requests_fit_the_context_and_repeat(seed: int, name: str, spread: float, context: int) -> None:
    options = TraceOptions(num_requests=50, seed=seed, length_distribution=name, length_spread=spread)
    trace, again = (load_trace(SYNTHETIC, options, context) for _ in range(2))
    assert trace.prompt_tokens.min() >= 1
    assert trace.max_tokens.min() >= 1
    assert (trace.prompt_tokens + trace.max_tokens <= context).all()
    assert trace.output_tokens.tolist() == again.output_tokens.tolist()
